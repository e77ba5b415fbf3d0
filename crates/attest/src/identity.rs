//! What every node shows: that it has its identity key, and for which name and networks it asks with it.

use carrick_types::{Cidr, IdentityKey, IdentitySecret, NodeName, Signature};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha512};

use crate::{Appraisal, Kind, Transcript};

/// The evidence. Nobody is granted a name or a network, beside its overlay addresses, that it did not sign for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// What the node is called.
    pub name: NodeName,
    /// The networks that it speaks for.
    pub prefixes: Vec<Cidr>,
    /// The identity key's signature over the transcript, the name and the prefixes.
    pub signature: Signature,
}

impl Evidence {
    /// Signs a session, and what is asked for in it.
    pub fn sign(key: &IdentitySecret, name: NodeName, prefixes: Vec<Cidr>, transcript: &Transcript) -> Self {
        let signature = key.sign(&message(&name, &prefixes, transcript));
        Self { name, prefixes, signature }
    }

    /// Whether the identity key signed this.
    pub fn is_signed(&self, key: &IdentityKey, transcript: &Transcript) -> bool {
        key.verifies(&message(&self.name, &self.prefixes, transcript), &self.signature)
    }

    /// Whether a grant of a name and networks is within what was asked for.
    pub fn asks_for(&self, name: &NodeName, prefixes: &[Cidr]) -> bool {
        self.name == *name && prefixes.iter().all(|prefix| self.prefixes.contains(prefix))
    }
}

/// Appraises the evidence of the node with this key.
pub fn appraise(evidence: &Evidence, key: &IdentityKey, transcript: &Transcript) -> Appraisal {
    let mut appraisal = Appraisal::new(Kind::Identity);
    let signed = evidence.is_signed(key, transcript);
    appraisal.check(
        "identity key",
        key.to_string(),
        signed,
        "it signed this session, the name and the prefixes",
    );
    appraisal
}

/// `SHA-512` over the fields, each behind its length in 4 bytes, big-endian.
fn message(name: &NodeName, prefixes: &[Cidr], transcript: &Transcript) -> [u8; 64] {
    let mut hash = Sha512::new();
    let mut field = |bytes: &[u8]| {
        hash.update(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
        hash.update(bytes);
    };
    field(b"carrick/identity/1");
    field(transcript.as_bytes());
    field(name.as_str().as_bytes());
    prefixes.iter().for_each(|prefix| field(prefix.to_string().as_bytes()));
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRANSCRIPT: Transcript = Transcript::from_bytes([9; 64]);

    fn evidence() -> (Evidence, IdentityKey) {
        let key = IdentitySecret::from_bytes([3; 32]);
        let prefixes = ["10.1.0.0/16", "fd01::/64"].map(|text| text.parse().unwrap());
        (Evidence::sign(&key, "a".parse().unwrap(), prefixes.into(), &TRANSCRIPT), key.public())
    }

    #[test]
    fn what_was_not_signed_is_refused() {
        let (evidence, key) = evidence();
        assert!(appraise(&evidence, &key, &TRANSCRIPT).is_accepted());
        let stranger = IdentitySecret::from_bytes([4; 32]).public();
        let changed = [
            (evidence.clone(), stranger, TRANSCRIPT),
            (evidence.clone(), key, Transcript::from_bytes([8; 64])),
            (Evidence { name: "b".parse().unwrap(), ..evidence.clone() }, key, TRANSCRIPT),
            (Evidence { prefixes: vec![], ..evidence.clone() }, key, TRANSCRIPT),
            (
                Evidence { prefixes: evidence.prefixes.iter().rev().copied().collect(), ..evidence },
                key,
                TRANSCRIPT,
            ),
        ];
        for (evidence, key, transcript) in changed {
            assert!(!appraise(&evidence, &key, &transcript).is_accepted(), "{evidence:?}");
        }
    }

    #[test]
    fn a_grant_within_what_was_asked_for_has_that_name_and_no_other_networks() {
        let (evidence, _) = evidence();
        let (a, b) = ("a".parse().unwrap(), "b".parse().unwrap());
        assert!(evidence.asks_for(&a, &evidence.prefixes) && evidence.asks_for(&a, &[]));
        assert!(!evidence.asks_for(&b, &[]));
        assert!(!evidence.asks_for(&a, &["10.1.7.0/24".parse().unwrap()]), "not even a part of one");
    }
}
