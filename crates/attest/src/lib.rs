//! Evidence: what a node shows of itself, how it is parsed, and how it is appraised (RFC 9334).
//!
//! Everything that a node proves is bound by a [`Transcript`] to its keys, the moment and the TLS session. Each evidence kind is
//! a module with the same three things: `Evidence`, what travels; `Policy`, what an operator accepts; and `appraise`, which
//! writes down a verdict for every claim. Start at [`appraise`].
//!
//! Pure: bytes, policy, transcript and time come in as arguments. What asks a device for evidence lives in `carrick_node::attester`.

// Tests that other crates include name this one as those do.
#[cfg(test)]
extern crate self as carrick_attest;

mod appraisal;
mod appraise;
mod blob;
mod evidence;
mod follows;
mod grant;
mod hex;
pub mod identity;
mod kind;
pub mod kubernetes;
mod learn;
pub mod nitro;
pub mod policy;
pub mod sev_snp;
mod signed;
pub mod tdx;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod token;
pub mod tpm;
mod transcript;
pub mod x509;

pub use appraisal::{Appraisal, Claim, Verdict};
pub use appraise::{AttestationResult, MAX_SKEW, Rejection, appraise};
pub use blob::{Blob, Bytes};
pub use evidence::{Evidence, MAX_STATEMENT, Moment, Statement, Subject};
pub use follows::follows;
pub use grant::{Grant, StatementDigest, grant};
pub use hex::Hex;
pub use kind::Kind;
pub use learn::learn;
pub use policy::{Bundle, SignedBundle, TrustedBundle};
pub use signed::{Signable, Signed, SignedError};
pub use transcript::{Binding, Transcript};
