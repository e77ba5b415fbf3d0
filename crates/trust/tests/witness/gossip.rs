//! What peers tell of the log.

use carrick_attest::Bytes;
use carrick_trust::{Distrust, Question, Witness};
use carrick_types::CoordinatorSecret;
use carrick_wire::{
    hello::{Head, Trust},
    log::Checkpoint,
};

use crate::mesh::{Mesh, NOW, Profile, members, newcomer, restarted};

/// A mesh with `nodes` nodes, and a witness that saw it at that size only.
fn mesh_of(nodes: u8) -> (Mesh, Witness) {
    Mesh::seen_by(Trust::Evidence, nodes)
}

fn asked(witness: &mut Witness, note: &str) -> Question {
    witness.handle_gossip(note).unwrap().expect("the coordinator is asked")
}

/// Answers as a coordinator that has this log.
fn answer(mesh: &Mesh, witness: &mut Witness, question: Question) -> Result<Option<Question>, Distrust> {
    witness.handle_proven(question, &mesh.consistency(question.sizes()))
}

#[test]
fn the_same_head_raises_no_question() {
    let (mesh, mut witness) = mesh_of(3);
    assert_eq!(witness.handle_gossip(&mesh.note(4)), Ok(None));
}

#[test]
fn an_older_head_that_was_seen_raises_no_question() {
    let (mut mesh, mut witness) = mesh_of(3);
    mesh.grant(Profile::of(4));
    mesh.show(&mut witness).unwrap();
    assert_eq!(witness.handle_gossip(&mesh.note(4)), Ok(None));
}

#[test]
fn an_older_head_that_was_never_seen_is_proven_once() {
    let (mesh, mut witness) = mesh_of(5);
    let question = asked(&mut witness, &mesh.note(3));
    assert_eq!(question.sizes(), (3, 6));
    assert_eq!(answer(&mesh, &mut witness, question), Ok(None));
    assert_eq!(witness.handle_gossip(&mesh.note(3)), Ok(None), "it is known from then on");
}

#[test]
fn a_newer_head_that_was_never_seen_is_proven() {
    let (mut mesh, mut witness) = mesh_of(3);
    (4..=6).for_each(|n| mesh.grant(Profile::of(n)));
    let question = asked(&mut witness, &mesh.note(6));
    assert_eq!(question.sizes(), (4, 6));
    assert_eq!(answer(&mesh, &mut witness, question), Ok(None));
    assert_eq!(witness.head(), Some(mesh.head_at(4)), "the coordinator proves from what it showed");
    mesh.show(&mut witness).unwrap();
    assert_eq!(members(&witness), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn a_note_that_the_coordinator_did_not_sign_says_nothing_of_it() {
    let (mesh, mut witness) = mesh_of(3);
    let stranger = CoordinatorSecret::from_bytes([77; 32]);
    let forged = Checkpoint { origin: mesh.origin(), size: 4, head: [0; 32] }.sign(&stranger).to_string();
    for junk in [forged, String::new(), "\n\n\u{2014}".to_owned(), mesh.note(4).replace('4', "5")] {
        assert_eq!(witness.handle_gossip(&junk), Ok(None));
    }
    mesh.show_whole(&mut witness).unwrap();
}

#[test]
fn another_head_of_a_size_that_was_seen_is_a_fork() {
    let (mesh, mut witness) = mesh_of(3);
    let fork = mesh.sign(Head { size: 4, head: Bytes([7; 32]) });
    assert_eq!(witness.handle_gossip(&fork), Err(Distrust::Fork { size: 4, seen: 4 }));
}

#[test]
fn a_head_that_the_coordinator_cannot_prove_is_a_fork() {
    let (mesh, mut witness) = mesh_of(5);
    let mut other = Mesh::new();
    (2..=9).for_each(|n| other.grant(Profile::of(n)));
    for size in [3, 9] {
        let question = asked(&mut witness, &other.note(size));
        let none = witness.handle_proven(question, &[]);
        assert_eq!(none, Err(Distrust::Fork { size, seen: 6 }));
        let of_the_other = answer(&other, &mut witness, question);
        assert_eq!(of_the_other, Err(Distrust::Fork { size, seen: 6 }));
    }
    let question = asked(&mut witness, &other.note(3));
    assert!(matches!(answer(&mesh, &mut witness, question), Err(Distrust::Fork { .. })));
}

#[test]
fn an_answer_that_comes_after_the_log_has_moved_on_is_no_fork() {
    let (mut mesh, mut witness) = mesh_of(5);
    let older = asked(&mut witness, &mesh.note(3));
    mesh.grant(Profile::of(6));
    mesh.show(&mut witness).unwrap();
    assert_eq!(answer(&mesh, &mut witness, older), Ok(None));
}

#[test]
fn an_answer_about_a_newer_head_does_not_cover_the_heads_since() {
    let (mut mesh, mut witness) = mesh_of(3);
    let mut fork = mesh.clone();
    (11..=14).for_each(|n| fork.grant(Profile::of(n)));
    let question = asked(&mut witness, &fork.note(6));
    // The log that this node is shown parts from the other one after the question was asked.
    (4..=7).for_each(|n| mesh.grant(Profile::of(n)));
    mesh.show(&mut witness).unwrap();
    let next = answer(&fork, &mut witness, question).unwrap().expect("it must answer again");
    assert_eq!(next.sizes(), (6, 8));
    assert!(matches!(answer(&mesh, &mut witness, next), Err(Distrust::Fork { .. })));
    assert!(matches!(answer(&fork, &mut witness, next), Err(Distrust::Fork { .. })));
}

#[test]
fn a_newer_head_that_the_log_reached_meanwhile_is_compared() {
    let (mut mesh, mut witness) = mesh_of(3);
    let mut fork = mesh.clone();
    mesh.grant(Profile::of(4));
    fork.grant(Profile::of(5));
    let (honest, lie) = (asked(&mut witness, &mesh.note(5)), asked(&mut witness, &fork.note(5)));
    mesh.show(&mut witness).unwrap();
    assert_eq!(answer(&mesh, &mut witness, honest), Ok(None));
    assert_eq!(answer(&fork, &mut witness, lie), Err(Distrust::Fork { size: 5, seen: 5 }));
}

#[test]
fn a_node_that_has_seen_nothing_has_nothing_to_compare() {
    let mesh = Mesh::new();
    let mut witness = newcomer(Trust::Evidence);
    assert_eq!(witness.handle_gossip(&mesh.note(1)), Ok(None));
    witness.handle_bundle(&mesh.bundle(), NOW).unwrap();
    assert_eq!(witness.handle_gossip(&mesh.note(1)), Ok(None));
}

#[test]
fn the_last_head_is_compared_also_after_a_restart() {
    let (mesh, witness) = mesh_of(3);
    let mut again = restarted(Trust::Evidence, witness.memory().clone());
    again.handle_bundle(&mesh.bundle(), NOW).unwrap();
    assert_eq!(again.handle_gossip(&mesh.note(4)), Ok(None));
    let fork = mesh.sign(Head { size: 4, head: Bytes([7; 32]) });
    assert!(matches!(again.handle_gossip(&fork), Err(Distrust::Fork { .. })));
}

#[test]
fn the_heads_of_a_log_that_the_operator_set_back_are_forgotten() {
    let (mut mesh, mut witness) = mesh_of(2);
    let mut restored = mesh.clone();
    mesh.grant(Profile::of(3));
    mesh.show(&mut witness).unwrap();
    let before = asked(&mut witness, &mesh.note(2));
    restored.restart = Some(restored.head());
    witness.handle_bundle(&restored.bundle_of(2, |_| ()), NOW).unwrap();
    restored.grant(Profile::of(4));
    let newer = asked(&mut witness, &restored.note(4));
    assert_eq!(answer(&restored, &mut witness, newer), Ok(None));
    let again = witness.handle_proven(before, &[]).unwrap().expect("it must answer again");
    assert_eq!(again.sizes(), (2, 3));
    assert_eq!(answer(&restored, &mut witness, again), Ok(None));
}

#[test]
fn a_peer_that_has_seen_only_the_log_that_was_given_up_is_no_fork() {
    let (mut mesh, mut witness) = mesh_of(2);
    let mut restored = mesh.clone();
    mesh.grant(Profile::of(3));
    restored.restart = Some(restored.head());
    witness.handle_bundle(&restored.bundle_of(2, |_| ()), NOW).unwrap();
    restored.grant(Profile::of(4));
    restored.show(&mut witness).unwrap();
    assert_eq!(witness.handle_gossip(&mesh.note(4)), Ok(None), "of the same size, and another log");
    let fork = restored.sign(mesh.head());
    assert!(matches!(witness.handle_gossip(&fork), Err(Distrust::Fork { .. })), "of the log as it is now");
}
