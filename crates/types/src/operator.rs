//! The text of an operator's key: what is printed once, for whoever keeps it elsewhere than in a file of Carrick's.

use std::str::FromStr;

use zeroize::Zeroizing;

use crate::{
    key::OperatorSecret,
    text::{CopyError, from_copyable, to_copyable},
};

const PREFIX: &str = "carrick_operator_1_";

/// Why an operator's key was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseOperatorError {
    /// Does not begin like one.
    #[error("this is not an operator's key: one begins with \"carrick_operator_1_\"")]
    NotAnOperator,
    /// The checksum does not match, or the length.
    #[error("the operator's key is truncated or altered: copy it again, whole")]
    Damaged,
}

impl OperatorSecret {
    /// The secret as text: call this only to hand it to its owner.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(to_copyable(PREFIX, self.expose()))
    }

    /// Whether a text is, or was, the text of such a key.
    pub fn is_text(text: &str) -> bool {
        text.trim_start().starts_with(PREFIX)
    }
}

impl FromStr for OperatorSecret {
    type Err = ParseOperatorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let payload = from_copyable(PREFIX, text).map_err(|error| match error {
            CopyError::WrongPrefix => ParseOperatorError::NotAnOperator,
            CopyError::Damaged => ParseOperatorError::Damaged,
        })?;
        let payload = Zeroizing::new(payload);
        let bytes: &[u8; 32] = payload.as_slice().try_into().map_err(|_| ParseOperatorError::Damaged)?;
        Ok(Self::from_bytes(*bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operators_key_comes_back_from_text_and_an_altered_one_does_not() {
        let secret = OperatorSecret::from_bytes([7; 32]);
        let text = secret.to_text();
        assert_eq!(text.parse(), Ok(secret));
        assert_eq!(text[..text.len() - 1].parse::<OperatorSecret>(), Err(ParseOperatorError::Damaged));
        assert_eq!("hunter2".parse::<OperatorSecret>(), Err(ParseOperatorError::NotAnOperator));
        let short = to_copyable(PREFIX, &[7; 31]);
        assert_eq!(short.parse::<OperatorSecret>(), Err(ParseOperatorError::Damaged));
    }
}
