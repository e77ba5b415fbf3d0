//! Evidence of the test authorities as it was written down once: what today's code wrote, later code still reads.
//!
//! `CARRICK_RECORD=1 cargo test -p carrick-attest --test confidential recorded` writes it anew.

use std::{env, fs};

use carrick_attest::{Appraisal, Transcript, nitro, sev_snp};
use carrick_types::UnixTime;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{NOW, TRANSCRIPT, amd, aws::Enclave, refused};

/// A file in `vectors/`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Recorded<P, E> {
    /// When it is appraised.
    at: UnixTime,
    /// What it is bound to.
    transcript: carrick_attest::Bytes<64>,
    policy: P,
    evidence: E,
}

type Appraise<P, E> = fn(&E, &P, &Transcript, UnixTime) -> Appraisal;

#[test]
fn recorded_evidence_is_still_accepted() {
    still_accepted("sev-snp.json", sev_snp::appraise, || {
        let guest = amd::Line::of(sev_snp::Product::Milan).guest();
        (amd::policy(), guest.evidence())
    });
    still_accepted("nitro.json", nitro::appraise, || {
        let enclave = Enclave::new();
        (enclave.policy(), enclave.evidence())
    });
}

fn still_accepted<P, E>(name: &str, appraise: Appraise<P, E>, make: fn() -> (P, E))
where
    P: Serialize + DeserializeOwned,
    E: Serialize + DeserializeOwned,
{
    let path = format!("{}/tests/confidential/vectors/{name}", env!("CARGO_MANIFEST_DIR"));
    if env::var_os("CARRICK_RECORD").is_some() {
        let (policy, evidence) = make();
        let transcript = carrick_attest::Bytes(*TRANSCRIPT.as_bytes());
        let recorded = Recorded { at: NOW, transcript, policy, evidence };
        fs::write(&path, serde_json::to_string_pretty(&recorded).unwrap() + "\n").unwrap();
    }
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let recorded: Recorded<P, E> = serde_json::from_str(&text).unwrap();
    let transcript = Transcript::from_bytes(recorded.transcript.0);
    let appraisal = appraise(&recorded.evidence, &recorded.policy, &transcript, recorded.at);
    assert!(appraisal.is_accepted(), "{name}: {:?}", refused(&appraisal));
}
