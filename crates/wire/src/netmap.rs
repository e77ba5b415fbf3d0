//! What one node is told: its own state and its peers. Sent whole once, then as deltas with a revision.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use carrick_attest::Bytes;
use carrick_types::{Cidr, NodeId, Revision, WireGuardKey};
use serde::{Deserialize, Serialize};

/// A whole netmap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Netmap {
    /// Which.
    pub revision: Revision,
    /// The node itself.
    pub own: OwnNode,
    /// Every other active node.
    pub peers: Vec<Peer>,
    /// Every revocation that is not in the log as the node has seen it, so that none is missed. A newcomer has nobody to forget.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revocations: Vec<Logged>,
    /// The log as it stands.
    pub log: LogNews,
}

/// The head of the log that the grants of a message are proven in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogNews {
    /// A C2SP signed checkpoint.
    pub checkpoint: String,
    /// That it continues the last head that the node has seen (RFC 6962).
    pub consistency: Vec<Bytes<32>>,
}

/// An entry of the log, proven.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logged {
    /// Its position.
    pub index: u64,
    /// Its text, byte by byte as it is in the tree.
    pub entry: String,
    /// That it is in the log (RFC 6962), at the size of the checkpoint in [`LogNews`].
    pub inclusion: Vec<Bytes<32>>,
}

/// A grant with all that is needed to believe it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantProof {
    /// The grant.
    pub logged: Logged,
    /// The text of each statement that the grant names, in its order.
    pub statements: Vec<String>,
    /// For each of them, that its [`Moment`](carrick_attest::Moment) is of this log (RFC 6962 consistency, from there to the checkpoint
    /// in [`LogNews`]); empty where its age does not matter.
    pub moments: Vec<Vec<Bytes<32>>>,
}

/// What a node is told of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnNode {
    /// Its overlay address.
    pub overlay_v4: Ipv4Addr,
    /// Its overlay address.
    pub overlay_v6: Ipv6Addr,
    /// The prefixes that it speaks for.
    pub prefixes: Vec<Cidr>,
    /// The WireGuard key that its peers accept.
    pub wireguard_key: WireGuardKey,
}

/// A node as another node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its id.
    pub id: NodeId,
    /// Where it may be reached, best first.
    pub endpoints: Vec<SocketAddr>,
    /// Who it is, its key and its prefixes. `None` in a delta where that is as it was.
    pub grant: Option<GrantProof>,
}

/// What changed between two revisions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetmapDelta {
    /// The revision that this builds on.
    pub from: Revision,
    /// The revision that it leads to.
    pub to: Revision,
    /// The node itself, where that changed.
    pub own: Option<OwnNode>,
    /// New peers, and peers with new properties, whole.
    pub upserts: Vec<Peer>,
    /// Peers that are gone.
    pub removes: Vec<NodeId>,
    /// The revocation of each that is gone for good.
    pub revocations: Vec<Logged>,
    /// The log as it stands, where anything above is proven in it.
    pub log: Option<LogNews>,
}
