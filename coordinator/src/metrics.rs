//! Counters since the start, for `/metrics`.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use carrick_wire::session::RefusalCode;

use crate::{presence::Presence, state::MeshState};

/// What happened since the start.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    requests: [AtomicU64; 5],
    refusals: Mutex<BTreeMap<String, u64>>,
    turned_away: AtomicU64,
}

impl Metrics {
    pub(crate) fn request(&self, status: http::StatusCode) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        self.requests[class].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn refused(&self, code: RefusalCode) {
        let reason = serde_json::to_value(code).ok().and_then(|value| value.as_str().map(str::to_owned));
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        *refusals.entry(reason.unwrap_or_default()).or_default() += 1;
    }

    /// A connection was closed because there were too many.
    pub(crate) fn turned_away(&self) {
        self.turned_away.fetch_add(1, Ordering::Relaxed);
    }

    /// The text exposition format of Prometheus, version 0.0.4.
    pub(crate) fn render(&self, state: &MeshState, presence: &Presence) -> String {
        let mut text = String::with_capacity(1024);
        let mut metric = |name: &str, kind: &str, help: &str, samples: &[(String, u64)]| {
            // Writing to memory does not fail.
            let _ = writeln!(text, "# HELP carrick_{name} {help}\n# TYPE carrick_{name} {kind}");
            for (labels, value) in samples {
                let _ = writeln!(text, "carrick_{name}{labels} {value}");
            }
        };
        let active = state.active().count() as u64;
        let members = state.members().count() as u64;
        let nodes = [
            ("{state=\"active\"}".to_owned(), active),
            ("{state=\"expired\"}".to_owned(), members - active),
            ("{state=\"revoked\"}".to_owned(), state.nodes.len() as u64 - members),
        ];
        metric("nodes", "gauge", "Nodes by state.", &nodes);
        let one = |value| [(String::new(), value)];
        metric("sessions", "gauge", "Nodes that have a session.", &one(presence.count() as u64));
        metric("revision", "gauge", "Revision of the mesh.", &one(state.revision.0));
        let requests: Vec<_> = (1..)
            .zip(&self.requests)
            .map(|(class, count)| (format!("{{status=\"{class}xx\"}}"), count.load(Ordering::Relaxed)))
            .collect();
        metric("http_requests_total", "counter", "Answers by class of status.", &requests);
        let refusals: Vec<_> = self
            .refusals
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .map(|(reason, count)| (format!("{{reason=\"{reason}\"}}"), *count))
            .collect();
        metric("refusals_total", "counter", "Nodes refused, by reason.", &refusals);
        let turned_away = one(self.turned_away.load(Ordering::Relaxed));
        metric("connections_turned_away_total", "counter", "Connections over a bound.", &turned_away);
        text
    }
}
