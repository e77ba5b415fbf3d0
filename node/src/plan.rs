//! What this host's interface, routes and peers should be: a pure function of the netmap. `netlink` and the shard make it so.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use carrick_dataplane::PeerConfig;
use carrick_types::{Cidr, NodeName, WireGuardKey};
use carrick_wire::netmap::NetmapView;

/// What should be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The interface's own addresses.
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// Every prefix that goes into the interface, with the source address that this host uses towards it.
    pub(crate) routes: BTreeMap<Cidr, IpAddr>,
    /// What this node speaks for.
    pub(crate) own: Vec<Cidr>,
    /// The device's peers.
    pub(crate) peers: BTreeMap<WireGuardKey, PeerConfig>,
    /// Prefixes that get no route, since this host has the network itself: prefix, whose it is, and the network at hand.
    pub(crate) hidden: Vec<(Cidr, NodeName, Cidr)>,
}

/// Plans for a netmap on a host that is itself in the networks `local`.
pub(crate) fn plan(view: &NetmapView, local: &[Cidr]) -> Plan {
    let (v4, v6) = (IpAddr::V4(view.own.overlay_v4), IpAddr::V6(view.own.overlay_v6));
    let own: Vec<Cidr> =
        [v4, v6].map(Cidr::host).into_iter().chain(view.own.prefixes.iter().copied()).collect();
    let mut plan = Plan { addresses: BTreeSet::from([v4, v6]), own, ..Plan::default() };
    let foreign = |network: &&Cidr| !plan.own.iter().any(|own| own.overlaps(network));
    let local: Vec<Cidr> = local.iter().filter(foreign).copied().collect();
    for peer in view.peers.values() {
        let config = PeerConfig { allowed_ips: peer.allowed_ips.clone(), endpoints: peer.endpoints.clone() };
        plan.peers.insert(peer.wireguard_key, config);
        for &prefix in &peer.allowed_ips {
            if let Some(&network) = local.iter().find(|network| network.overlaps(&prefix)) {
                plan.hidden.push((prefix, peer.name.clone(), network));
            } else {
                plan.routes.insert(prefix, if prefix.address().is_ipv4() { v4 } else { v6 });
            }
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use carrick_types::{NodeId, Revision, WireGuardSecret};
    use carrick_wire::netmap::{Netmap, OwnNode, Peer};

    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    fn view() -> NetmapView {
        Netmap {
            revision: Revision(1),
            own: OwnNode {
                overlay_v4: "100.64.0.1".parse().unwrap(),
                overlay_v6: "fd01::1".parse().unwrap(),
                prefixes: vec![cidr("10.1.0.0/24")],
            },
            peers: vec![Peer {
                id: NodeId::from_bytes([2; 16]),
                name: "west-1".parse().unwrap(),
                cluster: "west".parse().unwrap(),
                wireguard_key: WireGuardSecret::from_bytes([2; 32]).public(),
                allowed_ips: vec![cidr("100.64.0.2/32"), cidr("fd01::2/128"), cidr("10.2.0.0/24")],
                endpoints: vec!["192.0.2.2:51820".parse().unwrap()],
            }],
        }
        .into()
    }

    #[test]
    fn each_prefix_of_each_peer_is_routed_from_the_overlay_address() {
        let plan = plan(&view(), &[cidr("192.0.2.0/24"), cidr("10.1.0.0/24")]);
        let routes: Vec<String> = plan.routes.iter().map(|(to, from)| format!("{to} src {from}")).collect();
        let expected =
            ["10.2.0.0/24 src 100.64.0.1", "100.64.0.2/32 src 100.64.0.1", "fd01::2/128 src fd01::1"];
        assert_eq!(routes, expected);
        assert_eq!(plan.own, [cidr("100.64.0.1/32"), cidr("fd01::1/128"), cidr("10.1.0.0/24")]);
        assert_eq!(plan.peers.len(), 1);
        assert_eq!(plan.hidden, []);
    }

    #[test]
    fn a_network_that_this_host_is_in_is_never_routed_away() {
        let plan = plan(&view(), &[cidr("10.2.0.0/16")]);
        assert!(!plan.routes.contains_key(&cidr("10.2.0.0/24")));
        assert_eq!(plan.hidden, [(cidr("10.2.0.0/24"), "west-1".parse().unwrap(), cidr("10.2.0.0/16"))]);
    }
}
