//! What one node is told of the mesh: pure functions of the [`MeshState`].

use std::sync::Arc;

use carrick_attest::{Bytes, Statement};
use carrick_types::{Cidr, NodeId, Revision};
use carrick_wire::{
    hello::Head,
    log::tree::{Hash, Tree},
    netmap::{GrantProof, LogNews, Logged, Netmap, NetmapDelta, OwnNode, Peer},
};

use crate::state::{LoggedEntry, MeshState, NodeRecord};

/// The whole netmap of a node that has seen the log up to `seen`; `None` for a stranger.
pub(crate) fn whole(state: &MeshState, id: NodeId, seen: Option<Head>) -> Option<Netmap> {
    let own = own(state, state.nodes.get(&id)?);
    let tree = state.log.tree.read();
    let others = state.active().filter(|node| node.id != id);
    let peers = others.map(|node| peer(state, &tree, node, true)).collect::<Option<_>>()?;
    let missed = |node: &&Arc<NodeRecord>| {
        node.is_revoked() && seen.is_some_and(|seen| node.logged.position >= seen.size)
    };
    let revocations = state.nodes.values().filter(missed).map(|node| logged(state, &tree, &node.logged));
    let revocations = revocations.collect::<Option<_>>()?;
    Some(Netmap { revision: state.revision, own, peers, revocations, log: news(state, &tree, seen) })
}

/// What changed since `since`, which lies no later than the state, for a node that has seen the log up to `seen`; `None` for a stranger.
pub(crate) fn delta(
    state: &MeshState,
    id: NodeId,
    since: Revision,
    seen: Option<Head>,
) -> Option<NetmapDelta> {
    let me = state.nodes.get(&id)?;
    let tree = state.log.tree.read();
    let changed = || state.nodes.values().filter(|node| node.id != id && node.revision > since);
    let upserts = changed().filter(|node| node.is_active());
    let upserts: Vec<Peer> =
        upserts.map(|node| peer(state, &tree, node, node.grant_revision > since)).collect::<Option<_>>()?;
    let revocations: Vec<Logged> = changed()
        .filter(|node| node.is_revoked())
        .map(|node| logged(state, &tree, &node.logged))
        .collect::<Option<_>>()?;
    let proven = !revocations.is_empty() || upserts.iter().any(|peer| peer.grant.is_some());
    Some(NetmapDelta {
        from: since,
        to: state.revision,
        own: (me.revision > since).then(|| own(state, me)),
        upserts,
        removes: changed().filter(|node| !node.is_active()).map(|node| node.id).collect(),
        revocations,
        log: proven.then(|| news(state, &tree, seen)),
    })
}

/// Whether a node has seen a head of this log, and of no other.
pub(crate) fn is_of_this_log(state: &MeshState, seen: Head) -> bool {
    let tree = state.log.tree.read();
    seen.size <= state.log.head.size && tree.head(seen.size) == Some(seen.head.0)
}

/// Proof that the log of one size begins that of another.
pub(crate) fn consistency(state: &MeshState, old: u64, new: u64) -> Option<Vec<Bytes<32>>> {
    Some(hashes(state.log.tree.read().consistency(old, new)?))
}

/// The head of the log, for a node that has seen it up to `seen`.
pub(crate) fn log_news(state: &MeshState, seen: Option<Head>) -> LogNews {
    news(state, &state.log.tree.read(), seen)
}

fn news(state: &MeshState, tree: &Tree, seen: Option<Head>) -> LogNews {
    let size = state.log.head.size;
    // A node that has seen another log gets no proof, and says so.
    let proof = seen.and_then(|seen| tree.consistency(seen.size, size));
    LogNews { checkpoint: state.log.checkpoint.to_string(), consistency: hashes(proof.unwrap_or_default()) }
}

fn own(state: &MeshState, node: &NodeRecord) -> OwnNode {
    let (overlay_v4, overlay_v6) = state.overlay.addresses(node.overlay_index);
    OwnNode { overlay_v4, overlay_v6, prefixes: node.prefixes.clone(), wireguard_key: node.wireguard_key }
}

/// A node's overlay addresses and the prefixes that it speaks for.
pub(crate) fn allowed_ips(state: &MeshState, node: &NodeRecord) -> Vec<Cidr> {
    let (v4, v6) = state.overlay.addresses(node.overlay_index);
    let overlay = [Cidr::host(v4.into()), Cidr::host(v6.into())];
    overlay.into_iter().chain(node.prefixes.iter().copied()).collect()
}

/// `None` where the log does not have what the node was granted, which no commit leads to.
fn peer(state: &MeshState, tree: &Tree, node: &NodeRecord, with_grant: bool) -> Option<Peer> {
    let head = state.log.head.size;
    let grant = || {
        Some(GrantProof {
            logged: logged(state, tree, &node.logged)?,
            statements: node.statements.texts().to_vec(),
            moments: node.statements().iter().map(|statement| moment(statement, tree, head)).collect(),
        })
    };
    let grant = if with_grant { Some(grant()?) } else { None };
    Some(Peer { id: node.id, endpoints: node.endpoints.clone(), grant })
}

/// Proof that evidence that grows old was made when the log was as it says.
fn moment(statement: &Statement, tree: &Tree, head: u64) -> Vec<Bytes<32>> {
    let proof = statement.evidence.kind().ages().then(|| tree.consistency(statement.moment.log_size, head));
    // Of a part of the log that was lost with its disk there is none: peers do not believe it until the node shows new evidence.
    hashes(proof.flatten().unwrap_or_default())
}

fn logged(state: &MeshState, tree: &Tree, entry: &LoggedEntry) -> Option<Logged> {
    let inclusion = hashes(tree.inclusion(entry.position, state.log.head.size)?);
    Some(Logged { index: entry.position, entry: entry.text.to_string(), inclusion })
}

fn hashes(proof: Vec<Hash>) -> Vec<Bytes<32>> {
    proof.into_iter().map(Bytes).collect()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, net::SocketAddr};

    use carrick_types::UnixTime;
    use carrick_wire::{api::Revocation, log::tree::leaf_hash};
    use proptest::prelude::*;

    use super::*;
    use crate::state::{
        Membership, Suspension,
        tests::{empty, node},
    };

    /// The state after a node was added or changed, with an entry of its own where peers must be shown one.
    fn with(state: &MeshState, mut node: NodeRecord) -> MeshState {
        if node.grant_revision == node.revision || node.is_revoked() {
            let mut tree = state.log.tree.write();
            let text = format!("{} {}", node.name, node.revision);
            node.logged = LoggedEntry { position: tree.size(), text: text.as_str().into() };
            tree.push(leaf_hash(text.as_bytes()));
        }
        let mut next = state.with(node);
        let tree = state.log.tree.read();
        next.log.head = Head { size: tree.size(), head: Bytes(tree.head(tree.size()).unwrap()) };
        drop(tree);
        next
    }

    /// What a node knows that believes everything.
    #[derive(Debug, PartialEq)]
    struct Known {
        revision: Revision,
        peers: BTreeMap<NodeId, (Vec<SocketAddr>, String)>,
    }

    impl Known {
        fn whole(state: &MeshState, id: NodeId) -> Self {
            let netmap = super::whole(state, id, None).unwrap();
            let mut known = Self { revision: netmap.revision, peers: BTreeMap::new() };
            known.upsert(netmap.peers);
            known
        }

        fn apply(&mut self, delta: NetmapDelta) {
            assert_eq!(delta.from, self.revision);
            self.revision = delta.to;
            for id in delta.removes {
                self.peers.remove(&id);
            }
            self.upsert(delta.upserts);
        }

        fn upsert(&mut self, peers: Vec<Peer>) {
            for peer in peers {
                let entry = match peer.grant {
                    Some(grant) => grant.logged.entry,
                    None => self.peers[&peer.id].1.clone(),
                };
                self.peers.insert(peer.id, (peer.endpoints, entry));
            }
        }
    }

    #[test]
    fn a_delta_holds_what_changed_and_nothing_else() {
        let mut gone = node(3, 4);
        gone.membership = revoked();
        let mut moved = node(2, 3);
        moved.grant_revision = Revision(1);
        let state = with(&with(&with(&empty(), node(1, 1)), moved.clone()), gone.clone());
        let delta = delta(&state, node(1, 1).id, Revision(2), None).unwrap();
        assert_eq!((delta.from, delta.to), (Revision(2), Revision(4)));
        assert_eq!(delta.own, None);
        assert_eq!(delta.upserts.iter().map(|peer| peer.id).collect::<Vec<_>>(), [moved.id]);
        assert!(delta.upserts[0].grant.is_none(), "its grant was seen before");
        assert_eq!(delta.removes, [gone.id]);
        assert_eq!(delta.revocations.len(), 1, "a revocation is proven");
    }

    #[test]
    fn a_whole_netmap_has_the_revocations_that_its_node_has_missed() {
        let before = with(&empty(), node(1, 1));
        let mut gone = node(3, 2);
        gone.membership = revoked();
        let state = with(&before, gone);
        let me = node(1, 1).id;
        let revocations = |seen| whole(&state, me, seen).unwrap().revocations.len();
        assert_eq!(revocations(Some(before.log.head)), 1);
        assert_eq!(revocations(Some(state.log.head)), 0, "it was told already");
        assert_eq!(revocations(None), 0, "a newcomer has nobody to forget");
    }

    #[test]
    fn a_suspended_node_is_gone_and_comes_back_with_its_grant() {
        let state = with(&with(&empty(), node(1, 1)), node(2, 2));
        let mut silent = NodeRecord::clone(&state.nodes[&node(2, 2).id]);
        silent.membership = Membership::Suspended(Suspension::Silent);
        silent.revision = Revision(3);
        let suspended = state.with(silent.clone());
        let me = node(1, 1).id;
        let gone = delta(&suspended, me, Revision(2), None).unwrap();
        assert_eq!((gone.removes, gone.revocations), (vec![silent.id], vec![]));
        let back = NodeRecord {
            membership: Membership::Active,
            revision: Revision(4),
            grant_revision: Revision(4),
            ..silent
        };
        let back = delta(&suspended.with(back), me, Revision(3), None).unwrap();
        assert_eq!(back.upserts[0].grant.as_ref().unwrap().logged.entry, "n2 2");
    }

    #[test]
    fn a_node_is_allowed_its_overlay_addresses_and_its_prefixes() {
        let state = with(&empty(), node(2, 2));
        let allowed: Vec<_> = allowed_ips(&state, &node(2, 2)).iter().map(ToString::to_string).collect();
        assert_eq!(allowed[0], "100.64.0.2/32");
        assert_eq!(allowed[2], "10.2.0.0/24");
        assert_eq!(whole(&state, node(2, 2).id, None).unwrap().own.overlay_v4.to_string(), "100.64.0.2");
    }

    #[test]
    fn a_head_is_of_this_log_or_of_another() {
        let old = with(&empty(), node(1, 1));
        let new = with(&old, node(2, 2));
        assert!(is_of_this_log(&new, old.log.head) && is_of_this_log(&new, new.log.head));
        let later = Head { size: 3, ..new.log.head };
        let fork = Head { size: 1, ..new.log.head };
        assert!(!is_of_this_log(&new, later) && !is_of_this_log(&new, fork));
        assert_eq!(whole(&new, node(1, 1).id, Some(later)).unwrap().log.consistency, []);
    }

    #[derive(Debug, Clone)]
    enum Change {
        Join,
        Move(prop::sample::Index, u16),
        Suspend(prop::sample::Index),
        Revoke(prop::sample::Index),
    }

    fn change() -> impl Strategy<Value = Change> {
        prop_oneof![
            2 => Just(Change::Join),
            3 => (any::<prop::sample::Index>(), 1..u16::MAX).prop_map(|(node, port)| Change::Move(node, port)),
            2 => any::<prop::sample::Index>().prop_map(Change::Suspend),
            1 => any::<prop::sample::Index>().prop_map(Change::Revoke),
        ]
    }

    proptest! {
        #[test]
        fn deltas_applied_one_by_one_or_in_leaps_equal_the_whole(
            changes in prop::collection::vec((change(), any::<bool>()), 1..60),
        ) {
            let me = node(1, 1).id;
            let mut state = with(&empty(), node(1, 1));
            let mut known = Known::whole(&state, me);
            for (change, look) in changes {
                state = apply(&state, change);
                if look {
                    known.apply(delta(&state, me, known.revision, None).unwrap());
                    prop_assert_eq!(&known, &Known::whole(&state, me));
                }
            }
            known.apply(delta(&state, me, known.revision, None).unwrap());
            prop_assert_eq!(known, Known::whole(&state, me));
        }
    }

    /// The state after one change, of one revision more; node 1 is never cut off.
    fn apply(state: &MeshState, change: Change) -> MeshState {
        let revision = state.revision.next();
        let chosen = |index: prop::sample::Index| {
            NodeRecord::clone(state.nodes.values().nth(index.index(state.nodes.len())).unwrap())
        };
        let mut changed = match change {
            Change::Join => node(u8::try_from(state.nodes.len() + 1).unwrap(), revision.0),
            Change::Move(index, port) => {
                NodeRecord { endpoints: vec![([192, 0, 2, 1], port).into()], ..chosen(index) }
            }
            Change::Suspend(index) => match chosen(index) {
                node if node.overlay_index == 1 || node.is_revoked() => node,
                node if node.is_active() => {
                    NodeRecord { membership: Membership::Suspended(Suspension::Silent), ..node }
                }
                node => NodeRecord { membership: Membership::Active, grant_revision: revision, ..node },
            },
            Change::Revoke(index) => match chosen(index) {
                node if node.overlay_index == 1 => node,
                node => NodeRecord { membership: revoked(), ..node },
            },
        };
        changed.revision = revision;
        with(state, changed)
    }

    fn revoked() -> Membership {
        Membership::Revoked(Revocation { at: UnixTime::from_millis(1), reason: None })
    }
}
