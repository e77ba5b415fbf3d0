//! Just enough DER to issue certificates that no authority should.

use aws_lc_rs::{
    rand::SystemRandom,
    rsa,
    signature::{
        ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
        RSA_PKCS1_SHA384, RSA_PSS_SHA384,
    },
};
use base64::{Engine as _, engine::general_purpose::STANDARD};

/// A key that certificates are signed with.
pub(crate) enum Key {
    /// RSASSA-PSS with SHA-384.
    RsaPss(rsa::KeyPair),
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    RsaPkcs1(rsa::KeyPair),
    /// ECDSA with SHA-384.
    P384(P384),
}

/// A P-384 key.
pub(crate) struct P384(Vec<u8>);

/// A certificate that is yet to be signed. Names are common names; times are UTCTime.
#[derive(Clone)]
pub(crate) struct Certificate {
    pub(crate) serial: u8,
    pub(crate) issuer: String,
    pub(crate) subject: String,
    pub(crate) from: String,
    pub(crate) to: String,
    /// SubjectPublicKeyInfo.
    pub(crate) key: Vec<u8>,
    /// Each an Extension.
    pub(crate) extensions: Vec<Vec<u8>>,
}

impl Key {
    pub(crate) fn rsa_pss(pkcs8: &[u8]) -> Self {
        Self::RsaPss(rsa::KeyPair::from_pkcs8(pkcs8).unwrap())
    }

    pub(crate) fn rsa_pkcs1(pkcs8: &[u8]) -> Self {
        Self::RsaPkcs1(rsa::KeyPair::from_pkcs8(pkcs8).unwrap())
    }

    pub(crate) fn p384() -> Self {
        Self::P384(P384::generate())
    }

    /// SubjectPublicKeyInfo.
    pub(crate) fn info(&self) -> Vec<u8> {
        match self {
            Self::RsaPss(key) | Self::RsaPkcs1(key) => {
                let algorithm = sequence(&[&oid("1.2.840.113549.1.1.1"), &tlv(0x05, &[])]);
                sequence(&[&algorithm, &bits(key.public_key().as_ref())])
            }
            Self::P384(key) => key.info(),
        }
    }

    fn algorithm(&self) -> Vec<u8> {
        let sha384 = sequence(&[&oid("2.16.840.1.101.3.4.2.2"), &tlv(0x05, &[])]);
        match self {
            Self::RsaPss(_) => {
                let mask = sequence(&[&oid("1.2.840.113549.1.1.8"), &sha384]);
                let salt = tlv(0x02, &[48]);
                let parameters = sequence(&[&tlv(0xa0, &sha384), &tlv(0xa1, &mask), &tlv(0xa2, &salt)]);
                sequence(&[&oid("1.2.840.113549.1.1.10"), &parameters])
            }
            Self::RsaPkcs1(_) => sequence(&[&oid("1.2.840.113549.1.1.12"), &tlv(0x05, &[])]),
            Self::P384(_) => sequence(&[&oid("1.2.840.10045.4.3.3")]),
        }
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        let rsa = |key: &rsa::KeyPair, padding: &'static dyn aws_lc_rs::signature::RsaEncoding| {
            let mut signature = vec![0; key.public_modulus_len()];
            key.sign(padding, &random, message, &mut signature).unwrap();
            signature
        };
        match self {
            Self::RsaPss(key) => rsa(key, &RSA_PSS_SHA384),
            Self::RsaPkcs1(key) => rsa(key, &RSA_PKCS1_SHA384),
            Self::P384(P384(pkcs8)) => {
                let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_ASN1_SIGNING, pkcs8).unwrap();
                key.sign(&random, message).unwrap().as_ref().to_vec()
            }
        }
    }

    /// Signs the body of a certificate or of a list, which says by what.
    fn seal(&self, body: impl FnOnce(&[u8]) -> Vec<u8>) -> Vec<u8> {
        let body = body(&self.algorithm());
        sequence(&[&body, &self.algorithm(), &bits(&self.sign(&body))])
    }
}

impl P384 {
    pub(crate) fn generate() -> Self {
        let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &SystemRandom::new());
        Self(key.unwrap().as_ref().to_vec())
    }

    fn fixed(&self) -> EcdsaKeyPair {
        EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &self.0).unwrap()
    }

    /// r and s, 48 bytes each, big-endian.
    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 96] {
        self.fixed().sign(&SystemRandom::new(), message).unwrap().as_ref().try_into().unwrap()
    }

    /// SubjectPublicKeyInfo.
    pub(crate) fn info(&self) -> Vec<u8> {
        let algorithm = sequence(&[&oid("1.2.840.10045.2.1"), &oid("1.3.132.0.34")]);
        sequence(&[&algorithm, &bits(self.fixed().public_key().as_ref())])
    }
}

impl Certificate {
    /// The DER, signed with a key.
    pub(crate) fn sign(&self, issuer: &Key) -> Vec<u8> {
        issuer.seal(|algorithm| {
            let validity = sequence(&[&time(&self.from), &time(&self.to)]);
            let extensions: Vec<&[u8]> = self.extensions.iter().map(Vec::as_slice).collect();
            let mut fields = vec![
                tlv(0xa0, &tlv(0x02, &[2])),
                tlv(0x02, &[self.serial]),
                algorithm.to_vec(),
                name(&self.issuer),
                validity,
                name(&self.subject),
                self.key.clone(),
            ];
            if !extensions.is_empty() {
                fields.push(tlv(0xa3, &sequence(&extensions)));
            }
            tlv(0x30, &fields.concat())
        })
    }
}

/// A revocation list with serial numbers, DER; without an end where `to` is empty.
pub(crate) fn revocation_list(issuer: &str, key: &Key, from: &str, to: &str, serials: &[u8]) -> Vec<u8> {
    key.seal(|algorithm| {
        let entries: Vec<u8> =
            serials.iter().flat_map(|serial| sequence(&[&tlv(0x02, &[*serial]), &time(from)])).collect();
        let mut fields = vec![tlv(0x02, &[1]), algorithm.to_vec(), name(issuer), time(from)];
        if !to.is_empty() {
            fields.push(time(to));
        }
        if !entries.is_empty() {
            fields.push(tlv(0x30, &entries));
        }
        tlv(0x30, &fields.concat())
    })
}

/// An Extension.
pub(crate) fn extension(id: &str, critical: bool, content: &[u8]) -> Vec<u8> {
    let critical = if critical { tlv(0x01, &[0xff]) } else { vec![] };
    sequence(&[&oid(id), &critical, &tlv(0x04, content)])
}

/// BasicConstraints and KeyUsage of an authority.
pub(crate) fn authority() -> Vec<Vec<u8>> {
    let constraints = sequence(&[&tlv(0x01, &[0xff])]);
    // keyCertSign and cRLSign.
    vec![extension("2.5.29.19", true, &constraints), extension("2.5.29.15", true, &tlv(0x03, &[1, 0x06]))]
}

/// A certificate in PEM.
pub(crate) fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// An item: tag, length, content.
pub(crate) fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let head = match length {
        0..=0x7f => vec![tag, length as u8],
        0x80..=0xff => vec![tag, 0x81, length as u8],
        _ => vec![tag, 0x82, (length >> 8) as u8, length as u8],
    };
    [head, content.to_vec()].concat()
}

pub(crate) fn sequence(items: &[&[u8]]) -> Vec<u8> {
    tlv(0x30, &items.concat())
}

fn bits(content: &[u8]) -> Vec<u8> {
    tlv(0x03, &[&[0], content].concat())
}

fn time(utc: &str) -> Vec<u8> {
    tlv(0x17, utc.as_bytes())
}

fn name(common: &str) -> Vec<u8> {
    sequence(&[&tlv(0x31, &sequence(&[&oid("2.5.4.3"), &tlv(0x0c, common.as_bytes())]))])
}

fn oid(dotted: &str) -> Vec<u8> {
    let numbers: Vec<u32> = dotted.split('.').map(|number| number.parse().unwrap()).collect();
    let mut content = vec![(numbers[0] * 40 + numbers[1]) as u8];
    for number in &numbers[2..] {
        let groups = (0..5).rev().map(|at| (number >> (7 * at)) & 0x7f).skip_while(|group| *group == 0);
        let mut groups: Vec<u8> = groups.map(|group| group as u8 | 0x80).collect();
        if groups.is_empty() {
            groups.push(0x80);
        }
        *groups.last_mut().unwrap() &= 0x7f;
        content.extend(groups);
    }
    tlv(0x06, &content)
}
