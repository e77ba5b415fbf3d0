//! AMD SEV-SNP reports as evidence (ABI specification 56860, certificates 57230).
//!
//! The AMD Secure Processor signs a [`Report`] on the guest, with a key that AMD certifies for one processor at one level of
//! firmware (VCEK), or for the fleet of one cloud provider (VLEK). REPORT_DATA is the transcript.

mod appraise;
mod leaf;
mod policy;
mod product;
mod report;
mod tcb;

pub use appraise::appraise;
pub use leaf::{Endorsement, Leaf, LeafError};
pub use policy::{Policy, ProductPolicy};
pub use product::Product;
pub use report::{Cpu, GuestPolicy, REPORT_SIZE, Report, ReportError, SigningKey};
use serde::{Deserialize, Serialize};
pub use tcb::Tcb;

use crate::{Blob, Hex};

/// The longest certificate of a processor's key, in bytes; AMD's have less than 1,500.
pub const MAX_LEAF: usize = 4096;

/// The evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// The report, as the Secure Processor wrote it: [`REPORT_SIZE`] bytes.
    pub report: Blob<REPORT_SIZE>,
    /// The certificate of the key that signed it, VCEK or VLEK, in DER. What is above it comes from the policy.
    pub certificate: Blob<MAX_LEAF>,
}

/// Writes the reference values that evidence shows into a draft: its measurement, and what its owner said of it at launch. Of
/// what does not read as a report, nothing.
pub fn learn(evidence: &Evidence, into: &mut Policy) {
    let Ok(report) = Report::parse(evidence.report.as_bytes()) else { return };
    into.measurements.insert(Hex(report.measurement));
    let digests = [
        (&mut into.id_key_digests, Hex(report.id_key_digest)),
        (&mut into.author_key_digests, Hex(report.author_key_digest)),
    ];
    for (known, digest) in digests {
        if !digest.is_zero() {
            known.insert(digest);
        }
    }
    let host_data = Hex(report.host_data);
    if !host_data.is_zero() {
        into.host_data.insert(host_data);
    }
}
