//! Kubernetes bound service-account tokens as evidence: an API server vouches for the pod in which the agent runs.
//!
//! The agent asks its API server's TokenRequest for a token whose one [`audience`] is the transcript, so that the token is worth
//! nothing for any other key, session or moment, and nothing at the API server itself. It is a compact JWS (RFC 7515), verified
//! against the keys that the operator pinned; everything in it is said once, or it is refused.

mod claims;
mod json;
mod jwk;
mod jws;
mod policy;
#[cfg(test)]
mod tests;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use carrick_types::UnixTime;
use serde::{Deserialize, Serialize};

use self::{
    claims::{Claims, Object},
    jws::Parts,
};
pub use self::{
    jwk::{Jwk, KeySet},
    jws::{CompactJws, MAX_TOKEN, MalformedToken},
    policy::{ParseServiceAccountError, Policy, ServiceAccount},
};
use crate::{Appraisal, Kind, MAX_SKEW, Rejection, Transcript};

/// The longest text of a token that is shown to people, in characters.
const MAX_SHOWN: usize = 200;

/// The evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// The token, as TokenRequest gave it.
    pub token: CompactJws,
}

/// What tells one token from every other, as long as it holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct JwtId {
    /// Who made it.
    pub issuer: String,
    /// Its id.
    pub jti: String,
    /// From then on nobody takes it, clocks that are apart considered.
    pub forget_at: UnixTime,
}

impl Evidence {
    /// The id that the token says it has: to be believed of one that was appraised. `None` where it is no token.
    pub fn jwt_id(&self) -> Option<JwtId> {
        let claims = self.unverified_claims()?;
        let forget_at = claims.exp.saturating_add(MAX_SKEW);
        Some(JwtId { issuer: claims.iss, jti: claims.jti, forget_at })
    }

    fn unverified_claims(&self) -> Option<Claims> {
        Claims::parse(&self.token.parts().ok()?.payload).ok()
    }
}

impl JwtId {
    /// Why a token that was shown before is refused.
    pub fn shown_again(&self) -> Rejection {
        let mut appraisal = Appraisal::new(Kind::Kubernetes);
        let (jti, expected) = (shown(&self.jti), "a token that was never shown before");
        appraisal.refuse("jti", &jti, expected);
        let why = format!("evidence {}: jti is {jti}, expected: {expected}", Kind::Kubernetes);
        Rejection { why, appraisals: vec![appraisal] }
    }
}

/// The one audience of a token that is bound to a transcript.
pub fn audience(transcript: &Transcript) -> String {
    format!("carrick/{}", URL_SAFE_NO_PAD.encode(transcript.as_bytes()))
}

/// Appraises evidence that is bound to `transcript`, as of `at`. Whether the token was shown before is for the coordinator, which
/// remembers.
pub fn appraise(evidence: &Evidence, policy: &Policy, transcript: &Transcript, at: UnixTime) -> Appraisal {
    let mut appraisal = Appraisal::new(Kind::Kubernetes);
    if let Some(claims) = authenticate(&mut appraisal, evidence, policy) {
        check_binding(&mut appraisal, &claims, policy, transcript);
        check_times(&mut appraisal, &claims, policy, at);
        check_workload(&mut appraisal, &claims, policy);
    }
    appraisal
}

/// Writes the service account that evidence shows into a draft.
pub fn learn(evidence: &Evidence, into: &mut Policy) {
    let seen = evidence.unverified_claims();
    if let Some(account) = seen.and_then(|claims| claims.account()) {
        into.service_accounts.insert(account);
    }
}

/// The claims, if a pinned key signed them.
fn authenticate(appraisal: &mut Appraisal, evidence: &Evidence, policy: &Policy) -> Option<Claims> {
    let Parts { signed, header, payload, signature } = match evidence.token.parts() {
        Ok(parts) => parts,
        Err(error) => {
            appraisal.refuse("token", error.to_string(), "a compact JWS with a strict header");
            return None;
        }
    };
    let key = policy.jwks.get(&header.kid);
    appraisal.check("key", shown(&header.kid), key.is_some(), "one of the pinned keys");
    let key = key?;
    // Not what the token says decides how it is verified, but what the operator pinned.
    let algorithm = key.algorithm();
    let expected = format!("{algorithm}, which the pinned key is for");
    if !appraisal.check("algorithm", shown(&header.alg), header.alg == algorithm, expected) {
        return None;
    }
    let holds = key.verifies(signed, &signature);
    if !appraisal.check("signature", algorithm, holds, "of the pinned key, over header and claims") {
        return None;
    }
    match Claims::parse(&payload) {
        Ok(claims) => Some(claims),
        Err(why) => {
            appraisal.refuse("claims", why, "the claims of a bound service-account token, each of them once");
            None
        }
    }
}

/// Who made it, and for what.
fn check_binding(appraisal: &mut Appraisal, claims: &Claims, policy: &Policy, transcript: &Transcript) {
    let same = claims.iss == policy.issuer;
    appraisal.check("issuer", shown(&claims.iss), same, format!("the pinned issuer {}", policy.issuer));
    let bound = claims.aud == [audience(transcript)];
    appraisal.check(
        "audience",
        shown(&claims.aud.join(" ")),
        bound,
        "this session's transcript, and nothing else",
    );
    appraisal.check("jti", shown(&claims.jti), !claims.jti.is_empty(), "an id of its own");
}

/// Clocks may be [`MAX_SKEW`] apart; no token lives longer than the policy says by its own account.
fn check_times(appraisal: &mut Appraisal, claims: &Claims, policy: &Policy, at: UnixTime) {
    let latest = at.saturating_add(MAX_SKEW);
    appraisal.check("issued at", claims.iat.to_string(), claims.iat <= latest, "a moment that is not ahead");
    appraisal.check("not before", claims.nbf.to_string(), claims.nbf <= latest, "a moment that is not ahead");
    let current = at < claims.exp.saturating_add(MAX_SKEW);
    appraisal.check("expires at", claims.exp.to_string(), current, "a moment that is ahead");
    let ttl = claims.exp.saturating_since(claims.iat);
    let plausible = claims.iat < claims.exp && claims.nbf < claims.exp && ttl <= policy.max_ttl();
    let expected = format!("more than none, at most {} s", policy.max_ttl().as_secs());
    appraisal.check("lifetime", format!("{} s", ttl.as_secs()), plausible, expected);
}

/// What runs where, by the API server's word.
fn check_workload(appraisal: &mut Appraisal, claims: &Claims, policy: &Policy) {
    let subject = format!("system:serviceaccount:{}:{}", claims.namespace, claims.service_account.name);
    let consistent = claims.sub == subject;
    appraisal.check("subject", shown(&claims.sub), consistent, "the service account of its private claims");
    let name = shown(&format!("{}/{}", claims.namespace, claims.service_account.name));
    let accepted = claims.account().is_some_and(|account| policy.service_accounts.contains(&account));
    appraisal.check("service account", name, accepted, "one that the policy bundle names");
    appraisal.show("service account uid", shown(&claims.service_account.uid));
    let text = |object: &Option<Object>| {
        object
            .as_ref()
            .map_or("none".to_owned(), |object| shown(&format!("{} ({})", object.name, object.uid)))
    };
    appraisal.check("pod", text(&claims.pod), claims.pod.is_some(), "the pod that the token is bound to");
    if policy.bound_to_node {
        appraisal.check("node", text(&claims.node), claims.node.is_some(), "the pod's node");
    } else {
        appraisal.show("node", text(&claims.node));
    }
}

/// A text of a token as people are shown it: not longer than it has to be, and nothing that a terminal would act upon.
fn shown(text: &str) -> String {
    text.chars().take(MAX_SHOWN).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
