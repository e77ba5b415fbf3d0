//! Shared ways to turn bytes into text: base64 for keys, lower-case base32 for ids, and a checksum for what people copy.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};

/// Describes a type to OpenAPI as the string that it is in JSON.
macro_rules! string_schema {
    ($name:ident, $description:expr) => {
        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                utoipa::openapi::ObjectBuilder::new()
                    .schema_type(utoipa::openapi::schema::Type::String)
                    .description(Some($description))
                    .into()
            }
        }

        impl utoipa::ToSchema for $name {
            fn name() -> std::borrow::Cow<'static, str> {
                std::borrow::Cow::Borrowed(stringify!($name))
            }
        }
    };
}
pub(crate) use string_schema;

const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// RFC 4648 base32, lower case, without padding: ids fit DNS labels and file names.
pub(crate) fn to_base32(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(5) * 8);
    let (mut bits, mut held) = (0_u32, 0_u32);
    for &byte in bytes {
        bits = (bits << 8) | u32::from(byte);
        held += 8;
        while held >= 5 {
            held -= 5;
            text.push(BASE32[(bits >> held) as usize & 31] as char);
        }
    }
    if held > 0 {
        text.push(BASE32[(bits << (5 - held)) as usize & 31] as char);
    }
    text
}

/// The inverse of [`to_base32`]: exactly `N` bytes, and no bit left over that is not zero.
pub(crate) fn from_base32<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != (N * 8).div_ceil(5) {
        return None;
    }
    let mut bytes = [0; N];
    let (mut bits, mut held, mut at) = (0_u32, 0_u32, 0);
    for c in text.bytes() {
        let value = BASE32.iter().position(|&b| b == c)?;
        bits = (bits << 5) | u32::try_from(value).ok()?;
        held += 5;
        if held >= 8 {
            held -= 8;
            *bytes.get_mut(at)? = (bits >> held) as u8;
            at += 1;
        }
        bits &= (1 << held) - 1;
    }
    (bits == 0 && at == N).then_some(bytes)
}

const CHECKSUM_LEN: usize = 4;

/// `prefix` and the payload with a checksum in base64url: what people copy between terminals.
pub(crate) fn to_copyable(prefix: &str, payload: &[u8]) -> String {
    let mut bytes = payload.to_vec();
    bytes.extend_from_slice(&checksum(prefix, payload));
    format!("{prefix}{}", URL_SAFE_NO_PAD.encode(bytes))
}

/// How a copied text can be damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CopyError {
    WrongPrefix,
    Damaged,
}

/// The inverse of [`to_copyable`].
pub(crate) fn from_copyable(prefix: &str, text: &str) -> Result<Vec<u8>, CopyError> {
    // A terminal or a mail may have wrapped it.
    let text: String = text.split_whitespace().collect();
    let body = text.strip_prefix(prefix).ok_or(CopyError::WrongPrefix)?;
    let mut bytes = URL_SAFE_NO_PAD.decode(body).map_err(|_| CopyError::Damaged)?;
    let at = bytes.len().checked_sub(CHECKSUM_LEN).ok_or(CopyError::Damaged)?;
    let sum = bytes.split_off(at);
    if sum == checksum(prefix, &bytes) { Ok(bytes) } else { Err(CopyError::Damaged) }
}

fn checksum(prefix: &str, payload: &[u8]) -> [u8; CHECKSUM_LEN] {
    let digest = Sha256::new().chain_update(prefix).chain_update(payload).finalize();
    let mut sum = [0; CHECKSUM_LEN];
    sum.copy_from_slice(&digest[..CHECKSUM_LEN]);
    sum
}

/// Reads fields off the front of a payload; every read is bounded by what is there.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(len)?;
        self.0 = tail;
        Some(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    pub(crate) fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[b]| b)
    }

    /// Text behind a length of one byte.
    pub(crate) fn text(&mut self) -> Option<&'a str> {
        let len = self.byte()?;
        std::str::from_utf8(self.bytes(len.into())?).ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn base32_comes_back(bytes: [u8; 16]) {
            prop_assert_eq!(from_base32::<16>(&to_base32(&bytes)), Some(bytes));
        }

        #[test]
        fn a_copyable_comes_back_and_an_altered_one_does_not(payload: Vec<u8>, at: prop::sample::Index, flip in 1..=255_u8) {
            let text = to_copyable("p_", &payload);
            prop_assert_eq!(from_copyable("p_", &text), Ok(payload));
            let mut altered = text.into_bytes();
            let at = at.index(altered.len());
            altered[at] ^= flip;
            if let Ok(altered) = String::from_utf8(altered) {
                prop_assert!(from_copyable("p_", &altered).is_err() || altered.trim().len() < altered.len());
            }
        }
    }
}
