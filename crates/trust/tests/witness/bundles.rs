//! Bundles, operators, and a log that the operator sets back.

use std::collections::BTreeSet;

use carrick_attest::{
    Bundle, Signed, SignedBundle,
    policy::{BundleError, Succession},
};
use carrick_trust::{Distrust, Doubt, Memory};
use carrick_types::{CoordinatorSecret, MeshId};
use carrick_wire::{hello::Trust, log::CheckpointError};

use crate::mesh::{
    MESH, Mesh, NOW, Profile, cidr, doubt, doubted_evidence, later, members, newcomer, operator, pin,
    restarted, sealed,
};

const NOBODY: [u8; 0] = [];

/// Refuses everybody for the software that they run.
fn strict(bundle: &mut Bundle) {
    bundle.default.runtime_digests = BTreeSet::from(["00".repeat(32)]);
}

fn succession(from: u8, to: u8) -> Signed<Succession> {
    let step = Succession { mesh: MESH, from: operator(from).public(), to: operator(to).public() };
    Signed::seal(&step, &operator(from))
}

/// The mesh's bundle by another operator, who names the one before.
fn by(mesh: &Mesh, version: u64, by: u8, successions: Vec<Signed<Succession>>) -> SignedBundle {
    let mut bundle = None;
    mesh.bundle_of(version, |draft| {
        draft.former_operators = vec![operator(2).public()];
        bundle = Some(draft.clone());
    });
    SignedBundle { successions, ..sealed(&bundle.unwrap(), by) }
}

#[test]
fn a_newcomer_takes_no_bundle_that_is_older_than_its_token() {
    let mesh = Mesh::new();
    let mut witness = restarted(Trust::Evidence, Memory::new(pin(2), 3));
    let older = Err(Distrust::Bundle(BundleError::Older { found: 2, seen: 3 }));
    assert_eq!(witness.handle_bundle(&mesh.bundle_of(2, |_| ()), NOW), older);
    witness.handle_bundle(&mesh.bundle_of(3, |_| ()), NOW).unwrap();
}

#[test]
fn an_older_bundle_is_refused_also_after_a_restart() {
    let (mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 1);
    witness.handle_bundle(&mesh.bundle_of(3, |_| ()), NOW).unwrap();
    let older = Err(Distrust::Bundle(BundleError::Older { found: 2, seen: 3 }));
    assert_eq!(witness.handle_bundle(&mesh.bundle_of(2, |_| ()), NOW), older);
    assert_eq!(witness.bundle().unwrap().get().version, 3);
    let mut again = restarted(Trust::Evidence, witness.memory().clone());
    assert_eq!(again.handle_bundle(&mesh.bundle_of(2, |_| ()), NOW), older);
    again.handle_bundle(&mesh.bundle_of(3, |_| ()), NOW).unwrap();
}

#[test]
fn an_expired_bundle_is_refused() {
    let (mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 1);
    let short = mesh.bundle_of(2, |bundle| bundle.expires_at = later(1));
    let expired = Err(Distrust::Bundle(BundleError::Expired(later(1))));
    assert_eq!(witness.handle_bundle(&short, later(1)), expired);
    assert_eq!(witness.memory().bundle_version, 1);
    witness.handle_bundle(&short, NOW).unwrap();
}

#[test]
fn a_bundle_of_an_unknown_operator_is_refused() {
    let mesh = Mesh::new();
    let mut witness = newcomer(Trust::Evidence);
    let refused = witness.handle_bundle(&by(&mesh, 1, 3, vec![]), NOW);
    assert_eq!(refused, Err(Distrust::Bundle(BundleError::Stranger(operator(3).public()))));
    assert!(witness.bundle().is_none());
    assert_eq!(*witness.memory(), Memory::new(pin(2), 0));
}

#[test]
fn a_bundle_for_another_mesh_is_refused() {
    let (mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 1);
    let elsewhere = MeshId::from_bytes([7; 16]);
    let refused = witness.handle_bundle(&mesh.bundle_of(2, |bundle| bundle.mesh = elsewhere), NOW);
    assert_eq!(refused, Err(Distrust::Bundle(BundleError::OtherMesh(elsewhere))));
}

#[test]
fn two_bundles_of_one_version_are_refused_also_after_a_restart() {
    let (mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 1);
    witness.handle_bundle(&mesh.bundle(), NOW).unwrap();
    let other = mesh.bundle_of(1, |bundle| bundle.rotate_keys_s = 61);
    assert_eq!(witness.handle_bundle(&other, NOW), Err(Distrust::TwoBundles(1)));
    let mut again = restarted(Trust::Evidence, witness.memory().clone());
    assert_eq!(again.handle_bundle(&other, NOW), Err(Distrust::TwoBundles(1)));
    again.handle_bundle(&mesh.bundle(), NOW).unwrap();
}

#[test]
fn a_new_operator_is_believed_and_the_old_one_no_longer() {
    let (mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 1);
    witness.handle_bundle(&by(&mesh, 2, 3, vec![succession(2, 3)]), NOW).unwrap();
    assert_eq!(members(&witness), [1], "the tokens of a former operator hold");
    assert_eq!(witness.memory().operator, pin(3));
    let stranger = Err(Distrust::Bundle(BundleError::Stranger(operator(2).public())));
    assert_eq!(witness.handle_bundle(&mesh.bundle_of(3, |_| ()), NOW), stranger);
    let mut again = restarted(Trust::Evidence, witness.memory().clone());
    assert_eq!(again.handle_bundle(&mesh.bundle_of(3, |_| ()), NOW), stranger);
    again.handle_bundle(&by(&mesh, 2, 3, vec![succession(2, 3)]), NOW).unwrap();
}

#[test]
fn an_operator_who_was_taken_out_does_not_come_back_by_an_earlier_turn() {
    let (mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 1);
    let step = |version, to, turns: usize, former: &[u8]| {
        let former = former.iter().map(|n| operator(*n).public()).collect();
        let bundle = mesh.bundle_of(version, |bundle| bundle.former_operators = former);
        let bundle: Bundle = serde_json::from_str(bundle.bundle.text()).unwrap();
        let successions = [succession(2, 3), succession(3, 2), succession(2, 3)][..turns].to_vec();
        SignedBundle { successions, ..sealed(&bundle, to) }
    };
    witness.handle_bundle(&step(2, 3, 1, &[2]), NOW).unwrap();
    witness.handle_bundle(&step(3, 2, 2, &[3]), NOW).unwrap();
    witness.handle_bundle(&step(4, 3, 3, &[2]), NOW).unwrap();
    witness.handle_bundle(&step(5, 3, 3, &[]), NOW).unwrap();
    // Whoever has the first key now also has the word by which it once followed the second.
    let thief = Err(Distrust::Bundle(BundleError::Stranger(operator(2).public())));
    assert_eq!(witness.handle_bundle(&step(6, 2, 2, &[3]), NOW), thief);
    let mut again = restarted(Trust::Evidence, witness.memory().clone());
    assert_eq!(again.handle_bundle(&step(6, 2, 2, &[3]), NOW), thief);
    witness.handle_bundle(&step(6, 3, 3, &[2]), NOW).unwrap();
    witness.handle_bundle(&step(7, 2, 2, &[3]), NOW).unwrap();
}

#[test]
fn a_new_bundle_drops_who_is_not_good_enough_and_the_next_one_takes_them_back() {
    let (mut mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 2);
    witness.handle_bundle(&mesh.bundle_of(2, strict), NOW).unwrap();
    assert_eq!(members(&witness), NOBODY);
    assert!(doubted_evidence(&witness, 1).contains("runtime digest"));
    // Meanwhile one moves, one goes, and another joins in vain.
    let moved = [([198, 51, 100, 7], 7).into()];
    mesh.move_to(1, &moved);
    mesh.suspend(2);
    mesh.grant(Profile::of(3));
    mesh.show(&mut witness).unwrap();
    assert!(doubted_evidence(&witness, 3).contains("runtime digest"));
    witness.handle_bundle(&mesh.bundle_of(3, |_| ()), NOW).unwrap();
    assert_eq!(members(&witness), [1], "what was never believed must be shown again");
    assert_eq!(witness.view().unwrap().members.values().next().unwrap().endpoints, moved);
}

#[test]
fn a_new_bundle_keeps_who_is_good_enough() {
    let (mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 1);
    let before = witness.view().cloned();
    let known = |bundle: &mut Bundle| bundle.default.runtime_digests = BTreeSet::from(["08".repeat(32)]);
    witness.handle_bundle(&mesh.bundle_of(2, known), NOW).unwrap();
    assert_eq!(witness.view().cloned(), before);
}

#[test]
fn who_was_revoked_under_a_bundle_that_refused_them_does_not_come_back_with_the_next() {
    let (mut mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 2);
    witness.handle_bundle(&mesh.bundle_of(2, strict), NOW).unwrap();
    mesh.revoke(1);
    mesh.show(&mut witness).unwrap();
    witness.handle_bundle(&mesh.bundle_of(3, |_| ()), NOW).unwrap();
    assert_eq!(members(&witness), [2]);
}

#[test]
fn who_comes_back_with_a_new_bundle_takes_nothing_from_anybody() {
    let mut mesh = Mesh::new();
    let mut witness = newcomer(Trust::Evidence);
    let both = |bundle: &mut Bundle| bundle.former_operators = vec![operator(3).public()];
    witness.handle_bundle(&mesh.bundle_of(1, both), NOW).unwrap();
    let invited_by_the_former = Profile::of(1);
    let statements =
        vec![invited_by_the_former.identity_statement(), invited_by_the_former.token_statement(3)];
    let grant = invited_by_the_former.grant(&statements);
    mesh.grant_as(invited_by_the_former, grant, statements);
    mesh.show_whole(&mut witness).unwrap();
    assert_eq!(members(&witness), [1]);
    witness.handle_bundle(&mesh.bundle_of(2, |_| ()), NOW).unwrap();
    assert_eq!(members(&witness), NOBODY);
    mesh.grant(Profile::of(2).with_prefixes(&["10.1.0.0/16"]));
    mesh.show(&mut witness).unwrap();
    witness.handle_bundle(&mesh.bundle_of(3, both), NOW).unwrap();
    assert_eq!(doubt(&witness, 1), Doubt::Prefix(cidr("10.1.0.0/16"), cidr("10.1.0.0/16")));
    assert_eq!(members(&witness), [2]);
}

#[test]
fn a_bundle_may_name_another_key_for_the_coordinator() {
    let (mut mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 1);
    let stolen = mesh.clone();
    mesh.coordinator = CoordinatorSecret::from_bytes([19; 32]);
    mesh.grant(Profile::of(2));
    witness.handle_bundle(&mesh.bundle_of(2, |_| ()), NOW).unwrap();
    assert_eq!(stolen.show_whole(&mut witness), Err(Distrust::Checkpoint(CheckpointError::Signature)));
    mesh.show(&mut witness).unwrap();
    assert_eq!(members(&witness), [1, 2]);
}

#[test]
fn the_operator_sets_the_log_back_and_nobody_else_does() {
    let (mut mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 1);
    let backup = mesh.clone();
    mesh.grant(Profile::of(2));
    mesh.show(&mut witness).unwrap();
    let mut restored = backup.clone();
    restored.grant(Profile::of(3));
    assert!(matches!(restored.show_whole(&mut witness), Err(Distrust::Fork { size: 3, seen: 3 })));
    restored.restart = Some(backup.head());
    let bundle = restored.bundle_of(2, |_| ());
    witness.handle_bundle(&bundle, NOW).unwrap();
    assert_eq!(witness.head(), Some(backup.head()));
    restored.show_whole(&mut witness).unwrap();
    assert_eq!(members(&witness), [1, 3]);
    let other = Err(Distrust::Checkpoint(CheckpointError::OtherLog));
    assert_eq!(mesh.show_whole(&mut witness), other, "the lost one is lost");
    mesh.restart = restored.restart;
    assert!(matches!(mesh.show_whole(&mut witness), Err(Distrust::Fork { .. })), "by whichever name");
}

#[test]
fn a_restart_that_a_later_bundle_repeats_sets_nothing_back() {
    let (mut mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 1);
    mesh.restart = Some(mesh.head());
    witness.handle_bundle(&mesh.bundle_of(2, |_| ()), NOW).unwrap();
    let fork = mesh.clone();
    mesh.grant(Profile::of(2));
    mesh.show(&mut witness).unwrap();
    let repeated = mesh.bundle_of(3, |_| ());
    let mut again = restarted(Trust::Evidence, witness.memory().clone());
    for witness in [&mut witness, &mut again] {
        witness.handle_bundle(&repeated, NOW).unwrap();
        assert_eq!(witness.head(), Some(mesh.head()));
        let mut fork = fork.clone();
        fork.grant(Profile::of(3));
        assert!(matches!(fork.show_whole(witness), Err(Distrust::Fork { .. })));
    }
    mesh.grant(Profile::of(4));
    mesh.show(&mut witness).unwrap();
}

#[test]
fn a_session_in_which_the_log_is_set_back_goes_on_where_it_was() {
    let (mut mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 1);
    let start = mesh.head();
    mesh.grant(Profile::of(2));
    mesh.show(&mut witness).unwrap();
    let told = mesh.head();
    mesh.restart = Some(start);
    witness.handle_bundle(&mesh.bundle_of(2, |_| ()), NOW).unwrap();
    mesh.grant(Profile::of(3));
    // The coordinator proves from the head that it told last.
    let delta = mesh.delta(witness.view().unwrap().revision, Some(told));
    witness.handle_delta(delta, NOW).unwrap();
    assert_eq!(members(&witness), [1, 2, 3]);
    let mut fork = mesh.clone();
    fork.grant(Profile::of(4));
    mesh.grant(Profile::of(5));
    mesh.show(&mut witness).unwrap();
    let delta = fork.delta(witness.view().unwrap().revision, Some(told));
    assert!(matches!(witness.handle_delta(delta, NOW), Err(Distrust::Fork { .. })), "once only");
}

#[test]
fn a_grant_of_the_log_that_was_lost_replaces_none_of_the_restored_one() {
    let (mut mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 1);
    let mut restored = mesh.clone();
    mesh.grant(Profile::of(1).with_key(51));
    mesh.show(&mut witness).unwrap();
    restored.restart = Some(restored.head());
    let bundle = restored.bundle_of(2, |_| ());
    witness.handle_bundle(&bundle, NOW).unwrap();
    restored.show_whole(&mut witness).unwrap();
    assert_eq!(members(&witness), [1]);
}

#[test]
fn a_revoked_node_stays_out_when_the_log_is_set_back() {
    let (mut mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 2);
    let mut restored = mesh.clone();
    mesh.revoke(1);
    mesh.show(&mut witness).unwrap();
    restored.restart = Some(restored.head());
    restored.grant(Profile::of(3));
    let bundle = restored.bundle_of(2, |_| ());
    witness.handle_bundle(&bundle, NOW).unwrap();
    restored.show_whole(&mut witness).unwrap();
    assert_eq!(doubt(&witness, 1), Doubt::Revoked);
    assert_eq!(members(&witness), [2, 3]);
}
