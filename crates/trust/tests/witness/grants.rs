//! Grants that are over, and grants of what belongs to somebody else.

use carrick_trust::{Distrust, Doubt, Witness};
use carrick_wire::hello::Trust;

use crate::mesh::{ME, Mesh, NOW, Profile, cidr, doubt, id, key, members, restarted};

/// The same node after a restart.
fn after_restart(mesh: &Mesh, witness: &Witness) -> Witness {
    let memory = serde_json::from_str(&serde_json::to_string(witness.memory()).unwrap()).unwrap();
    let mut again = restarted(Trust::Evidence, memory);
    again.handle_bundle(&mesh.bundle(), NOW).unwrap();
    again
}

#[test]
fn an_old_grant_after_revocation_is_doubted_also_after_a_restart() {
    let (mut mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 2);
    let before = mesh.clone();
    mesh.revoke(1);
    mesh.show(&mut witness).unwrap();
    assert_eq!(members(&witness), [2]);
    mesh.show_again(1, &before);
    mesh.show(&mut witness).unwrap();
    assert_eq!(doubt(&witness, 1), Doubt::Revoked);
    let mut again = after_restart(&mesh, &witness);
    mesh.show_whole(&mut again).unwrap();
    assert_eq!(doubt(&again, 1), Doubt::Revoked);
    assert_eq!(members(&again), [2]);
}

#[test]
fn a_revocation_that_a_node_was_away_for_comes_with_the_next_netmap() {
    let (mut mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 2);
    let before = mesh.clone();
    mesh.revoke(1);
    mesh.show_whole(&mut witness).unwrap();
    mesh.show_again(1, &before);
    mesh.show(&mut witness).unwrap();
    assert_eq!(doubt(&witness, 1), Doubt::Revoked);
    let mut forged = mesh.netmap(witness.head());
    forged.revocations = vec![mesh.logged(&(0, "{}".to_owned()))];
    assert!(matches!(witness.handle_netmap(forged, NOW), Err(Distrust::OutOfTurn(_))));
}

#[test]
fn a_new_grant_after_revocation_is_doubted() {
    let (mut mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 2);
    mesh.revoke(1);
    mesh.show(&mut witness).unwrap();
    mesh.grant(Profile::of(1).with_key(51));
    mesh.show(&mut witness).unwrap();
    assert_eq!(doubt(&witness, 1), Doubt::Revoked);
}

#[test]
fn a_revocation_removes_the_node_though_the_message_does_not_say_so() {
    let (mut mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 2);
    mesh.revoke(1);
    let mut delta = mesh.delta_for(&witness);
    delta.removes.clear();
    witness.handle_delta(delta, NOW).unwrap();
    assert_eq!(members(&witness), [2]);
}

#[test]
fn a_revocation_holds_in_the_message_that_shows_the_node_again() {
    let (mut mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 2);
    mesh.revoke(1);
    let mut delta = mesh.delta_for(&witness);
    delta.removes.clear();
    let mut peer = mesh.peer(2);
    peer.id = id(1);
    peer.grant = None;
    delta.upserts.push(peer);
    witness.handle_delta(delta, NOW).unwrap();
    assert_eq!(members(&witness), [2]);
}

#[test]
fn a_node_that_was_revoked_before_it_was_known_stays_unknown() {
    let (mut mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 1);
    mesh.grant(Profile::of(2));
    let before = mesh.clone();
    mesh.revoke(2);
    mesh.show(&mut witness).unwrap();
    mesh.show_again(2, &before);
    mesh.show(&mut witness).unwrap();
    assert_eq!(doubt(&witness, 2), Doubt::Revoked);
}

#[test]
fn a_grant_that_was_replaced_is_doubted_also_after_a_restart() {
    let (mut mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 2);
    let before = mesh.clone();
    mesh.grant(Profile::of(1).with_key(51));
    mesh.show(&mut witness).unwrap();
    let replaced = Doubt::Replaced { shown: 1, seen: 3 };
    mesh.show_again(1, &before);
    let mut again = after_restart(&mesh, &witness);
    mesh.show(&mut witness).unwrap();
    assert_eq!(doubt(&witness, 1), replaced);
    mesh.show_whole(&mut again).unwrap();
    assert_eq!(doubt(&again, 1), replaced);
    assert!(again.view().unwrap().by_key(&key(1).public()).is_none());
}

#[test]
fn a_grant_that_was_replaced_is_doubted_after_the_node_was_removed() {
    let (mut mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 2);
    let before = mesh.clone();
    mesh.grant(Profile::of(1).with_key(51));
    mesh.show(&mut witness).unwrap();
    mesh.suspend(1);
    mesh.show(&mut witness).unwrap();
    mesh.show_again(1, &before);
    mesh.show(&mut witness).unwrap();
    assert_eq!(doubt(&witness, 1), Doubt::Replaced { shown: 1, seen: 3 });
}

#[test]
fn a_replaced_grant_takes_no_prefix_back_after_a_restart() {
    let (mut mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 2);
    let before = mesh.clone();
    mesh.grant(Profile::of(1).with_prefixes(&[]));
    mesh.grant(Profile::of(2).with_prefixes(&["10.1.0.0/16"]));
    mesh.show(&mut witness).unwrap();
    mesh.show_again(1, &before);
    let mut again = after_restart(&mesh, &witness);
    mesh.show_whole(&mut again).unwrap();
    assert_eq!(members(&again), [2], "though its grant is the older one");
}

/// What is thought of node 3, which the log grants these prefixes after nodes 1 and 2.
fn claims(prefixes: &[&str]) -> Doubt {
    let (mut mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 2);
    mesh.grant(Profile::of(3).with_prefixes(prefixes));
    mesh.show(&mut witness).unwrap();
    assert_eq!(members(&witness), [1, 2]);
    // To somebody who sees them all at once, in any order, it is no different.
    for reverse in [false, true] {
        let mut netmap = mesh.netmap(None);
        if reverse {
            netmap.peers.reverse();
        }
        let mut fresh = crate::mesh::newcomer(Trust::Evidence);
        fresh.handle_bundle(&mesh.bundle(), NOW).unwrap();
        fresh.handle_netmap(netmap, NOW).unwrap();
        assert_eq!(members(&fresh), [1, 2]);
        assert_eq!(doubt(&fresh, 3), doubt(&witness, 3));
    }
    doubt(&witness, 3)
}

#[test]
fn a_prefix_of_somebody_else_is_doubted_in_whatever_order_it_is_told() {
    assert_eq!(claims(&["10.1.0.0/16"]), Doubt::Prefix(cidr("10.1.0.0/16"), cidr("10.1.0.0/16")));
    assert_eq!(claims(&["10.1.7.0/24"]), Doubt::Prefix(cidr("10.1.7.0/24"), cidr("10.1.0.0/16")));
    assert_eq!(claims(&["10.0.0.0/8"]), Doubt::Prefix(cidr("10.0.0.0/8"), cidr("10.100.0.0/16")));
    assert_eq!(
        claims(&["10.3.0.0/16", "10.2.0.0/16"]),
        Doubt::Prefix(cidr("10.2.0.0/16"), cidr("10.2.0.0/16"))
    );
}

#[test]
fn an_overlay_address_of_somebody_else_is_doubted() {
    assert_eq!(claims(&["100.64.0.1/32"]), Doubt::Prefix(cidr("100.64.0.1/32"), cidr("100.64.0.1/32")));
}

#[test]
fn a_prefix_or_an_overlay_address_of_this_node_is_doubted() {
    assert_eq!(claims(&["10.100.0.0/16"]), Doubt::Prefix(cidr("10.100.0.0/16"), cidr("10.100.0.0/16")));
    assert_eq!(claims(&["100.64.0.100/32"]), Doubt::Prefix(cidr("100.64.0.100/32"), cidr("100.64.0.100/32")));
    assert_eq!(claims(&["fd00::100/128"]), Doubt::Prefix(cidr("fd00::100/128"), cidr("fd00::100/128")));
}

#[test]
fn a_prefix_of_this_node_is_doubted_though_the_coordinator_denies_that_it_is() {
    let (mut mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 1);
    mesh.tell_own(|own| own.prefixes.clear());
    mesh.grant(Profile::of(2).with_prefixes(&["10.100.0.0/16"]));
    mesh.show(&mut witness).unwrap();
    assert_eq!(doubt(&witness, 2), Doubt::Prefix(cidr("10.100.0.0/16"), cidr("10.100.0.0/16")));
}

#[test]
fn a_member_that_has_what_this_node_is_given_makes_way() {
    let (mut mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 2);
    mesh.tell_own(|own| own.overlay_v4 = [100, 64, 0, 1].into());
    mesh.show(&mut witness).unwrap();
    assert_eq!(doubt(&witness, 1), Doubt::Prefix(cidr("100.64.0.1/32"), cidr("100.64.0.1/32")));
    assert_eq!(members(&witness), [2]);
    mesh.show_whole(&mut witness).unwrap();
    assert_eq!(members(&witness), [2], "nor is it believed because it was before");
}

#[test]
fn a_default_route_or_a_public_network_is_doubted() {
    for prefix in ["0.0.0.0/1", "8.8.8.0/24", "2600::/16"] {
        let (mut mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 0);
        mesh.grant(Profile::of(3).with_prefixes(&[prefix]));
        mesh.tell_own(|own| own.prefixes.clear());
        mesh.show(&mut witness).unwrap();
        assert!(matches!(doubt(&witness, 3), Doubt::Claim(_)), "{prefix}: {}", doubt(&witness, 3));
    }
    claims(&["0.0.0.0/0"]);
    claims(&["::/0"]);
}

#[test]
fn a_public_network_that_the_token_names_is_believed() {
    let (mut mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 1);
    mesh.grant(Profile::of(2).with_prefixes(&["192.0.2.0/25"]).allowing(&["192.0.2.0/24"]));
    mesh.show(&mut witness).unwrap();
    assert_eq!(members(&witness), [1, 2]);
}

#[test]
fn a_prefix_outside_those_that_the_token_allows_is_doubted() {
    let doubted = |prefixes: &[&str], allowed: &[&str]| {
        let (mut mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 1);
        mesh.grant(Profile::of(2).with_prefixes(prefixes).allowing(allowed));
        mesh.show(&mut witness).unwrap();
        assert_eq!(members(&witness), [1]);
        doubt(&witness, 2)
    };
    assert_eq!(doubted(&["10.3.0.0/16"], &["10.2.0.0/16"]), Doubt::NotAllowed(cidr("10.3.0.0/16")));
    assert_eq!(doubted(&["10.2.0.0/15"], &["10.2.0.0/16"]), Doubt::NotAllowed(cidr("10.2.0.0/15")));
    assert_eq!(doubted(&["10.2.0.0/16"], &[]), Doubt::NotAllowed(cidr("10.2.0.0/16")));
    assert_eq!(
        doubted(&["10.2.0.0/16", "10.3.0.0/16"], &["10.2.0.0/16"]),
        Doubt::NotAllowed(cidr("10.3.0.0/16"))
    );
}

#[test]
fn a_network_in_the_place_of_an_overlay_address_is_doubted() {
    let doubted = |networks: &[&str]| {
        let (mut mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 1);
        let profile = Profile::of(2).allowing(&["10.2.0.0/16"]);
        let statements = profile.statements();
        let mut grant = profile.grant(&statements);
        grant.allowed_ips = networks.iter().map(|text| cidr(text)).collect();
        mesh.grant_as(profile, grant, statements);
        mesh.show(&mut witness).unwrap();
        assert_eq!(members(&witness), [1]);
        doubt(&witness, 2)
    };
    assert_eq!(doubted(&["192.168.0.0/16", "fd00::2/128"]), Doubt::Overlay);
    assert_eq!(doubted(&["100.64.0.2/32", "fd07::/16"]), Doubt::Overlay);
    assert_eq!(doubted(&["100.64.0.2/32", "192.168.7.7/32"]), Doubt::Overlay);
    assert_eq!(doubted(&["fd00::2/128", "100.64.0.2/32"]), Doubt::Overlay);
    assert_eq!(doubted(&["100.64.0.2/32"]), Doubt::Overlay);
    assert_eq!(doubted(&[]), Doubt::Overlay);
    assert!(matches!(doubted(&["8.8.8.8/32", "fd00::2/128"]), Doubt::Claim(_)));
}

#[test]
fn a_grant_logged_in_advance_takes_nothing_from_a_member_that_is_as_it_was() {
    let (mut mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 1);
    // A grant of node 1 that nobody is shown yet, and after it the true one of node 2.
    let shown = mesh.nodes[&1].clone();
    mesh.grant(Profile::of(1).with_prefixes(&["10.2.0.0/16"]));
    let hidden = mesh.nodes.insert(1, shown).unwrap();
    mesh.grant(Profile::of(2));
    mesh.show(&mut witness).unwrap();
    assert_eq!(members(&witness), [1, 2]);
    mesh.nodes.insert(1, hidden);
    mesh.show_whole(&mut witness).unwrap();
    assert_eq!(doubt(&witness, 1), Doubt::Prefix(cidr("10.2.0.0/16"), cidr("10.2.0.0/16")));
    assert_eq!(members(&witness), [2]);
}

#[test]
fn a_wireguard_key_of_somebody_else_is_doubted() {
    let (mut mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 2);
    // A member signs that another one's key is its own, and the coordinator does not ask for possession.
    mesh.grant(Profile::of(2).with_key(1));
    mesh.show(&mut witness).unwrap();
    assert_eq!(doubt(&witness, 2), Doubt::Key);
    assert_eq!(members(&witness), [1]);
    assert_eq!(witness.view().unwrap().by_key(&key(1).public()).unwrap().grant.node, id(1));
}

#[test]
fn a_wireguard_key_of_this_node_is_doubted() {
    let (mut mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 1);
    mesh.grant(Profile::of(2).with_key(ME));
    mesh.show(&mut witness).unwrap();
    assert_eq!(doubt(&witness, 2), Doubt::Key);
    witness.handle_key(key(101).public());
    for own in [ME, 101] {
        mesh.grant(Profile::of(2).with_key(own));
        mesh.show(&mut witness).unwrap();
        assert_eq!(doubt(&witness, 2), Doubt::Key, "{own}");
    }
    mesh.grant(Profile::of(2));
    mesh.show(&mut witness).unwrap();
    assert_eq!(members(&witness), [1, 2]);
}
