//! The session between a node and its coordinator: one WebSocket at `/v1/session`, inside TLS.
//!
//! ```text
//! coordinator                                node
//!   Challenge  ------------------------------>   with the policy bundle
//!   <------------------------------  Activate    of a node that will show evidence of a TPM, here and after Attest
//!   Credential  ----------------------------->
//!   <------------------------------  Hello       with evidence
//!   Welcome | Refused  ---------------------->
//!   Netmap | Delta  ------------------------->   then a Delta with every change
//!   <------------------------------  Endpoints, Links, as they change
//!   <------------------------------  Heartbeat   as often as the bundle asks
//!   Beat  ----------------------------------->   answers each, while all is well
//!   <------------------------------  Renew       when the node wants new keys or has new evidence
//!   Attest  --------------------------------->   whenever evidence is wanted
//!   <------------------------------  Attested
//!   Bundle  --------------------------------->   when the operator changes it
//!   <------------------------------  Prove       when a peer told of a head that is not known
//!   Proven  --------------------------------->
//!   Refused  -------------------------------->   when the node is revoked
//! ```
//!
//! Every binary WebSocket message is one version byte and then JSON. Whoever reads an unknown version says so and closes.

use std::net::{IpAddr, SocketAddr};

use carrick_attest::{Bytes, SignedBundle, tpm};
use carrick_types::{ClusterName, NodeId, NodeName, Revision, UnixTime};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    hello::{Heartbeat, Hello, Proof, Request},
    netmap::{LogNews, Netmap, NetmapDelta},
};

/// The version that this code speaks.
pub const VERSION: u8 = 1;

/// The path of the WebSocket.
pub const PATH: &str = "/v1/session";

/// The label under which both sides export keying material (RFC 5705) to bind what is said to the TLS session. No context.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-carrick-session-1";

/// The longest message that a coordinator takes from a node, in bytes.
pub const MAX_TO_COORDINATOR: usize = 256 * 1024;

/// The longest message that a node takes from its coordinator, in bytes. The longest is a netmap, which holds the evidence of every peer: of
/// some thousand nodes that show tokens, or some hundred that show quotes of a TEE. A coordinator lets in nobody who does not fit.
pub const MAX_TO_NODE: usize = 16 * 1024 * 1024;

/// The most candidate endpoints that a node may report.
pub const MAX_ENDPOINTS: usize = 16;

/// What a coordinator says to a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum ToNode {
    /// The first message of a session.
    Challenge(Challenge),
    /// The node is a member.
    Welcome(Welcome),
    /// The node is none, or no longer. The session ends with this.
    Refused(Refusal),
    /// The whole netmap; replaces whatever the node knew.
    Netmap(Netmap),
    /// What changed since the last netmap or delta.
    Delta(NetmapDelta),
    /// The node shall prove itself anew, as [`ToCoordinator::Attested`].
    Attest(Demand),
    /// The answer to [`ToCoordinator::Activate`]. The evidence that follows proves that the node's TPM recovered what is in it; it
    /// serves once, in this session.
    Credential(Box<tpm::Credential>),
    /// The coordinator has heard a heartbeat, and vouches for the netmap.
    Beat(Beat),
    /// The operator changed the policy bundle.
    Bundle(Box<SignedBundle>),
    /// The log of one size begins with the log of another.
    Proven(Proven),
}

/// A request for evidence, made from a head of the log that the node can check: evidence for a head that is yet to come would look
/// younger than it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demand {
    /// What the proof must be made for.
    pub request: Request,
    /// The log at the size that the request names.
    pub log: LogNews,
}

/// The coordinator's word that a node's netmap is current: as of the heartbeat that it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// Of the heartbeat.
    pub sequence: u64,
    /// The revision that the coordinator stands at. It vouches for nobody in an older one.
    pub revision: Revision,
}

/// A proof of consistency (RFC 6962); empty where the coordinator has none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proven {
    /// The smaller size.
    pub old: u64,
    /// The larger size.
    pub new: u64,
    /// The proof.
    pub proof: Vec<Bytes<32>>,
}

/// What a node says to its coordinator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum ToCoordinator {
    /// The answer to the challenge.
    Hello(Box<Hello>),
    /// The node will show evidence of a TPM, with these keys: in its hello, or because it was asked. One at a time.
    Activate(Box<tpm::Keys>),
    /// Where the node's WireGuard socket may be reached, best first; at most [`MAX_ENDPOINTS`].
    Endpoints {
        /// The candidates.
        candidates: Vec<SocketAddr>,
    },
    /// The state of every tunnel that is up. Replaces the last report.
    Links {
        /// One entry a tunnel.
        links: Vec<LinkReport>,
    },
    /// The node runs on.
    Heartbeat(Heartbeat),
    /// The node asks to be asked for evidence: it has a new key to show.
    Renew,
    /// The answer to [`ToNode::Attest`].
    Attested(Box<Proof>),
    /// The node asks whether the log of one size begins with the log of another.
    Prove {
        /// The smaller size.
        old: u64,
        /// The larger size.
        new: u64,
    },
}

/// What a node has to answer, fresh for each session, and by which policy it will be judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenge {
    /// What its proof must be made for.
    pub request: Request,
    /// The operator's policy bundle.
    pub bundle: SignedBundle,
}

/// What a node is told about itself before the netmap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Its id.
    pub node: NodeId,
    /// Its name, unique in the mesh.
    pub name: NodeName,
    /// Its cluster.
    pub cluster: ClusterName,
    /// The address that the coordinator sees the session come from.
    pub observed_ip: IpAddr,
    /// The port at which the coordinator answers STUN (RFC 8489), where it does.
    pub stun_port: Option<u16>,
}

/// Why a node is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{detail}")]
pub struct Refusal {
    /// For programs.
    pub code: RefusalCode,
    /// For people: what was wrong and what to do.
    pub detail: String,
}

/// The reasons for a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalCode {
    /// The token is unknown, expired, used up or revoked.
    Token,
    /// The node's token or state is of another mesh.
    WrongMesh,
    /// The name belongs to another node.
    NameTaken,
    /// A prefix may not be claimed, or is claimed by another node.
    Prefix,
    /// The WireGuard key belongs to another node, or belonged to a revoked one.
    KeyTaken,
    /// The node is revoked.
    Revoked,
    /// The evidence is not what the policy bundle asks for.
    Evidence,
    /// No member, and no token.
    NotAMember,
    /// A proof does not hold.
    Proof,
    /// A message was not understood.
    Protocol,
    /// A newer session of the same node took over.
    Superseded,
    /// The coordinator cannot answer at the moment; nothing is wrong with the node.
    Unavailable,
}

impl RefusalCode {
    /// Whether the same node may be welcome later without anybody changing anything.
    pub const fn is_transient(self) -> bool {
        matches!(self, Self::Unavailable)
    }
}

/// One tunnel, as its node sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinkReport {
    /// The other end.
    pub peer: NodeId,
    /// Where datagrams to it go.
    pub endpoint: SocketAddr,
    /// Round-trip time of the last handshake, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// When the last handshake completed.
    pub last_handshake: Option<UnixTime>,
    /// Bytes of inner packets received.
    pub rx_bytes: u64,
    /// Bytes of inner packets sent.
    pub tx_bytes: u64,
}

/// Why a message was not understood.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The other side speaks a version that this code does not.
    #[error(
        "the other side speaks session version {0}, this carrick speaks {VERSION}: upgrade the older of the two"
    )]
    UnknownVersion(u8),
    /// Nothing at all.
    #[error("empty session message")]
    Empty,
    /// The body is not what the version says.
    #[error("malformed session message")]
    Malformed(#[source] serde_json::Error),
}

/// Frames a message: the version, then JSON.
pub fn encode<M: Serialize>(message: &M) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    // Writing to memory does not fail, and the messages of this module have no map with keys that are not strings.
    serde_json::to_writer(&mut bytes, message).expect("session messages are plain data");
    bytes
}

/// Reads a framed message.
///
/// # Errors
/// [`DecodeError`] where the version is unknown or the body is not of it.
pub fn decode<M: DeserializeOwned>(bytes: &[u8]) -> Result<M, DecodeError> {
    match bytes.split_first() {
        None => Err(DecodeError::Empty),
        Some((&VERSION, body)) => serde_json::from_slice(body).map_err(DecodeError::Malformed),
        Some((&version, _)) => Err(DecodeError::UnknownVersion(version)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_unknown_version_is_named() {
        let mut bytes = encode(&ToCoordinator::Links { links: vec![] });
        bytes[0] = 9;
        let error = decode::<ToCoordinator>(&bytes).unwrap_err();
        assert!(matches!(error, DecodeError::UnknownVersion(9)));
        assert!(error.to_string().contains("upgrade"));
    }

    proptest! {
        #[test]
        fn junk_is_an_error_and_never_a_panic(bytes: Vec<u8>) {
            let _ = decode::<ToCoordinator>(&bytes);
            let framed: Vec<u8> = std::iter::once(VERSION).chain(bytes).collect();
            prop_assert!(decode::<ToNode>(&framed).is_err());
        }
    }
}
