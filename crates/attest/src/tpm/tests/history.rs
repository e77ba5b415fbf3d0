//! One node, shown twice.

use super::{TRANSCRIPT, forger::Forger, refused};
use crate::tpm::{Clock, Evidence, follows};

const BEFORE: Clock = Clock { clock: 1000, reset_count: 5, restart_count: 2, safe: true };

/// What is refused when a TPM that showed [`BEFORE`] shows this.
fn then(after: Clock) -> Option<String> {
    let mut forger = someone();
    forger.clock = BEFORE;
    let before = forger.evidence();
    forger.clock = after;
    refused(&follows(&before, &forger.evidence()))
}

#[test]
fn time_goes_on_or_stands_still() {
    assert_eq!(then(BEFORE), None);
    assert_eq!(then(Clock { clock: 1001, ..BEFORE }), None);
    assert_eq!(then(Clock { clock: 1000, restart_count: 3, ..BEFORE }), None);
    assert_eq!(then(Clock { reset_count: 6, restart_count: 0, ..BEFORE }), None, "restarts are counted anew");
}

#[test]
fn a_count_of_resets_that_goes_back_is_refused() {
    assert_eq!(then(Clock { reset_count: 4, ..BEFORE }).unwrap(), "reset count goes on");
    let later = Clock { clock: 9999, reset_count: 0, restart_count: 0, safe: false };
    assert_eq!(then(later).unwrap(), "reset count goes on", "as of a TPM that was cleared");
}

#[test]
fn a_count_of_restarts_that_goes_back_without_a_reset_is_refused() {
    assert_eq!(then(Clock { restart_count: 1, ..BEFORE }).unwrap(), "restart count goes on");
}

#[test]
fn a_clock_that_goes_back_is_refused() {
    assert_eq!(then(Clock { clock: 999, ..BEFORE }).unwrap(), "clock goes on");
    assert_eq!(then(Clock { clock: 999, safe: false, ..BEFORE }).unwrap(), "clock goes on");
    assert_eq!(
        then(Clock { clock: 999, reset_count: 6, ..BEFORE }).unwrap(),
        "clock goes on",
        "it says it is safe"
    );
    let power_cut = Clock { clock: 999, reset_count: 6, restart_count: 0, safe: false };
    assert_eq!(then(power_cut), None, "what was not stored before the power was cut");
}

#[test]
fn another_tpm_is_refused_as_the_same_node() {
    let (before, after) = (someone().evidence(), someone().evidence());
    assert_eq!(refused(&follows(&before, &after)).unwrap(), "same TPM");
}

#[test]
fn another_attestation_key_of_the_same_tpm_is_for_its_activation_to_judge() {
    let (before, other) = (someone().evidence(), someone().evidence());
    let after = Evidence { endorsement_key: before.endorsement_key.clone(), ..other };
    assert_eq!(refused(&follows(&before, &after)), None);
}

fn someone() -> Forger {
    Forger::new(TRANSCRIPT.short())
}
