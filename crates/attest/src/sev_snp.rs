//! AMD SEV-SNP reports as evidence.

use carrick_types::UnixTime;
use serde::{Deserialize, Serialize};

use crate::{Appraisal, Blob, Kind, Transcript};

/// The evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// The report, as the firmware signed it.
    pub report: Blob<4096>,
    /// The VCEK's or VLEK's certificate, in DER.
    pub certificate: Blob<16384>,
}

/// What an operator accepts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {}

impl Policy {
    /// Whether it makes sense in itself.
    ///
    /// # Errors
    /// What does not, for people.
    pub fn check(&self) -> Result<(), String> {
        Err("this kind is not accepted yet".to_owned())
    }
}

/// Appraises evidence that is bound to `transcript`, as of `at`.
pub fn appraise(
    _evidence: &Evidence,
    _policy: &Policy,
    _transcript: &Transcript,
    _at: UnixTime,
) -> Appraisal {
    let mut appraisal = Appraisal::new(Kind::SevSnp);
    appraisal.refuse("evidence", "none", "a kind that is accepted");
    appraisal
}

/// Writes the reference values that evidence shows into a draft.
pub const fn learn(_evidence: &Evidence, _into: &mut Policy) {}
