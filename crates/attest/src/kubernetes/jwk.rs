//! The keys of an API server, as it publishes them (RFC 7517).

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

/// The most keys of one issuer: an API server has one, and those that it signed with before.
const MAX_KEYS: usize = 16;

/// The longest id of a key, in bytes.
const MAX_KID: usize = 256;

/// A JWK set: what `/openid/v1/jwks` of an API server answers, less the keys that nothing here verifies with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySet {
    /// The keys, each with an id of its own.
    pub keys: Vec<Jwk>,
}

/// A public key that signs tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kty", deny_unknown_fields)]
pub enum Jwk {
    /// RSA, of 2,048 to 8,192 bits, for `RS256`.
    #[serde(rename = "RSA")]
    Rsa {
        /// Its id.
        kid: String,
        /// `sig`, where it is there.
        #[serde(rename = "use", default, skip_serializing_if = "Option::is_none")]
        usage: Option<String>,
        /// `RS256`, where it is there.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        alg: Option<String>,
        /// The modulus, big-endian, in base64url.
        n: String,
        /// The exponent, big-endian, in base64url.
        e: String,
    },
    /// An elliptic curve's: P-256, for `ES256`.
    #[serde(rename = "EC")]
    Ec {
        /// Its id.
        kid: String,
        /// `sig`, where it is there.
        #[serde(rename = "use", default, skip_serializing_if = "Option::is_none")]
        usage: Option<String>,
        /// `ES256`, where it is there.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        alg: Option<String>,
        /// `P-256`.
        crv: String,
        /// A coordinate, 32 bytes in base64url.
        x: String,
        /// A coordinate, 32 bytes in base64url.
        y: String,
    },
}

/// A key that `ring` takes.
enum Parsed {
    Rsa(RsaPublicKeyComponents<Vec<u8>>),
    P256([u8; 65]),
}

impl KeySet {
    /// The key of an id.
    pub(super) fn get(&self, kid: &str) -> Option<&Jwk> {
        self.keys.iter().find(|key| key.kid() == kid)
    }

    /// Whether it makes sense in itself.
    ///
    /// # Errors
    /// What does not, for people.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.keys.is_empty() {
            return Err(
                "`jwks` has no key: put what `kubectl get --raw /openid/v1/jwks` prints there".to_owned()
            );
        }
        if self.keys.len() > MAX_KEYS {
            return Err(format!("`jwks` has more than {MAX_KEYS} keys"));
        }
        for (at, key) in self.keys.iter().enumerate() {
            let kid = key.kid();
            if kid.is_empty() || kid.len() > MAX_KID {
                return Err(format!("the `kid` of a key is empty, or longer than {MAX_KID} bytes"));
            }
            if self.keys.iter().take(at).any(|other| other.kid() == kid) {
                return Err(format!("two keys have the kid {kid:?}"));
            }
            key.parse().map_err(|why| format!("key {kid:?} {why}"))?;
        }
        Ok(())
    }
}

impl Jwk {
    /// Its id.
    pub fn kid(&self) -> &str {
        match self {
            Self::Rsa { kid, .. } | Self::Ec { kid, .. } => kid,
        }
    }

    /// The one algorithm that it verifies (RFC 7518).
    pub(super) const fn algorithm(&self) -> &'static str {
        match self {
            Self::Rsa { .. } => "RS256",
            Self::Ec { .. } => "ES256",
        }
    }

    /// Whether this key signed the message.
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match self.parse() {
            Ok(Parsed::Rsa(key)) => key.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature).is_ok(),
            Ok(Parsed::P256(point)) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature).is_ok()
            }
            Err(_) => false,
        }
    }

    fn parse(&self) -> Result<Parsed, &'static str> {
        let (Self::Rsa { usage, alg, .. } | Self::Ec { usage, alg, .. }) = self;
        if usage.as_ref().is_some_and(|usage| usage != "sig") {
            return Err("is not for signatures");
        }
        if alg.as_ref().is_some_and(|alg| alg != self.algorithm()) {
            return Err("is for another algorithm than RS256 or ES256: leave it out");
        }
        match self {
            Self::Rsa { n, e, .. } => {
                let (n, e) = (number(n)?, number(e)?);
                let bits = n.len() * 8 - n.first().map_or(0, |first| first.leading_zeros() as usize);
                if !(2048..=8192).contains(&bits) {
                    return Err("has not 2,048 to 8,192 bits");
                }
                // 65,537, or something odd that is larger and still quick to verify.
                if !(3..=4).contains(&e.len()) || e.last().is_none_or(|last| last % 2 == 0) {
                    return Err("has an exponent that is even, too small or too large");
                }
                Ok(Parsed::Rsa(RsaPublicKeyComponents { n, e }))
            }
            Self::Ec { crv, x, y, .. } => {
                if crv != "P-256" {
                    return Err("is on another curve than P-256: leave it out");
                }
                let mut point = [4; 65];
                let (first, second) = (coordinate(x)?, coordinate(y)?);
                point[1..33].copy_from_slice(&first);
                point[33..].copy_from_slice(&second);
                Ok(Parsed::P256(point))
            }
        }
    }
}

/// A number without leading zeroes.
fn number(text: &str) -> Result<Vec<u8>, &'static str> {
    let bytes = decode(text)?;
    if bytes.first().is_none_or(|first| *first == 0) {
        Err("has a number with leading zeroes")
    } else {
        Ok(bytes)
    }
}

fn coordinate(text: &str) -> Result<[u8; 32], &'static str> {
    decode(text)?.try_into().map_err(|_| "has a coordinate that is not of 32 bytes")
}

fn decode(text: &str) -> Result<Vec<u8>, &'static str> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| "has a number that is not base64url without padding")
}
