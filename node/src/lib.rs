//! The node agent: a member of a mesh, with one WireGuard device.
//!
//! Start at [`run`]. `agent` ties the parts together: `session` talks to the coordinator, `plan` says what this host should look
//! like, `netlink` and `shard` make it so. [`stand_alone`] is the same packet path without a mesh. Nothing here decides whose key is accepted: `carrick_trust` does, by the operator's
//! policy bundle, and `carrick_dataplane` keeps to it.

mod agent;
mod attester;
mod backoff;
mod changes;
mod gossip;
mod host;
mod identity;
mod moderation;
mod netlink;
mod plan;
mod priority;
mod readiness;
mod routes;
mod session;
mod shard;
pub mod stand_alone;
mod state;
mod stun;
mod tun;
mod uapi;
mod udp;
mod whereabouts;

use std::{io, net::IpAddr, path::PathBuf};

pub use attester::{
    AttesterError, Device, DeviceError, EvidenceSources, KeyAlgorithm, KubernetesSource, ParseTctiError,
    Report, Tcti, TeeSources, TpmSource,
};
use carrick_types::{Cidr, ClusterName, JoinToken, MeshId, NodeName};
use carrick_wire::hello::Trust;
pub use netlink::NetlinkError;
pub use session::SessionError;
pub use shard::MAX_SHARDS;
pub use state::StateError;
use tokio_util::sync::CancellationToken;
pub use tun::{TunError, is_interface_name};
pub use uapi::UapiError;
#[doc(hidden)]
pub use uapi::answer as configuration_answer;

/// How an agent is to run.
#[derive(Debug)]
pub struct Config {
    /// Where keys and membership are kept.
    pub state_dir: PathBuf,
    /// The token to join with; not needed by a member.
    pub token: Option<JoinToken>,
    /// What the node calls itself when it joins; its host's name where this is `None`.
    pub name: Option<NodeName>,
    /// The prefixes it speaks for; as last time where this is `None`.
    pub prefixes: Option<Vec<Cidr>>,
    /// The UDP port of WireGuard; 0 for any that is free.
    pub listen_port: u16,
    /// The name of the TUN interface.
    pub interface: String,
    /// Its MTU, in bytes.
    pub mtu: u16,
    /// How many threads move packets.
    pub shards: usize,
    /// The version of this software, for people.
    pub version: String,
    /// Whether the node checks the evidence of its peers.
    pub trust: Trust,
    /// Where its own evidence comes from.
    pub evidence: EvidenceSources,
}

/// What joining brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolment {
    /// The node's name.
    pub name: NodeName,
    /// Its cluster.
    pub cluster: ClusterName,
    /// Its overlay addresses, IPv4 first.
    pub overlay_ips: Vec<IpAddr>,
}

/// Why an agent does not run, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The state directory is of no use.
    #[error(transparent)]
    State(#[from] StateError),
    /// There is no interface.
    #[error(transparent)]
    Tun(#[from] TunError),
    /// The kernel was not told.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// No socket.
    #[error(
        "UDP port {0} is taken: stop what uses it, or choose another with --listen-port (0 takes any that is free)"
    )]
    PortTaken(u16),
    /// No socket, for another reason.
    #[error("cannot open the WireGuard socket on UDP port {0}: {1}")]
    Socket(u16, #[source] io::Error),
    /// The node is no member, and was not told how to become one.
    #[error(
        "this host is no member of a mesh yet: give it a token with --token (make one with `carrick token create`)"
    )]
    NoToken,
    /// The token is of another mesh than the node.
    #[error(
        "{} belongs to mesh {member}, the token to mesh {token}: choose another --state-dir, or remove this one to leave its mesh",
        state_dir.display()
    )]
    OtherMesh {
        /// Where the membership is kept.
        state_dir: PathBuf,
        /// Of the node.
        member: MeshId,
        /// Of the token.
        token: MeshId,
    },
    /// The host's name cannot be the node's.
    #[error("this host's name cannot be a node's: choose one with --name")]
    NoName,
    /// Another agent runs on this host; its rules and routes are in the way.
    #[error(
        "another carrick node runs on this host: one is enough, for any number of prefixes; stop it first"
    )]
    NotAlone,
    /// The coordinator does not take the node, or did not answer a node that joins.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// What this process runs cannot be read.
    #[error("cannot read this program's own executable: {0}")]
    Executable(#[source] io::Error),
    /// The packet path failed.
    #[error("the packet path failed: {0}")]
    PacketPath(#[source] io::Error),
}

/// Joins the mesh and stores the membership, without touching the host's network.
///
/// # Errors
/// [`NodeError`]; nothing is retried.
pub async fn enrol(config: &Config) -> Result<Enrolment, NodeError> {
    agent::enrol(config).await
}

/// Runs until `shutdown`, or until the node is revoked or cannot go on. Leaves no interface, route or rule behind.
///
/// # Errors
/// [`NodeError`].
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), NodeError> {
    agent::run(config, shutdown).await
}
