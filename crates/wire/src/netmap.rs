//! What one node is told: its own state and its peers. Sent whole once, then as deltas with a revision.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use carrick_types::{Cidr, ClusterName, NodeId, NodeName, Revision, WireGuardKey};
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
}

/// A node as another node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: NodeName,
    /// Its cluster.
    pub cluster: ClusterName,
    /// Its WireGuard key.
    pub wireguard_key: WireGuardKey,
    /// Its overlay addresses and the prefixes it speaks for.
    pub allowed_ips: Vec<Cidr>,
    /// Where it may be reached, best first.
    pub endpoints: Vec<SocketAddr>,
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
}

/// A delta that does not build on the netmap at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a delta from revision {from} to {to} does not build on revision {at}")]
pub struct StaleDelta {
    from: Revision,
    to: Revision,
    at: Revision,
}

/// The netmap that a node keeps up to date.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetmapView {
    /// The revision it stands at.
    pub revision: Revision,
    /// The node itself.
    pub own: OwnNode,
    /// Every other active node.
    pub peers: BTreeMap<NodeId, Peer>,
}

impl From<Netmap> for NetmapView {
    fn from(netmap: Netmap) -> Self {
        let peers = netmap.peers.into_iter().map(|peer| (peer.id, peer)).collect();
        Self { revision: netmap.revision, own: netmap.own, peers }
    }
}

impl NetmapView {
    /// Brings the view up to date.
    ///
    /// # Errors
    /// [`StaleDelta`] where the delta builds on another revision, or leads back; the view stays as it was.
    pub fn apply(&mut self, delta: NetmapDelta) -> Result<(), StaleDelta> {
        if delta.from != self.revision || delta.to < delta.from {
            return Err(StaleDelta { from: delta.from, to: delta.to, at: self.revision });
        }
        self.revision = delta.to;
        if let Some(own) = delta.own {
            self.own = own;
        }
        for id in delta.removes {
            self.peers.remove(&id);
        }
        for peer in delta.upserts {
            self.peers.insert(peer.id, peer);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use carrick_types::WireGuardSecret;

    use super::*;

    fn peer(n: u8) -> Peer {
        Peer {
            id: NodeId::from_bytes([n; 16]),
            name: format!("n{n}").parse().unwrap(),
            cluster: "east".parse().unwrap(),
            wireguard_key: WireGuardSecret::from_bytes([n; 32]).public(),
            allowed_ips: vec![],
            endpoints: vec![],
        }
    }

    fn view() -> NetmapView {
        let own = OwnNode {
            overlay_v4: Ipv4Addr::new(100, 64, 0, 1),
            overlay_v6: Ipv6Addr::LOCALHOST,
            prefixes: vec![],
        };
        Netmap { revision: Revision(4), own, peers: vec![peer(1), peer(2)] }.into()
    }

    fn delta(from: u64, to: u64) -> NetmapDelta {
        NetmapDelta {
            from: Revision(from),
            to: Revision(to),
            own: None,
            upserts: vec![peer(3)],
            removes: vec![peer(1).id],
        }
    }

    #[test]
    fn a_delta_adds_and_removes_peers() {
        let mut view = view();
        view.apply(delta(4, 6)).unwrap();
        assert_eq!(view.revision, Revision(6));
        assert_eq!(view.peers.keys().copied().collect::<Vec<_>>(), [peer(2).id, peer(3).id]);
    }

    #[test]
    fn a_delta_that_does_not_fit_changes_nothing() {
        let mut view = view();
        for (from, to) in [(3, 6), (5, 6), (4, 3)] {
            view.apply(delta(from, to)).unwrap_err();
        }
        assert_eq!(view, self::view());
    }
}
