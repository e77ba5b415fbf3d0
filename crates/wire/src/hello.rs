//! What a node proves when a session opens.
//!
//! Everything it proves is bound by one transcript to its keys, the moment and the TLS session, so that no proof is worth
//! anything for another key, another session or another time.

use carrick_types::{
    ChallengeKey, Cidr, ClusterName, IdentityKey, IdentitySecret, NodeId, NodeName, Revision, Signature,
    TokenId, TokenKey, TokenSeed, WireGuardKey, WireGuardSecret,
};
use hmac::{Hmac, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256, Sha512};

use crate::session::Challenge;

/// The answer to a [`Challenge`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// What the node calls itself.
    pub name: NodeName,
    /// The cluster that its token, or its state, names.
    pub cluster: ClusterName,
    /// Its identity key; its id follows from it.
    pub identity_key: IdentityKey,
    /// Its WireGuard key.
    pub wireguard_key: WireGuardKey,
    /// The prefixes that it speaks for, beside its overlay addresses.
    pub prefixes: Vec<Cidr>,
    /// The version of its software, for people.
    pub version: String,
    /// The netmap that it still has.
    pub have: Option<Revision>,
    /// Why it should be let in.
    pub admission: Admission,
    /// The identity key's signature over the transcript.
    pub identity_signature: Signature,
    /// HMAC-SHA-256 over the transcript, under the shared secret of WireGuard key and challenge key: possession of a key that cannot sign.
    pub wireguard_proof: [u8; 32],
}

/// Why a node should be let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Admission {
    /// It is a member already.
    Member,
    /// It holds a join token.
    JoinToken {
        /// Which.
        id: TokenId,
        /// The token's public half; the coordinator knows its hash.
        key: TokenKey,
        /// Its signature over the transcript.
        signature: Signature,
    },
}

impl Admission {
    const fn kind(&self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::JoinToken { .. } => "join-token",
        }
    }
}

/// All that a proof is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transcript([u8; 64]);

impl Transcript {
    /// `SHA-512` over the fields, each behind its length in 4 bytes, big-endian. `exporter` is the TLS session's exported keying
    /// material. Policy version and runtime digest are empty as long as there is neither.
    fn new(
        challenge: &Challenge,
        cluster: &ClusterName,
        kind: &str,
        wireguard_key: &WireGuardKey,
        identity_key: &IdentityKey,
        exporter: &[u8; 32],
    ) -> Self {
        let node_id = NodeId::of(identity_key);
        let mut hash = Sha512::new();
        let fields: [&[u8]; 11] = [
            b"carrick/attest/1",
            challenge.mesh.as_bytes(),
            cluster.as_str().as_bytes(),
            kind.as_bytes(),
            node_id.as_bytes(),
            wireguard_key.as_bytes(),
            identity_key.as_bytes(),
            &challenge.nonce,
            exporter,
            b"",
            b"",
        ];
        for field in fields {
            hash.update(u32::try_from(field.len()).unwrap_or(u32::MAX).to_be_bytes());
            hash.update(field);
        }
        Self(hash.finalize().into())
    }

    fn possession_of(&self, shared_secret: &[u8; 32]) -> Hmac<Sha256> {
        let mut mac = <Hmac<Sha256>>::new_from_slice(shared_secret).expect("HMAC takes a key of any length");
        mac.update(&self.0);
        mac
    }
}

/// What a node knows about itself when it answers.
#[derive(Debug)]
pub struct Introduction<'a> {
    /// See [`Hello::name`].
    pub name: NodeName,
    /// See [`Hello::cluster`].
    pub cluster: ClusterName,
    /// See [`Hello::prefixes`].
    pub prefixes: Vec<Cidr>,
    /// See [`Hello::version`].
    pub version: String,
    /// See [`Hello::have`].
    pub have: Option<Revision>,
    /// The private half of the identity key.
    pub identity: &'a IdentitySecret,
    /// The private half of the WireGuard key.
    pub wireguard: &'a WireGuardSecret,
    /// The token to join with; `None` for a member.
    pub token: Option<(TokenId, &'a TokenSeed)>,
}

impl Introduction<'_> {
    /// Answers a challenge inside the TLS session that exported `exporter`.
    pub fn answer(self, challenge: &Challenge, exporter: &[u8; 32]) -> Hello {
        let (identity_key, wireguard_key) = (self.identity.public(), self.wireguard.public());
        let kind = if self.token.is_some() { "join-token" } else { "member" };
        let transcript =
            Transcript::new(challenge, &self.cluster, kind, &wireguard_key, &identity_key, exporter);
        let admission = self.token.map_or(Admission::Member, |(id, seed)| Admission::JoinToken {
            id,
            key: seed.public(),
            signature: seed.sign(&transcript.0),
        });
        let shared_secret = self.wireguard.agree(&challenge.challenge_key);
        Hello {
            name: self.name,
            cluster: self.cluster,
            identity_key,
            wireguard_key,
            prefixes: self.prefixes,
            version: self.version,
            have: self.have,
            admission,
            identity_signature: self.identity.sign(&transcript.0),
            wireguard_proof: transcript.possession_of(&shared_secret).finalize().into_bytes().into(),
        }
    }
}

/// A [`Hello`] whose proofs hold. Minted only by [`Hello::verify`].
#[derive(Debug)]
pub struct ProvenHello(Hello);

impl ProvenHello {
    /// What was proven.
    pub const fn get(&self) -> &Hello {
        &self.0
    }
}

/// Which proof does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The identity key did not sign this transcript.
    #[error("the identity key did not sign this session")]
    Identity,
    /// The node does not have the WireGuard key that it names.
    #[error("the node does not prove that it has its WireGuard key")]
    WireGuard,
    /// The token's seed did not sign this transcript.
    #[error("the join token did not sign this session")]
    Token,
}

impl Hello {
    /// Checks every proof against the challenge that was sent in the TLS session that exported `exporter`. `challenge_secret`
    /// is the private half of the challenge's key.
    ///
    /// # Errors
    /// The first proof that does not hold.
    pub fn verify(
        self,
        challenge: &Challenge,
        challenge_secret: &WireGuardSecret,
        exporter: &[u8; 32],
    ) -> Result<ProvenHello, ProofError> {
        let transcript = Transcript::new(
            challenge,
            &self.cluster,
            self.admission.kind(),
            &self.wireguard_key,
            &self.identity_key,
            exporter,
        );
        if !self.identity_key.verifies(&transcript.0, &self.identity_signature) {
            return Err(ProofError::Identity);
        }
        // Both are X25519 points that are not of low order; only the role differs.
        let their_key =
            ChallengeKey::from_bytes(*self.wireguard_key.as_bytes()).map_err(|_| ProofError::WireGuard)?;
        let shared_secret = challenge_secret.agree(&their_key);
        transcript
            .possession_of(&shared_secret)
            .verify_slice(&self.wireguard_proof)
            .map_err(|_| ProofError::WireGuard)?;
        if let Admission::JoinToken { key, signature, .. } = &self.admission
            && !key.verifies(&transcript.0, signature)
        {
            return Err(ProofError::Token);
        }
        Ok(ProvenHello(self))
    }
}

#[cfg(test)]
mod tests {
    use carrick_types::MeshId;

    use super::*;

    const EXPORTER: [u8; 32] = [5; 32];

    fn challenge() -> (Challenge, WireGuardSecret) {
        let secret = WireGuardSecret::from_bytes([6; 32]);
        let key = ChallengeKey::from_bytes(*secret.public().as_bytes()).unwrap();
        (Challenge { mesh: MeshId::from_bytes([1; 16]), nonce: [2; 32], challenge_key: key }, secret)
    }

    fn hello(challenge: &Challenge) -> Hello {
        Introduction {
            name: "east-1".parse().unwrap(),
            cluster: "east".parse().unwrap(),
            prefixes: vec![],
            version: String::new(),
            have: None,
            identity: &IdentitySecret::from_bytes([7; 32]),
            wireguard: &WireGuardSecret::from_bytes([8; 32]),
            token: Some((TokenId::from_bytes([9; 10]), &TokenSeed::from_bytes([10; 32]))),
        }
        .answer(challenge, &EXPORTER)
    }

    #[test]
    fn a_true_hello_is_proven() {
        let (challenge, secret) = challenge();
        hello(&challenge).verify(&challenge, &secret, &EXPORTER).unwrap();
    }

    #[test]
    fn a_proof_is_worth_nothing_elsewhere() {
        let (challenge, secret) = challenge();
        let hello = hello(&challenge);
        let refused = |hello: Hello, challenge: &Challenge, exporter| {
            hello.verify(challenge, &secret, exporter).unwrap_err()
        };
        assert_eq!(refused(hello.clone(), &challenge, &[0; 32]), ProofError::Identity, "another TLS session");
        let later = Challenge { nonce: [3; 32], ..challenge.clone() };
        assert_eq!(refused(hello.clone(), &later, &EXPORTER), ProofError::Identity, "another moment");
        let mesh = Challenge { mesh: MeshId::from_bytes([9; 16]), ..challenge.clone() };
        assert_eq!(refused(hello.clone(), &mesh, &EXPORTER), ProofError::Identity, "another mesh");
        let cluster = Hello { cluster: "west".parse().unwrap(), ..hello.clone() };
        assert_eq!(refused(cluster, &challenge, &EXPORTER), ProofError::Identity, "another cluster");
        let key = WireGuardSecret::from_bytes([11; 32]).public();
        let other = Hello { wireguard_key: key, ..hello.clone() };
        assert_eq!(refused(other, &challenge, &EXPORTER), ProofError::Identity, "another key");
        let member = Hello { admission: Admission::Member, ..hello };
        assert_eq!(refused(member, &challenge, &EXPORTER), ProofError::Identity, "another kind");
    }

    #[test]
    fn a_wireguard_key_of_somebody_else_is_refused() {
        let (challenge, secret) = challenge();
        let hello = Hello { wireguard_proof: [0; 32], ..hello(&challenge) };
        assert_eq!(hello.verify(&challenge, &secret, &EXPORTER).unwrap_err(), ProofError::WireGuard);
    }

    #[test]
    fn a_token_that_did_not_sign_is_refused() {
        let (challenge, secret) = challenge();
        let mut hello = hello(&challenge);
        let stranger = TokenSeed::from_bytes([12; 32]);
        hello.admission = Admission::JoinToken {
            id: TokenId::from_bytes([9; 10]),
            key: TokenSeed::from_bytes([10; 32]).public(),
            signature: stranger.sign(b"anything"),
        };
        assert_eq!(hello.verify(&challenge, &secret, &EXPORTER).unwrap_err(), ProofError::Token);
    }
}
