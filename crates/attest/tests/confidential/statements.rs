//! Whole statements of confidential machines, as peers judge them.

use std::{collections::BTreeMap, time::Duration};

use carrick_attest::{
    Bundle, Bytes, Evidence, Kind, MAX_STATEMENT, Moment, Rejection, Signed, SignedBundle, Statement,
    Subject, Transcript, TrustedBundle, appraise, identity, learn, policy::ClusterPolicy, sev_snp::Product,
};
use carrick_types::{
    CoordinatorSecret, IdentitySecret, MeshId, OperatorPin, OperatorSecret, WireGuardSecret,
};

use crate::{
    NOW,
    amd::{self, Line},
    aws::Enclave,
};

const MESH: MeshId = MeshId::from_bytes([1; 16]);
const MOMENT: Moment = Moment {
    log_size: 4,
    log_head: Bytes([5; 32]),
    salt: Bytes([6; 32]),
    exporter: Bytes([7; 32]),
    policy_version: 1,
    runtime_digest: Bytes([8; 32]),
};

fn identity() -> IdentitySecret {
    IdentitySecret::from_bytes([3; 32])
}

fn subject(key: u8) -> Subject {
    Subject {
        mesh: MESH,
        cluster: "east".parse().unwrap(),
        identity_key: identity().public(),
        wireguard_key: WireGuardSecret::from_bytes([key; 32]).public(),
    }
}

/// A bundle that accepts one kind, and says which.
fn bundle(kind: Kind, section: impl FnOnce(&mut ClusterPolicy)) -> TrustedBundle {
    let mut default = ClusterPolicy { accept: vec![[kind].into()], ..ClusterPolicy::default() };
    section(&mut default);
    let bundle = Bundle {
        mesh: MESH,
        version: 1,
        expires_at: NOW.saturating_add(Duration::from_secs(1)),
        coordinator_key: CoordinatorSecret::from_bytes([9; 32]).public(),
        former_operators: vec![],
        rotate_keys_s: 60,
        log_restart: None,
        default,
        clusters: BTreeMap::new(),
    };
    let operator = OperatorSecret::from_bytes([2; 32]);
    let signed = Signed::seal(&bundle, &operator);
    let signed = SignedBundle { operator: operator.public(), successions: vec![], bundle: signed };
    signed.open(&OperatorPin::of(&operator.public()), &MESH).unwrap()
}

fn statement(subject: &Subject, kind: Kind, show: impl FnOnce(&Transcript) -> Evidence) -> Statement {
    let evidence = show(&MOMENT.transcript(subject, kind));
    Statement { moment: MOMENT, wireguard_key: subject.wireguard_key, evidence, appraised_at: NOW }
}

/// The statements of a node with evidence of a kind, as they travel.
fn statements(subject: &Subject, kind: Kind, show: impl FnOnce(&Transcript) -> Evidence) -> [Statement; 2] {
    let identified = statement(subject, Kind::Identity, |transcript| {
        Evidence::Identity(identity::Evidence::sign(&identity(), "a".parse().unwrap(), vec![], transcript))
    });
    [identified, statement(subject, kind, show)].map(|statement| {
        let text = statement.to_text();
        assert!(text.len() < MAX_STATEMENT / 2);
        Statement::from_text(&text).unwrap()
    })
}

fn guest(transcript: &Transcript) -> Evidence {
    let mut guest = Line::of(Product::Genoa).guest();
    guest.set(0x50, transcript.as_bytes());
    Evidence::SevSnp(Box::new(guest.evidence()))
}

/// Asserts that statements are good for their subject, and for no other key, session or moment.
fn assert_bound(statements: &[Statement; 2], bundle: &TrustedBundle, binding: &str) {
    let result = appraise(&subject(10), statements, bundle, NOW).unwrap();
    assert_eq!(result.appraisals().len(), 2);
    let why = |subject: &Subject, statements: &[Statement; 2]| {
        let Rejection { why, appraisals } = appraise(subject, statements, bundle, NOW).unwrap_err();
        (why, appraisals[1].refusal().map(|claim| claim.name.clone()).unwrap_or_default())
    };
    let [identified, shown] = statements;
    // Another key, with the identity's own word for it, and this evidence under that key's name.
    let other = subject(11);
    let [identified_other, _] = self::statements(&other, Kind::SevSnp, guest);
    let borrowed = Statement { wireguard_key: other.wireguard_key, ..shown.clone() };
    assert_eq!(why(&other, &[identified_other.clone(), borrowed]).1, binding);
    assert_eq!(why(&other, &[identified_other, shown.clone()]).1, "WireGuard key");
    let bends: [fn(&mut Moment); 4] = [
        |moment| moment.exporter = Bytes([0; 32]),
        |moment| moment.salt = Bytes([0; 32]),
        |moment| moment.log_head = Bytes([0; 32]),
        |moment| moment.runtime_digest = Bytes([0; 32]),
    ];
    for bend in bends {
        let mut bent = shown.clone();
        bend(&mut bent.moment);
        let (why, claim) = why(&subject(10), &[identified.clone(), bent]);
        assert_eq!(claim, binding, "{why}");
    }
    // A day later it is too old.
    let later = NOW.saturating_add(Duration::from_secs(86_400));
    assert!(appraise(&subject(10), statements, bundle, later).is_err());
}

#[test]
fn a_guests_report_is_good_for_one_key_in_one_session() {
    let statements = statements(&subject(10), Kind::SevSnp, guest);
    let bundle = bundle(Kind::SevSnp, |policy| policy.sev_snp = Some(amd::policy()));
    assert_bound(&statements, &bundle, "report data");
}

#[test]
fn an_enclaves_document_is_good_for_one_key_in_one_session() {
    let mut enclave = Enclave::new();
    let policy = enclave.policy();
    let statements = statements(&subject(10), Kind::Nitro, |transcript| {
        enclave.fields.user_data = Some(transcript.as_bytes().to_vec());
        Evidence::Nitro(Box::new(enclave.evidence()))
    });
    let bundle = bundle(Kind::Nitro, |section| section.nitro = Some(policy));
    assert_bound(&statements, &bundle, "user data");
}

#[test]
fn evidence_of_a_kind_without_a_section_in_the_policy_is_refused() {
    let statements = statements(&subject(10), Kind::SevSnp, guest);
    let bundle = bundle(Kind::JoinToken, |_| ());
    let rejection = appraise(&subject(10), &statements, &bundle, NOW).unwrap_err();
    assert_eq!(rejection.appraisals[1].refusal().unwrap().name, "policy");
}

#[test]
fn a_draft_learns_each_kind_into_its_section() {
    let statements = statements(&subject(10), Kind::SevSnp, guest);
    let mut draft = ClusterPolicy::default();
    learn(&statements, &mut draft);
    let section = draft.sev_snp.unwrap();
    assert_eq!(section.measurements.len(), 1);
    assert!(section.check().unwrap_err().contains("`products` is empty"), "which the operator adds");
    assert!(draft.nitro.is_none());
}
