//! Who is suspended stays so until it has shown, or said, what it was suspended for.

use rusqlite::{Connection, TransactionBehavior};

use super::*;
use crate::leases::Leases;

fn wanting() -> Suspension {
    Suspension::Evidence { why: "a test".to_owned() }
}

fn membership(mesh: &Mesh, id: NodeId) -> Membership {
    mesh.state().nodes[&id].membership.clone()
}

/// A bundle under which these nodes' software is not enough.
fn strict_about_software(version: u64) -> SignedBundle {
    let mut bundle = Bundle { version, ..bundle() };
    bundle.default.runtime_digests.insert("11".repeat(32));
    signed(&bundle)
}

#[tokio::test]
async fn refused_evidence_is_not_forgotten_when_its_node_comes_again_with_what_it_showed_before() {
    let dir = tempfile::tempdir().unwrap();
    let (mesh, _ended) = mesh(dir.path(), 9).await;
    let node = mesh.join(hello(1, "a", &[]), NOW).await.unwrap();
    mesh.publish(strict_about_software(2), NOW).await.unwrap();
    let before = membership(&mesh, node.id);
    assert!(matches!(before, Membership::Suspended(Suspension::Evidence { .. })));
    // It is let in, to be asked for more, and its peers do not hear of it.
    let back = mesh.join(hello(1, "a", &[]), NOW).await.unwrap();
    assert_eq!(back.membership, before);
    let moved = mesh.join(hello(1, "a", &["10.9.0.0/24"]), NOW).await.unwrap_err();
    assert_eq!(moved.code(), RefusalCode::Evidence, "nor do other prefixes lift it");
    assert_eq!(membership(&mesh, node.id), before);
}

#[tokio::test]
async fn what_a_suspended_node_shows_when_it_comes_again_counts_where_it_is_enough() {
    let dir = tempfile::tempdir().unwrap();
    let (mesh, _ended) = mesh(dir.path(), 9).await;
    let node = mesh.join(hello(1, "a", &[]), NOW).await.unwrap();
    mesh.suspend(node.id, wanting(), NOW).await.unwrap();
    let back = mesh.join(hello(1, "a", &[]), NOW).await.unwrap();
    assert!(back.is_active());
    assert!(back.logged.position > node.logged.position, "by a grant of what it showed now");
}

#[tokio::test]
async fn evidence_that_is_refused_while_its_node_is_silent_keeps_a_heartbeat_from_resuming_it() {
    let dir = tempfile::tempdir().unwrap();
    let (mesh, _ended) = mesh(dir.path(), 9).await;
    let node = mesh.join(hello(1, "a", &[]), NOW).await.unwrap();
    mesh.suspend(node.id, Suspension::Silent, NOW).await.unwrap();
    mesh.suspend(node.id, wanting(), NOW).await.unwrap();
    mesh.resume(node.id, NOW).await.unwrap();
    assert_eq!(membership(&mesh, node.id), Membership::Suspended(wanting()));
    mesh.suspend(node.id, Suspension::Silent, NOW).await.unwrap();
    assert_eq!(membership(&mesh, node.id), Membership::Suspended(wanting()), "nor does silence");
    audit(&mesh).await;
}

#[tokio::test]
async fn a_suspension_that_cannot_be_stored_is_in_force_and_stored_later() {
    let dir = tempfile::tempdir().unwrap();
    let (mesh, _ended) = mesh(dir.path(), 9).await;
    let [a, b] = [(1, "a"), (2, "b")].map(|(n, name)| hello(n, name, &[]));
    let (a, b) = (mesh.join(a, NOW).await.unwrap(), mesh.join(b, NOW).await.unwrap());
    let mut other = Connection::open(dir.path().join("carrick.db")).unwrap();
    let lock = other.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    mesh.suspend(a.id, wanting(), NOW).await.unwrap_err();
    mesh.suspend(b.id, Suspension::Silent, NOW).await.unwrap_err();
    let told = mesh.state().revision;
    // Whatever is asked next looks at the disk again.
    mesh.store_suspensions().await.unwrap_err();
    for id in [a.id, b.id] {
        assert!(!mesh.state().nodes[&id].is_active());
    }
    assert!(mesh.state().revision > told, "what is told again is told under a revision of its own");
    drop(lock);
    // One comes back before it was stored that it was gone.
    mesh.resume(b.id, NOW).await.unwrap();
    assert!(mesh.state().nodes[&b.id].is_active());
    mesh.store_suspensions().await.unwrap();
    audit(&mesh).await;
    drop(mesh);
    let stored = Store::open(&dir.path().join("carrick.db")).unwrap().load(&signing_key()).unwrap();
    assert_eq!(stored.nodes[&a.id].membership, Membership::Suspended(wanting()));
    assert!(stored.nodes[&b.id].is_active());
}

#[tokio::test]
async fn a_suspension_that_was_stored_though_the_disk_said_no_is_logged_once() {
    let dir = tempfile::tempdir().unwrap();
    let (mesh, _ended) = mesh(dir.path(), 9).await;
    let node = mesh.join(hello(1, "a", &[]), NOW).await.unwrap().id;
    let failed = mesh.call(move |owner| {
        let state = owner.state().unwrap();
        let decision = Decision::Suspended { node, reason: "a test".to_owned() };
        let entry = Entry { at: NOW, decision };
        let changes = [(suspend::suspended(&state, &state.nodes[&node], wanting()), Some(entry.clone()))];
        // The commit came through, and the word of it did not.
        owner.store.update_all(&changes).unwrap();
        owner.unstored.insert(node, suspend::Unstored { why: wanting(), entry: Some(entry) });
        owner.owes.store(true, Ordering::Relaxed);
        owner.doubt = true;
    });
    failed.await.unwrap();
    mesh.store_suspensions().await.unwrap();
    audit(&mesh).await;
    mesh.renew(node, key(1).public(), proven(1, 1, ("a", &[]), 9), None, NOW).await.unwrap();
    audit(&mesh).await;
}

#[tokio::test]
async fn a_bundle_suspends_everybody_who_is_not_good_enough_though_the_disk_takes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (mesh, _ended) = mesh(dir.path(), 9).await;
    let mut nodes = Vec::new();
    for (n, name) in [(1, "a"), (2, "b"), (3, "c")] {
        nodes.push(mesh.join(hello(n, name, &[]), NOW).await.unwrap().id);
    }
    let signed = strict_about_software(2);
    // The disk fails once the bundle is on it.
    let database = dir.path().join("carrick.db");
    let published = mesh.call(move |owner| {
        let other = Connection::open(database).unwrap();
        other
            .execute_batch(
                "CREATE TRIGGER full BEFORE UPDATE OF suspended ON nodes BEGIN SELECT RAISE(ABORT, 'full'); END",
            )
            .unwrap();
        owner.publish_bundle(signed, &Judged::default(), NOW)
    });
    // It is in force, and whoever is told otherwise would try a version that was published.
    assert_eq!(published.await.unwrap().unwrap().len(), 3);
    assert_eq!(mesh.state().policy().version, 2);
    for id in nodes {
        assert!(!mesh.state().nodes[&id].is_active());
    }
}

#[tokio::test]
async fn a_node_that_is_heard_while_its_suspension_waits_for_its_turn_is_not_kept_out() {
    let dir = tempfile::tempdir().unwrap();
    let (mesh, _ended) = mesh(dir.path(), 9).await;
    let node = mesh.join(hello(1, "a", &[]), NOW).await.unwrap().id;
    let mut strict = Bundle { version: 2, ..bundle() };
    strict.default.lease = LeaseProfile::Strict;
    mesh.publish(signed(&strict), NOW).await.unwrap();
    let leases = Leases::new();
    let keep = tokio::spawn(leases.clone().keep(mesh.clone(), Default::default()));
    // Somebody else is served while the lease lapses, and the node is heard before its suspension has its turn. Not for long at a time:
    // an owner that hangs is another matter.
    let mut caught = false;
    while !caught {
        let (leases, jobs) = (leases.clone(), mesh.jobs.clone());
        let busy = move |_: &mut Owner| {
            let since = std::time::Instant::now();
            while jobs.capacity() == jobs.max_capacity() && since.elapsed() < Duration::from_millis(300) {
                std::thread::sleep(Duration::from_millis(5));
            }
            let waits = jobs.capacity() < jobs.max_capacity();
            if waits {
                leases.heard(node);
            }
            waits
        };
        caught = mesh.call(busy).await.unwrap();
    }
    let logged = async |decision: &str| {
        let entries = mesh.log_page(0, 100).await.unwrap().entries;
        entries.iter().any(|entry| entry.contains(decision))
    };
    let resumed = async {
        while !logged("\"suspended\"").await || !mesh.state().nodes[&node].is_active() {
            leases.heard(node);
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), resumed).await.unwrap();
    keep.abort();
    audit(&mesh).await;
}

#[tokio::test]
async fn whoever_lapses_at_once_is_suspended_by_one_commit_with_an_entry_each() {
    let dir = tempfile::tempdir().unwrap();
    let (mesh, _ended) = mesh(dir.path(), 9).await;
    let mut lapsed = BTreeMap::new();
    for (n, name) in [(1, "a"), (2, "b"), (3, "c")] {
        lapsed.insert(mesh.join(hello(n, name, &[]), NOW).await.unwrap().id, Suspension::Silent);
    }
    let revision = mesh.state().revision;
    mesh.suspend_all(lapsed, NOW).await.unwrap();
    assert_eq!(mesh.state().revision, revision.next(), "peers are told once");
    assert_eq!(mesh.state().active().count(), 0);
    let entries = mesh.log_page(0, 100).await.unwrap().entries;
    assert_eq!(entries.iter().filter(|entry| entry.contains("\"suspended\"")).count(), 3);
    audit(&mesh).await;
    drop(mesh);
    let stored = Store::open(&dir.path().join("carrick.db")).unwrap().load(&signing_key()).unwrap();
    assert_eq!(stored.active().count(), 0);
}

#[tokio::test]
async fn a_mesh_is_judged_under_a_new_bundle_before_the_owner_has_its_turn() {
    let dir = tempfile::tempdir().unwrap();
    let (mesh, _ended) = mesh(dir.path(), 9).await;
    let node = mesh.join(hello(1, "a", &[]), NOW).await.unwrap();
    let signed = strict_about_software(2);
    let state = mesh.state();
    let follows = bundle::follow(&state, signed.clone(), signing_key().public(), NOW).unwrap();
    let judged = Judged::of(&state, &follows.trusted, NOW);
    // It shows the same again for another key, and so has a grant of which nobody judged.
    mesh.renew(node.id, key(77).public(), proven(1, 77, ("a", &[]), 9), None, NOW).await.unwrap();
    let cut_off = mesh.call(move |owner| owner.publish_bundle(signed, &judged, NOW)).await.unwrap().unwrap();
    assert_eq!(cut_off.len(), 1);
    assert!(mesh.state().nodes[&node.id].lacks_evidence());
}

/// The log says nothing that cannot have happened.
async fn audit(mesh: &Mesh) {
    let mut auditor = auditor(mesh, 1..=mesh.state().policy().version).await;
    for entry in mesh.log_page(0, 100).await.unwrap().entries {
        auditor.follow(&entry).unwrap();
    }
}

#[tokio::test]
async fn nobody_is_vouched_for_while_the_owner_hangs() {
    let dir = tempfile::tempdir().unwrap();
    let (mesh, _ended) = mesh(dir.path(), 9).await;
    let (leases, shutdown) = (Leases::new(), tokio_util::sync::CancellationToken::new());
    let keeper = tokio::spawn(leases.clone().keep(mesh.clone(), shutdown.clone()));
    let until = async |vouches| {
        let change = async {
            while leases.vouches() != vouches {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), change).await.unwrap();
    };
    until(true).await;
    let (release, hang) = std::sync::mpsc::channel::<()>();
    let hung = mesh.clone();
    let job = tokio::spawn(async move { hung.call(move |_| hang.recv().is_ok()).await });
    until(false).await;
    release.send(()).unwrap();
    assert!(job.await.unwrap().unwrap());
    until(true).await;
    shutdown.cancel();
    keeper.await.unwrap();
}
