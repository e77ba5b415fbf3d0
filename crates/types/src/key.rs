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
    #[error("this is no {0}: it takes {1} bytes in base64")]
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

/// The u-coordinates of the points of order 1, 2, 4 and 8, in each encoding that they have in 255 bits.
#[rustfmt::skip]
const LOW_ORDER: [[u8; 32]; 7] = [
    near_zero(0),
    near_zero(1),
    [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a,
        0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
    ],
    [
        0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b,
        0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
    ],
    near_prime(0xec),
    near_prime(0xed),
    near_prime(0xee),
];

/// A small number, little-endian.
const fn near_zero(number: u8) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[0] = number;
    bytes
}

/// A number close to 2^255 - 19, little-endian: the first byte says which.
const fn near_prime(first: u8) -> [u8; 32] {
    let mut bytes = [0xff; 32];
    (bytes[0], bytes[31]) = (first, 0x7f);
    bytes
}

/// A point of low order yields zero with every scalar. X25519 does not look at the last bit (RFC 7748, section 5).
fn is_low_order(bytes: &[u8; 32]) -> bool {
    let mut bytes = *bytes;
    bytes[31] &= 0x7f;
    LOW_ORDER.contains(&bytes)
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
    fn every_point_of_low_order_yields_zero_and_is_refused_with_its_last_bit_set_too() {
        for mut point in LOW_ORDER {
            for bit in [0, 0x80] {
                point[31] ^= bit;
                assert_eq!(x25519_dalek::x25519([0x55; 32], point), [0; 32]);
                WireGuardKey::from_bytes(point).unwrap_err();
            }
        }
        for near in [near_zero(2), near_prime(0xeb), near_prime(0xef)] {
            assert_ne!(x25519_dalek::x25519([0x55; 32], near), [0; 32]);
            WireGuardKey::from_bytes(near).unwrap();
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
