//! Peers with a TPM: what they show must follow what they showed before.

use carrick_attest::{
    Bundle, Evidence, Kind,
    tpm::{Clock, Policy},
};
use carrick_trust::Witness;
use carrick_wire::hello::{Head, Trust};

use crate::mesh::{Mesh, NOW, Profile, doubted_evidence, first_head, members, newcomer};

#[path = "../../../attest/src/tpm/tests/forger.rs"]
mod forger;

pub(crate) use forger::Forger;

pub(crate) const BEFORE: Clock = Clock { clock: 1000, reset_count: 5, restart_count: 2, safe: true };

/// What node 2 shows of a TPM, at a moment by that TPM's clock.
pub(crate) fn statements(forger: &mut Forger, clock: Clock) -> Vec<String> {
    statements_at(first_head(), forger, clock)
}

/// The same, for a nonce that was made from this head of the log.
pub(crate) fn statements_at(head: Head, forger: &mut Forger, clock: Clock) -> Vec<String> {
    let profile = Profile::of(2);
    let quote = profile.statement_at(head, 2, Kind::Tpm, |transcript| {
        forger.extra_data = transcript.short().to_vec();
        forger.clock = clock;
        Evidence::Tpm(Box::new(forger.evidence()))
    });
    vec![profile.identity_statement(), quote.to_text()]
}

/// A mesh in which a witness has seen node 2 with the first of these TPMs, which are all enrolled.
pub(crate) fn seen(trust: Trust, forgers: &mut [Forger]) -> (Mesh, Witness) {
    seen_accepting(trust, forgers, &[&[Kind::Tpm]])
}

/// The same, under a bundle that accepts these sets of kinds.
fn seen_accepting(trust: Trust, forgers: &mut [Forger], accept: &[&[Kind]]) -> (Mesh, Witness) {
    let mut mesh = Mesh::new();
    let mut witness = newcomer(trust);
    witness.handle_bundle(&mesh.bundle_of(1, |bundle| accepting(bundle, forgers, accept)), NOW).unwrap();
    grant(&mut mesh, statements(&mut forgers[0], BEFORE));
    mesh.show_whole(&mut witness).unwrap();
    assert_eq!(members(&witness), [2], "{:?}", witness.view().unwrap().doubted);
    (mesh, witness)
}

/// A bundle that accepts these sets of kinds, and these TPMs.
pub(crate) fn accepting(bundle: &mut Bundle, forgers: &mut [Forger], accept: &[&[Kind]]) {
    let keys = forgers.iter().flat_map(|forger| forger.enrolled().endorsement_keys).collect();
    bundle.default.accept = accept.iter().map(|set| set.iter().copied().collect()).collect();
    bundle.default.tpm = Some(Policy { endorsement_keys: keys, ..Policy::default() });
}

pub(crate) fn grant(mesh: &mut Mesh, statements: Vec<String>) {
    let profile = Profile::of(2);
    mesh.grant_as(profile.clone(), profile.grant(&statements), statements);
}

pub(crate) fn tpm() -> Forger {
    Forger::new([0; 32])
}

#[test]
fn new_evidence_of_the_same_tpm_is_believed() {
    let mut tpms = [tpm()];
    let (mut mesh, mut witness) = seen(Trust::Evidence, &mut tpms);
    grant(&mut mesh, statements(&mut tpms[0], Clock { clock: 2000, ..BEFORE }));
    mesh.show(&mut witness).unwrap();
    assert_eq!(members(&witness), [2]);
}

#[test]
fn one_node_with_another_tpm_is_doubted_until_the_first_is_back() {
    let mut tpms = [tpm(), tpm()];
    let (mut mesh, mut witness) = seen(Trust::Evidence, &mut tpms);
    grant(&mut mesh, statements(&mut tpms[1], BEFORE));
    mesh.show(&mut witness).unwrap();
    assert!(doubted_evidence(&witness, 2).contains("same TPM"));
    mesh.show_whole(&mut witness).unwrap();
    assert!(doubted_evidence(&witness, 2).contains("same TPM"), "however it is shown again");
    grant(&mut mesh, statements(&mut tpms[0], BEFORE));
    mesh.show(&mut witness).unwrap();
    assert_eq!(members(&witness), [2]);
}

#[test]
fn a_node_that_was_away_comes_back_with_its_own_tpm_only() {
    let mut tpms = [tpm(), tpm()];
    let (mut mesh, mut witness) = seen(Trust::Evidence, &mut tpms);
    mesh.suspend(2);
    mesh.show(&mut witness).unwrap();
    assert_eq!(members(&witness), [] as [u8; 0]);
    grant(&mut mesh, statements(&mut tpms[1], BEFORE));
    mesh.show(&mut witness).unwrap();
    assert!(doubted_evidence(&witness, 2).contains("same TPM"));
}

#[test]
fn a_count_of_resets_or_a_clock_that_goes_back_is_doubted() {
    for (clock, why) in [
        (Clock { reset_count: 4, ..BEFORE }, "reset count goes on"),
        (Clock { clock: 999, ..BEFORE }, "clock goes on"),
    ] {
        let mut tpms = [tpm()];
        let (mut mesh, mut witness) = seen(Trust::Evidence, &mut tpms);
        grant(&mut mesh, statements(&mut tpms[0], clock));
        mesh.show(&mut witness).unwrap();
        assert!(doubted_evidence(&witness, 2).contains(why));
    }
}

#[test]
fn a_node_that_shows_another_kind_meanwhile_comes_back_with_its_own_tpm_only() {
    let mut tpms = [tpm(), tpm()];
    let (mut mesh, mut witness) =
        seen_accepting(Trust::Evidence, &mut tpms, &[&[Kind::Tpm], &[Kind::JoinToken]]);
    for _ in 0..2 {
        grant(&mut mesh, Profile::of(2).statements());
        mesh.show(&mut witness).unwrap();
        assert_eq!(members(&witness), [2], "by a join token");
    }
    mesh.suspend(2);
    mesh.show(&mut witness).unwrap();
    grant(&mut mesh, statements(&mut tpms[1], BEFORE));
    mesh.show(&mut witness).unwrap();
    assert!(doubted_evidence(&witness, 2).contains("same TPM"));
    grant(&mut mesh, statements(&mut tpms[0], Clock { clock: 2000, ..BEFORE }));
    mesh.show(&mut witness).unwrap();
    assert_eq!(members(&witness), [2]);
    grant(&mut mesh, statements(&mut tpms[0], Clock { clock: 1500, ..BEFORE }));
    mesh.show(&mut witness).unwrap();
    assert!(doubted_evidence(&witness, 2).contains("clock goes on"), "the last quote counts");
}

#[test]
fn who_trusts_the_coordinator_compares_nothing() {
    let mut tpms = [tpm(), tpm()];
    let (mut mesh, mut witness) = seen(Trust::Coordinator, &mut tpms);
    grant(&mut mesh, statements(&mut tpms[1], BEFORE));
    mesh.show(&mut witness).unwrap();
    assert_eq!(members(&witness), [2]);
}

#[test]
fn a_quote_shown_as_another_kind_of_evidence_is_no_statement_at_all() {
    let text = statements(&mut tpm(), BEFORE).remove(1);
    for kind in ["sev-snp", "tdx", "nitro", "kubernetes", "join-token", "identity"] {
        let dressed = text.replacen("\"kind\":\"tpm\"", &format!("\"kind\":\"{kind}\""), 1);
        assert_ne!(dressed, text);
        assert!(carrick_attest::Statement::from_text(&dressed).is_none(), "{kind}");
    }
}
