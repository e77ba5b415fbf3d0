//! The decision: a node's statements against the operator's bundle.

use std::{collections::BTreeSet, time::Duration};

use carrick_types::{OperatorKey, UnixTime};

use crate::{
    Appraisal, Evidence, Kind, Statement, Subject, Transcript, TrustedBundle,
    hex::hex,
    identity, kubernetes, nitro,
    policy::{Bundle, ClusterPolicy},
    sev_snp, tdx,
    token::{self, Capability},
    tpm,
};

/// How far the clocks of two hosts may be apart.
pub const MAX_SKEW: Duration = Duration::from_secs(300);

/// Evidence that was found good, for one subject under one bundle. Minted only by [`appraise`].
#[derive(Debug, Clone)]
pub struct AttestationResult {
    subject: Subject,
    statements: Vec<Statement>,
    appraisals: Vec<Appraisal>,
    policy_version: u64,
    capability: Option<Capability>,
}

/// Why a node's evidence is not enough.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Rejection {
    /// In a sentence.
    pub why: String,
    /// What was found until then.
    pub appraisals: Vec<Appraisal>,
}

impl AttestationResult {
    /// Whose evidence.
    pub const fn subject(&self) -> &Subject {
        &self.subject
    }

    /// The evidence.
    pub fn statements(&self) -> &[Statement] {
        &self.statements
    }

    /// Every claim with its verdict.
    pub fn appraisals(&self) -> &[Appraisal] {
        &self.appraisals
    }

    /// The version of the bundle that it was appraised under.
    pub const fn policy_version(&self) -> u64 {
        self.policy_version
    }

    /// What the join token allows, where the node showed one.
    pub const fn capability(&self) -> Option<&Capability> {
        self.capability.as_ref()
    }
}

/// Appraises everything that a node showed. Each statement is judged as of the moment it was first appraised, and that moment
/// against `now`: of today for evidence that is shown again and again, of any day for what is shown once.
///
/// # Errors
/// [`Rejection`], with the first reason and all claims that were looked at.
pub fn appraise(
    subject: &Subject,
    statements: &[Statement],
    bundle: &TrustedBundle,
    now: UnixTime,
) -> Result<AttestationResult, Rejection> {
    let operators = bundle.operators();
    let bundle = bundle.get();
    let policy = bundle.policy(&subject.cluster);
    let mut appraisals = Vec::new();
    let mut kinds = BTreeSet::new();
    let mut capability = None;
    for statement in statements {
        let kind = statement.evidence.kind();
        let mut appraisal = Appraisal::new(kind);
        if !kinds.insert(kind) {
            appraisal.refuse("evidence", kind.as_str(), "each kind is shown once");
        }
        check_moment(&mut appraisal, statement, subject, bundle, policy, now);
        let of_kind = of_kind(statement, subject, policy, &operators);
        appraisal.claims.extend(of_kind.0.claims);
        capability = capability.or(of_kind.1);
        appraisals.push(appraisal);
    }
    let refused = appraisals.iter().find_map(|appraisal| Some((appraisal.kind, appraisal.refusal()?)));
    let why = if now >= bundle.expires_at {
        Some(format!("the policy bundle expired at {}: the operator signs a new version", bundle.expires_at))
    } else if let Some((kind, claim)) = refused {
        Some(format!("evidence {kind}: {} is {}, expected: {}", claim.name, claim.value, claim.reason))
    } else if !kinds.contains(&Kind::Identity) {
        Some("the node did not sign this session with its identity key".to_owned())
    } else if !policy.accept.iter().any(|set| set.is_subset(&kinds)) {
        Some(format!("cluster {} takes {}", subject.cluster, wanted(policy)))
    } else {
        None
    };
    match why {
        Some(why) => Err(Rejection { why, appraisals }),
        None => Ok(AttestationResult {
            subject: subject.clone(),
            statements: statements.to_vec(),
            appraisals,
            policy_version: bundle.version,
            capability,
        }),
    }
}

/// What a cluster takes, for people.
fn wanted(policy: &ClusterPolicy) -> String {
    let set = |set: &BTreeSet<Kind>| set.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(" and ");
    policy.accept.iter().map(set).collect::<Vec<_>>().join(", or ")
}

fn check_moment(
    appraisal: &mut Appraisal,
    statement: &Statement,
    subject: &Subject,
    bundle: &Bundle,
    policy: &ClusterPolicy,
    now: UnixTime,
) {
    let (kind, at) = (appraisal.kind, statement.appraised_at);
    if at > now.saturating_add(MAX_SKEW) {
        appraisal.refuse("appraised at", at.to_string(), "a moment that is not ahead");
    }
    if statement.moment.policy_version > bundle.version {
        let version = statement.moment.policy_version.to_string();
        appraisal.refuse("policy version", version, "a version that exists");
    }
    if kind.ages() {
        let oldest = policy.max_evidence_age() + MAX_SKEW;
        let fresh = now.saturating_since(at) <= oldest;
        appraisal.check("age", format!("since {at}"), fresh, format!("at most {} s", oldest.as_secs()));
    }
    if kind != Kind::JoinToken {
        let same = statement.wireguard_key == subject.wireguard_key;
        let key = statement.wireguard_key.to_string();
        appraisal.check("WireGuard key", key, same, "the key that peers would accept");
    }
}

fn of_kind(
    statement: &Statement,
    subject: &Subject,
    policy: &ClusterPolicy,
    operators: &[OperatorKey],
) -> (Appraisal, Option<Capability>) {
    let (kind, at) = (statement.evidence.kind(), statement.appraised_at);
    let at_the_time = Subject { wireguard_key: statement.wireguard_key, ..subject.clone() };
    let transcript = statement.moment.transcript(&at_the_time, kind);
    match &statement.evidence {
        Evidence::Identity(evidence) => {
            let mut appraisal = identity::appraise(evidence, &subject.identity_key, &transcript);
            let digest = hex(&statement.moment.runtime_digest.0);
            if policy.runtime_digests.is_empty() {
                appraisal.show("runtime digest", digest);
            } else {
                let known = policy.runtime_digests.contains(&digest);
                appraisal.check("runtime digest", digest, known, "one of the reference values");
            }
            (appraisal, None)
        }
        Evidence::JoinToken(evidence) => {
            let place = (&subject.mesh, &subject.cluster);
            token::appraise(evidence, place, operators, &transcript, at)
        }
        Evidence::Kubernetes(_)
        | Evidence::Tpm(_)
        | Evidence::SevSnp(_)
        | Evidence::Tdx(_)
        | Evidence::Nitro(_) => (measured(&statement.evidence, policy, &transcript, at), None),
    }
}

/// Appraises evidence of a kind that has a section in the policy.
pub(crate) fn measured(
    evidence: &Evidence,
    policy: &ClusterPolicy,
    transcript: &Transcript,
    at: UnixTime,
) -> Appraisal {
    let appraised = match evidence {
        Evidence::Identity(_) | Evidence::JoinToken(_) => None,
        Evidence::Kubernetes(evidence) => {
            policy.kubernetes.as_ref().map(|policy| kubernetes::appraise(evidence, policy, transcript, at))
        }
        Evidence::Tpm(evidence) => {
            policy.tpm.as_ref().map(|policy| tpm::appraise(evidence, policy, transcript, at))
        }
        Evidence::SevSnp(evidence) => {
            policy.sev_snp.as_ref().map(|policy| sev_snp::appraise(evidence, policy, transcript, at))
        }
        Evidence::Tdx(evidence) => {
            policy.tdx.as_ref().map(|policy| tdx::appraise(evidence, policy, transcript, at))
        }
        Evidence::Nitro(evidence) => {
            policy.nitro.as_ref().map(|policy| nitro::appraise(evidence, policy, transcript, at))
        }
    };
    appraised.unwrap_or_else(|| no_section(evidence.kind()))
}

/// Of a kind that the cluster's policy says nothing of.
fn no_section(kind: Kind) -> Appraisal {
    let mut appraisal = Appraisal::new(kind);
    appraisal.refuse("policy", "none", "a section of the policy bundle that says which evidence is good");
    appraisal
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use carrick_types::{
        CoordinatorSecret, IdentitySecret, MeshId, OperatorPin, OperatorSecret, TokenId, TokenSeed,
        WireGuardSecret,
    };

    use super::*;
    use crate::{Bytes, Signed, evidence::Moment, policy::SignedBundle};

    const MESH: MeshId = MeshId::from_bytes([1; 16]);
    const NOW: UnixTime = UnixTime::from_millis(1_000_000_000);

    fn operator() -> OperatorSecret {
        OperatorSecret::from_bytes([2; 32])
    }

    fn subject(key: u8) -> Subject {
        Subject {
            mesh: MESH,
            cluster: "east".parse().unwrap(),
            identity_key: identity().public(),
            wireguard_key: WireGuardSecret::from_bytes([key; 32]).public(),
        }
    }

    fn identity() -> IdentitySecret {
        IdentitySecret::from_bytes([3; 32])
    }

    fn moment() -> Moment {
        Moment {
            log_size: 4,
            log_head: Bytes([5; 32]),
            salt: Bytes([6; 32]),
            exporter: Bytes([7; 32]),
            policy_version: 1,
            runtime_digest: Bytes([8; 32]),
        }
    }

    fn bundle(change: impl FnOnce(&mut Bundle)) -> TrustedBundle {
        let mut bundle = Bundle {
            mesh: MESH,
            version: 1,
            expires_at: NOW.saturating_add(Duration::from_secs(1)),
            coordinator_key: CoordinatorSecret::from_bytes([9; 32]).public(),
            former_operators: vec![],
            rotate_keys_s: 60,
            log_restart: None,
            default: ClusterPolicy::default(),
            clusters: BTreeMap::new(),
        };
        change(&mut bundle);
        let signed = SignedBundle {
            operator: operator().public(),
            successions: vec![],
            bundle: Signed::seal(&bundle, &operator()),
        };
        signed.open(&OperatorPin::of(&operator().public()), &MESH).unwrap()
    }

    fn statement(
        subject: &Subject,
        evidence: impl FnOnce(&crate::Transcript) -> Evidence,
        kind: Kind,
    ) -> Statement {
        let transcript = moment().transcript(subject, kind);
        Statement {
            moment: moment(),
            wireguard_key: subject.wireguard_key,
            evidence: evidence(&transcript),
            appraised_at: NOW,
        }
    }

    fn identified(subject: &Subject) -> Statement {
        let sign = |transcript: &crate::Transcript| {
            Evidence::Identity(identity::Evidence::sign(
                &identity(),
                "a".parse().unwrap(),
                vec![],
                transcript,
            ))
        };
        statement(subject, sign, Kind::Identity)
    }

    fn invited(subject: &Subject) -> Statement {
        let seed = TokenSeed::from_bytes([10; 32]);
        let capability = Capability {
            mesh: MESH,
            token: TokenId::from_bytes([11; 10]),
            key: seed.public(),
            cluster: "east".parse().unwrap(),
            uses: 1,
            expires_at: NOW.saturating_add(Duration::from_secs(1)),
            prefixes: None,
        };
        let sign = |transcript: &crate::Transcript| {
            Evidence::JoinToken(token::Evidence {
                capability: Signed::seal(&capability, &operator()),
                signature: seed.sign(transcript.as_bytes()),
            })
        };
        statement(subject, sign, Kind::JoinToken)
    }

    fn why(statements: &[Statement], bundle: &TrustedBundle, now: UnixTime) -> String {
        appraise(&subject(1), statements, bundle, now).unwrap_err().why
    }

    #[test]
    fn a_token_and_the_identity_key_are_enough_where_the_policy_says_so() {
        let statements = [identified(&subject(1)), invited(&subject(1))];
        let result = appraise(&subject(1), &statements, &bundle(|_| ()), NOW).unwrap();
        assert_eq!(result.capability().unwrap().uses, 1);
        assert!(result.appraisals().iter().all(Appraisal::is_accepted));
        assert!(why(&statements[..1], &bundle(|_| ()), NOW).contains("takes join-token"));
        assert!(why(&statements[1..], &bundle(|_| ()), NOW).contains("identity key"));
    }

    #[test]
    fn a_token_holds_for_a_later_key_that_the_same_identity_signed() {
        let statements = [identified(&subject(1)), invited(&subject(77))];
        appraise(&subject(1), &statements, &bundle(|_| ()), NOW).unwrap();
        let stale = [identified(&subject(77)), invited(&subject(77))];
        assert!(
            why(&stale, &bundle(|_| ()), NOW).contains("WireGuard key"),
            "nobody vouches for the new key"
        );
        let forged = Statement { wireguard_key: subject(1).wireguard_key, ..identified(&subject(77)) };
        assert!(why(&[forged, invited(&subject(1))], &bundle(|_| ()), NOW).contains("identity key"));
    }

    #[test]
    fn what_was_shown_twice_ahead_of_time_or_under_no_policy_is_refused() {
        let (identified, invited) = (identified(&subject(1)), invited(&subject(1)));
        let twice = [identified.clone(), invited.clone(), invited.clone()];
        assert!(why(&twice, &bundle(|_| ()), NOW).contains("once"));
        let later = NOW.saturating_add(MAX_SKEW + Duration::from_millis(1));
        let ahead = Statement { appraised_at: later, ..identified.clone() };
        assert!(why(&[ahead, invited.clone()], &bundle(|_| ()), NOW).contains("appraised at"));
        let both = [identified, invited];
        assert!(why(&both, &bundle(|_| ()), NOW.saturating_add(Duration::from_secs(1))).contains("expired"));
        let digests =
            |bundle: &mut Bundle| bundle.default.runtime_digests = BTreeSet::from(["00".repeat(32)]);
        assert!(why(&both, &bundle(digests), NOW).contains("runtime digest"));
    }

    #[test]
    fn a_nonce_differs_with_the_log_and_the_salt() {
        let later = Moment { log_size: 5, ..moment() };
        let fork = Moment { log_head: Bytes([0; 32]), ..moment() };
        let again = Moment { salt: Bytes([0; 32]), ..moment() };
        let nonces = BTreeSet::from([moment().nonce(), later.nonce(), fork.nonce(), again.nonce()]);
        assert_eq!(nonces.len(), 4);
    }
}
