//! What one node is told of the mesh: pure functions of the [`MeshState`].

use carrick_types::{Cidr, NodeId, Revision};
use carrick_wire::netmap::{Netmap, NetmapDelta, OwnNode, Peer};

use crate::state::{MeshState, NodeRecord};

/// The whole netmap of a node; `None` for a stranger.
pub(crate) fn whole(state: &MeshState, id: NodeId) -> Option<Netmap> {
    let own = own(state, state.nodes.get(&id)?);
    let peers = state.active().filter(|node| node.id != id).map(|node| peer(state, node)).collect();
    Some(Netmap { revision: state.revision, own, peers })
}

/// What changed for a node since `since`, which lies no later than the state; `None` for a stranger.
pub(crate) fn delta(state: &MeshState, id: NodeId, since: Revision) -> Option<NetmapDelta> {
    let me = state.nodes.get(&id)?;
    let changed = || state.nodes.values().filter(|node| node.id != id && node.revision > since);
    Some(NetmapDelta {
        from: since,
        to: state.revision,
        own: (me.revision > since).then(|| own(state, me)),
        upserts: changed().filter(|node| node.is_active()).map(|node| peer(state, node)).collect(),
        removes: changed().filter(|node| !node.is_active()).map(|node| node.id).collect(),
    })
}

fn own(state: &MeshState, node: &NodeRecord) -> OwnNode {
    let (overlay_v4, overlay_v6) = state.overlay.addresses(node.overlay_index);
    OwnNode { overlay_v4, overlay_v6, prefixes: node.prefixes.clone() }
}

/// A node's overlay addresses and the prefixes that it speaks for.
pub(crate) fn allowed_ips(state: &MeshState, node: &NodeRecord) -> Vec<Cidr> {
    let (v4, v6) = state.overlay.addresses(node.overlay_index);
    let overlay = [Cidr::host(v4.into()), Cidr::host(v6.into())];
    overlay.into_iter().chain(node.prefixes.iter().copied()).collect()
}

fn peer(state: &MeshState, node: &NodeRecord) -> Peer {
    Peer {
        id: node.id,
        name: node.name.clone(),
        cluster: node.cluster.clone(),
        wireguard_key: node.wireguard_key,
        allowed_ips: allowed_ips(state, node),
        endpoints: node.endpoints.clone(),
    }
}

#[cfg(test)]
mod tests {
    use carrick_types::UnixTime;
    use carrick_wire::{api::Revocation, netmap::NetmapView};
    use proptest::prelude::*;

    use super::*;
    use crate::state::{
        Membership,
        tests::{empty, node},
    };

    #[test]
    fn a_delta_holds_what_changed_and_nothing_else() {
        let mut gone = node(3, 4);
        gone.membership = revoked();
        let state = empty().with(node(1, 1)).with(node(2, 3)).with(gone.clone());
        let me = node(1, 1).id;
        let delta = delta(&state, me, Revision(2)).unwrap();
        assert_eq!((delta.from, delta.to), (Revision(2), Revision(4)));
        assert_eq!(delta.own, None);
        assert_eq!(delta.upserts.iter().map(|peer| peer.id).collect::<Vec<_>>(), [node(2, 3).id]);
        assert_eq!(delta.removes, [gone.id]);
    }

    #[test]
    fn a_peer_is_allowed_its_overlay_addresses_and_its_prefixes() {
        let state = empty().with(node(1, 1)).with(node(2, 2));
        let netmap = whole(&state, node(1, 1).id).unwrap();
        let allowed: Vec<_> = netmap.peers[0].allowed_ips.iter().map(ToString::to_string).collect();
        assert_eq!(allowed[0], "100.64.0.2/32");
        assert_eq!(allowed[2], "10.2.0.0/24");
        assert_eq!(netmap.own.overlay_v4.to_string(), "100.64.0.1");
    }

    #[derive(Debug, Clone)]
    enum Change {
        Join,
        Move(prop::sample::Index, u16),
        Revoke(prop::sample::Index),
    }

    fn change() -> impl Strategy<Value = Change> {
        prop_oneof![
            2 => Just(Change::Join),
            3 => (any::<prop::sample::Index>(), 1..u16::MAX).prop_map(|(node, port)| Change::Move(node, port)),
            1 => any::<prop::sample::Index>().prop_map(Change::Revoke),
        ]
    }

    proptest! {
        #[test]
        fn deltas_applied_one_by_one_or_in_leaps_equal_the_whole(
            changes in prop::collection::vec((change(), any::<bool>()), 1..60),
        ) {
            let me = node(1, 1).id;
            let mut state = empty().with(node(1, 1));
            let mut view = NetmapView::from(whole(&state, me).unwrap());
            for (change, look) in changes {
                state = apply(&state, change);
                if look {
                    view.apply(delta(&state, me, view.revision).unwrap()).unwrap();
                    prop_assert_eq!(&view, &NetmapView::from(whole(&state, me).unwrap()));
                }
            }
            view.apply(delta(&state, me, view.revision).unwrap()).unwrap();
            prop_assert_eq!(view, NetmapView::from(whole(&state, me).unwrap()));
        }
    }

    /// The state after one change, of one revision more; node 1 is never revoked.
    fn apply(state: &MeshState, change: Change) -> MeshState {
        let revision = state.revision.next();
        let mut changed = match change {
            Change::Join => node(u8::try_from(state.nodes.len() + 1).unwrap(), revision.0),
            Change::Move(index, port) => {
                let mut node =
                    NodeRecord::clone(state.nodes.values().nth(index.index(state.nodes.len())).unwrap());
                node.endpoints = vec![([192, 0, 2, 1], port).into()];
                node
            }
            Change::Revoke(index) => {
                let mut node =
                    NodeRecord::clone(state.nodes.values().nth(index.index(state.nodes.len())).unwrap());
                if node.overlay_index != 1 {
                    node.membership = revoked();
                }
                node
            }
        };
        changed.revision = revision;
        state.with(changed)
    }

    fn revoked() -> Membership {
        Membership::Revoked(Revocation { at: UnixTime::from_millis(1), reason: None })
    }
}
