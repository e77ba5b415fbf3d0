//! What parts say to each other, and what people copy and paste.

use std::str;

use carrick_attest::{Bundle, Bytes, Signed, SignedBundle};
use carrick_types::{
    CaPin, CoordinatorSecret, Credential, JoinToken, MeshId, OperatorPin, OperatorSecret, Role, TokenId,
    TokenSeed,
};
use carrick_wire::{
    hello::Head,
    log::{Auditor, Bundles, Checkpoint, Decision, Entry, Origin, SignedCheckpoint},
    session::{Proven, ToCoordinator, ToNode, VERSION, decode, encode},
};

const MESH: MeshId = MeshId::from_bytes([1; 16]);

fn operator() -> OperatorSecret {
    OperatorSecret::from_bytes([2; 32])
}

fn coordinator() -> CoordinatorSecret {
    CoordinatorSecret::from_bytes([3; 32])
}

pub(super) fn to_coordinator() -> Vec<Vec<u8>> {
    let heartbeat = format!(
        r#"{{"type":"heartbeat","sequence":1,"runtime_digest":"{zeros}","log":{{"size":1,"head":"{zeros}"}},"signature":"{signature}"}}"#,
        zeros = "A".repeat(43) + "=",
        signature = "A".repeat(86) + "==",
    );
    let said = [
        ToCoordinator::Endpoints { candidates: vec!["192.0.2.1:1".parse().expect("an address")] },
        ToCoordinator::Links { links: vec![] },
        ToCoordinator::Renew,
        ToCoordinator::Prove { old: 1, new: 2 },
    ];
    let framed = [&[VERSION], heartbeat.as_bytes()].concat();
    said.iter().map(encode).chain([framed]).collect()
}

pub(super) fn run_to_coordinator(input: &[u8]) {
    if let Ok(said) = decode::<ToCoordinator>(input) {
        let again = decode::<ToCoordinator>(&encode(&said)).expect("what was understood is understood again");
        // No number is as another, and JSON has none of those.
        assert_eq!(format!("{said:?}"), format!("{again:?}"));
    }
}

pub(super) fn to_node() -> Vec<Vec<u8>> {
    let proven = Proven { old: 1, new: 2, proof: vec![Bytes([4; 32])] };
    vec![encode(&ToNode::Proven(proven)), encode(&ToNode::Bundle(Box::new(signed_bundle())))]
}

pub(super) fn run_to_node(input: &[u8]) {
    let _ = decode::<ToNode>(input);
}

pub(super) fn tokens() -> Vec<Vec<u8>> {
    let pin = CaPin::from_bytes([5; 32]).expect("a pin");
    let token = JoinToken {
        id: TokenId::from_bytes([6; 10]),
        mesh: MESH,
        cluster: "east".parse().expect("a name"),
        ca: pin,
        operator: OperatorPin::of(&operator().public()),
        policy_version: 1,
        seed: TokenSeed::from_bytes([7; 32]),
        urls: vec!["https://192.0.2.1:8443".to_owned()],
    };
    vec![token.to_string().into_bytes()]
}

pub(super) fn run_token(input: &[u8]) {
    if let Some(token) = str::from_utf8(input).ok().and_then(|text| text.parse::<JoinToken>().ok()) {
        assert_eq!(token.to_string().parse(), Ok(token));
    }
}

pub(super) fn credentials() -> Vec<Vec<u8>> {
    let pin = CaPin::from_bytes([5; 32]).expect("a pin");
    vec![Credential::new(Role::Admin, pin, [8; 32]).to_string().into_bytes()]
}

pub(super) fn run_credential(input: &[u8]) {
    let _ = str::from_utf8(input).map(str::parse::<Credential>);
}

pub(super) fn checkpoints() -> Vec<Vec<u8>> {
    let restart = Some(Head { size: 7, head: Bytes([8; 32]) });
    let of = |restart| Checkpoint { origin: Origin { mesh: MESH, restart }, size: 42, head: [9; 32] };
    [None, restart].map(|restart| of(restart).sign(&coordinator()).to_string().into_bytes()).into()
}

pub(super) fn run_checkpoint(input: &[u8]) {
    if let Some(note) = str::from_utf8(input).ok().and_then(|text| text.parse::<SignedCheckpoint>().ok()) {
        let _ = note.verify(&Origin { mesh: MESH, restart: None }, &coordinator().public());
        assert_eq!(note.to_string().as_bytes(), input, "there is one spelling");
    }
}

pub(super) fn entries() -> Vec<Vec<u8>> {
    let at = "2026-01-31T12:00:00Z".parse().expect("a time");
    let decision =
        Decision::BundlePublished { version: 1, operator: operator().public(), sha256: Bytes([1; 32]) };
    vec![Entry { at, decision }.to_text().into_bytes()]
}

pub(super) fn run_entry(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    let _ = Entry::from_text(text);
    let bundles = Bundles::open(&OperatorPin::of(&operator().public()), &MESH, vec![signed_bundle()]);
    let _ = Auditor::new(MESH, bundles.expect("the operator signed it")).follow(text);
}

pub(super) fn bundles() -> Vec<Vec<u8>> {
    let signed = signed_bundle();
    vec![serde_json::to_vec(&signed).expect("plain data"), signed.bundle.text().as_bytes().to_vec()]
}

pub(super) fn run_bundle(input: &[u8]) {
    if let Ok(signed) = serde_json::from_slice::<SignedBundle>(input) {
        let _ = signed.open(&OperatorPin::of(&operator().public()), &MESH);
    }
    // As a draft that somebody wrote, and as if the operator had signed it.
    if let Ok(bundle) = serde_json::from_slice::<Bundle>(input)
        && bundle.check().is_ok()
    {
        let signed = SignedBundle {
            operator: operator().public(),
            successions: vec![],
            bundle: Signed::seal(&bundle, &operator()),
        };
        let opened = signed.open(&OperatorPin::of(&operator().public()), &bundle.mesh);
        assert_eq!(opened.expect("what makes sense can be signed").get(), &bundle);
    }
}

fn signed_bundle() -> SignedBundle {
    let text = serde_json::json!({
        "mesh": MESH,
        "version": 3,
        "expires_at": "2030-01-01T00:00:00Z",
        "coordinator_key": coordinator().public(),
        "rotate_keys_s": 86_400,
        "default": {"accept": [["join-token"]], "lease": "strict", "reattest_s": 60},
        "clusters": {"east": {"runtime_digests": ["ab".repeat(32)]}},
    });
    let bundle: Bundle = serde_json::from_value(text).expect("a bundle");
    SignedBundle {
        operator: operator().public(),
        successions: vec![],
        bundle: Signed::seal(&bundle, &operator()),
    }
}
