//! A log that is not the one that was seen, and grants that are not in it.

use carrick_attest::Bytes;
use carrick_trust::{Distrust, Doubt, Witness};
use carrick_types::{CoordinatorSecret, MeshId};
use carrick_wire::{
    hello::{Head, Trust},
    log::{Checkpoint, CheckpointError, Decision, Origin, tree::empty_head},
    netmap::{LogNews, NetmapDelta},
};

use crate::mesh::{Mesh, NOW, Profile, doubt, id, members, newcomer, restarted};

fn fork(outcome: &Result<(), Distrust>) -> bool {
    matches!(outcome, Err(Distrust::Fork { .. }))
}

/// A mesh in which node 1 is a member, and a delta in which node 2 becomes one.
fn about_to_join() -> (Mesh, Witness, NetmapDelta) {
    let (mut mesh, witness) = Mesh::seen_by(Trust::Evidence, 1);
    mesh.grant(Profile::of(2));
    let delta = mesh.delta_for(&witness);
    (mesh, witness, delta)
}

#[test]
fn a_log_of_the_same_size_with_another_head_is_refused() {
    let (mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 2);
    let mut other = Mesh::new();
    other.grant(Profile::of(2));
    other.grant(Profile::of(1));
    assert_eq!(other.tree.size(), mesh.tree.size());
    assert!(fork(&other.show_whole(&mut witness)));
    assert_eq!(members(&witness), [1, 2], "what was believed stays");
    let mut again = restarted(Trust::Evidence, witness.memory().clone());
    again.handle_bundle(&mesh.bundle(), NOW).unwrap();
    assert!(fork(&other.show_whole(&mut again)), "nor after a restart");
}

#[test]
fn a_shorter_log_is_refused() {
    let (mut mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 1);
    let shorter = mesh.clone();
    mesh.grant(Profile::of(2));
    mesh.show(&mut witness).unwrap();
    assert!(fork(&shorter.show_whole(&mut witness)));
    assert_eq!(members(&witness), [1, 2]);
}

#[test]
fn a_longer_log_that_does_not_continue_the_one_seen_is_refused() {
    let (mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 2);
    let mut other = Mesh::new();
    (2..=6).for_each(|n| other.grant(Profile::of(n)));
    other.revision = mesh.revision;
    other.grant(Profile::of(1));
    assert!(fork(&other.show(&mut witness)));
    assert!(fork(&other.show_whole(&mut witness)));
    assert_eq!(members(&witness), [1, 2]);
}

#[test]
fn a_longer_log_without_proof_is_refused() {
    let (mut mesh, mut witness, delta) = about_to_join();
    let mut unproven = delta.clone();
    unproven.log.as_mut().unwrap().consistency = vec![];
    assert!(fork(&witness.handle_delta(unproven, NOW)));
    let mut junk = delta.clone();
    junk.log.as_mut().unwrap().consistency = vec![Bytes([0; 32]); 70];
    assert!(fork(&witness.handle_delta(junk, NOW)));
    witness.handle_delta(delta, NOW).unwrap();
    mesh.grant(Profile::of(3));
    mesh.show(&mut witness).unwrap();
}

#[test]
fn a_head_that_another_key_signed_is_refused() {
    let (mesh, mut witness, mut delta) = about_to_join();
    let head = mesh.head();
    let stranger = CoordinatorSecret::from_bytes([77; 32]);
    let checkpoint = Checkpoint { origin: mesh.origin(), size: head.size, head: head.head.0 };
    let news = delta.log.as_mut().unwrap();
    news.checkpoint = checkpoint.sign(&stranger).to_string();
    let refused = witness.handle_delta(delta.clone(), NOW);
    assert_eq!(refused, Err(Distrust::Checkpoint(CheckpointError::Signature)));
    let elsewhere =
        Checkpoint { origin: Origin { mesh: MeshId::from_bytes([7; 16]), restart: None }, ..checkpoint };
    delta.log.as_mut().unwrap().checkpoint = elsewhere.sign(&mesh.coordinator).to_string();
    let refused = witness.handle_delta(delta.clone(), NOW);
    assert_eq!(refused, Err(Distrust::Checkpoint(CheckpointError::OtherLog)));
    delta.log.as_mut().unwrap().checkpoint.clear();
    let refused = witness.handle_delta(delta, NOW);
    assert_eq!(refused, Err(Distrust::Checkpoint(CheckpointError::Malformed)));
    assert_eq!(members(&witness), [1]);
}

#[test]
fn a_log_without_entries_is_refused_and_spoils_nothing() {
    let mesh = Mesh::new();
    for head in [Bytes(empty_head()), Bytes([7; 32])] {
        let mut witness = newcomer(Trust::Evidence);
        witness.handle_bundle(&mesh.bundle(), NOW).unwrap();
        let mut netmap = mesh.netmap(None);
        netmap.log = LogNews { checkpoint: mesh.sign(Head { size: 0, head }), consistency: vec![] };
        assert!(matches!(witness.handle_netmap(netmap, NOW), Err(Distrust::OutOfTurn(_))));
        assert_eq!(witness.head(), None);
        mesh.show_whole(&mut witness).unwrap();
    }
}

#[test]
fn a_grant_without_inclusion_is_doubted() {
    let (_, mut witness, mut delta) = about_to_join();
    delta.upserts[0].grant.as_mut().unwrap().logged.inclusion.clear();
    witness.handle_delta(delta, NOW).unwrap();
    assert_eq!(doubt(&witness, 2), Doubt::Inclusion);
    assert_eq!(members(&witness), [1]);
}

#[test]
fn a_grant_with_a_wrong_inclusion_proof_is_doubted() {
    let (_, witness, delta) = about_to_join();
    let proof = delta.upserts[0].grant.as_ref().unwrap().logged.inclusion.clone();
    for at in 0..proof.len() {
        let mut altered = delta.clone();
        altered.upserts[0].grant.as_mut().unwrap().logged.inclusion[at].0[0] ^= 1;
        let mut witness = restarted(Trust::Evidence, witness.memory().clone());
        let (mesh, _) = Mesh::seen_by(Trust::Evidence, 1);
        witness.handle_bundle(&mesh.bundle(), NOW).unwrap();
        mesh.show_whole(&mut witness).unwrap();
        witness.handle_delta(altered, NOW).unwrap();
        assert_eq!(doubt(&witness, 2), Doubt::Inclusion);
        assert_eq!(members(&witness), [1]);
    }
}

#[test]
fn a_grant_at_another_position_is_doubted() {
    let (_, mut witness, mut delta) = about_to_join();
    delta.upserts[0].grant.as_mut().unwrap().logged.index -= 1;
    witness.handle_delta(delta, NOW).unwrap();
    assert_eq!(doubt(&witness, 2), Doubt::Inclusion);
}

#[test]
fn a_grant_beyond_the_end_of_the_log_is_doubted() {
    let (mesh, mut witness, mut delta) = about_to_join();
    delta.upserts[0].grant.as_mut().unwrap().logged.index = mesh.tree.size();
    witness.handle_delta(delta, NOW).unwrap();
    assert_eq!(doubt(&witness, 2), Doubt::Inclusion);
}

#[test]
fn an_entry_with_another_text_is_doubted() {
    let (_, mut witness, mut delta) = about_to_join();
    let entry = &mut delta.upserts[0].grant.as_mut().unwrap().logged.entry;
    *entry = entry.replace("10.2.0.0/16", "10.3.0.0/16");
    witness.handle_delta(delta, NOW).unwrap();
    assert_eq!(doubt(&witness, 2), Doubt::Inclusion);
}

#[test]
fn a_grant_of_another_node_is_doubted() {
    let (mesh, mut witness, mut delta) = about_to_join();
    delta.upserts[0].grant = mesh.peer(1).grant;
    witness.handle_delta(delta, NOW).unwrap();
    assert_eq!(doubt(&witness, 2), Doubt::NotItsGrant);
    assert_eq!(members(&witness), [1]);
}

#[test]
fn an_entry_that_is_no_grant_is_doubted() {
    let (mut mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 1);
    mesh.grant(Profile::of(2));
    let resumed = mesh.log(Decision::Resumed { node: id(2) });
    let mut delta = mesh.delta_for(&witness);
    delta.upserts[0].grant.as_mut().unwrap().logged = mesh.logged(&resumed);
    witness.handle_delta(delta, NOW).unwrap();
    assert_eq!(doubt(&witness, 2), Doubt::NotItsGrant);
}

#[test]
fn a_revocation_that_is_not_in_the_log_is_refused() {
    let (mut mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 2);
    mesh.revoke(1);
    let delta = mesh.delta_for(&witness);
    let mut forged = delta.clone();
    forged.revocations[0].entry = forged.revocations[0].entry.replace(&id(1).to_string(), &id(2).to_string());
    assert!(matches!(witness.handle_delta(forged, NOW), Err(Distrust::OutOfTurn(_))));
    let mut unproven = delta.clone();
    unproven.log = None;
    assert!(matches!(witness.handle_delta(unproven, NOW), Err(Distrust::OutOfTurn(_))));
    assert!(witness.memory().revoked.is_empty());
    assert_eq!(members(&witness), [1, 2]);
    // The head of the first one was good, and is the last one seen.
    let again = mesh.delta_for(&witness);
    witness.handle_delta(again, NOW).unwrap();
    assert_eq!(members(&witness), [2]);
}

#[test]
fn an_entry_that_is_no_revocation_revokes_nobody() {
    let (mut mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 1);
    mesh.suspend(1);
    let mut delta = mesh.delta_for(&witness);
    let suspended = Decision::Suspended { node: id(1), reason: "silent".to_owned() };
    let entry = carrick_wire::log::Entry { at: NOW, decision: suspended }.to_text();
    delta.revocations = vec![mesh.logged(&(mesh.tree.size() - 1, entry))];
    assert!(matches!(witness.handle_delta(delta, NOW), Err(Distrust::OutOfTurn(_))));
    assert!(witness.memory().revoked.is_empty());
}
