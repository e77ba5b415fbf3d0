//! What every request and every session is served from.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use carrick_types::{CaPin, MeshId, UnixTime};
use tokio::sync::{Mutex, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    leases::Leases, mesh::Mesh, metrics::Metrics, operator::HeldOperator, presence::Presence, rate::Rate,
    store::CredentialRecord,
};

/// Shared by all handlers.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) id: MeshId,
    pub(crate) ca: CaPin,
    pub(crate) urls: Vec<String>,
    /// Where STUN is answered.
    pub(crate) stun_port: u16,
    pub(crate) version: String,
    pub(crate) credentials: Vec<CredentialRecord>,
    pub(crate) mesh: Mesh,
    pub(crate) presence: Presence,
    pub(crate) leases: Leases,
    pub(crate) operator: HeldOperator,
    /// How many refusals are written down: strangers must not fill the disk.
    pub(crate) refusals: Mutex<Rate>,
    /// Whose evidence is looked at before the mesh is asked: one stranger's at a time.
    pub(crate) strangers: Semaphore,
    pub(crate) metrics: Arc<Metrics>,
    /// Whether the store could be written, and when that was found out.
    pub(crate) last_check: Mutex<Option<(Instant, bool)>>,
    /// Sessions, which outlive the connection tasks that they began in.
    pub(crate) sessions: TaskTracker,
    pub(crate) shutdown: CancellationToken,
}

/// The wall clock, for the shell; pure functions are told the time.
pub(crate) fn now() -> UnixTime {
    UnixTime::from(SystemTime::now())
}
