//! What a node showed of its machine is compared with what it shows later, whatever it shows in between.

use carrick_attest::tpm::{Clock, Policy};

use super::*;

#[path = "../../../../crates/attest/src/tpm/tests/forger.rs"]
mod forger;

use forger::Forger;

/// A bundle that takes a join token, or these TPMs.
fn either(version: u64, tpms: &[Forger]) -> SignedBundle {
    let mut bundle = Bundle { version, ..bundle() };
    bundle.default.accept = vec![[Kind::Tpm].into(), [Kind::JoinToken].into()];
    let endorsement_keys = tpms.iter().flat_map(|tpm| tpm.enrolled().endorsement_keys).collect();
    bundle.default.tpm = Some(Policy { endorsement_keys, ..Policy::default() });
    signed(&bundle)
}

/// What node 1 proves when it is asked, with a TPM.
fn with_tpm(tpm: &mut Forger, clock: u64, salt: u8) -> Vec<Statement> {
    let mut statements = proven(1, 1, ("a", &[]), salt);
    let subject = Subject {
        mesh: mesh_id(),
        cluster: "east".parse().unwrap(),
        identity_key: IdentitySecret::from_bytes([1; 32]).public(),
        wireguard_key: key(1).public(),
    };
    let identity = statements[0].clone();
    tpm.extra_data = identity.moment.transcript(&subject, Kind::Tpm).short().to_vec();
    tpm.clock = Clock { clock, ..tpm.clock };
    statements.push(Statement { evidence: Evidence::Tpm(Box::new(tpm.evidence())), ..identity });
    statements
}

#[tokio::test]
async fn a_node_that_shows_another_kind_meanwhile_comes_back_with_its_own_tpm_only() {
    let dir = tempfile::tempdir().unwrap();
    let (mesh, ended) = mesh(dir.path(), 9).await;
    let node = mesh.join(hello(1, "a", &[]), NOW).await.unwrap();
    let mut tpms = [Forger::new([0; 32]), Forger::new([0; 32])];
    mesh.publish(either(2, &tpms), NOW).await.unwrap();
    mesh.renew(node.id, key(1).public(), with_tpm(&mut tpms[0], 1000, 101), None, NOW).await.unwrap();
    for salt in [102, 103] {
        mesh.renew(node.id, key(1).public(), proven(1, 1, ("a", &[]), salt), None, NOW).await.unwrap();
    }
    drop(mesh);
    let _ = ended.await;

    let store = Store::open(&dir.path().join("carrick.db")).unwrap();
    let (mesh, _ended) = Mesh::start(store, signing_key(), ()).unwrap();
    let other = mesh.renew(node.id, key(1).public(), with_tpm(&mut tpms[1], 2000, 104), None, NOW).await;
    assert!(other.unwrap_err().to_string().contains("same TPM"));
    let earlier = mesh.renew(node.id, key(1).public(), with_tpm(&mut tpms[0], 999, 105), None, NOW).await;
    assert!(earlier.unwrap_err().to_string().contains("clock goes on"));
    mesh.renew(node.id, key(1).public(), with_tpm(&mut tpms[0], 1001, 106), None, NOW).await.unwrap();
}

#[tokio::test]
async fn what_a_stranger_shows_is_looked_at_before_the_mesh_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let (mesh, _ended) = mesh(dir.path(), 9).await;
    let mut tpms = [Forger::new([0; 32]), Forger::new([0; 32])];
    mesh.publish(either(2, &tpms[..1]), NOW).await.unwrap();
    let shows = |statements| ProvenHello { statements, ..hello(1, "a", &[]) };
    let [enrolled, other] = &mut tpms;
    let (good, junk) = (shows(with_tpm(enrolled, 1000, 111)), shows(with_tpm(other, 1000, 112)));
    let state = mesh.state();
    admission::preview(&state, &good, NOW).unwrap();
    assert_eq!(admission::preview(&state, &junk, NOW).unwrap_err().code(), RefusalCode::Evidence);
    assert!(admission::is_of_a_stranger(&state, &junk));
    assert!(
        !admission::is_of_a_stranger(&state, &hello(1, "a", &[])),
        "whose token is for the mesh to look at"
    );
    mesh.join(hello(1, "a", &[]), NOW).await.unwrap();
    assert!(!admission::is_of_a_stranger(&mesh.state(), &junk), "a member by now");
}
