//! Reference values in JSON, as vendors and their tools print them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Exactly `N` bytes, lower-case hexadecimal in JSON: one value has one spelling.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hex<const N: usize>(pub [u8; N]);

/// Not so many bytes in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {bytes} bytes in lower-case hexadecimal")]
pub struct ParseHexError {
    text: String,
    bytes: usize,
}

impl<const N: usize> Hex<N> {
    /// Whether every byte is zero.
    pub fn is_zero(&self) -> bool {
        self.0.iter().all(|byte| *byte == 0)
    }
}

impl<const N: usize> fmt::Display for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl<const N: usize> fmt::Debug for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<const N: usize> FromStr for Hex<N> {
    type Err = ParseHexError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseHexError { text: text.chars().take(2 * N + 1).collect(), bytes: N };
        let digit = |c: u8| match c {
            b'0'..=b'9' => Ok(c - b'0'),
            b'a'..=b'f' => Ok(c - b'a' + 10),
            _ => Err(error()),
        };
        let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return Err(error()) };
        let pairs: &[[u8; 2]; N] = pairs.try_into().map_err(|_| error())?;
        let mut bytes = [0; N];
        for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
            *byte = digit(*high)? << 4 | digit(*low)?;
        }
        Ok(Self(bytes))
    }
}

impl<const N: usize> Serialize for Hex<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_has_one_spelling() {
        let value: Hex<3> = "00a1ff".parse().unwrap();
        assert_eq!(value, Hex([0, 0xa1, 0xff]));
        assert_eq!(serde_json::to_string(&value).unwrap(), "\"00a1ff\"");
        assert_eq!(serde_json::from_str::<Hex<3>>("\"00a1ff\"").unwrap(), value);
        for bad in ["00A1ff", "00a1f", "00a1ff00", "0xa1ff", "", "00a1f ", "äää"] {
            assert!(bad.parse::<Hex<3>>().is_err(), "{bad}");
        }
    }
}
