//! TPM 2.0 quotes as evidence (TPM 2.0 Library specification, TCG EK Credential Profile).
//!
//! Three keys lead from a vendor to a quote: a *root* signed the certificate of the *endorsement key* (EK), which never signs;
//! whoever recovers a [`Credential`] that was made for EK and *attestation key* (AK) has both in one TPM; the AK signs the quote.
//!
//! The middle step is seen by the coordinator alone. A peer sees the certificate and the quote, and has the coordinator's word that
//! they are of one TPM, unless the operator enrolled the AK: under [`Policy::attestation_keys`] nobody's word is needed.
//!
//! Start at [`appraise`]; [`Activation`] is the middle step, and [`follows`] compares with what was shown before.

mod activation;
mod appraise;
mod credential;
mod follows;
mod policy;
mod public;
mod quote;
mod read;
mod signature;
#[cfg(test)]
mod tests;

pub use activation::{Activation, Keys, NotActivated, proof_of_activation};
pub use appraise::appraise;
pub use credential::{Credential, CredentialError, make_credential};
pub use follows::follows;
pub use policy::{Policy, learn};
pub use public::{Attributes, ENDORSEMENT_POLICY, Name, Parameters, Public};
pub use quote::{Clock, PCRS, PcrSelection, Quote};
pub use read::Malformed;
use serde::{Deserialize, Serialize};
pub use signature::Signature;

use crate::{Blob, Bytes};

/// The longest `TPMT_PUBLIC`, in bytes: RSA with 3072 bits takes 430.
pub const MAX_PUBLIC: usize = 512;

/// The longest certificate, in bytes: of what fits into a TPM.
pub const MAX_CERTIFICATE: usize = 4096;

/// The most certificates between that of an endorsement key and its root.
pub const MAX_INTERMEDIATES: usize = 4;

/// The evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// The endorsement key: `TPMT_PUBLIC`.
    pub endorsement_key: Blob<MAX_PUBLIC>,
    /// Its certificate in DER, where the TPM has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endorsement_certificate: Option<Blob<MAX_CERTIFICATE>>,
    /// What leads from there to a root, in DER; at most [`MAX_INTERMEDIATES`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub intermediates: Vec<Blob<MAX_CERTIFICATE>>,
    /// The attestation key: `TPMT_PUBLIC`.
    pub attestation_key: Blob<MAX_PUBLIC>,
    /// What it signed: `TPMS_ATTEST`.
    pub quote: Blob<512>,
    /// Its signature: `TPMT_SIGNATURE`.
    pub signature: Blob<600>,
    /// The values of the quoted registers, one after the other, lowest register first.
    pub pcr_values: Blob<{ PCRS as usize * 32 }>,
    /// See [`proof_of_activation`]. For whoever made the credential; says nothing to anybody else.
    pub activation: Bytes<32>,
}
