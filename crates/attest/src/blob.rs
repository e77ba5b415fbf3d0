//! Bytes in JSON.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// At most `MAX` bytes, base64 in JSON. What is longer is refused before it is decoded.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Blob<const MAX: usize>(Vec<u8>);

/// More bytes than fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{length} bytes where at most {max} are taken")]
pub struct TooLong {
    length: usize,
    max: usize,
}

/// Exactly `N` bytes, base64 in JSON.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes<const N: usize>(pub [u8; N]);

impl<const N: usize> fmt::Debug for Bytes<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl<const N: usize> Serialize for Bytes<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(self.0))
    }
}

impl<'de, const N: usize> Deserialize<'de> for Bytes<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| D::Error::custom(format!("not {N} bytes in base64")))
    }
}

impl<const MAX: usize> Blob<MAX> {
    /// Takes bytes.
    ///
    /// # Errors
    /// Where there are more than `MAX`.
    pub fn new(bytes: Vec<u8>) -> Result<Self, TooLong> {
        if bytes.len() > MAX { Err(TooLong { length: bytes.len(), max: MAX }) } else { Ok(Self(bytes)) }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl<const MAX: usize> fmt::Debug for Blob<MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl<const MAX: usize> Serialize for Blob<MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de, const MAX: usize> Deserialize<'de> for Blob<MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.len() > MAX.div_ceil(3) * 4 {
            return Err(D::Error::custom(format!("more than {MAX} bytes")));
        }
        let bytes = STANDARD.decode(text).map_err(|_| D::Error::custom("not base64"))?;
        Self::new(bytes).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_from_json_and_too_many_are_refused() {
        let blob = Blob::<4>::new(vec![1, 2, 3, 4]).unwrap();
        let json = serde_json::to_string(&blob).unwrap();
        assert_eq!(json, "\"AQIDBA==\"");
        assert_eq!(serde_json::from_str::<Blob<4>>(&json).unwrap(), blob);
        serde_json::from_str::<Blob<3>>(&json).unwrap_err();
        serde_json::from_str::<Blob<4>>("\"AQIDBAU=\"").unwrap_err();
        serde_json::from_str::<Blob<4>>("\"?\"").unwrap_err();
    }
}
