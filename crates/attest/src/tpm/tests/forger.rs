//! Somebody with keys in software, who signs whatever is asked for: what an attestation key outside a TPM, or an unrestricted one, can do.

#![allow(dead_code, reason = "each crate's tests use their part")]

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use carrick_attest::{
    Blob, Bytes,
    tpm::{Attributes, Clock, ENDORSEMENT_POLICY, Evidence, Name, Policy},
};
use sha2::{Digest as _, Sha256};

pub(crate) struct Forger {
    key: EcdsaKeyPair,
    endorsement: EcdsaKeyPair,
    pub(crate) attributes: u32,
    pub(crate) magic: u32,
    pub(crate) kind: u16,
    pub(crate) extra_data: Vec<u8>,
    pub(crate) clock: Clock,
    /// `TPML_PCR_SELECTION`.
    pub(crate) selection: Vec<u8>,
    pub(crate) values: Vec<u8>,
}

fn key() -> EcdsaKeyPair {
    let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
    EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref()).unwrap()
}

fn sized(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

/// `TPMT_PUBLIC` of a key on P-256; `algorithms` are the symmetric one and the scheme.
fn public(key: &EcdsaKeyPair, attributes: u32, policy: &[u8], algorithms: &[u16]) -> Vec<u8> {
    let point = &key.public_key().as_ref()[1..];
    let numbers = algorithms.iter().flat_map(|number| number.to_be_bytes()).collect();
    let head = [0, 0x23, 0, 0x0b].to_vec();
    let curve = [0, 3, 0, 0x10].to_vec();
    [
        head,
        attributes.to_be_bytes().to_vec(),
        sized(policy),
        numbers,
        curve,
        sized(&point[..32]),
        sized(&point[32..]),
    ]
    .concat()
}

impl Forger {
    /// One whose evidence, for a transcript, is as it should be.
    pub(crate) fn new(extra_data: [u8; 32]) -> Self {
        Self {
            key: key(),
            endorsement: key(),
            attributes: Attributes::ATTESTATION | Attributes::USER_WITH_AUTH,
            magic: 0xff54_4347,
            kind: 0x8018,
            extra_data: extra_data.to_vec(),
            clock: Clock { clock: 1000, reset_count: 5, restart_count: 2, safe: true },
            selection: vec![0, 0, 0, 1, 0, 0x0b, 3, 3, 0, 0],
            values: vec![7; 64],
        }
    }

    /// The endorsement key's point, 65 bytes.
    pub(crate) fn endorsement_point(&self) -> &[u8] {
        self.endorsement.public_key().as_ref()
    }

    pub(crate) fn endorsement_key(&self) -> Vec<u8> {
        public(&self.endorsement, Attributes::ENDORSEMENT, &ENDORSEMENT_POLICY, &[6, 128, 0x43, 0x10])
    }

    pub(crate) fn attestation_key(&self) -> Vec<u8> {
        public(&self.key, self.attributes, &[], &[0x10, 0x18, 0x0b])
    }

    /// The policy of an operator who enrolled the endorsement key.
    pub(crate) fn enrolled(&self) -> Policy {
        Policy { endorsement_keys: [Name::of(&self.endorsement_key()).to_hex()].into(), ..Policy::default() }
    }

    pub(crate) fn quote(&self) -> Vec<u8> {
        let signer = Name::of(&self.attestation_key()).qualified_as_primary();
        let Clock { clock, reset_count, restart_count, safe } = self.clock;
        [
            self.magic.to_be_bytes().to_vec(),
            self.kind.to_be_bytes().to_vec(),
            sized(&signer.0),
            sized(&self.extra_data),
            clock.to_be_bytes().to_vec(),
            reset_count.to_be_bytes().to_vec(),
            restart_count.to_be_bytes().to_vec(),
            vec![u8::from(safe)],
            7_u64.to_be_bytes().to_vec(),
            self.selection.clone(),
            sized(&Sha256::digest(&self.values)),
        ]
        .concat()
    }

    pub(crate) fn evidence(&self) -> Evidence {
        self.signing(self.quote())
    }

    /// Evidence with anything at all signed as a quote.
    pub(crate) fn signing(&self, quote: Vec<u8>) -> Evidence {
        let signature = self.key.sign(&SystemRandom::new(), &quote).unwrap();
        let (r, s) = signature.as_ref().split_at(32);
        Evidence {
            endorsement_key: Blob::new(self.endorsement_key()).unwrap(),
            endorsement_certificate: None,
            intermediates: vec![],
            attestation_key: Blob::new(self.attestation_key()).unwrap(),
            quote: Blob::new(quote).unwrap(),
            signature: Blob::new([vec![0, 0x18, 0, 0x0b], sized(r), sized(s)].concat()).unwrap(),
            pcr_values: Blob::new(self.values.clone()).unwrap(),
            activation: Bytes([0; 32]),
        }
    }
}
