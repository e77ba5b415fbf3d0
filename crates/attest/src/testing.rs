//! Good evidence of each kind that measures, with all that it is judged by: for benches, fuzz targets and tests.

use carrick_types::UnixTime;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    Appraisal, Blob, Bytes, Evidence, Transcript, appraise::measured, kubernetes, nitro,
    policy::ClusterPolicy, sev_snp, tdx, tpm,
};

/// What every recorded transcript is made of.
const TRANSCRIPT: Transcript = Transcript::from_bytes([9; 64]);

/// Evidence, and what it is judged by.
#[derive(Debug)]
pub struct Sample {
    /// Where it is from, for people.
    pub name: &'static str,
    /// The evidence.
    pub evidence: Evidence,
    /// Under which it is good.
    pub policy: ClusterPolicy,
    /// What it is bound to.
    pub transcript: Transcript,
    /// When it is good.
    pub at: UnixTime,
}

impl Sample {
    /// Appraises the evidence.
    pub fn appraise(&self) -> Appraisal {
        self.appraise_instead(&self.evidence)
    }

    /// Appraises other evidence in its place.
    pub fn appraise_instead(&self, evidence: &Evidence) -> Appraisal {
        measured(evidence, &self.policy, &self.transcript, self.at)
    }
}

/// One of each kind; of Kubernetes and TPMs, one for each algorithm that they are likely to use.
///
/// # Panics
/// Where a recording is none.
pub fn samples() -> Vec<Sample> {
    let mut samples = kubernetes_tokens();
    samples.push(tpm_quote("tpm, RSA and ECC keys", include_str!("tpm/vectors/rsa-ecc.json")));
    samples.push(tpm_quote("tpm, RSA keys", include_str!("tpm/vectors/rsa-rsa.json")));
    samples.push(sev_snp_report());
    samples.push(tdx_quote());
    samples.push(nitro_document());
    samples
}

fn kubernetes_tokens() -> Vec<Sample> {
    let made: Vec<Value> = read(include_str!("../testdata/kubernetes-1.34.json"));
    let token = |(made, name): (Value, &'static str)| {
        let policy = serde_json::json!({
            "issuer": made["openid-configuration"]["issuer"],
            "jwks": made["jwks"],
            "service_accounts": ["carrick-system/carrick-node"],
        });
        let kubernetes = Some(serde_json::from_value(policy).expect("a policy"));
        let evidence: kubernetes::Evidence =
            serde_json::from_value(serde_json::json!({"token": made["token"]})).expect("a token");
        let expires = evidence.jwt_id().expect("an id").forget_at;
        Sample {
            name,
            evidence: Evidence::Kubernetes(evidence),
            policy: ClusterPolicy { kubernetes, ..ClusterPolicy::default() },
            transcript: TRANSCRIPT,
            // Ten minutes, and what clocks may be apart, before nobody takes it any more.
            at: UnixTime::from_millis(expires.as_millis() - 900_000),
        }
    };
    made.into_iter().zip(["kubernetes, RS256", "kubernetes, ES256"]).map(token).collect()
}

fn tpm_quote(name: &'static str, recorded: &str) -> Sample {
    #[derive(Deserialize)]
    struct Recorded {
        evidence: tpm::Evidence,
        roots: Vec<String>,
        at_millis: u64,
    }
    let Recorded { evidence, roots, at_millis } = read(recorded);
    let mut policy = tpm::Policy { endorsement_roots: roots, ..tpm::Policy::default() };
    tpm::learn(&evidence, &mut policy);
    Sample {
        name,
        evidence: Evidence::Tpm(Box::new(evidence)),
        policy: ClusterPolicy { tpm: Some(policy), ..ClusterPolicy::default() },
        transcript: TRANSCRIPT,
        at: UnixTime::from_millis(at_millis),
    }
}

/// As the tests of confidential machines record it.
#[derive(Deserialize)]
struct Confidential<E, P> {
    at: UnixTime,
    transcript: Bytes<64>,
    policy: P,
    evidence: E,
}

fn sev_snp_report() -> Sample {
    let recorded: Confidential<sev_snp::Evidence, sev_snp::Policy> =
        read(include_str!("../tests/confidential/vectors/sev-snp.json"));
    Sample {
        name: "sev-snp",
        evidence: Evidence::SevSnp(Box::new(recorded.evidence)),
        policy: ClusterPolicy { sev_snp: Some(recorded.policy), ..ClusterPolicy::default() },
        transcript: Transcript::from_bytes(recorded.transcript.0),
        at: recorded.at,
    }
}

fn nitro_document() -> Sample {
    let recorded: Confidential<nitro::Evidence, nitro::Policy> =
        read(include_str!("../tests/confidential/vectors/nitro.json"));
    Sample {
        name: "nitro",
        evidence: Evidence::Nitro(Box::new(recorded.evidence)),
        policy: ClusterPolicy { nitro: Some(recorded.policy), ..ClusterPolicy::default() },
        transcript: Transcript::from_bytes(recorded.transcript.0),
        at: recorded.at,
    }
}

fn tdx_quote() -> Sample {
    let platform = tdx::testing::Platform::new(tdx::testing::Recipe::default());
    let quote = Blob::new(platform.quote(TRANSCRIPT.as_bytes())).expect("a quote is short");
    Sample {
        name: "tdx",
        evidence: Evidence::Tdx(Box::new(tdx::Evidence { quote })),
        policy: ClusterPolicy { tdx: Some(platform.policy()), ..ClusterPolicy::default() },
        transcript: TRANSCRIPT,
        at: UnixTime::from_millis(1_800_000_000_000),
    }
}

fn read<T: serde::de::DeserializeOwned>(recorded: &str) -> T {
    serde_json::from_str(recorded).expect("what was recorded can be read")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_is_good_and_of_its_own_kind_only() {
        let samples = samples();
        for sample in &samples {
            let appraisal = sample.appraise();
            assert!(appraisal.is_accepted(), "{}: {:?}", sample.name, appraisal.refusal());
            for other in samples.iter().filter(|other| other.evidence.kind() != sample.evidence.kind()) {
                assert!(
                    !sample.appraise_instead(&other.evidence).is_accepted(),
                    "{} as {}",
                    other.name,
                    sample.name
                );
            }
        }
    }
}
