//! Evidence of confidential machines: what a test authority issued, in every way that must be refused, and real evidence of the
//! vendors.

#![expect(clippy::unwrap_used, reason = "in a test it is the assertion that the value is there")]

mod amd;
mod aws;
mod der;
mod nitro;
mod recorded;
mod sev_snp;
mod sev_snp_policy;
mod statements;
mod vendors;

use carrick_attest::{Appraisal, Transcript, Verdict};
use carrick_types::UnixTime;

/// 2026-07-01T00:00:00Z.
const NOW: UnixTime = UnixTime::from_millis(1_782_864_000_000);

/// What the evidence of these tests is bound to.
const TRANSCRIPT: Transcript = Transcript::from_bytes([0x5a; 64]);

/// The names of the claims that are refused.
fn refused(appraisal: &Appraisal) -> Vec<&str> {
    let claims = appraisal.claims.iter();
    claims.filter(|claim| claim.verdict == Verdict::Refused).map(|claim| claim.name.as_str()).collect()
}

/// The verdict on a claim.
fn verdict(appraisal: &Appraisal, name: &str) -> Option<Verdict> {
    appraisal.claims.iter().find(|claim| claim.name == name).map(|claim| claim.verdict)
}

/// Asserts that every claim that was looked at has a reason, and that something was.
fn assert_reasons(appraisal: &Appraisal) {
    assert!(!appraisal.claims.is_empty());
    let looked_at = appraisal.claims.iter().filter(|claim| claim.verdict != Verdict::Unchecked);
    for claim in looked_at {
        assert!(!claim.reason.is_empty(), "{claim:?}");
    }
}
