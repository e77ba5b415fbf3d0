//! A coordinator that grants what no evidence has earned.

use carrick_attest::{Bytes, Kind, StatementDigest};
use carrick_trust::{Distrust, Doubt, Witness};
use carrick_types::NodeId;
use carrick_wire::hello::Trust;

use crate::mesh::{Mesh, NOW, Profile, cidr, doubt, doubted_evidence, id, identity, key, later, members};

/// A mesh of node 1, in which node 2 is granted a key beside these statements, and what is believed then.
fn granted(profile: &Profile, statements: Vec<String>) -> Witness {
    let (mut mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 1);
    mesh.grant_as(profile.clone(), profile.grant(&statements), statements);
    mesh.show(&mut witness).unwrap();
    assert_eq!(members(&witness), [1], "the others stay");
    witness
}

#[test]
fn a_grant_without_evidence_is_doubted() {
    let witness = granted(&Profile::of(2), vec![]);
    assert!(doubted_evidence(&witness, 2).contains("identity key"));
}

#[test]
fn an_identity_alone_is_doubted() {
    let profile = Profile::of(2);
    let witness = granted(&profile, vec![profile.identity_statement()]);
    assert!(doubted_evidence(&witness, 2).contains("takes join-token"));
}

#[test]
fn a_token_alone_is_doubted() {
    let profile = Profile::of(2);
    let witness = granted(&profile, vec![profile.token_statement(2)]);
    assert!(doubted_evidence(&witness, 2).contains("identity key"));
}

#[test]
fn the_statements_of_somebody_else_are_doubted() {
    let witness = granted(&Profile::of(2), Profile::of(1).statements());
    assert!(doubted_evidence(&witness, 2).contains("identity"));
    let borrowed = vec![Profile::of(2).identity_statement(), Profile::of(1).token_statement(2)];
    let witness = granted(&Profile::of(2), borrowed);
    assert!(doubted_evidence(&witness, 2).contains("join-token"));
}

#[test]
fn a_statement_of_another_node_with_this_key_is_doubted() {
    let witness = granted(&Profile::of(2), Profile::of(3).with_key(2).statements());
    assert!(doubted_evidence(&witness, 2).contains("identity key"));
}

#[test]
fn a_key_that_the_node_did_not_sign_is_doubted() {
    let witness = granted(&Profile::of(2).with_key(66), Profile::of(2).statements());
    assert!(doubted_evidence(&witness, 2).contains("WireGuard key"));
}

#[test]
fn a_token_that_the_operator_did_not_sign_is_doubted() {
    let profile = Profile::of(2);
    let witness = granted(&profile, vec![profile.identity_statement(), profile.token_statement(3)]);
    assert!(doubted_evidence(&witness, 2).contains("operator"));
}

#[test]
fn a_doubted_renewal_takes_the_place_of_what_was_believed() {
    let (mut mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 2);
    let profile = Profile::of(2).with_key(66);
    mesh.grant_as(profile.clone(), profile.grant(&[]), vec![]);
    mesh.show(&mut witness).unwrap();
    assert_eq!(members(&witness), [1]);
    assert!(witness.view().unwrap().by_key(&key(2).public()).is_none());
}

#[test]
fn statements_that_the_grant_does_not_name_are_doubted() {
    let profile = Profile::of(2);
    let statements = profile.statements();
    let shown = |shown: Vec<String>| {
        let (mut mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 1);
        mesh.grant_as(profile.clone(), profile.grant(&statements), shown);
        mesh.show(&mut witness).unwrap();
        assert_eq!(members(&witness), [1]);
        doubt(&witness, 2)
    };
    let [first, second] = [statements[0].clone(), statements[1].clone()];
    assert_eq!(shown(vec![]), Doubt::OtherEvidence);
    assert_eq!(shown(vec![first.clone()]), Doubt::OtherEvidence);
    assert_eq!(shown(vec![second.clone(), first.clone()]), Doubt::OtherEvidence, "in another order");
    assert_eq!(shown(vec![first.clone(), format!(" {second}")]), Doubt::OtherEvidence, "in another spelling");
    assert_eq!(shown(vec![first, second.clone(), second]), Doubt::OtherEvidence, "more than it names");
}

#[test]
fn a_statement_named_by_another_kind_is_doubted() {
    let (mut mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 1);
    let profile = Profile::of(2);
    let statements = profile.statements();
    let mut grant = profile.grant(&statements);
    grant.statements[1] = StatementDigest::of(Kind::Tpm, &statements[1]);
    mesh.grant_as(profile, grant, statements);
    mesh.show(&mut witness).unwrap();
    assert_eq!(doubt(&witness, 2), Doubt::OtherEvidence);
}

#[test]
fn more_statements_than_a_proof_has_are_doubted_whoever_is_trusted() {
    let (mut mesh, mut witness) = Mesh::seen_by(Trust::Coordinator, 1);
    let profile = Profile::of(2);
    let statements = vec![profile.identity_statement(); 10];
    mesh.grant_as(profile.clone(), profile.grant(&statements), statements);
    mesh.show(&mut witness).unwrap();
    assert_eq!(doubt(&witness, 2), Doubt::OtherEvidence);
}

#[test]
fn an_id_that_does_not_follow_from_the_identity_key_is_doubted() {
    for trust in [Trust::Evidence, Trust::Coordinator] {
        let (mut mesh, mut witness) = Mesh::seen_by(trust, 1);
        let profile = Profile::of(2);
        let statements = profile.statements();
        let mut grant = profile.grant(&statements);
        grant.identity_key = identity(3).public();
        assert_ne!(NodeId::of(&grant.identity_key), id(2));
        mesh.grant_as(profile, grant, statements);
        mesh.show(&mut witness).unwrap();
        assert_eq!(doubt(&witness, 2), Doubt::NotItsGrant);
        assert_eq!(members(&witness), [1]);
    }
}

#[test]
fn a_grant_in_the_name_of_another_node_is_doubted() {
    let (mut mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 1);
    let profile = Profile::of(2);
    let statements = profile.statements();
    let mut grant = profile.grant(&statements);
    grant.node = id(3);
    mesh.grant_as(profile, grant, statements);
    mesh.show(&mut witness).unwrap();
    assert_eq!(doubt(&witness, 2), Doubt::NotItsGrant);
}

#[test]
fn a_name_or_a_network_that_the_node_did_not_ask_for_is_doubted() {
    let asked = Profile::of(2).statements();
    let doubted = |change: fn(&mut carrick_attest::Grant)| {
        let (mut mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 1);
        let mut grant = Profile::of(2).grant(&asked);
        change(&mut grant);
        mesh.grant_as(Profile::of(2), grant, asked.clone());
        mesh.show(&mut witness).unwrap();
        doubt(&witness, 2)
    };
    // Those of a node that is left out would be taken for its own.
    assert_eq!(doubted(|grant| grant.allowed_ips.push(cidr("10.3.0.0/16"))), Doubt::Unasked);
    assert_eq!(doubted(|grant| grant.allowed_ips[2] = cidr("10.2.3.0/24")), Doubt::Unasked);
    assert_eq!(doubted(|grant| grant.name = "n3".parse().unwrap()), Doubt::Unasked);
}

#[test]
fn a_grant_of_fewer_networks_than_were_asked_for_is_believed() {
    let (mut mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 1);
    let statements = Profile::of(2).statements();
    let mut grant = Profile::of(2).grant(&statements);
    grant.allowed_ips.truncate(2);
    mesh.grant_as(Profile::of(2), grant, statements);
    mesh.show(&mut witness).unwrap();
    assert_eq!(members(&witness), [1, 2]);
}

#[test]
fn a_grant_under_a_bundle_that_nobody_has_seen_is_doubted() {
    for trust in [Trust::Evidence, Trust::Coordinator] {
        let (mut mesh, mut witness) = Mesh::seen_by(trust, 1);
        let profile = Profile::of(2);
        let statements = profile.statements();
        let mut grant = profile.grant(&statements);
        grant.policy_version = 2;
        mesh.grant_as(profile, grant, statements);
        mesh.show(&mut witness).unwrap();
        assert_eq!(doubt(&witness, 2), Doubt::UnknownPolicy(2));
    }
}

#[test]
fn no_key_is_accepted_under_a_bundle_that_has_expired_whoever_is_trusted() {
    for trust in [Trust::Evidence, Trust::Coordinator] {
        let (mut mesh, mut witness) = Mesh::seen_by(trust, 1);
        mesh.grant(Profile::of(2));
        let delta = mesh.delta_for(&witness);
        witness.handle_delta(delta, later(1000)).unwrap();
        assert!(doubted_evidence(&witness, 2).contains("expired"));
        assert_eq!(members(&witness), [1], "who was believed stays");
    }
}

#[test]
fn evidence_that_does_not_grow_old_is_good_at_any_time() {
    let (_, mut witness) = Mesh::seen_by(Trust::Evidence, 1);
    assert!(!witness.handle_timeout(later(10_000_000)));
    assert_eq!(members(&witness), [1]);
}

#[test]
fn who_trusts_the_coordinator_needs_no_evidence() {
    let (mut mesh, mut witness) = Mesh::seen_by(Trust::Coordinator, 1);
    let profile = Profile::of(2);
    mesh.grant_as(profile.clone(), profile.grant(&[]), vec![]);
    mesh.show(&mut witness).unwrap();
    assert_eq!(members(&witness), [1, 2]);
}

#[test]
fn who_trusts_the_coordinator_refuses_a_fork_all_the_same() {
    let (mut mesh, mut witness) = Mesh::seen_by(Trust::Coordinator, 1);
    let mut fork = Mesh::new();
    fork.grant(Profile::of(9));
    fork.revision = mesh.revision;
    fork.grant(Profile::of(2));
    assert!(matches!(fork.show(&mut witness), Err(Distrust::Fork { .. })));
    mesh.grant(Profile::of(2));
    mesh.show(&mut witness).unwrap();
}

#[test]
fn who_trusts_the_coordinator_asks_for_inclusion_all_the_same() {
    let (mut mesh, mut witness) = Mesh::seen_by(Trust::Coordinator, 1);
    mesh.grant(Profile::of(2));
    let mut delta = mesh.delta_for(&witness);
    delta.upserts[0].grant.as_mut().unwrap().logged.inclusion[0] = Bytes([0; 32]);
    witness.handle_delta(delta, NOW).unwrap();
    assert_eq!(doubt(&witness, 2), Doubt::Inclusion);
}

#[test]
fn who_trusts_the_coordinator_checks_networks_all_the_same() {
    let doubted = |profile: Profile, statements: Vec<String>| {
        let (mut mesh, mut witness) = Mesh::seen_by(Trust::Coordinator, 1);
        mesh.grant_as(profile.clone(), profile.grant(&statements), statements);
        mesh.show(&mut witness).unwrap();
        assert_eq!(members(&witness), [1]);
        doubt(&witness, 2)
    };
    let thief = Profile::of(2).with_prefixes(&["10.1.7.0/24"]);
    assert_eq!(doubted(thief, vec![]), Doubt::Prefix(cidr("10.1.7.0/24"), cidr("10.1.0.0/16")));
    let public = Profile::of(2).with_prefixes(&["8.8.8.0/24"]);
    assert!(matches!(doubted(public, vec![]), Doubt::Claim(_)));
    let outside = Profile::of(2).with_prefixes(&["10.7.0.0/16"]).allowing(&["10.2.0.0/16"]);
    assert_eq!(doubted(outside.clone(), outside.statements()), Doubt::NotAllowed(cidr("10.7.0.0/16")));
}

#[test]
fn who_trusts_the_coordinator_reaches_public_networks_that_a_token_allows() {
    let (mut mesh, mut witness) = Mesh::seen_by(Trust::Coordinator, 1);
    mesh.grant(Profile::of(2).with_prefixes(&["192.0.2.0/24"]).allowing(&["192.0.2.0/24"]));
    mesh.show(&mut witness).unwrap();
    assert_eq!(members(&witness), [1, 2]);
}
