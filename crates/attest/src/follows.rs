//! A node's evidence beside what the same node showed before.

use crate::{Appraisal, Evidence, Rejection, Statement, tpm};

/// Whether a node may have become what it shows now: one node is on one machine, whose counters do not run backwards. Evidence that is
/// good in itself is not enough, or a node's identity could move to another machine that is good as well.
///
/// # Errors
/// [`Rejection`], with every claim that was compared.
pub fn follows(before: &[Statement], after: &[Statement]) -> Result<(), Rejection> {
    let mut appraisals = Vec::new();
    for earlier in before {
        appraisals.extend(after.iter().filter_map(|later| compare(&earlier.evidence, &later.evidence)));
    }
    let refused = appraisals.iter().find_map(|appraisal| Some((appraisal.kind, appraisal.refusal()?)));
    match refused {
        None => Ok(()),
        Some((kind, claim)) => {
            let why = format!(
                "evidence {kind} does not follow what this node showed before: {} is {}, expected: {}",
                claim.name, claim.value, claim.reason
            );
            Err(Rejection { why, appraisals })
        }
    }
}

/// What of two pieces of evidence can be compared; nothing where they are of different kinds.
fn compare(before: &Evidence, after: &Evidence) -> Option<Appraisal> {
    if let (Evidence::Tpm(before), Evidence::Tpm(after)) = (before, after) {
        return Some(tpm::follows(before, after));
    }
    None
}
