//! The compact serialisation of a JSON Web Signature (RFC 7515), as strictly as an API server writes it.

use std::{collections::BTreeMap, fmt};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use super::json::Json;

/// The longest token that is read, in bytes. API servers write about 1,200.
pub const MAX_TOKEN: usize = 8 * 1024;

/// A token's text: three parts in base64url, with dots between them, at most [`MAX_TOKEN`] bytes. What is in them is not known.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CompactJws(String);

/// Why a text is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MalformedToken {
    /// Longer than it may be.
    #[error("{0} bytes where a token has at most {MAX_TOKEN}")]
    TooLong(usize),
    /// Not three parts.
    #[error("not three parts with dots between them")]
    Parts,
    /// Not base64url, with padding, or with bits behind the last byte.
    #[error("a part is not base64url without padding")]
    Base64,
    /// The header says too little, too much, or one thing twice.
    #[error("its header: {0}")]
    Header(String),
}

/// What a token consists of. Nothing is verified.
pub(super) struct Parts<'a> {
    /// What the signature is over.
    pub(super) signed: &'a [u8],
    pub(super) header: Header,
    pub(super) payload: Vec<u8>,
    pub(super) signature: Vec<u8>,
}

/// What the header says of the signature.
pub(super) struct Header {
    pub(super) alg: String,
    pub(super) kid: String,
}

impl CompactJws {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Takes it apart.
    ///
    /// # Errors
    /// [`MalformedToken`].
    pub(super) fn parts(&self) -> Result<Parts<'_>, MalformedToken> {
        let (signed, signature) = self.0.rsplit_once('.').ok_or(MalformedToken::Parts)?;
        let (header, payload) = signed.split_once('.').ok_or(MalformedToken::Parts)?;
        if payload.contains('.') {
            return Err(MalformedToken::Parts);
        }
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| MalformedToken::Base64);
        Ok(Parts {
            signed: signed.as_bytes(),
            header: Header::parse(&decode(header)?).map_err(MalformedToken::Header)?,
            payload: decode(payload)?,
            signature: decode(signature)?,
        })
    }
}

impl Header {
    /// Only `alg`, `kid` and `typ`: an API server writes no others, and some of the others would have to be obeyed (`crit`) or
    /// must not be (`jwk`, `jku`, `x5u`).
    fn parse(text: &[u8]) -> Result<Self, String> {
        let mut members = Json::object(text)?;
        let alg = take_text(&mut members, "alg")?;
        let kid = take_text(&mut members, "kid")?;
        if members.contains_key("typ") && take_text(&mut members, "typ")? != "JWT" {
            return Err("its typ is not JWT".to_owned());
        }
        match members.keys().next() {
            Some(other) => Err(format!("it has a member {}", super::shown(other))),
            None => Ok(Self { alg, kid }),
        }
    }
}

fn take_text(members: &mut BTreeMap<String, Json>, name: &str) -> Result<String, String> {
    match members.remove(name) {
        Some(Json::Text(text)) => Ok(text),
        Some(_) | None => Err(format!("it has no text {name}")),
    }
}

impl TryFrom<String> for CompactJws {
    type Error = MalformedToken;

    fn try_from(text: String) -> Result<Self, MalformedToken> {
        if text.len() > MAX_TOKEN {
            return Err(MalformedToken::TooLong(text.len()));
        }
        let known = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
        if !text.bytes().all(known) {
            return Err(MalformedToken::Base64);
        }
        if text.bytes().filter(|c| *c == b'.').count() != 2 {
            return Err(MalformedToken::Parts);
        }
        Ok(Self(text))
    }
}

impl From<CompactJws> for String {
    fn from(token: CompactJws) -> Self {
        token.0
    }
}

impl fmt::Debug for CompactJws {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a token of {} bytes", self.0.len())
    }
}
