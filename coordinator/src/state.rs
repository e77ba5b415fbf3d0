//! The mesh at one moment, as the store has it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use carrick_attest::{Bundle, SignedBundle, Statement, Subject, TrustedBundle, policy::ClusterPolicy};
use carrick_types::{
    Cidr, ClusterName, IdentityKey, MeshId, NodeId, NodeName, Revision, UnixTime, WireGuardKey,
    check_prefix_claim,
};
use carrick_wire::{
    api::Revocation,
    hello::{Head, Trust},
    log::tree::Tree,
};
use sha2::{Digest as _, Sha256};

use crate::statements::Statements;

/// Everything that is committed. Never changes: a change makes the next one.
#[derive(Debug, Clone)]
pub(crate) struct MeshState {
    pub(crate) mesh: MeshId,
    pub(crate) overlay: Overlay,
    pub(crate) revision: Revision,
    /// Revoked nodes included; a node never leaves the list.
    pub(crate) nodes: BTreeMap<NodeId, Arc<NodeRecord>>,
    pub(crate) bundle: Arc<PublishedBundle>,
    pub(crate) log: LogState,
}

/// The operator's policy bundle, as it was signed and as it was read.
#[derive(Debug)]
pub(crate) struct PublishedBundle {
    pub(crate) signed: SignedBundle,
    pub(crate) trusted: TrustedBundle,
}

/// The log as it stood at one moment. Its tree only grows, so that it proves what was true then at any later time.
#[derive(Debug, Clone)]
pub(crate) struct LogState {
    pub(crate) head: Head,
    /// The head, signed: a C2SP checkpoint.
    pub(crate) checkpoint: Arc<str>,
    pub(crate) tree: SharedTree,
}

/// The log's tree. One thread appends, any may ask for proofs.
#[derive(Debug, Clone, Default)]
pub(crate) struct SharedTree(Arc<RwLock<Tree>>);

impl SharedTree {
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Tree> {
        // No code that holds the lock can leave the tree half changed.
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Tree> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A node as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeRecord {
    pub(crate) id: NodeId,
    pub(crate) name: NodeName,
    pub(crate) cluster: ClusterName,
    pub(crate) identity_key: IdentityKey,
    pub(crate) wireguard_key: WireGuardKey,
    /// Its place in the overlay ranges: 1 or more, never given twice.
    pub(crate) overlay_index: u32,
    pub(crate) prefixes: Vec<Cidr>,
    pub(crate) endpoints: Vec<SocketAddr>,
    /// What its grant names.
    pub(crate) statements: Statements,
    /// What it showed last of the kinds that are compared with what comes later, and that its grant does not name any more.
    pub(crate) history: Statements,
    /// Its grant; once it is revoked, its revocation.
    pub(crate) logged: LoggedEntry,
    /// The last revision in which peers had to be shown its grant.
    pub(crate) grant_revision: Revision,
    pub(crate) trust: Trust,
    pub(crate) version: String,
    pub(crate) joined_at: UnixTime,
    /// The last revision in which a netmap showed a change of this node.
    pub(crate) revision: Revision,
    pub(crate) membership: Membership,
    /// When somebody demanded new evidence, which it has not shown since.
    pub(crate) demanded_at: Option<UnixTime>,
}

/// Whether peers accept a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Membership {
    Active,
    /// Not now: its lease lapsed.
    Suspended(Suspension),
    /// Never again.
    Revoked(Revocation),
}

/// Why peers do not accept a node for now.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub(crate) enum Suspension {
    /// Nothing was heard of it: it is accepted again as soon as something is.
    Silent,
    /// Its evidence is not enough, or too old: it has to show new evidence.
    Evidence { why: String },
}

impl Suspension {
    pub(crate) fn why(&self) -> &str {
        match self {
            Self::Silent => "no heartbeat arrived in time",
            Self::Evidence { why } => why,
        }
    }
}

/// An entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LoggedEntry {
    pub(crate) position: u64,
    pub(crate) text: Arc<str>,
}

impl NodeRecord {
    pub(crate) const fn is_active(&self) -> bool {
        matches!(self.membership, Membership::Active)
    }

    pub(crate) const fn is_revoked(&self) -> bool {
        matches!(self.membership, Membership::Revoked(_))
    }

    /// Whether it is suspended until it shows new evidence.
    pub(crate) const fn lacks_evidence(&self) -> bool {
        matches!(self.membership, Membership::Suspended(Suspension::Evidence { .. }))
    }

    /// What it showed for its grant.
    pub(crate) fn statements(&self) -> &[Statement] {
        self.statements.parsed()
    }

    /// Whose evidence that is.
    pub(crate) fn subject(&self, mesh: MeshId) -> Subject {
        Subject {
            mesh,
            cluster: self.cluster.clone(),
            identity_key: self.identity_key,
            wireguard_key: self.wireguard_key,
        }
    }

    /// When the oldest of its evidence that grows old was appraised.
    pub(crate) fn evidence_since(&self) -> Option<UnixTime> {
        let ages = |statement: &&Statement| statement.evidence.kind().ages();
        self.statements().iter().filter(ages).map(|statement| statement.appraised_at).min()
    }
}

impl MeshState {
    /// The nodes that peers accept.
    pub(crate) fn active(&self) -> impl Iterator<Item = &Arc<NodeRecord>> {
        self.nodes.values().filter(|node| node.is_active())
    }

    /// The nodes that are not revoked: their names and networks are theirs also while they are suspended.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Arc<NodeRecord>> {
        self.nodes.values().filter(|node| !node.is_revoked())
    }

    pub(crate) fn policy(&self) -> &Bundle {
        self.bundle.trusted.get()
    }

    pub(crate) fn policy_of(&self, node: &NodeRecord) -> &ClusterPolicy {
        self.policy().policy(&node.cluster)
    }

    /// Finds a node by what people call it: its id, or its name; of several revoked ones, the last to join.
    pub(crate) fn find(&self, id_or_name: &str) -> Option<&Arc<NodeRecord>> {
        if let Some(node) = id_or_name.parse::<NodeId>().ok().and_then(|id| self.nodes.get(&id)) {
            return Some(node);
        }
        self.nodes
            .values()
            .filter(|node| node.name.as_str() == id_or_name)
            .max_by_key(|node| (!node.is_revoked(), node.overlay_index))
    }

    /// The state after a node was added or changed.
    pub(crate) fn with(&self, node: NodeRecord) -> Self {
        self.with_all(vec![node])
    }

    /// The state after nodes were added or changed.
    pub(crate) fn with_all(&self, nodes: Vec<NodeRecord>) -> Self {
        let mut next = self.clone();
        for node in nodes {
            next.revision = next.revision.max(node.revision);
            next.nodes.insert(node.id, Arc::new(node));
        }
        next
    }

    /// The index after the highest ever given.
    pub(crate) fn next_overlay_index(&self) -> u32 {
        self.nodes.values().map(|node| node.overlay_index).max().unwrap_or(0).saturating_add(1)
    }
}

/// The ranges that overlay addresses are given from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Overlay {
    v4: Cidr,
    v6: Cidr,
}

impl Overlay {
    /// The range for IPv4 that is used where an operator chose none.
    pub(crate) fn default_v4() -> Cidr {
        Cidr::containing(Ipv4Addr::new(100, 64, 0, 0).into(), 10)
            .expect("an IPv4 address has more than 10 bits")
    }

    /// The overlay of a mesh. Its IPv6 range follows from the mesh id (RFC 4193): `fd` and five bytes of a hash.
    /// `None` where `v4` is no private IPv4 range of /8 to /28.
    pub(crate) fn new(mesh: MeshId, v4: Cidr) -> Option<Self> {
        let private = check_prefix_claim(&[v4], &[]).is_ok();
        if !v4.address().is_ipv4() || !(8..=28).contains(&v4.length()) || !private {
            return None;
        }
        let digest = Sha256::digest(mesh.as_bytes());
        let mut address = [0; 16];
        address[0] = 0xfd;
        address[1..6].copy_from_slice(&digest[..5]);
        Some(Self { v4, v6: Cidr::containing(Ipv6Addr::from(address).into(), 48)? })
    }

    pub(crate) const fn v4(&self) -> Cidr {
        self.v4
    }

    pub(crate) const fn ranges(&self) -> [Cidr; 2] {
        [self.v4, self.v6]
    }

    /// Whether the IPv4 range holds a usable address of this index.
    pub(crate) fn has(&self, index: u32) -> bool {
        let addresses = 1_u64 << (32 - self.v4.length());
        index >= 1 && u64::from(index) < addresses - 1
    }

    /// The addresses of an index that the range [has](Self::has), IPv4 first.
    pub(crate) fn addresses(&self, index: u32) -> (Ipv4Addr, Ipv6Addr) {
        let v4 = match self.v4.address() {
            IpAddr::V4(network) => Ipv4Addr::from(u32::from(network) | index),
            IpAddr::V6(_) => unreachable!("an overlay's IPv4 range is checked when it is made"),
        };
        let v6 = match self.v6.address() {
            IpAddr::V6(network) => Ipv6Addr::from(u128::from(network) | u128::from(index)),
            IpAddr::V4(_) => unreachable!("an overlay's IPv6 range is made here"),
        };
        (v4, v6)
    }
}

/// States for tests of the pure parts.
#[cfg(test)]
pub(crate) mod tests {
    use carrick_attest::{Signed, policy::ClusterPolicy};
    use carrick_types::{CoordinatorSecret, IdentitySecret, OperatorPin, OperatorSecret, WireGuardSecret};
    use carrick_wire::log::tree::empty_head;

    use super::*;

    pub(crate) fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    pub(crate) fn mesh() -> MeshId {
        MeshId::from_bytes([1; 16])
    }

    pub(crate) fn operator() -> OperatorSecret {
        OperatorSecret::from_bytes([6; 32])
    }

    pub(crate) fn signing_key() -> CoordinatorSecret {
        CoordinatorSecret::from_bytes([5; 32])
    }

    /// Version 1: a join token admits to every cluster.
    pub(crate) fn bundle() -> Bundle {
        Bundle {
            mesh: mesh(),
            version: 1,
            expires_at: UnixTime::from_millis(u64::MAX),
            coordinator_key: signing_key().public(),
            former_operators: vec![],
            rotate_keys_s: 86_400,
            log_restart: None,
            default: ClusterPolicy::default(),
            clusters: BTreeMap::new(),
        }
    }

    pub(crate) fn signed(bundle: &Bundle) -> SignedBundle {
        SignedBundle {
            operator: operator().public(),
            successions: vec![],
            bundle: Signed::seal(bundle, &operator()),
        }
    }

    pub(crate) fn published(signed: SignedBundle) -> PublishedBundle {
        let trusted = signed.open(&OperatorPin::of(&operator().public()), &mesh()).unwrap();
        PublishedBundle { signed, trusted }
    }

    pub(crate) fn empty() -> MeshState {
        let mesh = mesh();
        MeshState {
            mesh,
            overlay: Overlay::new(mesh, cidr("100.64.0.0/10")).unwrap(),
            revision: Revision(0),
            nodes: BTreeMap::new(),
            bundle: Arc::new(published(signed(&bundle()))),
            log: LogState {
                head: Head { size: 0, head: carrick_attest::Bytes(empty_head()) },
                checkpoint: "".into(),
                tree: SharedTree::default(),
            },
        }
    }

    pub(crate) fn node(n: u8, revision: u64) -> NodeRecord {
        let identity_key = IdentitySecret::from_bytes([n; 32]).public();
        NodeRecord {
            id: NodeId::of(&identity_key),
            name: format!("n{n}").parse().unwrap(),
            cluster: "east".parse().unwrap(),
            identity_key,
            wireguard_key: WireGuardSecret::from_bytes([n; 32]).public(),
            overlay_index: u32::from(n),
            prefixes: vec![Cidr::containing(IpAddr::from([10, n, 0, 0]), 24).unwrap()],
            endpoints: vec![],
            statements: Statements::default(),
            history: Statements::default(),
            logged: LoggedEntry { position: 0, text: "".into() },
            grant_revision: Revision(revision),
            trust: Trust::Evidence,
            version: String::new(),
            joined_at: UnixTime::from_millis(0),
            revision: Revision(revision),
            membership: Membership::Active,
            demanded_at: None,
        }
    }

    #[test]
    fn overlay_addresses_follow_from_mesh_and_index() {
        let overlay = empty().overlay;
        let (v4, v6) = overlay.addresses(258);
        assert_eq!(v4.to_string(), "100.64.1.2");
        assert!(v6.to_string().starts_with("fd") && v6.to_string().ends_with("::102"), "{v6}");
        assert!(overlay.ranges()[1].contains(v6.into()));
        assert!(Overlay::new(MeshId::from_bytes([1; 16]), cidr("fd00::/48")).is_none());
    }

    #[test]
    fn an_overlay_range_has_neither_network_nor_broadcast_address() {
        let overlay = Overlay::new(MeshId::from_bytes([1; 16]), cidr("10.9.0.0/28")).unwrap();
        assert_eq!(
            (0..20).filter(|&index| overlay.has(index)).collect::<Vec<_>>(),
            (1..15).collect::<Vec<_>>()
        );
    }

    #[test]
    fn a_node_is_found_by_id_and_by_name_and_an_active_one_first() {
        let mut gone = node(1, 1);
        gone.name = "web".parse().unwrap();
        gone.overlay_index = 9;
        gone.membership = Membership::Revoked(Revocation { at: UnixTime::from_millis(1), reason: None });
        let mut here = node(2, 2);
        here.name = "web".parse().unwrap();
        let state = empty().with(gone.clone()).with(here.clone());
        assert_eq!(state.find("web").unwrap().id, here.id);
        assert_eq!(state.find(&gone.id.to_string()).unwrap().id, gone.id);
        assert!(state.find("nobody").is_none());
    }
}
