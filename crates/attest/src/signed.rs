//! What an operator signed, with the exact text that was signed.

use std::marker::PhantomData;

use carrick_types::{OperatorKey, OperatorSecret, Signature};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Something that an operator signs.
pub trait Signable: Serialize + DeserializeOwned {
    /// Stands before the text in what is signed, so that a signature for one purpose is worth nothing for another.
    const DOMAIN: &'static str;
    /// The longest text that is read, in bytes.
    const MAX: usize;
}

/// JSON and an operator's signature over it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(bound = "", deny_unknown_fields)]
pub struct Signed<T> {
    text: String,
    signature: Signature,
    #[serde(skip)]
    of: PhantomData<fn() -> T>,
}

/// Why something signed is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignedError {
    /// Longer than what is read, in bytes.
    #[error("it is longer than {0} bytes")]
    TooLong(usize),
    /// The key did not sign it, or signed something else.
    #[error("it is not signed by the operator's key")]
    Signature,
    /// Signed, but not of the kind.
    #[error("it is signed, but not understood: {0}")]
    Malformed(String),
}

impl<T: Signable> Signed<T> {
    /// Signs a value.
    pub fn seal(value: &T, key: &OperatorSecret) -> Self {
        let text = serde_json::to_string(value).expect("what operators sign is plain data");
        let signature = key.sign(&message::<T>(&text));
        Self { text, signature, of: PhantomData }
    }

    /// The value, if this key signed it.
    ///
    /// # Errors
    /// [`SignedError`].
    pub fn open(&self, key: &OperatorKey) -> Result<T, SignedError> {
        if self.text.len() > T::MAX {
            return Err(SignedError::TooLong(T::MAX));
        }
        if !key.verifies(&message::<T>(&self.text), &self.signature) {
            return Err(SignedError::Signature);
        }
        serde_json::from_str(&self.text).map_err(|error| SignedError::Malformed(error.to_string()))
    }

    /// The text that was signed.
    pub fn text(&self) -> &str {
        &self.text
    }
}

fn message<T: Signable>(text: &str) -> Vec<u8> {
    [T::DOMAIN.as_bytes(), b"\n", text.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
    struct Order(u8);
    impl Signable for Order {
        const DOMAIN: &'static str = "test/order";
        const MAX: usize = 10;
    }

    #[derive(Debug, Serialize, Deserialize)]
    struct Other(u8);
    impl Signable for Other {
        const DOMAIN: &'static str = "test/other";
        const MAX: usize = 10;
    }

    #[test]
    fn a_signature_holds_for_one_key_one_text_and_one_purpose() {
        let key = OperatorSecret::from_bytes([1; 32]);
        let signed = Signed::seal(&Order(7), &key);
        assert_eq!(signed.open(&key.public()), Ok(Order(7)));
        let json = serde_json::to_string(&signed).unwrap();
        assert_eq!(serde_json::from_str::<Signed<Order>>(&json).unwrap(), signed);
        assert_eq!(signed.open(&OperatorSecret::from_bytes([2; 32]).public()), Err(SignedError::Signature));
        let altered: Signed<Order> = serde_json::from_str(&json.replace("\"7\"", "\"8\"")).unwrap();
        assert_eq!(altered.open(&key.public()), Err(SignedError::Signature));
        let long: Signed<Order> = serde_json::from_str(&json.replace("\"7\"", "\"70000000000\"")).unwrap();
        assert_eq!(long.open(&key.public()), Err(SignedError::TooLong(10)));
        let other: Signed<Other> = serde_json::from_str(&json).unwrap();
        assert_eq!(other.open(&key.public()).unwrap_err(), SignedError::Signature);
    }
}
