//! A node's evidence beside what it showed before: the same TPM, later.

use super::{Evidence, Public, Quote};
use crate::{Appraisal, Kind};

/// Whether `after` is of the TPM that made `before`, and not earlier.
///
/// The count of resets never falls. The clock never goes back while it stays the same; a reset without an orderly shutdown may set it
/// back to the last value that was stored, and then the TPM itself says that it is not safe (Library, Part 1, "Clock"). Who
/// cleared a TPM starts both anew, and joins as another node.
pub fn follows(before: &Evidence, after: &Evidence) -> Appraisal {
    let mut appraisal = Appraisal::new(Kind::Tpm);
    let same = before.endorsement_key == after.endorsement_key;
    let name = Public::parse(after.endorsement_key.as_bytes()).map(|key| key.name().to_hex());
    let name = name.unwrap_or_else(|error| error.to_string());
    if !appraisal.check("same TPM", name, same, "the endorsement key that this node showed before") {
        return appraisal;
    }
    if before.attestation_key == after.attestation_key {
        appraisal.accept("same attestation key", "yes", "as before, or activated anew");
    } else {
        appraisal.show("same attestation key", "no: activated anew");
    }
    let parse = |evidence: &Evidence| Quote::parse(evidence.quote.as_bytes()).map(|quote| quote.clock);
    let (Ok(before), Ok(after)) = (parse(before), parse(after)) else {
        appraisal.refuse("quote", "malformed", "a TPMS_ATTEST");
        return appraisal;
    };
    let resets = after.reset_count.cmp(&before.reset_count);
    let expected = format!("at least {}", before.reset_count);
    appraisal.check("reset count goes on", after.reset_count.to_string(), resets.is_ge(), expected);
    if resets.is_eq() {
        let goes_on = after.restart_count >= before.restart_count;
        let expected = format!("at least {}", before.restart_count);
        appraisal.check("restart count goes on", after.restart_count.to_string(), goes_on, expected);
    }
    let set_back = resets.is_gt() && !after.safe;
    let goes_on = after.clock >= before.clock || set_back;
    let expected = format!("at least {} ms, or a reset that made it unsafe", before.clock);
    appraisal.check("clock goes on", format!("{} ms", after.clock), goes_on, expected);
    appraisal
}
