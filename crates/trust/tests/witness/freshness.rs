//! How old evidence is: by the log that its nonce was made from, whatever the coordinator says.

use carrick_attest::{Bytes, Kind};
use carrick_trust::{Distrust, Doubt, Witness};
use carrick_types::UnixTime;
use carrick_wire::{
    hello::{Head, Request, Trust},
    session::Demand,
};

use crate::{
    mesh::{Mesh, NOW, Profile, doubt, doubted_evidence, first_head, later, members, newcomer, restarted},
    tpm::{BEFORE, Forger, accepting, grant, seen, statements, statements_at, tpm},
};
use carrick_attest::tpm::Clock;

const AFTER: Clock = Clock { clock: 2000, ..BEFORE };

/// A mesh in which node 2 has a TPM and was seen, and is granted a key again by evidence for this head of the log.
fn renewed(head: impl FnOnce(&Mesh) -> Head) -> Witness {
    let mut tpms = [tpm()];
    let (mut mesh, mut witness) = seen(Trust::Evidence, &mut tpms);
    let head = head(&mesh);
    grant(&mut mesh, statements_at(head, &mut tpms[0], AFTER));
    mesh.show(&mut witness).unwrap();
    witness
}

#[test]
fn evidence_for_a_head_that_the_log_had_is_believed() {
    assert_eq!(members(&renewed(Mesh::head)), [2]);
    assert_eq!(members(&renewed(|_| first_head())), [2]);
}

#[test]
fn evidence_for_a_head_that_the_log_never_had_is_doubted() {
    // Its size alone is chosen by whoever shows old evidence as new.
    let witness = renewed(|mesh| Head { head: Bytes([5; 32]), ..mesh.head() });
    assert_eq!(doubt(&witness, 2), Doubt::Moment);
}

#[test]
fn evidence_for_a_head_that_the_log_does_not_have_yet_is_doubted() {
    let witness = renewed(|mesh| Head { size: mesh.head().size + 2, head: Bytes([5; 32]) });
    assert_eq!(doubt(&witness, 2), Doubt::Moment);
}

#[test]
fn a_moment_without_its_proof_is_doubted() {
    let mut tpms = [tpm()];
    for moments in [vec![], vec![vec![]], vec![vec![], vec![]], vec![vec![Bytes([0; 32])]; 2]] {
        let (mut mesh, mut witness) = seen(Trust::Evidence, &mut tpms);
        grant(&mut mesh, statements(&mut tpms[0], AFTER));
        let mut delta = mesh.delta_for(&witness);
        delta.upserts[0].grant.as_mut().unwrap().moments = moments;
        witness.handle_delta(delta, NOW).unwrap();
        assert_eq!(doubt(&witness, 2), Doubt::Moment);
        mesh.show_whole(&mut witness).unwrap();
        assert_eq!(members(&witness), [2], "and believed with its proof");
    }
}

/// What a node that has restarted at this moment says of node 2, whose old evidence is shown as if it were of that moment.
fn shown_as_of(now: UnixTime, tpms: &mut [Forger], mut mesh: Mesh, before: &Witness) -> Witness {
    let [identity, quote] = statements(&mut tpms[0], AFTER).try_into().unwrap();
    grant(&mut mesh, vec![identity, quote.replace(&NOW.to_string(), &now.to_string())]);
    let mut witness = restarted(Trust::Evidence, before.memory().clone());
    let bundle = mesh.bundle_of(2, |bundle| {
        accepting(bundle, tpms, &[&[Kind::Tpm]]);
        bundle.expires_at = now.saturating_add(std::time::Duration::from_secs(60));
    });
    witness.handle_bundle(&bundle, now).unwrap();
    witness.handle_netmap(mesh.netmap(witness.head()), now).unwrap();
    witness
}

#[test]
fn old_evidence_is_known_by_a_log_that_was_longer_already_also_after_a_restart() {
    let mut tpms = [tpm()];
    let (mesh, witness) = seen(Trust::Evidence, &mut tpms);
    // Within two hours, for which evidence holds, this node cannot tell.
    let soon = shown_as_of(later(60), &mut tpms, mesh.clone(), &witness);
    assert_eq!(members(&soon), [2]);
    let late = shown_as_of(later(500_000), &mut tpms, mesh, &witness);
    assert!(doubted_evidence(&late, 2).contains("older than the coordinator says"));
}

/// A request for evidence, from the log as it is, to a node that has seen it up to a head.
fn demand(mesh: &Mesh, seen: Option<Head>) -> Demand {
    let Head { size, head } = mesh.head();
    let request = Request {
        mesh: crate::mesh::MESH,
        log_size: size,
        log_head: head,
        salt: Bytes([1; 32]),
        challenge_key: carrick_types::ChallengeKey::from_bytes(*crate::mesh::key(50).public().as_bytes())
            .unwrap(),
    };
    Demand { request, log: mesh.news(seen) }
}

#[test]
fn evidence_is_shown_for_a_head_that_this_node_has_seen() {
    let (mut mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 1);
    mesh.grant(Profile::of(2));
    let before = witness.head();
    assert_eq!(witness.handle_demand(&demand(&mesh, before), NOW), Ok(()));
    assert_eq!(witness.head(), Some(mesh.head()), "from now on no other log is believed");
    let mut other = Mesh::new();
    (3..=9).for_each(|n| other.grant(Profile::of(n)));
    let fork = witness.handle_demand(&demand(&other, witness.head()), NOW);
    assert!(matches!(fork, Err(Distrust::Fork { .. })));
}

#[test]
fn evidence_is_not_shown_for_a_head_that_is_yet_to_come() {
    let (mesh, mut witness) = Mesh::seen_by(Trust::Evidence, 1);
    let mut ahead = mesh.clone();
    ahead.grant(Profile::of(2));
    let early = Demand { request: demand(&ahead, None).request, ..demand(&mesh, witness.head()) };
    assert!(matches!(witness.handle_demand(&early, NOW), Err(Distrust::OutOfTurn(_))));
}

#[test]
fn what_a_newcomer_showed_its_evidence_for_must_be_in_the_log_also_where_that_was_set_back() {
    for set_back in [false, true] {
        let mut mesh = Mesh::new();
        mesh.restart = set_back.then(|| mesh.head());
        mesh.grant(Profile::of(3));
        let request = demand(&mesh, None).request;
        mesh.grant(Profile::of(4));
        let mut witness = newcomer(Trust::Evidence);
        witness.handle_bundle(&mesh.bundle(), NOW).unwrap();
        witness.handle_challenge(&Request { log_head: Bytes([5; 32]), ..request.clone() });
        assert!(matches!(mesh.show_whole(&mut witness), Err(Distrust::Fork { .. })));
        // The next attempt is challenged anew.
        witness.handle_challenge(&request);
        mesh.show_whole(&mut witness).unwrap();
        assert_eq!(members(&witness), [3, 4]);
    }
}

#[test]
fn a_node_that_started_without_the_time_believes_its_peers_once_it_has_it() {
    let mut tpms = [tpm()];
    let (mut mesh, before) = seen(Trust::Evidence, &mut tpms);
    let bundle = mesh.bundle_of(2, |bundle| accepting(bundle, &mut tpms, &[&[Kind::Tpm]]));
    mesh.suspend(2);
    mesh.resume(2);
    let mut witness = restarted(Trust::Evidence, before.memory().clone());
    let a_day_ago = UnixTime::from_millis(NOW.as_millis() - 86_400_000);
    witness.handle_bundle(&bundle, a_day_ago).unwrap();
    witness.handle_netmap(mesh.netmap(witness.head()), a_day_ago).unwrap();
    assert!(doubted_evidence(&witness, 2).contains("not ahead"));
    witness.handle_netmap(mesh.netmap(witness.head()), later(60)).unwrap();
    assert_eq!(members(&witness), [2]);
}
