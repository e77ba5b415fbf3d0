//! What an appraisal finds: a verdict for every claim.

use serde::{Deserialize, Serialize};

use crate::Kind;

/// Whether a claim is acceptable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The policy asks for it, and it is so.
    Accepted,
    /// The policy asks for something else.
    Refused,
    /// The policy does not ask.
    Unchecked,
}

/// Something that evidence says, and what the policy makes of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Claim {
    /// What it is about: `signature`, `pcr 7`, `measurement`.
    pub name: String,
    /// What the evidence says, for people: hexadecimal, a time, a name.
    pub value: String,
    /// What the policy makes of it.
    pub verdict: Verdict,
    /// Why; what was expected, where it is refused.
    pub reason: String,
}

/// The appraisal of one piece of evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Appraisal {
    /// Of which kind.
    pub kind: Kind,
    /// In the order in which they were looked at. An appraisal may end at the first refusal that makes the rest meaningless.
    pub claims: Vec<Claim>,
}

impl Appraisal {
    /// An appraisal that has looked at nothing yet, and so accepts nothing.
    pub const fn new(kind: Kind) -> Self {
        Self { kind, claims: Vec::new() }
    }

    /// Whether something was looked at, and nothing was refused.
    pub fn is_accepted(&self) -> bool {
        self.refusal().is_none() && self.claims.iter().any(|claim| claim.verdict == Verdict::Accepted)
    }

    /// The first claim that was refused.
    pub fn refusal(&self) -> Option<&Claim> {
        self.claims.iter().find(|claim| claim.verdict == Verdict::Refused)
    }

    /// Writes down a claim that is as the policy asks.
    pub fn accept(&mut self, name: &str, value: impl Into<String>, reason: impl Into<String>) {
        self.note(name, value.into(), Verdict::Accepted, reason.into());
    }

    /// Writes down a claim that is not as the policy asks.
    pub fn refuse(&mut self, name: &str, value: impl Into<String>, reason: impl Into<String>) {
        self.note(name, value.into(), Verdict::Refused, reason.into());
    }

    /// Writes down a claim that the policy does not ask for.
    pub fn show(&mut self, name: &str, value: impl Into<String>) {
        self.note(name, value.into(), Verdict::Unchecked, String::new());
    }

    /// Writes down a claim with the verdict that `holds` gives; `expected` says what the policy asks for. Whether it holds.
    pub fn check(
        &mut self,
        name: &str,
        value: impl Into<String>,
        holds: bool,
        expected: impl Into<String>,
    ) -> bool {
        let verdict = if holds { Verdict::Accepted } else { Verdict::Refused };
        self.note(name, value.into(), verdict, expected.into());
        holds
    }

    fn note(&mut self, name: &str, value: String, verdict: Verdict, reason: String) {
        self.claims.push(Claim { name: name.to_owned(), value, verdict, reason });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_looked_at_is_not_accepted_and_one_refusal_is_enough() {
        let mut appraisal = Appraisal::new(Kind::Tpm);
        assert!(!appraisal.is_accepted());
        appraisal.show("firmware", "7");
        assert!(!appraisal.is_accepted(), "what nobody checked proves nothing");
        assert!(appraisal.check("signature", "ECDSA", true, "of the attestation key"));
        assert!(appraisal.is_accepted());
        assert!(!appraisal.check("pcr 7", "00", false, "one of the reference values"));
        appraisal.accept("clock", "5", "it went on");
        assert!(!appraisal.is_accepted());
        assert_eq!(appraisal.refusal().unwrap().name, "pcr 7");
    }
}
