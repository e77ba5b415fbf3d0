//! Signatures: `TPMT_SIGNATURE`, and whether they hold.

use super::{
    Malformed, Parameters, Public,
    public::{ALG_SHA256, der},
    read::Reader,
};

pub(super) const ALG_RSASSA: u16 = 0x0014;
pub(super) const ALG_RSAPSS: u16 = 0x0016;
pub(super) const ALG_ECDSA: u16 = 0x0018;

/// How a key signs. The hash is SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    Rsassa,
    Rsapss,
    Ecdsa,
}

/// A signature over SHA-256 of something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signature {
    /// PKCS #1 v1.5.
    Rsassa(Vec<u8>),
    /// PSS, with a salt as long as the hash.
    Rsapss(Vec<u8>),
    /// Both numbers, as long as the curve's.
    Ecdsa(Vec<u8>, Vec<u8>),
}

impl Signature {
    /// Reads a signature, and nothing behind it.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let algorithm = reader.u16()?;
        if reader.u16()? != ALG_SHA256 {
            return Err(Malformed::Value("hash"));
        }
        let signature = match algorithm {
            ALG_RSASSA => Self::Rsassa(reader.sized()?.to_vec()),
            ALG_RSAPSS => Self::Rsapss(reader.sized()?.to_vec()),
            ALG_ECDSA => Self::Ecdsa(reader.sized()?.to_vec(), reader.sized()?.to_vec()),
            _ => return Err(Malformed::Value("algorithm")),
        };
        reader.end()?;
        Ok(signature)
    }

    const fn scheme(&self) -> Scheme {
        match self {
            Self::Rsassa(_) => Scheme::Rsassa,
            Self::Rsapss(_) => Scheme::Rsapss,
            Self::Ecdsa(..) => Scheme::Ecdsa,
        }
    }

    /// Whether this key made it over this message, by the scheme that the key names.
    pub fn is_by(&self, key: &Public, message: &[u8]) -> bool {
        if key.scheme != Some(self.scheme()) {
            return false;
        }
        let x509 = key.to_x509();
        match (self, &key.parameters) {
            (Self::Rsassa(signature), Parameters::Rsa(_)) => x509.verifies_sha256(message, signature),
            (Self::Rsapss(signature), Parameters::Rsa(_)) => x509.verifies_sha256_pss(message, signature),
            (Self::Ecdsa(r, s), Parameters::P256(..)) => {
                r.len() == 32 && s.len() == 32 && x509.verifies_sha256(message, &ecdsa(r, s))
            }
            (Self::Ecdsa(r, s), Parameters::P384(..)) => {
                r.len() == 48 && s.len() == 48 && x509.verifies_sha256(message, &ecdsa(r, s))
            }
            (Self::Rsassa(_) | Self::Rsapss(_), Parameters::P256(..) | Parameters::P384(..))
            | (Self::Ecdsa(..), Parameters::Rsa(_)) => false,
        }
    }
}

/// The signature as X.509 writes it.
fn ecdsa(r: &[u8], s: &[u8]) -> Vec<u8> {
    der(0x30, &[integer(r), integer(s)].concat())
}

/// A number without sign, in DER.
fn integer(bytes: &[u8]) -> Vec<u8> {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count().min(bytes.len().saturating_sub(1));
    let digits = bytes.get(zeros..).unwrap_or_default();
    let sign: &[u8] = if digits.first().is_some_and(|first| first & 0x80 != 0) { &[0] } else { &[] };
    der(0x02, &[sign, digits].concat())
}
