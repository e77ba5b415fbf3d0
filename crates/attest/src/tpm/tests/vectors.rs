//! What swtpm made: `CARRICK_RECORD_TPM=DIRECTORY cargo test -p carrick-node --lib tpm` writes the files anew.

use carrick_types::UnixTime;
use proptest::prelude::*;
use serde::Deserialize;

use super::{TRANSCRIPT, judged};
use crate::{
    Blob,
    tpm::{
        Activation, Credential, Evidence, Keys, MAX_INTERMEDIATES, Policy, Public, Quote, Signature,
        appraise, learn,
    },
};

const VECTORS: [&str; 4] = [
    include_str!("../vectors/rsa-ecc.json"),
    include_str!("../vectors/rsa-rsa.json"),
    include_str!("../vectors/ecc-ecc.json"),
    include_str!("../vectors/ecc-rsa.json"),
];

#[derive(Deserialize)]
struct Vector {
    evidence: Evidence,
    /// The credential that the TPM opened.
    credential: Credential,
    roots: Vec<String>,
    at_millis: u64,
}

impl Vector {
    fn all() -> impl Iterator<Item = Self> {
        VECTORS.iter().map(|text| serde_json::from_str(text).unwrap())
    }

    fn policy(&self) -> Policy {
        let mut policy = Policy { endorsement_roots: self.roots.clone(), ..Policy::default() };
        learn(&self.evidence, &mut policy);
        assert_eq!(policy.pcrs.len(), 24);
        policy
    }

    fn at(&self) -> UnixTime {
        UnixTime::from_millis(self.at_millis)
    }
}

#[test]
fn what_a_tpm_shows_is_accepted() {
    for vector in Vector::all() {
        assert_eq!(judged(&vector.evidence, &vector.policy(), vector.at()), None);
    }
}

#[test]
fn a_credential_is_the_one_that_a_tpm_opened() {
    for Vector { evidence, credential, .. } in Vector::all() {
        let Evidence { endorsement_key, attestation_key, .. } = evidence.clone();
        let (activation, made) =
            Activation::new(Keys { endorsement_key, attestation_key }, &[3; 96]).unwrap();
        assert_eq!(made, credential);
        activation.confirm(&evidence, &TRANSCRIPT).unwrap();
    }
}

/// A field, to be changed in place.
type Field = (&'static str, fn(&Evidence) -> Vec<u8>, fn(Evidence, Vec<u8>) -> Option<Evidence>);

/// Every field that a peer can judge.
const FIELDS: [Field; 6] = [
    (
        "endorsement_key",
        |evidence| evidence.endorsement_key.as_bytes().to_vec(),
        |evidence, bytes| Some(Evidence { endorsement_key: Blob::new(bytes).ok()?, ..evidence }),
    ),
    (
        "endorsement_certificate",
        |evidence| evidence.endorsement_certificate.as_ref().unwrap().as_bytes().to_vec(),
        |evidence, bytes| {
            Some(Evidence { endorsement_certificate: Some(Blob::new(bytes).ok()?), ..evidence })
        },
    ),
    (
        "attestation_key",
        |evidence| evidence.attestation_key.as_bytes().to_vec(),
        |evidence, bytes| Some(Evidence { attestation_key: Blob::new(bytes).ok()?, ..evidence }),
    ),
    (
        "quote",
        |evidence| evidence.quote.as_bytes().to_vec(),
        |evidence, bytes| Some(Evidence { quote: Blob::new(bytes).ok()?, ..evidence }),
    ),
    (
        "signature",
        |evidence| evidence.signature.as_bytes().to_vec(),
        |evidence, bytes| Some(Evidence { signature: Blob::new(bytes).ok()?, ..evidence }),
    ),
    (
        "pcr_values",
        |evidence| evidence.pcr_values.as_bytes().to_vec(),
        |evidence, bytes| Some(Evidence { pcr_values: Blob::new(bytes).ok()?, ..evidence }),
    ),
];

/// Refused, at the latest when it is appraised. The policy names no register, so that nothing but the evidence itself speaks against it.
fn is_refused(vector: &Vector, policy: &Policy, field: &Field, bytes: Vec<u8>) -> bool {
    (field.2)(vector.evidence.clone(), bytes)
        .is_none_or(|evidence| judged(&evidence, policy, vector.at()).is_some())
}

#[test]
fn a_flipped_bit_a_cut_or_something_behind_is_refused_in_every_field() {
    for vector in Vector::all() {
        let policy = Policy { pcrs: [].into(), ..vector.policy() };
        for field in &FIELDS {
            let bytes = (field.1)(&vector.evidence);
            for at in 0..bytes.len() {
                let mut bent = bytes.clone();
                bent[at] ^= 1 << (at % 8);
                assert!(is_refused(&vector, &policy, field, bent), "{}: bit at byte {at}", field.0);
                // A value that is not a whole number of registers, or one too few.
                assert!(
                    is_refused(&vector, &policy, field, bytes[..at].to_vec()),
                    "{}: cut at {at}",
                    field.0
                );
            }
            for more in [vec![0], vec![0xff; 32]] {
                assert!(is_refused(&vector, &policy, field, [bytes.clone(), more].concat()), "{}", field.0);
            }
        }
    }
}

#[test]
fn a_flipped_bit_in_the_proof_of_activation_is_refused_by_who_made_the_credential() {
    for Vector { evidence, .. } in Vector::all() {
        for at in 0..32 {
            let Evidence { endorsement_key, attestation_key, .. } = evidence.clone();
            let (activation, _) =
                Activation::new(Keys { endorsement_key, attestation_key }, &[3; 96]).unwrap();
            let mut bent = evidence.clone();
            bent.activation.0[at] ^= 1;
            activation.confirm(&bent, &TRANSCRIPT).unwrap_err();
        }
    }
}

#[test]
fn what_is_too_large_is_refused_before_it_is_parsed() {
    let vector = Vector::all().next().unwrap();
    let json = serde_json::to_value(&vector.evidence).unwrap();
    for (name, ..) in FIELDS {
        let mut large = json.clone();
        large[name] = "AAAA".repeat(4096).into();
        serde_json::from_value::<Evidence>(large).unwrap_err();
    }
    let certificate = vector.evidence.endorsement_certificate.clone().unwrap();
    let many =
        Evidence { intermediates: vec![certificate; MAX_INTERMEDIATES + 1], ..vector.evidence.clone() };
    assert_eq!(judged(&many, &vector.policy(), vector.at()).unwrap(), "intermediate certificates");
    let mut unknown = json;
    unknown["more"] = 1.into();
    serde_json::from_value::<Evidence>(unknown).unwrap_err();
}

proptest! {
    #[test]
    fn junk_is_refused_and_never_a_panic(bytes: Vec<u8>, field in 0..FIELDS.len(), vector in 0..4_usize) {
        let _ = (Public::parse(&bytes), Quote::parse(&bytes), Signature::parse(&bytes));
        let vector = Vector::all().nth(vector).unwrap();
        prop_assert!(is_refused(&vector, &vector.policy(), &FIELDS[field], bytes));
    }

    #[test]
    fn changes_anywhere_are_refused(at: prop::sample::Index, to: u8, field in 0..FIELDS.len(), vector in 0..4_usize) {
        let vector = Vector::all().nth(vector).unwrap();
        let field = &FIELDS[field];
        let mut bytes = (field.1)(&vector.evidence);
        let at = at.index(bytes.len());
        prop_assume!(bytes[at] != to);
        bytes[at] = to;
        prop_assert!(is_refused(&vector, &vector.policy(), field, bytes));
    }
}

#[test]
fn a_claim_is_written_down_for_everything_that_was_looked_at() {
    for vector in Vector::all() {
        let policy = vector.policy();
        let text = serde_json::to_string(&vector.evidence).unwrap();
        assert!(text.len() < crate::MAX_STATEMENT / 4, "{} bytes", text.len());
        let appraisal = appraise(&vector.evidence, &policy, &TRANSCRIPT, vector.at());
        let names: Vec<&str> = appraisal.claims.iter().map(|claim| claim.name.as_str()).collect();
        for name in
            ["endorsement", "activation", "bound to", "signature", "pcr 0", "pcr 23", "reset count", "clock"]
        {
            assert!(names.contains(&name), "{name} among {names:?}");
        }
    }
}
