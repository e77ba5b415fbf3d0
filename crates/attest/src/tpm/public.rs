//! Public areas of keys: `TPMT_PUBLIC`.

use std::fmt;

use sha2::{Digest as _, Sha256};

use super::{
    MAX_PUBLIC, Malformed,
    read::Reader,
    signature::{ALG_ECDSA, ALG_RSAPSS, ALG_RSASSA, Scheme},
};
use crate::{hex::hex, x509::PublicKey};

pub(super) const ALG_RSA: u16 = 0x0001;
pub(super) const ALG_SHA256: u16 = 0x000b;
pub(super) const ALG_NULL: u16 = 0x0010;
pub(super) const ALG_ECC: u16 = 0x0023;
const ALG_AES: u16 = 0x0006;
const ALG_CFB: u16 = 0x0043;
const CURVE_P256: u16 = 0x0003;
const CURVE_P384: u16 = 0x0004;

/// Where the primary keys of the vendor's seed are: `TPM_RH_ENDORSEMENT`.
const ENDORSEMENT: [u8; 4] = 0x4000_000b_u32.to_be_bytes();

/// The policy of every endorsement key after the TCG's templates L-1 and L-2: whoever may use the endorsement hierarchy
/// (`PolicySecret` of its authorization) may use the key.
pub const ENDORSEMENT_POLICY: [u8; 32] = [
    0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24, 0xfd,
    0x52, 0xd7, 0x6e, 0x06, 0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa,
];

/// What a key is for and how it may be used: `TPMA_OBJECT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes(pub u32);

/// The name of a key: its hash algorithm, and its hash of the public area. Both are named, so that no other area has it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(pub [u8; 34]);

/// A key's public area. The name algorithm is SHA-256.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Public {
    /// What it is for.
    pub attributes: Attributes,
    /// Digest of the policy that its use takes; empty for none.
    pub auth_policy: Vec<u8>,
    /// Whether it protects other keys, with AES-128 in CFB mode; keys that sign do not.
    pub is_storage: bool,
    /// The key itself.
    pub parameters: Parameters,
    /// The only scheme that it signs by, where it has one.
    pub(super) scheme: Option<Scheme>,
    name: Name,
}

/// A key, by its algorithm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parameters {
    /// RSA with 2048 or 3072 bits and the exponent 65537: the modulus.
    Rsa(Vec<u8>),
    /// P-256: both coordinates.
    P256([u8; 32], [u8; 32]),
    /// P-384: both coordinates.
    P384([u8; 48], [u8; 48]),
}

impl Attributes {
    /// It never leaves its TPM.
    pub const FIXED_TPM: u32 = 1 << 1;
    /// It never leaves its parent.
    pub const FIXED_PARENT: u32 = 1 << 4;
    /// The TPM made it, and nobody else ever knew it.
    pub const SENSITIVE_DATA_ORIGIN: u32 = 1 << 5;
    /// Its authorization value is enough to use it.
    pub const USER_WITH_AUTH: u32 = 1 << 6;
    /// Its administration takes its policy.
    pub const ADMIN_WITH_POLICY: u32 = 1 << 7;
    /// Wrong guesses of its authorization are not counted.
    pub const NO_DICTIONARY_ATTACKS: u32 = 1 << 10;
    /// It signs what the TPM itself made, and nothing that only looks like it.
    pub const RESTRICTED: u32 = 1 << 16;
    /// It decrypts.
    pub const DECRYPT: u32 = 1 << 17;
    /// It signs.
    pub const SIGN: u32 = 1 << 18;

    /// What an attestation key must be.
    pub const ATTESTATION: u32 =
        Self::FIXED_TPM | Self::FIXED_PARENT | Self::SENSITIVE_DATA_ORIGIN | Self::RESTRICTED | Self::SIGN;
    /// What an endorsement key is, after the TCG's templates L-1 and L-2.
    pub const ENDORSEMENT: u32 = Self::FIXED_TPM
        | Self::FIXED_PARENT
        | Self::SENSITIVE_DATA_ORIGIN
        | Self::ADMIN_WITH_POLICY
        | Self::RESTRICTED
        | Self::DECRYPT;
    /// What an attestation key may be besides.
    const FREE: u32 = Self::USER_WITH_AUTH | Self::ADMIN_WITH_POLICY | Self::NO_DICTIONARY_ATTACKS;

    /// Whether a key with these is an attestation key and nothing else.
    pub const fn are_attestation(self) -> bool {
        self.0 & !Self::FREE == Self::ATTESTATION
    }
}

impl fmt::Display for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010x}", self.0)
    }
}

impl Name {
    /// Of a public area whose name algorithm is SHA-256.
    pub fn of(public: &[u8]) -> Self {
        Self::digest(&[public])
    }

    /// The name under which a primary key of the endorsement hierarchy signs.
    pub fn qualified_as_primary(&self) -> Self {
        Self::digest(&[&ENDORSEMENT, &self.0])
    }

    fn digest(parts: &[&[u8]]) -> Self {
        let mut name = [0; 34];
        name[..2].copy_from_slice(&ALG_SHA256.to_be_bytes());
        let hash = parts.iter().fold(Sha256::new(), |hash, part| hash.chain_update(part));
        name[2..].copy_from_slice(&hash.finalize());
        Self(name)
    }

    /// The hash alone, as an operator writes it: SHA-256 of the public area, in lower-case hexadecimal.
    pub fn to_hex(&self) -> String {
        hex(&self.0[2..])
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl Public {
    /// Reads a public area, and nothing behind it.
    ///
    /// # Errors
    /// [`Malformed`], also for what no endorsement or attestation key is.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() > MAX_PUBLIC {
            return Err(Malformed::Trailing(bytes.len() - MAX_PUBLIC));
        }
        let mut reader = Reader::new(bytes);
        let algorithm = reader.u16()?;
        if reader.u16()? != ALG_SHA256 {
            return Err(Malformed::Value("name algorithm"));
        }
        let attributes = Attributes(reader.u32()?);
        let auth_policy = reader.sized()?.to_vec();
        if !matches!(auth_policy.len(), 0 | 32) {
            return Err(Malformed::Value("policy"));
        }
        let is_storage = symmetric(&mut reader)?;
        let scheme = scheme(&mut reader)?;
        let parameters = match algorithm {
            ALG_RSA => rsa(&mut reader)?,
            ALG_ECC => ecc(&mut reader)?,
            _ => return Err(Malformed::Value("algorithm")),
        };
        let fits = match scheme {
            None => true,
            Some(Scheme::Rsassa | Scheme::Rsapss) => algorithm == ALG_RSA,
            Some(Scheme::Ecdsa) => algorithm == ALG_ECC,
        };
        if !fits {
            return Err(Malformed::Value("scheme"));
        }
        reader.end()?;
        Ok(Self { attributes, auth_policy, is_storage, parameters, scheme, name: Name::of(bytes) })
    }

    /// Its name.
    pub const fn name(&self) -> Name {
        self.name
    }

    /// Whether it is an endorsement key, after the TCG's template L-1 or L-2.
    pub fn is_endorsement(&self) -> bool {
        self.attributes.0 == Attributes::ENDORSEMENT
            && self.auth_policy == ENDORSEMENT_POLICY
            && self.is_storage
            && self.scheme.is_none()
            && !matches!(self.parameters, Parameters::P384(..))
    }

    /// Whether it is a key that signs, by one scheme, what its TPM made, and nothing else.
    pub const fn is_attestation(&self) -> bool {
        self.attributes.are_attestation() && !self.is_storage && self.scheme.is_some()
    }

    /// The algorithm, for people.
    pub fn algorithm(&self) -> String {
        match &self.parameters {
            Parameters::Rsa(modulus) => format!("RSA-{}", modulus.len() * 8),
            Parameters::P256(..) => "ECC P-256".to_owned(),
            Parameters::P384(..) => "ECC P-384".to_owned(),
        }
    }

    /// The key as certificates have it.
    pub fn to_x509(&self) -> PublicKey {
        let point = |x: &[u8], y: &[u8]| [&[0x04], x, y].concat();
        match &self.parameters {
            Parameters::Rsa(modulus) => PublicKey::Rsa(rsa_public_key(modulus)),
            Parameters::P256(x, y) => PublicKey::P256(point(x, y)),
            Parameters::P384(x, y) => PublicKey::P384(point(x, y)),
        }
    }
}

/// Whether there is symmetric encryption: AES-128 in CFB mode, or none.
fn symmetric(reader: &mut Reader<'_>) -> Result<bool, Malformed> {
    match reader.u16()? {
        ALG_NULL => Ok(false),
        ALG_AES if (reader.u16()?, reader.u16()?) == (128, ALG_CFB) => Ok(true),
        _ => Err(Malformed::Value("symmetric algorithm")),
    }
}

fn scheme(reader: &mut Reader<'_>) -> Result<Option<Scheme>, Malformed> {
    let scheme = match reader.u16()? {
        ALG_NULL => return Ok(None),
        ALG_RSASSA => Scheme::Rsassa,
        ALG_RSAPSS => Scheme::Rsapss,
        ALG_ECDSA => Scheme::Ecdsa,
        _ => return Err(Malformed::Value("scheme")),
    };
    if reader.u16()? == ALG_SHA256 { Ok(Some(scheme)) } else { Err(Malformed::Value("scheme's hash")) }
}

fn rsa(reader: &mut Reader<'_>) -> Result<Parameters, Malformed> {
    let bits = reader.u16()?;
    // Zero means the default, 65537, and is how every TPM writes it.
    if !matches!(bits, 2048 | 3072) || reader.u32()? != 0 {
        return Err(Malformed::Value("key size or exponent"));
    }
    let modulus = reader.sized()?;
    let whole = modulus.len() == usize::from(bits) / 8 && modulus[0] & 0x80 != 0;
    if whole { Ok(Parameters::Rsa(modulus.to_vec())) } else { Err(Malformed::Value("modulus")) }
}

fn ecc(reader: &mut Reader<'_>) -> Result<Parameters, Malformed> {
    let curve = reader.u16()?;
    if reader.u16()? != ALG_NULL {
        return Err(Malformed::Value("key derivation"));
    }
    let (x, y) = (reader.sized()?, reader.sized()?);
    let point = Malformed::Value("point");
    match curve {
        CURVE_P256 => {
            Ok(Parameters::P256(x.try_into().map_err(|_| point)?, y.try_into().map_err(|_| point)?))
        }
        CURVE_P384 => {
            Ok(Parameters::P384(x.try_into().map_err(|_| point)?, y.try_into().map_err(|_| point)?))
        }
        _ => Err(Malformed::Value("curve")),
    }
}

/// PKCS #1's `RSAPublicKey`, with the exponent 65537.
fn rsa_public_key(modulus: &[u8]) -> Vec<u8> {
    let exponent = [0x02, 0x03, 0x01, 0x00, 0x01];
    let integer = der(0x02, &[&[0], modulus].concat());
    der(0x30, &[integer, exponent.to_vec()].concat())
}

/// An element of DER with less than 64 KiB of content.
pub(super) fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap_or(u16::MAX);
    let [high, low] = length.to_be_bytes();
    let head: &[u8] = match length {
        0..=0x7f => &[tag, low],
        0x80..=0xff => &[tag, 0x81, low],
        0x100.. => &[tag, 0x82, high, low],
    };
    [head, content].concat()
}
