//! The JSON of the HTTP API under `/v1`. Times are RFC 3339, keys base64, ids lower-case base32.

use std::net::{IpAddr, SocketAddr};

use carrick_attest::{
    Bundle, Claim, Kind, Signed, SignedBundle, Verdict, policy::Succession, token::Capability,
};
use carrick_types::{
    Cidr, ClusterName, CoordinatorKey, LeaseProfile, MeshId, NodeId, NodeName, OperatorKey, OperatorPin,
    Revision, TokenId, UnixTime, WireGuardKey,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{hello::Trust, session::RefusalCode};

/// The whole mesh at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Topology {
    /// The mesh's id.
    pub mesh: MeshId,
    /// How many changes the mesh has seen.
    pub revision: Revision,
    /// By name.
    pub clusters: Vec<Cluster>,
    /// By cluster and name; revoked nodes included.
    pub nodes: Vec<Node>,
    /// By cluster, namespace and name.
    pub workloads: Vec<Workload>,
    /// Every tunnel that is up, once from each end.
    pub links: Vec<Link>,
}

/// A named group of nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Cluster {
    /// Its name.
    pub name: ClusterName,
    /// How many active nodes it has.
    pub nodes: u64,
}

/// A member of the mesh, or one that was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// Its name, unique among the nodes that are not revoked.
    pub name: NodeName,
    /// Its cluster.
    pub cluster: ClusterName,
    /// Whether peers accept it.
    pub state: NodeState,
    /// Whether it has a session with the coordinator now.
    pub online: bool,
    /// Its WireGuard key.
    pub public_key: WireGuardKey,
    /// The prefixes it speaks for.
    pub prefixes: Vec<Cidr>,
    /// Its overlay addresses, IPv4 first.
    #[schema(value_type = Vec<String>)]
    pub overlay_ips: Vec<IpAddr>,
    /// Where it may be reached.
    #[schema(value_type = Vec<String>)]
    pub endpoints: Vec<SocketAddr>,
    /// What it showed to be let in.
    pub evidence: Vec<Evidence>,
    /// Its lease profile.
    pub lease: LeaseProfile,
    /// When its lease lapses unless it is renewed; `null` where it has none.
    pub lease_expires: Option<UnixTime>,
    /// Why its lease lapsed, where it did.
    pub suspended: Option<String>,
    /// Whether it checks the evidence of its peers itself.
    pub trust: Trust,
    /// When it joined.
    pub joined_at: UnixTime,
    /// Why it was revoked, where it was.
    pub revoked: Option<Revocation>,
    /// The version of its software, as it says.
    pub version: String,
}

/// Whether peers accept a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NodeState {
    /// Peers accept it.
    Active,
    /// Not for now: its lease lapsed, or its evidence is not enough.
    #[serde(rename = "expired")]
    Suspended,
    /// Cut off for good.
    Revoked,
}

/// One thing that a node showed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Evidence {
    /// What.
    pub kind: Kind,
    /// When it was appraised.
    pub appraised_at: UnixTime,
    /// Whether it is good under the policy bundle of today.
    pub decision: Verdict,
    /// Each claim with its verdict; only where one node is asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<Claim>,
}

/// A node that was refused, or whose new evidence was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Refusal {
    /// When.
    pub at: UnixTime,
    /// Its id, where it proved it.
    pub node: Option<NodeId>,
    /// What it called itself.
    pub name: NodeName,
    /// The cluster that it asked for.
    pub cluster: ClusterName,
    /// Why, for programs.
    #[schema(value_type = String)]
    pub code: RefusalCode,
    /// Why, for people.
    pub detail: String,
    /// What it showed, with every claim that was looked at.
    pub evidence: Vec<Evidence>,
}

/// The operator's policy bundle that is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AppraisalPolicy {
    /// The bundle as its operator signed it.
    #[schema(value_type = Object)]
    pub signed: SignedBundle,
    /// Whether the coordinator itself holds the operator's key, and so can sign.
    pub operator_key_held: bool,
    /// The nodes that a bundle suspends, or would: only in the answer to one that is put, or tried.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub suspends: Vec<SuspendedNode>,
}

/// A node whose evidence is not enough under a policy bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SuspendedNode {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: NodeName,
    /// Its cluster.
    pub cluster: ClusterName,
    /// What its evidence lacks.
    pub why: String,
}

/// A new policy bundle: signed, or a draft that a coordinator which holds the operator's key signs. Exactly one of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutAppraisalPolicy {
    /// As its operator signed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub signed: Option<SignedBundle>,
    /// What is to be signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub draft: Option<Box<Bundle>>,
}

/// A request that the operator's key which the coordinator holds names another operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NameOperator {
    /// The operator that follows.
    pub operator: OperatorKey,
}

/// The word of the operator's key that the coordinator holds. The new operator's first bundle carries it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NamedOperator {
    /// Signed by the former operator.
    #[schema(value_type = Object)]
    pub succession: Signed<Succession>,
}

/// What a node showed for its grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeEvidence {
    /// The node's id.
    pub id: NodeId,
    /// Its name.
    pub name: NodeName,
    /// Its cluster.
    pub cluster: ClusterName,
    /// Whether peers accept it.
    pub state: NodeState,
    /// The text of each statement, JSON, byte by byte as the grant names it by its hash.
    pub statements: Vec<String>,
}

/// When and why a node was cut off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Revocation {
    /// When.
    pub at: UnixTime,
    /// Why, as the operator said.
    pub reason: Option<String>,
}

/// A pod, or a process group on a plain host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Workload {
    /// Its cluster.
    pub cluster: ClusterName,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its service account.
    pub service_account: String,
    /// Its addresses.
    #[schema(value_type = Vec<String>)]
    pub ips: Vec<IpAddr>,
    /// The node it runs on.
    pub node: NodeId,
    /// Its state.
    pub state: String,
}

/// A tunnel, as one end sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Link {
    /// The end that reports.
    pub from: NodeId,
    /// The other end.
    pub to: NodeId,
    /// How datagrams get there.
    pub path: LinkPath,
    /// Where datagrams are sent.
    #[schema(value_type = String)]
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

/// How datagrams get to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LinkPath {
    /// To an endpoint of the peer.
    Direct,
    /// Through a relay.
    Relay,
}

/// A request for a join token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateToken {
    /// The cluster that nodes join with it.
    pub cluster: ClusterName,
    /// How long it is good, in seconds: 1 to 31,536,000; an hour where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u64>,
    /// How many nodes may join with it: 1 to 100,000; one where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uses: Option<u32>,
    /// The networks within which nodes may claim prefixes, public ones included; any private network where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefixes: Option<Vec<Cidr>>,
}

/// A join token that the operator signed, since the coordinator does not hold the operator's key. Its secret stays with the operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegisterToken {
    /// What the token allows.
    #[schema(value_type = Object)]
    pub capability: Signed<Capability>,
}

/// What belongs into the text of a token, beside its capability and its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RegisteredToken {
    /// Its id.
    pub id: TokenId,
    /// Where nodes reach the coordinator, best first.
    pub urls: Vec<String>,
    /// The operator whose policy nodes believe.
    pub operator: OperatorPin,
}

/// A join token with its secret, shown once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CreatedToken {
    /// Its id.
    pub id: TokenId,
    /// The text for `carrick join` and `carrick node`. A secret.
    pub token: String,
    /// The cluster that nodes join with it.
    pub cluster: ClusterName,
    /// When it lapses.
    pub expires_at: UnixTime,
    /// How many nodes may join with it.
    pub uses: u32,
}

/// A join token without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// Its id.
    pub id: TokenId,
    /// The cluster that nodes join with it.
    pub cluster: ClusterName,
    /// When it was made.
    pub created_at: UnixTime,
    /// When it lapses.
    pub expires_at: UnixTime,
    /// How many nodes may join with it.
    pub uses: u32,
    /// How many did.
    pub used: u32,
    /// Whether it is still good.
    pub state: TokenState,
}

/// Whether a token is still good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TokenState {
    /// It is.
    Active,
    /// Its time is over.
    Expired,
    /// Every use is taken.
    UsedUp,
    /// An operator took it back.
    Revoked,
}

/// A request to cut a node off.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RevokeNode {
    /// Why, for the record; at most 500 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The head of the log, signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogCheckpoint {
    /// A C2SP signed checkpoint: origin, size and head of the log, and the signature.
    pub note: String,
    /// The coordinator's signing key. Believe it only where it was seen before.
    pub key: CoordinatorKey,
}

/// Some entries of the log, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogPage {
    /// How many entries the log has.
    pub size: u64,
    /// The position of the first one here.
    pub start: u64,
    /// The text of each, byte by byte as it is in the tree; at most 1,000.
    pub entries: Vec<String>,
}

/// A proof about the log's tree (RFC 6962).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogProof {
    /// Base64 of each hash.
    pub hashes: Vec<String>,
}

/// An error of the API (RFC 9457), `application/problem+json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `urn:carrick:problem:` and the kind of problem.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind of problem in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What was wrong here, and what to do.
    pub detail: String,
}
