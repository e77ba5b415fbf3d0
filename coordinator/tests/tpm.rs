//! Nodes with a TPM, and nodes that only say so, in sessions with a real coordinator.

#![allow(clippy::unwrap_used, reason = "an unwrap in a test is the assertion that the value is there")]

mod support;

use std::time::Instant;

use carrick_attest::{Bundle, Evidence, Kind, tpm};
use carrick_lab::{Certified, Swtpm};
use carrick_node::{EvidenceSources, KeyAlgorithm, NodeError, SessionError, TpmSource};
use carrick_types::JoinToken;
use carrick_wire::{
    api::AppraisalPolicy,
    hello::Trust,
    session::{Refusal, RefusalCode, ToCoordinator, ToNode},
};
use support::{Node, Running, Session, start};

/// Evidence that a TPM made for another session, once.
const RECORDED: [&str; 2] = [
    include_str!("../../crates/attest/src/tpm/vectors/rsa-ecc.json"),
    include_str!("../../crates/attest/src/tpm/vectors/rsa-rsa.json"),
];

fn recorded(n: usize) -> (tpm::Evidence, Vec<String>) {
    let vector: serde_json::Value = serde_json::from_str(RECORDED[n]).unwrap();
    let read = |name: &str| vector[name].clone();
    (serde_json::from_value(read("evidence")).unwrap(), serde_json::from_value(read("roots")).unwrap())
}

/// Has every cluster take a join token and a TPM of a vendor.
async fn ask_for_tpms(coordinator: &Running, endorsement_roots: Vec<String>) {
    let policy: AppraisalPolicy = coordinator.get("/v1/appraisal-policy").await;
    let mut draft: Bundle = serde_json::from_str(policy.signed.bundle.text()).unwrap();
    draft.version += 1;
    draft.default.accept = vec![[Kind::JoinToken, Kind::Tpm].into()];
    draft.default.tpm = Some(tpm::Policy { endorsement_roots, ..tpm::Policy::default() });
    let body = serde_json::json!({ "draft": draft }).to_string();
    let answer = coordinator.ask("PUT", "/v1/appraisal-policy", Some(&body)).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
}

/// Joins as `carrick node` does.
async fn enrol(
    token: &JoinToken,
    coordinator: &Running,
    name: &str,
    tpm: Option<TpmSource>,
) -> Result<(), NodeError> {
    let state = tempfile::tempdir().unwrap();
    let urls = vec![format!("https://{}", coordinator.address)];
    let config = carrick_node::Config {
        state_dir: state.path().to_owned(),
        token: Some(JoinToken { urls, ..token.clone() }),
        name: Some(name.parse().unwrap()),
        prefixes: None,
        listen_port: 0,
        interface: "carrick0".to_owned(),
        mtu: 1420,
        shards: 1,
        version: "test".to_owned(),
        trust: Trust::Evidence,
        evidence: EvidenceSources { tpm, ..EvidenceSources::default() },
    };
    carrick_node::enrol(&config).await.map(drop)
}

/// Why a node was refused.
fn refusal(outcome: Result<(), NodeError>) -> Refusal {
    match outcome {
        Err(NodeError::Session(SessionError::Refused(refusal))) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

fn source(swtpm: &Swtpm, attestation: KeyAlgorithm) -> Option<TpmSource> {
    Some(TpmSource { tcti: swtpm.tcti().parse().unwrap(), attestation: Some(attestation) })
}

async fn swtpm(certified: Certified) -> (tempfile::TempDir, Swtpm) {
    tokio::task::spawn_blocking(move || {
        let directory = tempfile::tempdir().unwrap();
        let swtpm = Swtpm::make(directory.path(), certified).unwrap();
        (directory, swtpm)
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_joins_with_every_pair_of_keys_and_not_without_its_tpm() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = start(dir.path()).await;
    let ((_rsa, rsa), (_ecc, ecc)) = (swtpm(Certified::Rsa).await, swtpm(Certified::Ecc).await);
    let mut roots = rsa.roots().unwrap();
    roots.extend(ecc.roots().unwrap());
    ask_for_tpms(&coordinator, roots).await;
    let token = coordinator.token("east", 9).await;
    for (tpm, kind) in [(&rsa, "rsa"), (&ecc, "ecc")] {
        for (algorithm, key) in [(KeyAlgorithm::Ecc, "ecc"), (KeyAlgorithm::Rsa, "rsa")] {
            let since = Instant::now();
            enrol(&token, &coordinator, &format!("{kind}-{key}"), source(tpm, algorithm)).await.unwrap();
            println!("EK {kind}, AK {key}: joined in {:?}", since.elapsed());
        }
    }
    let nodes: serde_json::Value = coordinator.get("/v1/nodes").await;
    assert_eq!(nodes.as_array().unwrap().len(), 4);
    for node in nodes.as_array().unwrap() {
        let evidence = node["evidence"].as_array().unwrap();
        assert!(evidence.iter().any(|evidence| evidence["kind"] == "tpm"), "{node}");
    }
    let error = enrol(&token, &coordinator, "without", None).await.unwrap_err();
    assert!(error.to_string().contains("this host can show join-token"), "{error}");
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tpm_of_a_vendor_that_is_not_pinned_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = start(dir.path()).await;
    let (_directory, tpm) = swtpm(Certified::Rsa).await;
    // A vendor of the same name, with other keys.
    ask_for_tpms(&coordinator, recorded(0).1).await;
    let token = coordinator.token("east", 1).await;
    let refused = refusal(enrol(&token, &coordinator, "a", source(&tpm, KeyAlgorithm::Ecc)).await);
    assert_eq!(refused.code, RefusalCode::Evidence);
    assert!(refused.detail.contains("does not lead to a pinned root"), "{}", refused.detail);
    let refusals = coordinator.ask("GET", "/v1/nodes", None).await;
    assert_eq!(refusals.json::<serde_json::Value>().as_array().unwrap().len(), 0, "nobody joined");
    coordinator.stop().await;
}

/// A coordinator that asks for a TPM, a token, and a session in which nothing was said yet.
async fn asked(dir: &std::path::Path) -> (Running, JoinToken, Session) {
    let coordinator = start(dir).await;
    ask_for_tpms(&coordinator, recorded(0).1).await;
    let token = coordinator.token("east", 1).await;
    let session = coordinator.session().await;
    (coordinator, token, session)
}

fn activate(endorsement: &tpm::Evidence, attestation: &tpm::Evidence) -> ToCoordinator {
    ToCoordinator::Activate(Box::new(tpm::Keys {
        endorsement_key: endorsement.endorsement_key.clone(),
        attestation_key: attestation.attestation_key.clone(),
    }))
}

/// What a hello with this evidence leads to.
async fn say_hello(session: &mut Session, token: &JoinToken, evidence: tpm::Evidence) -> Refusal {
    let evidence = vec![Evidence::Tpm(Box::new(evidence))];
    let hello = session.answer_with(&Node::new(1, "a"), Some(token), 2, evidence);
    session.say(&hello).await;
    session.refused().await
}

#[tokio::test]
async fn evidence_without_a_credential_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (coordinator, token, mut session) = asked(dir.path()).await;
    let refused = say_hello(&mut session, &token, recorded(0).0).await;
    assert_eq!(refused.code, RefusalCode::Evidence);
    assert!(refused.detail.contains("no credential was asked for in this session"), "{}", refused.detail);
    coordinator.stop().await;
}

#[tokio::test]
async fn the_credential_of_another_session_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (coordinator, token, mut session) = asked(dir.path()).await;
    let (evidence, _) = recorded(0);
    session.say(&activate(&evidence, &evidence)).await;
    assert!(matches!(session.next().await, Some(ToNode::Credential(_))));
    let refused = say_hello(&mut session, &token, evidence).await;
    assert_eq!(refused.code, RefusalCode::Evidence);
    assert!(refused.detail.contains("did not recover the credential of this session"), "{}", refused.detail);
    coordinator.stop().await;
}

#[tokio::test]
async fn an_attestation_key_that_was_not_activated_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (coordinator, token, mut session) = asked(dir.path()).await;
    let ((evidence, _), (other, _)) = (recorded(0), recorded(1));
    session.say(&activate(&evidence, &other)).await;
    assert!(matches!(session.next().await, Some(ToNode::Credential(_))));
    let refused = say_hello(&mut session, &token, evidence).await;
    assert_eq!(refused.code, RefusalCode::Evidence);
    assert!(refused.detail.contains("other keys than the credential"), "{}", refused.detail);
    coordinator.stop().await;
}

#[tokio::test]
async fn a_stranger_gets_one_credential_a_session_and_only_for_keys() {
    let dir = tempfile::tempdir().unwrap();
    let (coordinator, _token, mut session) = asked(dir.path()).await;
    let (evidence, _) = recorded(0);
    session.say(&activate(&evidence, &evidence)).await;
    assert!(matches!(session.next().await, Some(ToNode::Credential(_))));
    session.say(&activate(&evidence, &evidence)).await;
    assert_eq!(session.refused().await.code, RefusalCode::Protocol);

    let mut session = coordinator.session().await;
    let mut junk = activate(&evidence, &evidence);
    let ToCoordinator::Activate(keys) = &mut junk else { unreachable!() };
    keys.endorsement_key = keys.attestation_key.clone();
    session.say(&junk).await;
    assert_eq!(session.refused().await.code, RefusalCode::Protocol);
    coordinator.stop().await;
}

#[tokio::test]
async fn where_no_tpm_is_accepted_no_credential_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = start(dir.path()).await;
    let mut session = coordinator.session().await;
    let (evidence, _) = recorded(0);
    session.say(&activate(&evidence, &evidence)).await;
    assert_eq!(session.refused().await.code, RefusalCode::Protocol);
    coordinator.stop().await;
}

#[tokio::test]
async fn a_member_asks_for_a_credential_only_when_it_was_asked() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = start(dir.path()).await;
    let token = coordinator.token("east", 1).await;
    let mut member = coordinator.join(&Node::new(1, "a"), Some(&token)).await.unwrap();
    let (evidence, _) = recorded(0);
    member.session.say(&activate(&evidence, &evidence)).await;
    assert_eq!(member.session.refused().await.code, RefusalCode::Protocol);
    coordinator.stop().await;
}
