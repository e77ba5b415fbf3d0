//! A test authority that issues what AWS issues, and an enclave that shows it.

use carrick_attest::{
    Blob, Hex,
    nitro::{Evidence, Policy},
};

use crate::{
    NOW, TRANSCRIPT, amd,
    der::{self, Certificate, Key, P384},
};

pub(crate) const PCR0: [u8; 48] = [0x11; 48];

/// An enclave: what can be bent before it is signed.
pub(crate) struct Enclave {
    /// DER: what is pinned and what is shown are the same bytes.
    pub(crate) root: Vec<u8>,
    pub(crate) root_key: Key,
    pub(crate) middle: Certificate,
    pub(crate) middle_key: Key,
    pub(crate) leaf: Certificate,
    pub(crate) leaf_key: P384,
    pub(crate) protected: Vec<u8>,
    pub(crate) fields: Fields,
}

/// The payload, apart from the certificates.
#[derive(Clone)]
pub(crate) struct Fields {
    pub(crate) digest: &'static str,
    pub(crate) timestamp: u64,
    pub(crate) pcrs: Vec<(u8, Vec<u8>)>,
    pub(crate) user_data: Option<Vec<u8>>,
    pub(crate) nonce: Option<Vec<u8>>,
    /// Certificates behind those of the bundle.
    pub(crate) spare: Vec<Vec<u8>>,
}

impl Enclave {
    pub(crate) fn new() -> Self {
        let (root_key, middle_key, leaf_key) = (Key::p384(), Key::p384(), P384::generate());
        let leaf = Certificate {
            serial: 3,
            issuer: "middle".to_owned(),
            subject: "i-1-enc2".to_owned(),
            from: "260630233000Z".to_owned(),
            to: "260701023000Z".to_owned(),
            key: leaf_key.info(),
            extensions: vec![],
        };
        Self {
            root: amd::authority("root", "root", 1, &root_key).sign(&root_key),
            middle: amd::authority("root", "middle", 2, &middle_key),
            root_key,
            middle_key,
            leaf,
            leaf_key,
            protected: vec![0xa1, 1, 0x38, 0x22],
            fields: Fields {
                digest: "SHA384",
                timestamp: NOW.as_millis(),
                pcrs: vec![(0, PCR0.to_vec()), (1, vec![0x22; 48]), (2, vec![0x33; 48]), (3, vec![0; 48])],
                user_data: Some(TRANSCRIPT.as_bytes().to_vec()),
                nonce: None,
                spare: vec![],
            },
        }
    }

    /// A policy that takes this enclave.
    pub(crate) fn policy(&self) -> Policy {
        Policy { roots: der::pem(&self.root), pcrs: [(0, [Hex(PCR0)].into())].into() }
    }

    /// What the enclave shows, signed.
    pub(crate) fn evidence(&self) -> Evidence {
        evidence(&self.document())
    }

    pub(crate) fn document(&self) -> Vec<u8> {
        let payload = self.payload();
        let signed =
            [b"\x84\x6aSignature1", &bytes(&self.protected)[..], &bytes(&[]), &bytes(&payload)].concat();
        let signature = self.leaf_key.sign(&signed);
        [&[0x84][..], &bytes(&self.protected), &[0xa0], &bytes(&payload), &bytes(&signature)].concat()
    }

    fn payload(&self) -> Vec<u8> {
        let fields = &self.fields;
        let chosen = |value: &Option<Vec<u8>>| value.as_ref().map_or(vec![0xf6], |value| bytes(value));
        let mut pcrs = item(0xa0, fields.pcrs.len());
        for (index, value) in &fields.pcrs {
            pcrs.extend(item(0x00, usize::from(*index)));
            pcrs.extend(bytes(value));
        }
        let mut bundle = vec![self.root.clone(), self.middle.sign(&self.root_key)];
        bundle.extend(fields.spare.iter().cloned());
        let mut cabundle = item(0x80, bundle.len());
        cabundle.extend(bundle.iter().flat_map(|der| bytes(der)));
        let pairs = [
            ("module_id", text("i-1-enc2")),
            ("digest", text(fields.digest)),
            ("timestamp", [&[0x1b][..], &fields.timestamp.to_be_bytes()].concat()),
            ("pcrs", pcrs),
            ("certificate", bytes(&self.leaf.sign(&self.middle_key))),
            ("cabundle", cabundle),
            ("public_key", vec![0xf6]),
            ("user_data", chosen(&fields.user_data)),
            ("nonce", chosen(&fields.nonce)),
        ];
        let mut payload = item(0xa0, pairs.len());
        payload.extend(pairs.into_iter().flat_map(|(name, value)| [text(name), value].concat()));
        payload
    }
}

pub(crate) fn evidence(document: &[u8]) -> Evidence {
    Evidence { document: Blob::new(document.to_vec()).unwrap() }
}

fn text(text: &str) -> Vec<u8> {
    [&item(0x60, text.len())[..], text.as_bytes()].concat()
}

fn bytes(bytes: &[u8]) -> Vec<u8> {
    [&item(0x40, bytes.len())[..], bytes].concat()
}

/// The head of an item: its kind, and a number below 65,536.
fn item(kind: u8, number: usize) -> Vec<u8> {
    match number {
        0..=23 => vec![kind | number as u8],
        24..=0xff => vec![kind | 24, number as u8],
        _ => vec![kind | 25, (number >> 8) as u8, number as u8],
    }
}
