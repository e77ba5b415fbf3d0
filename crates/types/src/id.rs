//! Ids that machines make: meshes, nodes, tokens and revisions.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    key::IdentityKey,
    text::{from_base32, string_schema, to_base32},
};

/// Why an id was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {what} id: it takes {len} characters of a-z and 2-7")]
pub struct ParseIdError {
    what: &'static str,
    len: usize,
    text: String,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $len:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name([u8; $len]);

        impl $name {
            /// An id of these bytes.
            pub const fn from_bytes(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// The id's bytes.
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                from_base32(text).map(Self).ok_or_else(|| ParseIdError {
                    what: $what,
                    len: ($len * 8_usize).div_ceil(5),
                    text: text.chars().take(80).collect(),
                })
            }
        }

        impl TryFrom<String> for $name {
            type Error = ParseIdError;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                to_base32(&id.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&to_base32(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&to_base32(&self.0))
            }
        }

        string_schema!($name, concat!($what, " id: lower-case base32"));
    };
}

id! {
    /// A mesh: 16 random bytes, made when its coordinator first starts.
    MeshId, 16, "mesh"
}

id! {
    /// A node: the first 16 bytes of the SHA-256 of its identity key, so that nobody can claim another's id.
    NodeId, 16, "node"
}

id! {
    /// A join token: 10 random bytes. Not a secret.
    TokenId, 10, "token"
}

impl NodeId {
    /// The id of whoever holds this identity key.
    pub fn of(key: &IdentityKey) -> Self {
        let digest = Sha256::new().chain_update("carrick/node-id/1").chain_update(key.as_bytes()).finalize();
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        Self(id)
    }
}

/// How many changes a mesh has seen. Rises by one with every change that a netmap shows; never falls.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl Revision {
    /// The revision after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_spelling() {
        let id = MeshId::from_bytes([7; 16]);
        let text = id.to_string();
        assert_eq!(text.parse::<MeshId>(), Ok(id));
        text.to_uppercase().parse::<MeshId>().unwrap_err();
        text[1..].parse::<MeshId>().unwrap_err();
        format!("{}b", &text[..25]).parse::<MeshId>().expect_err("the last character has two bits over");
    }
}
