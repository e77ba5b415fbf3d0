//! Whoever is asked for new evidence shows some, or is cut off.

use std::time::Duration;

use super::*;
use crate::leases::{EVIDENCE, Leases};

/// A moment of the wall clock, which is what leases are looked at by.
fn ago(time: Duration) -> UnixTime {
    let millis = crate::app::now().as_millis() - u64::try_from(time.as_millis()).unwrap();
    UnixTime::from_millis(millis)
}

/// Looks at leases until a predicate holds.
async fn keep_until(mesh: &Mesh, leases: &Leases, awaited: impl Fn(&MeshState) -> bool) -> bool {
    let keep = tokio::spawn(leases.clone().keep(mesh.clone(), Default::default()));
    let mut states = mesh.watch();
    let waited =
        tokio::time::timeout(Duration::from_secs(2), states.wait_for(|state| awaited(state))).await.is_ok();
    keep.abort();
    waited
}

#[tokio::test]
async fn whoever_ignores_a_demand_is_suspended_for_its_evidence_and_the_log_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let (mesh, _ended) = mesh(dir.path(), 9).await;
    let node = mesh.join(hello(1, "a", &[]), NOW).await.unwrap().id;
    let other = mesh.join(hello(2, "b", &[]), NOW).await.unwrap().id;
    mesh.demand(node, ago(EVIDENCE + Duration::from_secs(1))).await.unwrap();
    mesh.demand(other, ago(EVIDENCE / 2)).await.unwrap();
    // A new session is no answer.
    mesh.join(hello(1, "a", &[]), NOW).await.unwrap();
    assert!(keep_until(&mesh, &Leases::new(), |state| state.nodes[&node].lacks_evidence()).await);
    assert!(mesh.state().nodes[&other].is_active(), "whose time is not over");
    let entries = mesh.log_page(0, 100).await.unwrap().entries;
    assert!(entries.last().unwrap().contains("has shown none for 60 s"), "{entries:?}");
    mesh.resume(node, NOW).await.unwrap();
    assert!(mesh.state().nodes[&node].lacks_evidence(), "a heartbeat is no evidence");
    let renewed = mesh.renew(node, key(1).public(), proven(1, 1, ("a", &[]), 9), None, NOW).await.unwrap();
    assert!(renewed.is_active() && renewed.demanded_at.is_none());
}

#[tokio::test]
async fn a_silent_node_of_which_evidence_was_demanded_is_not_let_in_by_a_heartbeat() {
    let dir = tempfile::tempdir().unwrap();
    let (mesh, _ended) = mesh(dir.path(), 9).await;
    let node = mesh.join(hello(1, "a", &[]), NOW).await.unwrap().id;
    mesh.suspend(node, Suspension::Silent, NOW).await.unwrap();
    mesh.demand(node, ago(EVIDENCE * 2)).await.unwrap();
    assert!(keep_until(&mesh, &Leases::new(), |state| state.nodes[&node].lacks_evidence()).await);
}

#[tokio::test]
async fn only_evidence_that_was_asked_for_after_a_demand_answers_it() {
    let dir = tempfile::tempdir().unwrap();
    let (mesh, _ended) = mesh(dir.path(), 9).await;
    let node = mesh.join(hello(1, "a", &[]), NOW).await.unwrap().id;
    let at = ago(Duration::ZERO);
    mesh.demand(node, at).await.unwrap();
    let early = mesh.renew(node, key(1).public(), proven(1, 1, ("a", &[]), 9), None, NOW).await.unwrap();
    assert_eq!(early.demanded_at, Some(at));
    let answer =
        mesh.renew(node, key(1).public(), proven(1, 1, ("a", &[]), 10), Some(at), NOW).await.unwrap();
    assert_eq!(answer.demanded_at, None);
}

#[tokio::test]
async fn a_demand_outlives_the_coordinator_and_a_clock_that_is_set_back_ends_it() {
    let dir = tempfile::tempdir().unwrap();
    let (mesh, ended) = mesh(dir.path(), 9).await;
    let node = mesh.join(hello(1, "a", &[]), NOW).await.unwrap().id;
    let far = UnixTime::from_millis(crate::app::now().as_millis() + 3_600_000);
    mesh.demand(node, far).await.unwrap();
    drop(mesh);
    // The owner closes the store once nobody can ask any more.
    let _ = ended.await;
    let store = Store::open(&dir.path().join("carrick.db")).unwrap();
    let (mesh, _ended) = Mesh::start(store, signing_key(), ()).unwrap();
    assert_eq!(mesh.state().nodes[&node].demanded_at, Some(far));
    assert!(keep_until(&mesh, &Leases::new(), |state| state.nodes[&node].lacks_evidence()).await);
}
