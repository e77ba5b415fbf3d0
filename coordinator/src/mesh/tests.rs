//! The owner of the mesh, asked as sessions and operators ask it.

mod demands;
mod history;
mod suspensions;

use carrick_attest::{Bundle, Bytes, Kind, Subject};
use carrick_types::{
    ChallengeKey, Cidr, ClusterName, IdentitySecret, LeaseProfile, OperatorSecret, Revision, TokenSeed,
    WireGuardSecret,
};
use carrick_wire::{
    hello::{Have, Introduction, Proof, Request, Trust},
    log::{
        Auditor, Bundles, Origin, SignedCheckpoint,
        tree::{Tree, leaf_hash},
    },
    session::RefusalCode,
};

use super::*;
use crate::{
    capacity,
    state::tests::{bundle, mesh as mesh_id, operator, signed, signing_key},
    store::{tests::founded, tests::token},
};

const NOW: UnixTime = UnixTime::from_millis(1000);

#[tokio::test]
async fn a_member_comes_back_with_its_token_and_takes_no_second_use() {
    let dir = tempfile::tempdir().unwrap();
    let (mesh, _ended) = mesh(dir.path(), 1).await;
    let first = mesh.join(hello(1, "a", &["10.1.0.0/24"]), NOW).await.unwrap();
    let again = mesh.join(hello(1, "a", &["10.1.0.0/24"]), NOW).await.unwrap();
    assert_eq!(first, again);
    assert_eq!(mesh.state().revision, Revision(1));
    assert_eq!(mesh.tokens(NOW).await.unwrap()[0].used, 1);
    assert_eq!(refused(&mesh, hello(2, "b", &[])).await.0, RefusalCode::Token);
}

#[tokio::test]
async fn some_thousand_nodes_with_tokens_fit_into_a_mesh() {
    let dir = tempfile::tempdir().unwrap();
    let (mesh, _ended) = mesh(dir.path(), 1).await;
    let node = mesh.join(hello(1, "a-name-as-long-as-many", &["10.1.0.0/24"]), NOW).await.unwrap();
    let fit = capacity::MOST / capacity::weight(&mesh.state(), &node);
    assert!((4000..6000).contains(&fit), "docs/operating.md says how many, and it is {fit}");
}

#[tokio::test]
async fn a_name_a_prefix_and_a_key_belong_to_one_node() {
    let dir = tempfile::tempdir().unwrap();
    let (mesh, _ended) = mesh(dir.path(), 9).await;
    mesh.join(hello(1, "a", &["10.1.0.0/24"]), NOW).await.unwrap();

    let (code, detail) = refused(&mesh, hello(2, "a", &[])).await;
    assert_eq!(code, RefusalCode::NameTaken);
    assert!(detail.contains("the name a belongs to another node"), "{detail}");
    let (code, detail) = refused(&mesh, hello(2, "b", &["10.1.0.128/25"])).await;
    assert_eq!(code, RefusalCode::Prefix);
    assert!(detail.contains("prefix 10.1.0.128/25 overlaps 10.1.0.0/24 of node a"), "{detail}");
    let (code, detail) = refused(&mesh, hello(2, "b", &["0.0.0.0/0"])).await;
    assert_eq!(code, RefusalCode::Prefix);
    assert!(detail.contains("default route"), "{detail}");
    let (code, detail) = refused(&mesh, hello(2, "b", &["100.64.0.1/32"])).await;
    assert_eq!(code, RefusalCode::Prefix);
    assert!(detail.contains("overlay range"), "{detail}");
    let (code, detail) = refused(&mesh, hello_with(2, 1, "b", &[])).await;
    assert_eq!(code, RefusalCode::KeyTaken);
    assert!(detail.contains("belongs to node a"), "{detail}");
    assert_eq!(mesh.tokens(NOW).await.unwrap()[0].used, 1, "a refused join consumes no use");
}

#[tokio::test]
async fn a_revoked_node_comes_back_with_neither_of_its_keys() {
    let dir = tempfile::tempdir().unwrap();
    let (mesh, _ended) = mesh(dir.path(), 9).await;
    let node = mesh.join(hello(1, "a", &["10.1.0.0/24"]), NOW).await.unwrap();
    mesh.revoke(node.id, Some("stolen".into()), NOW).await.unwrap().unwrap();
    let twice = mesh.revoke(node.id, None, UnixTime::from_millis(2000)).await.unwrap().unwrap();
    let Membership::Revoked(revocation) = &twice.membership else { panic!("active") };
    assert_eq!(revocation.reason.as_deref(), Some("stolen"));
    assert_eq!(mesh.state().revision, Revision(2));

    assert_eq!(refused(&mesh, hello(1, "a", &[])).await.0, RefusalCode::Revoked);
    assert_eq!(refused(&mesh, hello_with(2, 1, "a", &[])).await.0, RefusalCode::KeyTaken);
    let heir = mesh.join(hello(2, "a", &["10.1.0.0/24"]), NOW).await.unwrap();
    assert_eq!(heir.overlay_index, 2, "an overlay address is never given twice");
}

#[tokio::test]
async fn prefixes_may_change_and_the_name_stays() {
    let dir = tempfile::tempdir().unwrap();
    let (mesh, _ended) = mesh(dir.path(), 9).await;
    mesh.join(hello(1, "a", &["10.1.0.0/24"]), NOW).await.unwrap();
    let (_, why) = refused(&mesh, hello(1, "z", &["10.2.0.0/24"])).await;
    assert_eq!(why, "this node is called a and asks to be called z: start it with --name a");
    // It hears its name from the coordinator.
    mesh.join(hello(1, "z", &["10.1.0.0/24"]), NOW).await.unwrap();
    let node = mesh.join(hello(1, "a", &["10.2.0.0/24"]), NOW).await.unwrap();
    assert_eq!((node.name.as_str(), node.revision), ("a", Revision(2)));
    assert_eq!(node.prefixes[0].to_string(), "10.2.0.0/24");
}

#[tokio::test]
async fn every_visible_change_raises_the_revision_by_one_and_others_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let (mesh, _ended) = mesh(dir.path(), 9).await;
    let node = mesh.join(hello(1, "a", &[]), NOW).await.unwrap();
    let endpoints: Vec<SocketAddr> = vec!["192.0.2.1:51820".parse().unwrap()];
    mesh.set_endpoints(node.id, endpoints.clone()).await.unwrap();
    assert_eq!(mesh.state().revision, Revision(2));
    mesh.set_endpoints(node.id, endpoints).await.unwrap();
    assert_eq!(mesh.state().revision, Revision(2), "the same endpoints again are no change");
}

#[tokio::test]
async fn every_decision_is_in_the_log_and_the_log_can_be_audited() {
    let dir = tempfile::tempdir().unwrap();
    let (mesh, _ended) = mesh(dir.path(), 2).await;
    let node = mesh.join(hello(1, "a", &["10.1.0.0/24"]), NOW).await.unwrap();
    mesh.join(hello(1, "a", &["10.2.0.0/24"]), NOW).await.unwrap();
    mesh.set_endpoints(node.id, vec!["192.0.2.1:51820".parse().unwrap()]).await.unwrap();
    mesh.suspend(node.id, Suspension::Silent, NOW).await.unwrap();
    mesh.suspend(node.id, Suspension::Silent, NOW).await.unwrap();
    mesh.resume(node.id, NOW).await.unwrap();
    mesh.renew(node.id, key(77).public(), proven(1, 77, ("a", &["10.2.0.0/24"]), 9), None, NOW)
        .await
        .unwrap();
    mesh.publish(signed(&Bundle { version: 2, ..bundle() }), NOW).await.unwrap();
    mesh.revoke(node.id, None, NOW).await.unwrap();
    mesh.revoke(node.id, None, NOW).await.unwrap();
    refused(&mesh, hello(1, "a", &[])).await;
    mesh.revoke_token(TokenId::from_bytes([9; 10]), NOW).await.unwrap();
    mesh.revoke_token(TokenId::from_bytes([9; 10]), NOW).await.unwrap();

    let page = mesh.log_page(0, 100).await.unwrap();
    let mut auditor = auditor(&mesh, [1, 2]).await;
    let mut tree = Tree::default();
    let mut kinds = Vec::new();
    for text in &page.entries {
        tree.push(leaf_hash(text.as_bytes()));
        let entry = serde_json::to_value(auditor.follow(text).unwrap()).unwrap();
        kinds.push(entry["type"].as_str().unwrap().to_owned());
    }
    let expected = [
        "bundle-published",
        "token-created",
        "granted",
        "granted",
        "suspended",
        "resumed",
        "granted",
        "bundle-published",
        "node-revoked",
        "token-revoked",
    ];
    assert_eq!(kinds, expected, "once each; where a node may be reached is no decision");
    let state = mesh.state();
    let checkpoint: SignedCheckpoint = state.log.checkpoint.parse().unwrap();
    let checkpoint = checkpoint.verify(&Origin::of(state.policy()), &signing_key().public()).unwrap();
    assert_eq!((checkpoint.size, Some(checkpoint.head)), (10, tree.head(10)));
}

/// Somebody who believes the operator, and was handed these bundles.
async fn auditor(mesh: &Mesh, versions: impl IntoIterator<Item = u64>) -> Auditor {
    let mut bundles = Vec::new();
    for version in versions {
        bundles.extend(mesh.bundle_of_version(version).await.unwrap());
    }
    let pin = carrick_types::OperatorPin::of(&operator().public());
    Auditor::new(mesh_id(), Bundles::open(&pin, &mesh_id(), bundles).unwrap())
}

#[tokio::test]
async fn a_name_or_a_prefix_that_the_node_did_not_sign_for_is_not_granted() {
    let dir = tempfile::tempdir().unwrap();
    let (mesh, _ended) = mesh(dir.path(), 9).await;
    let node = mesh.join(hello(1, "a", &["10.1.0.0/24"]), NOW).await.unwrap();
    for (asked, why) in [(("a", &[] as &[&str]), "other prefixes"), (("b", &["10.1.0.0/24"]), "called b")] {
        let refused =
            mesh.renew(node.id, key(1).public(), proven(1, 1, asked, 9), None, NOW).await.unwrap_err();
        assert!(refused.to_string().contains(why), "{refused}");
    }
    // What a hello says beside its proof is nothing that the node signed.
    let mut altered = hello(2, "c", &[]);
    altered.hello.prefixes = vec!["10.2.0.0/24".parse().unwrap()];
    assert!(refused(&mesh, altered).await.1.contains("other prefixes"));
}

#[tokio::test]
async fn a_new_key_replaces_the_old_one_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let (mesh, _ended) = mesh(dir.path(), 9).await;
    let node = mesh.join(hello(1, "a", &[]), NOW).await.unwrap();
    let other = mesh.join(hello(2, "b", &[]), NOW).await.unwrap();
    let renewed =
        mesh.renew(node.id, key(77).public(), proven(1, 77, ("a", &[]), 9), None, NOW).await.unwrap();
    assert_eq!(renewed.wireguard_key, key(77).public());
    assert_eq!(refused(&mesh, hello(1, "a", &[])).await.0, RefusalCode::KeyTaken, "its old key");
    assert_eq!(refused(&mesh, hello_with(3, 1, "c", &[])).await.0, RefusalCode::KeyTaken, "nor another's");
    let stolen =
        mesh.renew(node.id, other.wireguard_key, proven(1, 2, ("a", &[]), 10), None, NOW).await.unwrap_err();
    assert_eq!(stolen.code(), RefusalCode::KeyTaken);
    let forged =
        mesh.renew(node.id, key(78).public(), proven(2, 78, ("a", &[]), 11), None, NOW).await.unwrap_err();
    assert_eq!(forged.code(), RefusalCode::Evidence, "signed by somebody else");
    mesh.join(hello_with(1, 77, "a", &[]), NOW).await.unwrap();
}

#[tokio::test]
async fn a_bundle_comes_into_force_only_from_the_operator_and_only_upwards() {
    let dir = tempfile::tempdir().unwrap();
    let (mesh, _ended) = mesh(dir.path(), 9).await;
    let second = Bundle { version: 2, ..bundle() };
    let refused = async |signed| mesh.publish(signed, NOW).await.unwrap_err().to_string();
    let stranger = OperatorSecret::from_bytes([99; 32]);
    let forged = SignedBundle {
        operator: stranger.public(),
        successions: vec![],
        bundle: carrick_attest::Signed::seal(&second, &stranger),
    };
    assert!(refused(forged).await.contains("not this mesh's operator"));
    assert!(refused(signed(&bundle())).await.contains("versions only rise"));
    assert!(refused(signed(&Bundle { expires_at: NOW, ..second.clone() })).await.contains("expired"));
    let elsewhere = CoordinatorSecret::from_bytes([98; 32]).public();
    assert!(
        refused(signed(&Bundle { coordinator_key: elsewhere, ..second.clone() })).await.contains("another")
    );
    mesh.publish(signed(&second), NOW).await.unwrap();
    assert_eq!(mesh.state().policy().version, 2);
    let mut kept = Bundle { version: 3, ..second };
    kept.default.lease = LeaseProfile::Strict;
    mesh.publish(signed(&kept), NOW).await.unwrap();
    drop(mesh);
    let store = Store::open(&dir.path().join("carrick.db")).unwrap();
    assert_eq!(store.bundle().unwrap(), signed(&kept), "the last one is there after a restart");
}

#[tokio::test]
async fn a_bundle_that_asks_for_more_suspends_whoever_cannot_show_it() {
    let dir = tempfile::tempdir().unwrap();
    let (mesh, _ended) = mesh(dir.path(), 9).await;
    let node = mesh.join(hello(1, "a", &[]), NOW).await.unwrap();
    let mut second = Bundle { version: 2, ..bundle() };
    second.default.runtime_digests.insert("11".repeat(32));
    mesh.publish(signed(&second), NOW).await.unwrap();
    let suspended = mesh.state().nodes[&node.id].membership.clone();
    assert!(
        matches!(suspended, Membership::Suspended(Suspension::Evidence { why }) if why.contains("runtime"))
    );
    mesh.resume(node.id, NOW).await.unwrap();
    assert!(!mesh.state().nodes[&node.id].is_active(), "a heartbeat is not enough");
    let third = Bundle { version: 3, ..bundle() };
    mesh.publish(signed(&third), NOW).await.unwrap();
    mesh.join(hello(1, "a", &[]), NOW).await.unwrap();
    assert!(mesh.state().nodes[&node.id].is_active());
}

#[tokio::test]
async fn a_member_that_changes_all_the_time_is_slowed_down() {
    let dir = tempfile::tempdir().unwrap();
    let (mesh, _ended) = mesh(dir.path(), 9).await;
    mesh.join(hello(1, "a", &[]), NOW).await.unwrap();
    let mut outcomes = Vec::new();
    for n in 0..40 {
        let prefix = format!("10.{n}.0.0/24");
        outcomes.push(mesh.join(hello(1, "a", &[&prefix]), NOW).await.map_err(|refused| refused.code()));
    }
    assert!(outcomes[..10].iter().all(Result::is_ok));
    assert_eq!(outcomes.last(), Some(&Err(RefusalCode::Unavailable)));
    mesh.join(hello(2, "b", &[]), NOW).await.expect("others are not concerned");
}

#[tokio::test]
async fn a_token_that_another_operator_signed_or_that_is_there_already_is_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let (mesh, _ended) = mesh(dir.path(), 1).await;
    let stranger = OperatorSecret::from_bytes([99; 32]);
    let known = token(1);
    let mut capability = known.capability.clone();
    capability.token = TokenId::from_bytes([8; 10]);
    let signed = carrick_attest::Signed::seal(&capability, &stranger);
    let refused = mesh.add_token(TokenRecord { signed, capability, ..known }, NOW).await.unwrap_err();
    assert!(matches!(refused, TokenError::Forged), "{refused}");
    let refused = mesh.add_token(token(1), NOW).await.unwrap_err();
    assert!(matches!(refused, TokenError::Known(_)), "{refused}");
    assert_eq!(mesh.tokens(NOW).await.unwrap().len(), 1);
}

#[tokio::test]
async fn the_end_of_the_owner_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let (mesh, ended) = mesh(dir.path(), 1).await;
    let answer = mesh.call(|_| panic!("on purpose")).await.map(|(): ()| ());
    assert!(matches!(answer, Err(StoreError::Stopping)));
    ended.await.unwrap_err();
    mesh.check(NOW).await.unwrap_err();
}

async fn mesh(dir: &std::path::Path, uses: u32) -> (Mesh, Ended) {
    let (mesh, ended) = Mesh::start(Store::open(&founded(dir)).unwrap(), signing_key(), ()).unwrap();
    mesh.add_token(token(uses), NOW).await.unwrap();
    (mesh, ended)
}

async fn refused(mesh: &Mesh, hello: ProvenHello) -> (RefusalCode, String) {
    let refused = mesh.join(hello, NOW).await.unwrap_err();
    (refused.code(), refused.to_string())
}

fn hello(n: u8, name: &str, prefixes: &[&str]) -> ProvenHello {
    hello_with(n, n, name, prefixes)
}

fn key(n: u8) -> WireGuardSecret {
    WireGuardSecret::from_bytes([n; 32])
}

fn request(salt: u8) -> (Request, WireGuardSecret) {
    let secret = key(200);
    let challenge_key = ChallengeKey::from_bytes(*secret.public().as_bytes()).unwrap();
    let request = Request {
        mesh: mesh_id(),
        log_size: 0,
        log_head: Bytes([0; 32]),
        salt: Bytes([salt; 32]),
        challenge_key,
    };
    (request, secret)
}

/// What a node proves of itself when it is asked.
fn proven(identity: u8, wireguard: u8, (name, prefixes): (&str, &[&str]), salt: u8) -> Vec<Statement> {
    let (request, secret) = request(salt);
    let identity = IdentitySecret::from_bytes([identity; 32]);
    let subject = Subject {
        mesh: mesh_id(),
        cluster: "east".parse().unwrap(),
        identity_key: identity.public(),
        wireguard_key: key(wireguard).public(),
    };
    let moment = request.moment(&[0; 32], 1, Bytes([0; 32]));
    let prefixes: Vec<Cidr> = prefixes.iter().map(|text| text.parse().unwrap()).collect();
    let asked = (&name.parse().unwrap(), prefixes.as_slice());
    Proof::answer(&request, &moment, &subject, asked, (&identity, &key(wireguard)), vec![])
        .verify(&subject, &request, &secret, &[0; 32], NOW)
        .unwrap()
}

fn hello_with(identity: u8, wireguard: u8, name: &str, prefixes: &[&str]) -> ProvenHello {
    // No two hellos are of one moment, or their evidence would be the same.
    static SALT: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);
    let (request, secret) = request(SALT.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    let cluster: ClusterName = "east".parse().unwrap();
    let moment = request.moment(&[0; 32], 1, Bytes([0; 32]));
    let hello = Introduction {
        name: name.parse().unwrap(),
        cluster: cluster.clone(),
        prefixes: prefixes.iter().map(|text| text.parse::<Cidr>().unwrap()).collect(),
        version: "test".to_owned(),
        have: Have::default(),
        trust: Trust::Evidence,
        identity: &IdentitySecret::from_bytes([identity; 32]),
        wireguard: &key(wireguard),
        token: Some((TokenId::from_bytes([9; 10]), &TokenSeed::from_bytes([9; 32]))),
        evidence: vec![],
    }
    .answer(&request, &moment);
    let subject = Subject {
        mesh: mesh_id(),
        cluster,
        identity_key: hello.identity_key,
        wireguard_key: hello.proof.wireguard_key,
    };
    let statements = hello.proof.verify(&subject, &request, &secret, &[0; 32], NOW).unwrap();
    assert!(statements.iter().all(|statement| statement.evidence.kind() == Kind::Identity));
    ProvenHello { hello, subject, statements }
}
