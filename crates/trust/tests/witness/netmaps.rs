//! What must be accepted, and messages that make no sense.

use carrick_trust::{Distrust, Doubt};
use carrick_types::Revision;
use carrick_wire::{hello::Trust, netmap::Peer, session::MAX_ENDPOINTS};

use crate::mesh::{ME, Mesh, NOW, Profile, cidr, doubt, id, key, members, newcomer};

#[test]
fn a_true_netmap_and_its_deltas_are_believed() {
    let (mut mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 2);
    mesh.grant(Profile::of(3));
    mesh.show(&mut witness).unwrap();
    mesh.revoke(1);
    mesh.grant(Profile::of(4));
    mesh.show(&mut witness).unwrap();
    assert_eq!(members(&witness), [2, 3, 4]);
    let view = witness.view().unwrap();
    assert!(view.doubted.is_empty());
    assert_eq!((view.revision, witness.head()), (Revision(mesh.revision), Some(mesh.head())));
    let member = view.by_key(&key(3).public()).unwrap();
    assert_eq!((member.grant.node, member.statements.len()), (id(3), 2));
    mesh.show_whole(&mut witness).unwrap();
    assert_eq!(members(&witness), [2, 3, 4], "the whole says no more than the deltas");
}

#[test]
fn new_endpoints_of_a_member_need_no_new_proof() {
    let (mut mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 2);
    let before = witness.view().unwrap().members[&id(1)].clone();
    let moved = [([198, 51, 100, 7], 7).into()];
    mesh.move_to(1, &moved);
    let mut delta = mesh.delta_for(&witness);
    assert!(delta.upserts[0].grant.is_none());
    delta.log = None;
    witness.handle_delta(delta, NOW).unwrap();
    let after = &witness.view().unwrap().members[&id(1)];
    assert_eq!(after.endpoints, moved);
    assert_eq!((&after.grant, after.index), (&before.grant, before.index));
}

#[test]
fn a_stranger_without_a_grant_is_nobody() {
    let (mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 1);
    let mut delta = mesh.delta_for(&witness);
    delta.upserts = vec![Peer { id: id(7), endpoints: vec![], grant: None }];
    witness.handle_delta(delta, NOW).unwrap();
    assert_eq!(members(&witness), [1]);
    let mut netmap = mesh.netmap(witness.head());
    netmap.peers[0].grant = None;
    witness.handle_netmap(netmap, NOW).unwrap();
    assert_eq!(doubt(&witness, 1), Doubt::Inclusion, "a whole netmap builds on nothing");
}

#[test]
fn a_prefix_moves_from_one_member_to_another_in_one_delta() {
    let (mut mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 2);
    mesh.grant(Profile::of(1).with_prefixes(&[]));
    mesh.grant(Profile::of(2).with_prefixes(&["10.1.0.0/16"]));
    // Who gave the prefix up has a later grant than who got it, so that the order of grants does not help.
    mesh.grant(Profile::of(1).with_key(51).with_prefixes(&[]));
    mesh.show(&mut witness).unwrap();
    assert_eq!(members(&witness), [1, 2]);
    let networks = &witness.view().unwrap().members[&id(2)].grant.allowed_ips;
    assert!(networks.contains(&cidr("10.1.0.0/16")));
}

#[test]
fn two_members_exchange_their_prefixes_in_one_delta() {
    let (mut mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 2);
    mesh.grant(Profile::of(1).with_prefixes(&[]));
    mesh.grant(Profile::of(2).with_prefixes(&["10.1.0.0/16"]));
    mesh.grant(Profile::of(1).with_prefixes(&["10.2.0.0/16"]));
    mesh.show(&mut witness).unwrap();
    assert_eq!(members(&witness), [1, 2]);
}

#[test]
fn a_member_rotates_its_key() {
    let (mut mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 2);
    mesh.grant(Profile::of(1).with_key(51));
    mesh.show(&mut witness).unwrap();
    let view = witness.view().unwrap();
    assert_eq!(view.by_key(&key(51).public()).unwrap().grant.node, id(1));
    assert!(view.by_key(&key(1).public()).is_none());
    assert_eq!(members(&witness), [1, 2]);
}

#[test]
fn a_suspended_member_comes_back_by_the_grant_that_it_has() {
    let (mut mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 2);
    mesh.suspend(1);
    mesh.show(&mut witness).unwrap();
    assert_eq!(members(&witness), [2]);
    mesh.resume(1);
    mesh.show(&mut witness).unwrap();
    assert_eq!(members(&witness), [1, 2]);
}

#[test]
fn who_was_doubted_is_believed_once_the_proof_is_there() {
    let (mut mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 1);
    let profile = Profile::of(2);
    mesh.grant_as(profile.clone(), profile.grant(&[]), vec![]);
    mesh.show(&mut witness).unwrap();
    assert_eq!(members(&witness), [1]);
    mesh.grant(profile);
    mesh.show(&mut witness).unwrap();
    assert_eq!(members(&witness), [1, 2]);
    assert!(witness.view().unwrap().doubted.is_empty());
}

#[test]
fn a_delta_that_builds_on_something_else_is_refused_and_changes_nothing() {
    let (mut mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 1);
    let before = witness.view().cloned();
    mesh.grant(Profile::of(2));
    let true_delta = mesh.delta_for(&witness);
    let mut refused = |change: fn(&mut carrick_wire::netmap::NetmapDelta)| {
        let mut delta = true_delta.clone();
        change(&mut delta);
        assert!(matches!(witness.handle_delta(delta, NOW), Err(Distrust::OutOfTurn(_))));
        assert_eq!(witness.view().cloned(), before);
    };
    refused(|delta| delta.from = Revision(delta.from.0 - 1));
    refused(|delta| delta.from = delta.to);
    refused(|delta| delta.to = Revision(delta.from.0 - 1));
    refused(|delta| delta.log = None);
    refused(|delta| delta.upserts.push(delta.upserts[0].clone()));
    witness.handle_delta(true_delta, NOW).unwrap();
    assert_eq!(members(&witness), [1, 2]);
}

#[test]
fn nothing_is_believed_before_a_bundle_and_no_delta_before_a_netmap() {
    let mesh = Mesh::new();
    let mut witness = newcomer(Trust::Evidence);
    assert!(matches!(mesh.show_whole(&mut witness), Err(Distrust::OutOfTurn(_))));
    witness.handle_bundle(&mesh.bundle(), NOW).unwrap();
    assert!(matches!(witness.handle_delta(mesh.delta(Revision(1), None), NOW), Err(Distrust::OutOfTurn(_))));
    assert!(witness.view().is_none());
    mesh.show_whole(&mut witness).unwrap();
}

#[test]
fn a_peer_twice_in_one_netmap_is_refused() {
    let (mut mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 1);
    let older = mesh.clone();
    mesh.grant(Profile::of(1).with_key(51));
    let mut netmap = mesh.netmap(witness.head());
    let old_grant = mesh.logged(&(1, older.peer(1).grant.unwrap().logged.entry));
    let mut again = older.peer(1);
    again.grant.as_mut().unwrap().logged = old_grant;
    netmap.peers.push(again);
    assert!(matches!(witness.handle_netmap(netmap, NOW), Err(Distrust::OutOfTurn(_))));
    assert_eq!(members(&witness), [1]);
}

#[test]
fn a_node_is_no_peer_of_itself() {
    let (mut mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 1);
    // Its own grant, true in every part, while the coordinator tells it other addresses.
    mesh.tell_own(|own| {
        own.overlay_v4 = [100, 64, 0, 200].into();
        own.overlay_v6 = "fd00::200".parse().unwrap();
        own.prefixes.clear();
    });
    mesh.grant(Profile::of(ME).with_prefixes(&["10.200.0.0/16"]));
    mesh.show(&mut witness).unwrap();
    assert_eq!(doubt(&witness, ME), Doubt::Myself);
    assert_eq!(members(&witness), [1]);
}

#[test]
fn nobody_makes_a_node_speak_for_networks_that_it_did_not_ask_for() {
    let (mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 1);
    let before = witness.view().cloned();
    for wrong in ["0.0.0.0/0", "192.168.0.0/16", "10.100.7.0/24"] {
        let mut lie = mesh.clone();
        lie.tell_own(|own| own.prefixes = vec![cidr(wrong)]);
        assert!(matches!(lie.show(&mut witness), Err(Distrust::OutOfTurn(_))), "{wrong}");
        assert!(matches!(lie.show_whole(&mut witness), Err(Distrust::OutOfTurn(_))), "{wrong}");
    }
    let mut lie = mesh.clone();
    lie.tell_own(|own| own.overlay_v4 = [8, 8, 8, 8].into());
    assert!(matches!(lie.show(&mut witness), Err(Distrust::OutOfTurn(_))));
    assert_eq!(witness.view().cloned(), before);
}

#[test]
fn endpoints_and_peers_are_bounded() {
    let (mut mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 1);
    let many: Vec<_> = (0..1000).map(|port| ([192, 0, 2, 1], port).into()).collect();
    mesh.move_to(1, &many);
    mesh.show(&mut witness).unwrap();
    assert_eq!(witness.view().unwrap().members[&id(1)].endpoints, many[..MAX_ENDPOINTS]);
    mesh.show_whole(&mut witness).unwrap();
    assert_eq!(witness.view().unwrap().members[&id(1)].endpoints, many[..MAX_ENDPOINTS]);

    let stranger = |n: u32| {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        Peer { id: carrick_types::NodeId::from_bytes(bytes), endpoints: vec![], grant: None }
    };
    let mut netmap = mesh.netmap(witness.head());
    netmap.peers = (0..65_537).map(stranger).collect();
    assert!(matches!(witness.handle_netmap(netmap.clone(), NOW), Err(Distrust::OutOfTurn(_))));
    netmap.peers.pop();
    witness.handle_netmap(netmap, NOW).unwrap();
    let mut delta = mesh.delta_for(&witness);
    delta.upserts = vec![mesh.peer(1)];
    assert!(matches!(witness.handle_delta(delta, NOW), Err(Distrust::OutOfTurn(_))), "one more");
}
