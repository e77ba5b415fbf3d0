//! AWS Nitro Enclaves attestation documents as evidence.
//!
//! The Nitro Security Module signs a [`Document`] on the enclave as COSE_Sign1 (RFC 9052) with ES384, with a key that AWS
//! certifies for a few hours. `user_data` is the transcript.

mod appraise;
mod cbor;
mod document;
mod policy;

pub use appraise::appraise;
pub use cbor::CborError;
pub use document::{CoseSign1, Document, DocumentError, ES384};
pub use policy::Policy;
use serde::{Deserialize, Serialize};

use crate::{Blob, Hex};

/// The longest document, in bytes; AWS's have between 4,500 and 8,000.
pub const MAX_DOCUMENT: usize = 16 * 1024;

/// The evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// The document, as the Nitro Security Module gave it: COSE_Sign1 without a tag.
    pub document: Blob<MAX_DOCUMENT>,
}

/// Writes the registers that say which image runs into a draft: 0, 1 and 2, and 8 where the image is signed. Of what does not read
/// as a document, or is of an enclave in debug mode, nothing.
pub fn learn(evidence: &Evidence, into: &mut Policy) {
    let Ok(cose) = CoseSign1::parse(evidence.document.as_bytes()) else { return };
    let Ok(document) = Document::parse(cose.payload) else { return };
    if document.is_debug() {
        return;
    }
    for (index, value) in document.pcrs.iter().filter(|(index, _)| matches!(index, 0..=2 | 8)) {
        let value = Hex(**value);
        if !value.is_zero() {
            into.pcrs.entry(*index).or_default().insert(value);
        }
    }
}
