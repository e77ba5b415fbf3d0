//! What this host's interface, routes and peers should be: a pure function of the netmap. `netlink` and the shard make it so.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use carrick_dataplane::PeerConfig;
use carrick_trust::{Member, View};
use carrick_types::{Cidr, NodeId, NodeName, WireGuardKey};

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
    /// The key of each peer.
    pub(crate) keys: BTreeMap<NodeId, WireGuardKey>,
    /// Whether a lease keeps somebody out, or from making a new tunnel.
    pub(crate) restrained: bool,
    /// Prefixes that get no route, since this host has the network itself: prefix, whose it is, and the network at hand.
    pub(crate) hidden: Vec<(Cidr, NodeName, Cidr)>,
}

/// What has to change in the device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Change {
    /// Peers that are forgotten, with their sessions.
    pub(crate) removes: Vec<WireGuardKey>,
    /// Peers that have a new key: the old one, the new one.
    pub(crate) replaces: Vec<(WireGuardKey, WireGuardKey, PeerConfig)>,
    /// Peers that are new, or known by something new.
    pub(crate) upserts: Vec<(WireGuardKey, PeerConfig)>,
}

impl Plan {
    /// What leads from another plan to this one.
    pub(crate) fn change_from(&self, before: &Self) -> Change {
        let mut change = Change::default();
        let mut replaced = BTreeSet::new();
        for (id, new) in &self.keys {
            if let Some(old) = before.keys.get(id).filter(|old| *old != new)
                && let Some(config) = self.peers.get(new)
            {
                replaced.extend([*old, *new]);
                change.replaces.push((*old, *new, config.clone()));
            }
        }
        let gone = |key: &&WireGuardKey| !self.peers.contains_key(key) && !replaced.contains(key);
        change.removes = before.peers.keys().filter(gone).copied().collect();
        let changed = self
            .peers
            .iter()
            .filter(|(key, config)| before.peers.get(key) != Some(config) && !replaced.contains(key));
        change.upserts = changed.map(|(key, config)| (*key, config.clone())).collect();
        change
    }
}

/// What the leases of a profile allow at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Everything.
    Current,
    /// Tunnels that are up stay up; no new one is made.
    Frozen,
    /// Nothing.
    Lapsed,
}

/// Plans for what is believed of the mesh, on a host that is itself in the networks `local`. `standing` says what the lease of a
/// peer's cluster allows.
pub(crate) fn plan(view: &View, local: &[Cidr], standing: impl Fn(&Member) -> Standing) -> Plan {
    let (v4, v6) = (IpAddr::V4(view.own.overlay_v4), IpAddr::V6(view.own.overlay_v6));
    let own: Vec<Cidr> =
        [v4, v6].map(Cidr::host).into_iter().chain(view.own.prefixes.iter().copied()).collect();
    let mut plan = Plan { addresses: BTreeSet::from([v4, v6]), own, ..Plan::default() };
    let foreign = |network: &&Cidr| !plan.own.iter().any(|own| own.overlaps(network));
    let local: Vec<Cidr> = local.iter().filter(foreign).copied().collect();
    for (id, peer) in &view.members {
        let (grant, standing) = (&peer.grant, standing(peer));
        plan.restrained |= standing != Standing::Current;
        // Its routes stay: what is meant for it must not go anywhere else.
        if standing != Standing::Lapsed {
            let config = PeerConfig {
                allowed_ips: grant.allowed_ips.clone(),
                endpoints: peer.endpoints.clone(),
                admits_new: standing == Standing::Current,
            };
            plan.peers.insert(grant.wireguard_key, config);
            plan.keys.insert(*id, grant.wireguard_key);
        }
        for &prefix in &grant.allowed_ips {
            if let Some(&network) = local.iter().find(|network| network.overlaps(&prefix)) {
                plan.hidden.push((prefix, grant.name.clone(), network));
            } else {
                plan.routes.insert(prefix, if prefix.address().is_ipv4() { v4 } else { v6 });
            }
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use carrick_attest::Grant;
    use carrick_types::{IdentitySecret, Revision, WireGuardSecret};
    use carrick_wire::netmap::OwnNode;

    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    fn view() -> View {
        let identity_key = IdentitySecret::from_bytes([2; 32]).public();
        let grant = Grant {
            node: NodeId::of(&identity_key),
            name: "west-1".parse().unwrap(),
            cluster: "west".parse().unwrap(),
            identity_key,
            wireguard_key: WireGuardSecret::from_bytes([2; 32]).public(),
            allowed_ips: vec![cidr("100.64.0.2/32"), cidr("fd01::2/128"), cidr("10.2.0.0/24")],
            policy_version: 1,
            statements: vec![],
        };
        let endpoints = vec!["192.0.2.2:51820".parse().unwrap()];
        let id = grant.node;
        let member = Member { grant, index: 1, statements: vec![], endpoints };
        View {
            revision: Revision(1),
            own: OwnNode {
                overlay_v4: "100.64.0.1".parse().unwrap(),
                overlay_v6: "fd01::1".parse().unwrap(),
                prefixes: vec![cidr("10.1.0.0/24")],
                wireguard_key: WireGuardSecret::from_bytes([1; 32]).public(),
            },
            members: BTreeMap::from([(id, member)]),
            doubted: BTreeMap::new(),
        }
    }

    fn current(_: &Member) -> Standing {
        Standing::Current
    }

    #[test]
    fn each_prefix_of_each_peer_is_routed_from_the_overlay_address() {
        let plan = plan(&view(), &[cidr("192.0.2.0/24"), cidr("10.1.0.0/24")], current);
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
        let plan = plan(&view(), &[cidr("10.2.0.0/16")], current);
        assert!(!plan.routes.contains_key(&cidr("10.2.0.0/24")));
        assert_eq!(plan.hidden, [(cidr("10.2.0.0/24"), "west-1".parse().unwrap(), cidr("10.2.0.0/16"))]);
    }

    #[test]
    fn a_new_key_of_a_peer_replaces_its_old_one() {
        let before = plan(&view(), &[], current);
        let mut later = view();
        let old = before.peers.keys().next().copied().unwrap();
        let new = WireGuardSecret::from_bytes([9; 32]).public();
        later.members.values_mut().for_each(|member| member.grant.wireguard_key = new);
        let change = plan(&later, &[], current).change_from(&before);
        assert_eq!((change.removes, change.upserts), (vec![], vec![]));
        assert_eq!(
            change.replaces.iter().map(|(old, new, _)| (*old, *new)).collect::<Vec<_>>(),
            [(old, new)]
        );
        let gone = Plan::default().change_from(&before);
        assert_eq!((gone.removes, gone.replaces), (vec![old], vec![]));
    }

    #[test]
    fn a_lapsed_lease_takes_the_key_and_keeps_the_route() {
        let lapsed = plan(&view(), &[], |_| Standing::Lapsed);
        assert!(lapsed.peers.is_empty() && lapsed.routes.contains_key(&cidr("10.2.0.0/24")));
        let frozen = plan(&view(), &[], |_| Standing::Frozen);
        assert!(frozen.peers.values().all(|peer| !peer.admits_new));
    }
}
