//! Keys, one type for each use. Private halves are zeroised when dropped and print as `…`.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::text::string_schema;

/// Why a key was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseKeyError {
    /// Not the base64 of the right number of bytes.
    #[error("a {0} is {1} bytes in base64")]
    Encoding(&'static str, usize),
    /// The bytes are no usable point: anyone could sign for it, or agree on zero with it.
    #[error("this {0} is a weak point of its curve")]
    Weak(&'static str),
}

macro_rules! base64_bytes {
    ($(#[$doc:meta])* $name:ident, $len:literal, $what:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name([u8; $len]);

        impl $name {
            /// Checks the bytes.
            ///
            /// # Errors
            /// [`ParseKeyError::Weak`] where they are no usable point.
            pub fn from_bytes(bytes: [u8; $len]) -> Result<Self, ParseKeyError> {
                let check: fn(&[u8; $len]) -> bool = $check;
                if check(&bytes) { Ok(Self(bytes)) } else { Err(ParseKeyError::Weak($what)) }
            }

            /// The bytes.
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = ParseKeyError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let bytes = STANDARD.decode(text).ok().and_then(|b| b.try_into().ok());
                Self::from_bytes(bytes.ok_or(ParseKeyError::Encoding($what, $len))?)
            }
        }

        impl TryFrom<String> for $name {
            type Error = ParseKeyError;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(key: $name) -> Self {
                STANDARD.encode(key.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&STANDARD.encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&STANDARD.encode(self.0))
            }
        }

        string_schema!($name, concat!($what, ": base64"));
    };
}

base64_bytes! {
    /// A node's WireGuard key: X25519, public. Points of low order are refused (RFC 7748 section 6.1).
    WireGuardKey, 32, "WireGuard key", |bytes| !is_low_order(bytes)
}

base64_bytes! {
    /// The X25519 key, public, against which a node proves possession of its WireGuard key. Lives for one session.
    ChallengeKey, 32, "challenge key", |bytes| !is_low_order(bytes)
}

base64_bytes! {
    /// A node's identity key: Ed25519, public. Weak points are refused.
    IdentityKey, 32, "identity key", is_strong_ed25519
}

base64_bytes! {
    /// A coordinator's signing key: Ed25519, public. Weak points are refused.
    CoordinatorKey, 32, "coordinator key", is_strong_ed25519
}

base64_bytes! {
    /// An operator's key: Ed25519, public. What it signs is what nodes and peers believe. Weak points are refused.
    OperatorKey, 32, "operator key", is_strong_ed25519
}

base64_bytes! {
    /// The public half of a join token: Ed25519. Weak points are refused.
    TokenKey, 32, "token key", is_strong_ed25519
}

base64_bytes! {
    /// An Ed25519 signature (RFC 8032).
    Signature, 64, "signature", |_| true
}

base64_bytes! {
    /// SHA-256 of an operator's key, as a join token carries it.
    OperatorPin, 32, "operator pin", |_| true
}

base64_bytes! {
    /// SHA-256 of the DER of the certificate authority that a coordinator's TLS chain must end in.
    CaPin, 32, "CA pin", |_| true
}

impl CaPin {
    /// The pin of a certificate in DER.
    pub fn of(certificate: &[u8]) -> Self {
        Self(Sha256::digest(certificate).into())
    }
}

impl OperatorPin {
    /// The pin of a key.
    pub fn of(key: &OperatorKey) -> Self {
        Self(Sha256::digest(key.as_bytes()).into())
    }
}

fn is_strong_ed25519(bytes: &[u8; 32]) -> bool {
    VerifyingKey::from_bytes(bytes).is_ok_and(|key| !key.is_weak())
}

/// A point of low order yields zero with every scalar; any clamped scalar will do to find out.
fn is_low_order(bytes: &[u8; 32]) -> bool {
    x25519_dalek::x25519([0x55; 32], *bytes) == [0; 32]
}

macro_rules! verifies {
    ($name:ident) => {
        impl $name {
            /// Whether `signature` is this key's over `message`. Strict: no malleable encodings, no weak keys.
            pub fn verifies(&self, message: &[u8], signature: &Signature) -> bool {
                VerifyingKey::from_bytes(&self.0).is_ok_and(|key| {
                    key.verify_strict(message, &ed25519_dalek::Signature::from_bytes(&signature.0)).is_ok()
                })
            }
        }
    };
}

verifies!(IdentityKey);
verifies!(CoordinatorKey);
verifies!(OperatorKey);
verifies!(TokenKey);

macro_rules! secret {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
        pub struct $name([u8; 32]);

        impl $name {
            /// Takes 32 bytes from the system's randomness, or as stored.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The bytes, to be stored where only their owner reads.
            pub const fn expose(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("…")
            }
        }
    };
}

secret! {
    /// The private half of a [`WireGuardKey`].
    WireGuardSecret
}

secret! {
    /// The private half of an [`IdentityKey`].
    IdentitySecret
}

secret! {
    /// The private half of a [`CoordinatorKey`].
    CoordinatorSecret
}

secret! {
    /// The private half of an [`OperatorKey`].
    OperatorSecret
}

secret! {
    /// The private half of a [`TokenKey`]: the secret of a join token.
    TokenSeed
}

impl WireGuardSecret {
    /// The public half.
    pub fn public(&self) -> WireGuardKey {
        let secret = x25519_dalek::StaticSecret::from(self.0);
        WireGuardKey(x25519_dalek::PublicKey::from(&secret).to_bytes())
    }

    /// The shared secret with a challenge key (RFC 7748). Never zero: a [`ChallengeKey`] is not of low order.
    pub fn agree(&self, challenge: &ChallengeKey) -> [u8; 32] {
        x25519_dalek::x25519(self.0, challenge.0)
    }
}

macro_rules! signs {
    ($secret:ident for $key:ident) => {
        impl $secret {
            /// The public half.
            pub fn public(&self) -> $key {
                $key(SigningKey::from_bytes(&self.0).verifying_key().to_bytes())
            }

            /// Signs a message.
            pub fn sign(&self, message: &[u8]) -> Signature {
                Signature(SigningKey::from_bytes(&self.0).sign(message).to_bytes())
            }
        }
    };
}

signs!(IdentitySecret for IdentityKey);
signs!(CoordinatorSecret for CoordinatorKey);
signs!(OperatorSecret for OperatorKey);
signs!(TokenSeed for TokenKey);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_prints_as_an_ellipsis() {
        assert_eq!(format!("{:?}", WireGuardSecret::from_bytes([1; 32])), "…");
    }

    #[test]
    fn weak_points_are_refused() {
        let mut one = [0; 32];
        one[0] = 1;
        for weak in [[0; 32], one] {
            WireGuardKey::from_bytes(weak).unwrap_err();
            IdentityKey::from_bytes(weak).unwrap_err();
        }
    }

    #[test]
    fn a_signature_holds_for_its_key_and_message_only() {
        let secret = IdentitySecret::from_bytes([3; 32]);
        let signature = secret.sign(b"message");
        assert!(secret.public().verifies(b"message", &signature));
        assert!(!secret.public().verifies(b"massage", &signature));
        assert!(!IdentitySecret::from_bytes([4; 32]).public().verifies(b"message", &signature));
    }

    #[test]
    fn a_key_comes_back_from_text() {
        let key = WireGuardSecret::from_bytes([9; 32]).public();
        assert_eq!(key.to_string().parse(), Ok(key));
        assert_eq!(serde_json::from_str::<WireGuardKey>(&serde_json::to_string(&key).unwrap()).unwrap(), key);
        "AAAA".parse::<WireGuardKey>().unwrap_err();
    }
}
