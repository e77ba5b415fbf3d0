//! The attestation document and its envelope, as AWS specifies them.

use std::collections::BTreeMap;

use super::cbor::{CborError, Reader, push_bytes};

/// ECDSA on P-384 with SHA-384, as COSE numbers algorithms (RFC 9053).
pub const ES384: i64 = -35;

/// The longest certificate of a document.
const MAX_CERTIFICATE: usize = 1024;

/// The most certificates above the enclave's own.
const MAX_BUNDLE: usize = 6;

/// The most registers, and one more than the highest index.
const MAX_PCRS: usize = 32;

/// The longest of what the enclave itself chose to have signed.
const MAX_CHOSEN: usize = 1024;

/// The envelope: COSE_Sign1 of RFC 9052, without a tag, with nothing in its unprotected header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoseSign1<'a> {
    /// The algorithm that the protected header names, and all that it names.
    pub algorithm: i64,
    /// What is signed.
    pub payload: &'a [u8],
    /// r and s, 48 bytes each, big-endian.
    pub signature: &'a [u8; 96],
    protected: &'a [u8],
}

/// The payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document<'a> {
    /// Which Nitro Security Module: instance and enclave.
    pub module_id: &'a str,
    /// When it was made, in milliseconds since 1970.
    pub timestamp: u64,
    /// The registers: SHA-384, by their index.
    pub pcrs: BTreeMap<u8, &'a [u8; 48]>,
    /// The certificate of the key that signed, in DER.
    pub certificate: &'a [u8],
    /// What is above it, in DER: the root first.
    pub cabundle: Vec<&'a [u8]>,
    /// A key of the enclave's choice.
    pub public_key: Option<&'a [u8]>,
    /// Data of the enclave's choice.
    pub user_data: Option<&'a [u8]>,
    /// A nonce of the enclave's choice.
    pub nonce: Option<&'a [u8]>,
}

/// Why bytes are no attestation document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// Not the CBOR that belongs there.
    #[error(transparent)]
    Cbor(#[from] CborError),
    /// COSE_Sign1 has four parts.
    #[error("it is not COSE_Sign1: an array of four")]
    Envelope,
    /// Something in the unprotected header.
    #[error("the unprotected header is not empty")]
    Unprotected,
    /// The protected header names something else than the algorithm, or not that.
    #[error("the protected header is not just an algorithm")]
    Protected,
    /// A signature of another length.
    #[error("a signature has 96 bytes, this has {0}")]
    Signature(usize),
    /// A field that does not exist.
    #[error("{0:?} is no field of an attestation document")]
    Unknown(String),
    /// A field or register that is there twice.
    #[error("{0} is there twice")]
    Twice(String),
    /// A field that is not there.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A field that holds something else.
    #[error("{0} is not as AWS writes it")]
    Field(&'static str),
}

impl<'a> CoseSign1<'a> {
    /// Reads an envelope.
    ///
    /// # Errors
    /// [`DocumentError`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, DocumentError> {
        let mut reader = Reader::new(bytes);
        if reader.array(4)? != 4 {
            return Err(DocumentError::Envelope);
        }
        let protected = reader.bytes(16)?;
        if reader.map(0).map_err(|_| DocumentError::Unprotected)? != 0 {
            return Err(DocumentError::Unprotected);
        }
        let payload = reader.bytes(super::MAX_DOCUMENT)?;
        let signature = reader.bytes(96)?;
        reader.end()?;
        Ok(Self {
            algorithm: algorithm(protected).ok_or(DocumentError::Protected)?,
            payload,
            signature: signature.try_into().map_err(|_| DocumentError::Signature(signature.len()))?,
            protected,
        })
    }

    /// What the signature covers: Sig_structure of RFC 9052, section 4.4.
    pub fn signed_bytes(&self) -> Vec<u8> {
        let mut signed = vec![0x84, 0x6a];
        signed.extend_from_slice(b"Signature1");
        push_bytes(&mut signed, self.protected);
        push_bytes(&mut signed, &[]);
        push_bytes(&mut signed, self.payload);
        signed
    }
}

/// The algorithm that a protected header names, if it names nothing else.
fn algorithm(protected: &[u8]) -> Option<i64> {
    let mut reader = Reader::new(protected);
    let one = reader.map(1).ok()? == 1 && reader.unsigned().ok()? == 1;
    let algorithm = reader.integer().ok()?;
    (one && reader.end().is_ok()).then_some(algorithm)
}

impl<'a> Document<'a> {
    /// Reads a payload.
    ///
    /// # Errors
    /// [`DocumentError`].
    pub fn parse(payload: &'a [u8]) -> Result<Self, DocumentError> {
        let mut reader = Reader::new(payload);
        let mut fields = Fields::default();
        for _ in 0..reader.map(FIELDS)? {
            fields.read(&mut reader)?;
        }
        reader.end()?;
        let missing = DocumentError::Missing;
        fields.digest.ok_or(missing("digest"))?;
        Ok(Self {
            module_id: fields.module_id.ok_or(missing("module_id"))?,
            timestamp: fields.timestamp.ok_or(missing("timestamp"))?,
            pcrs: fields.pcrs.ok_or(missing("pcrs"))?,
            certificate: fields.certificate.ok_or(missing("certificate"))?,
            cabundle: fields.cabundle.ok_or(missing("cabundle"))?,
            public_key: fields.public_key.flatten(),
            user_data: fields.user_data.flatten(),
            nonce: fields.nonce.flatten(),
        })
    }

    /// Whether the enclave runs in debug mode: then its registers are zero, and its console is open.
    pub fn is_debug(&self) -> bool {
        self.pcrs.get(&0).is_none_or(|value| **value == [0; 48])
    }
}

/// How many fields there are.
const FIELDS: usize = 9;

/// What was read until now.
#[derive(Default)]
struct Fields<'a> {
    module_id: Option<&'a str>,
    digest: Option<()>,
    timestamp: Option<u64>,
    pcrs: Option<BTreeMap<u8, &'a [u8; 48]>>,
    certificate: Option<&'a [u8]>,
    cabundle: Option<Vec<&'a [u8]>>,
    public_key: Option<Option<&'a [u8]>>,
    user_data: Option<Option<&'a [u8]>>,
    nonce: Option<Option<&'a [u8]>>,
}

impl<'a> Fields<'a> {
    /// Reads one name and what belongs to it.
    fn read(&mut self, reader: &mut Reader<'a>) -> Result<(), DocumentError> {
        match reader.text(16)? {
            "module_id" => {
                let id = reader.text(256)?;
                once(&mut self.module_id, "module_id", id)?;
                if id.is_empty() { Err(DocumentError::Field("module_id")) } else { Ok(()) }
            }
            "digest" => {
                let digest = reader.text(16)?;
                once(&mut self.digest, "digest", ())?;
                if digest == "SHA384" { Ok(()) } else { Err(DocumentError::Field("digest")) }
            }
            "timestamp" => once(&mut self.timestamp, "timestamp", reader.unsigned()?),
            "pcrs" => once(&mut self.pcrs, "pcrs", pcrs(reader)?),
            "certificate" => once(&mut self.certificate, "certificate", certificate(reader, "certificate")?),
            "cabundle" => once(&mut self.cabundle, "cabundle", cabundle(reader)?),
            "public_key" => once(&mut self.public_key, "public_key", reader.bytes_or_null(MAX_CHOSEN)?),
            "user_data" => once(&mut self.user_data, "user_data", reader.bytes_or_null(MAX_CHOSEN)?),
            "nonce" => once(&mut self.nonce, "nonce", reader.bytes_or_null(MAX_CHOSEN)?),
            other => Err(DocumentError::Unknown(other.to_owned())),
        }
    }
}

fn once<T>(field: &mut Option<T>, name: &str, value: T) -> Result<(), DocumentError> {
    match field.replace(value) {
        None => Ok(()),
        Some(_) => Err(DocumentError::Twice(name.to_owned())),
    }
}

fn pcrs<'a>(reader: &mut Reader<'a>) -> Result<BTreeMap<u8, &'a [u8; 48]>, DocumentError> {
    let mut pcrs = BTreeMap::new();
    for _ in 0..reader.map(MAX_PCRS)? {
        let index = reader.unsigned()?;
        let index = u8::try_from(index).ok().filter(|index| usize::from(*index) < MAX_PCRS);
        let index = index.ok_or(DocumentError::Field("pcrs"))?;
        let value: &[u8; 48] = reader.bytes(48)?.try_into().map_err(|_| DocumentError::Field("pcrs"))?;
        if pcrs.insert(index, value).is_some() {
            return Err(DocumentError::Twice(format!("pcr {index}")));
        }
    }
    if pcrs.is_empty() { Err(DocumentError::Field("pcrs")) } else { Ok(pcrs) }
}

fn certificate<'a>(reader: &mut Reader<'a>, name: &'static str) -> Result<&'a [u8], DocumentError> {
    let certificate = reader.bytes(MAX_CERTIFICATE)?;
    if certificate.is_empty() { Err(DocumentError::Field(name)) } else { Ok(certificate) }
}

fn cabundle<'a>(reader: &mut Reader<'a>) -> Result<Vec<&'a [u8]>, DocumentError> {
    let mut bundle = Vec::new();
    for _ in 0..reader.array(MAX_BUNDLE)? {
        bundle.push(certificate(reader, "cabundle")?);
    }
    if bundle.is_empty() { Err(DocumentError::Field("cabundle")) } else { Ok(bundle) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An envelope around a payload, with a signature that holds for nothing.
    fn envelope(protected: &[u8], unprotected: &[u8], payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x84];
        push_bytes(&mut bytes, protected);
        bytes.extend_from_slice(unprotected);
        push_bytes(&mut bytes, payload);
        push_bytes(&mut bytes, &[7; 96]);
        bytes
    }

    fn text(into: &mut Vec<u8>, text: &str) {
        into.push(0x60 | text.len() as u8);
        into.extend_from_slice(text.as_bytes());
    }

    /// A payload of the fields with these names.
    fn payload(names: &[&str]) -> Vec<u8> {
        let mut bytes = vec![0xa0 | names.len() as u8];
        for name in names {
            text(&mut bytes, name);
            match *name {
                "module_id" => text(&mut bytes, "i-1-enc2"),
                "digest" => text(&mut bytes, "SHA384"),
                "timestamp" => bytes.push(7),
                "pcrs" => {
                    bytes.extend_from_slice(&[0xa1, 0]);
                    push_bytes(&mut bytes, &[5; 48]);
                }
                "cabundle" => {
                    bytes.push(0x81);
                    push_bytes(&mut bytes, &[6]);
                }
                "nonce" => bytes.push(0xf6),
                _ => push_bytes(&mut bytes, &[6]),
            }
        }
        bytes
    }

    const ALL: [&str; 9] = [
        "module_id",
        "digest",
        "timestamp",
        "pcrs",
        "certificate",
        "cabundle",
        "public_key",
        "user_data",
        "nonce",
    ];

    #[test]
    fn an_envelope_names_its_algorithm_and_nothing_else() {
        let bytes = envelope(&[0xa1, 1, 0x38, 0x22], &[0xa0], b"payload");
        let cose = CoseSign1::parse(&bytes).unwrap();
        assert_eq!((cose.algorithm, cose.payload, cose.signature), (ES384, &b"payload"[..], &[7; 96]));
        assert_eq!(cose.signed_bytes(), b"\x84\x6aSignature1\x44\xa1\x01\x38\x22\x40\x47payload");
        for protected in
            [&[][..], &[0xa0], &[0xa1, 4, 0x38, 0x22], &[0xa1, 1, 0x38, 0x22, 0], &[0xa2, 1, 0x26, 4, 0x26]]
        {
            let bytes = envelope(protected, &[0xa0], b"payload");
            assert_eq!(CoseSign1::parse(&bytes), Err(DocumentError::Protected), "{protected:?}");
        }
        let critical = envelope(&[0xa1, 1, 0x38, 0x22], &[0xa1, 1, 0x26], b"payload");
        assert_eq!(CoseSign1::parse(&critical), Err(DocumentError::Unprotected));
        let tagged = [&[0xd2][..], &bytes].concat();
        assert!(CoseSign1::parse(&tagged).is_err(), "one spelling");
    }

    #[test]
    fn a_document_has_each_field_once_and_no_other() {
        let bytes = payload(&ALL);
        let document = Document::parse(&bytes).unwrap();
        assert_eq!((document.module_id, document.timestamp, document.nonce), ("i-1-enc2", 7, None));
        assert_eq!(document.pcrs, BTreeMap::from([(0, &[5; 48])]));
        for (at, name) in ALL.iter().enumerate() {
            let mut twice = ALL;
            twice[(at + 1) % 9] = name;
            let error = Document::parse(&payload(&twice)).unwrap_err();
            assert_eq!(error, DocumentError::Twice((*name).to_owned()));
            let mut fewer = ALL.to_vec();
            fewer.remove(at);
            let parsed = Document::parse(&payload(&fewer)).map(|_| ()).map_err(|error| error.to_string());
            match at {
                0..6 => assert_eq!(parsed.unwrap_err(), format!("{name} is missing")),
                _ => parsed.unwrap(),
            }
        }
        let other = Document::parse(&payload(&["module_id", "moduleid"])).unwrap_err();
        assert_eq!(other, DocumentError::Unknown("moduleid".to_owned()));
    }

    #[test]
    fn a_nesting_bomb_is_refused_at_its_first_level() {
        let bomb = vec![0x81; super::super::MAX_DOCUMENT];
        assert!(CoseSign1::parse(&bomb).is_err());
        assert!(matches!(
            Document::parse(&bomb),
            Err(DocumentError::Cbor(CborError::Unexpected { at: 0, .. }))
        ));
        for name in ALL {
            for opener in [0x81, 0xa1, 0xc6] {
                let mut bytes = vec![0xa1];
                text(&mut bytes, name);
                bytes.resize(super::super::MAX_DOCUMENT, opener);
                Document::parse(&bytes).unwrap_err();
            }
        }
    }

    #[test]
    fn huge_declared_lengths_are_refused() {
        let huge = [0xff; 8];
        for name in ALL {
            for first in [0x5b, 0x7b, 0x9b, 0xbb] {
                let mut bytes = vec![0xa1];
                text(&mut bytes, name);
                bytes.push(first);
                bytes.extend_from_slice(&huge);
                Document::parse(&bytes).unwrap_err();
            }
        }
        CoseSign1::parse(&[&[0x9b][..], &huge].concat()).unwrap_err();
        CoseSign1::parse(&[&[0x84, 0x5b][..], &huge].concat()).unwrap_err();
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = CoseSign1::parse(&bytes);
            let _ = Document::parse(&bytes);
        }

        #[test]
        fn no_change_makes_it_panic(at in 0..200_usize, value: u8) {
            let mut bytes = payload(&ALL);
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
            let _ = Document::parse(&bytes);
        }
    }
}
