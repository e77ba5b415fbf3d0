//! Evidence that swtpm made, and evidence that nobody's TPM would make.

mod forger;
mod history;
mod refusals;
mod vectors;

use carrick_types::UnixTime;

use super::{Evidence, Policy, appraise};
use crate::{Appraisal, Transcript};

/// What every quote here is for.
const TRANSCRIPT: Transcript = Transcript::from_bytes([9; 64]);

/// The name of the claim that is refused, where one is.
fn refused(appraisal: &Appraisal) -> Option<String> {
    assert_ne!(appraisal.is_accepted(), appraisal.refusal().is_some(), "{appraisal:?}");
    appraisal.refusal().map(|claim| claim.name.clone())
}

fn judged(evidence: &Evidence, policy: &Policy, at: UnixTime) -> Option<String> {
    policy.check().unwrap();
    refused(&appraise(evidence, policy, &TRANSCRIPT, at))
}
