//! What a node proves: when a session opens, and whenever it is asked again.
//!
//! Everything is bound by the [`Transcript`](carrick_attest::Transcript) of a [`Moment`] to the node's keys, the log as it stood, and the TLS session, so
//! that no proof is worth anything for another key, another session or another time.

use std::collections::BTreeSet;

pub use carrick_attest::policy::LogHead as Head;
use carrick_attest::{Bytes, Evidence, Kind, Moment, Statement, Subject, identity};
use carrick_types::{
    ChallengeKey, Cidr, ClusterName, IdentityKey, IdentitySecret, MeshId, NodeId, NodeName, Revision,
    Signature, TokenId, TokenKey, TokenSeed, UnixTime, WireGuardKey, WireGuardSecret,
};
use hmac::{Hmac, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256, Sha512};

/// The most pieces of evidence in one proof.
pub const MAX_EVIDENCE: usize = 8;

/// What a node is asked to prove itself against. Fresh each time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The mesh that this coordinator serves.
    pub mesh: MeshId,
    /// The size of its log.
    pub log_size: u64,
    /// The head of its log.
    pub log_head: Bytes<32>,
    /// Random bytes.
    pub salt: Bytes<32>,
    /// Against this the node proves possession of its WireGuard key.
    pub challenge_key: ChallengeKey,
}

impl Request {
    /// The head of the log that it names.
    pub const fn head(&self) -> Head {
        Head { size: self.log_size, head: self.log_head }
    }

    /// The moment of an answer to this, given in the TLS session that exported `exporter`.
    pub const fn moment(
        &self,
        exporter: &[u8; 32],
        policy_version: u64,
        runtime_digest: Bytes<32>,
    ) -> Moment {
        Moment {
            log_size: self.log_size,
            log_head: self.log_head,
            salt: self.salt,
            exporter: Bytes(*exporter),
            policy_version,
            runtime_digest,
        }
    }
}

/// What a node proves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// Its WireGuard key.
    pub wireguard_key: WireGuardKey,
    /// The version of the policy bundle that it has seen.
    pub policy_version: u64,
    /// SHA-256 of the executable that it runs.
    pub runtime_digest: Bytes<32>,
    /// Its evidence, [`Kind::Identity`] included and join tokens not; at most [`MAX_EVIDENCE`].
    pub evidence: Vec<Evidence>,
    /// HMAC-SHA-256 over the transcript of [`Kind::Identity`], under the shared secret of WireGuard key and challenge key: possession
    /// of a key that cannot sign.
    pub possession: Bytes<32>,
}

/// What a node says first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// What the node calls itself.
    pub name: NodeName,
    /// The cluster that its token, or its state, names.
    pub cluster: ClusterName,
    /// Its identity key; its id follows from it.
    pub identity_key: IdentityKey,
    /// The prefixes that it speaks for, beside its overlay addresses.
    pub prefixes: Vec<Cidr>,
    /// The version of its software, for people.
    pub version: String,
    /// The netmap that it still has, and the log that it has seen.
    pub have: Have,
    /// Whether it checks the evidence of its peers.
    pub trust: Trust,
    /// The token that it joins with; `None` for a member.
    pub token: Option<TokenProof>,
    /// Keys and evidence.
    pub proof: Proof,
}

/// What a node has from earlier sessions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Have {
    /// The revision of its netmap, where it has one.
    pub revision: Option<Revision>,
    /// The last head of the log that it has seen, where it has seen one.
    pub log: Option<Head>,
}

/// Whether a node checks the evidence of its peers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Trust {
    /// It does.
    #[default]
    Evidence,
    /// It believes the coordinator's appraisal.
    Coordinator,
}

/// The proof of a join token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenProof {
    /// Which.
    pub id: TokenId,
    /// The token's public half.
    pub key: TokenKey,
    /// Its signature over the transcript of [`Kind::JoinToken`].
    pub signature: Signature,
}

/// What a node knows about itself when it is challenged.
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
    pub have: Have,
    /// See [`Hello::trust`].
    pub trust: Trust,
    /// The private half of the identity key.
    pub identity: &'a IdentitySecret,
    /// The private half of the WireGuard key.
    pub wireguard: &'a WireGuardSecret,
    /// The token to join with; `None` for a member.
    pub token: Option<(TokenId, &'a TokenSeed)>,
    /// See [`Proof::evidence`]; made for `moment`.
    pub evidence: Vec<Evidence>,
}

impl Introduction<'_> {
    /// Answers a challenge, at a moment that was [made](Request::moment) for it.
    pub fn answer(self, request: &Request, moment: &Moment) -> Hello {
        let subject = Subject {
            mesh: request.mesh,
            cluster: self.cluster.clone(),
            identity_key: self.identity.public(),
            wireguard_key: self.wireguard.public(),
        };
        let asked = (&self.name, self.prefixes.as_slice());
        let keys = (self.identity, self.wireguard);
        let proof = Proof::answer(request, moment, &subject, asked, keys, self.evidence);
        let token = self.token.map(|(id, seed)| {
            let transcript = moment.transcript(&subject, Kind::JoinToken);
            TokenProof { id, key: seed.public(), signature: seed.sign(transcript.as_bytes()) }
        });
        Hello {
            name: self.name,
            cluster: self.cluster,
            identity_key: subject.identity_key,
            prefixes: self.prefixes,
            version: self.version,
            have: self.have,
            trust: self.trust,
            token,
            proof,
        }
    }
}

impl Proof {
    /// Answers a request. `evidence` is what the node shows beside its identity, made for the same moment and subject; name and
    /// prefixes are what it asks for.
    pub fn answer(
        request: &Request,
        moment: &Moment,
        subject: &Subject,
        (name, prefixes): (&NodeName, &[Cidr]),
        (identity, wireguard): (&IdentitySecret, &WireGuardSecret),
        mut evidence: Vec<Evidence>,
    ) -> Self {
        let transcript = moment.transcript(subject, Kind::Identity);
        let signed = identity::Evidence::sign(identity, name.clone(), prefixes.to_vec(), &transcript);
        evidence.insert(0, Evidence::Identity(signed));
        let shared_secret = wireguard.agree(&request.challenge_key);
        Self {
            wireguard_key: subject.wireguard_key,
            policy_version: moment.policy_version,
            runtime_digest: moment.runtime_digest,
            evidence,
            possession: Bytes(
                possession(transcript.as_bytes(), &shared_secret).finalize().into_bytes().into(),
            ),
        }
    }

    /// Checks what can be checked in this session alone: the identity key's signature, and possession of the WireGuard key.
    /// `challenge_secret` is the private half of the request's key. What comes back is for the appraisal.
    ///
    /// # Errors
    /// The first proof that does not hold.
    pub fn verify(
        &self,
        subject: &Subject,
        request: &Request,
        challenge_secret: &WireGuardSecret,
        exporter: &[u8; 32],
        now: UnixTime,
    ) -> Result<Vec<Statement>, ProofError> {
        if self.evidence.len() > MAX_EVIDENCE {
            return Err(ProofError::TooMuch(self.evidence.len()));
        }
        let mut kinds = BTreeSet::new();
        for kind in self.evidence.iter().map(Evidence::kind) {
            // Only whoever counts the uses of a token may take it for evidence: it comes beside the proof, as [`Hello::token`].
            if kind == Kind::JoinToken {
                return Err(ProofError::Token);
            }
            // Each is appraised, at some cost.
            if !kinds.insert(kind) {
                return Err(ProofError::Twice(kind));
            }
        }
        let moment = request.moment(exporter, self.policy_version, self.runtime_digest);
        let transcript = moment.transcript(subject, Kind::Identity);
        let mut identities = self.evidence.iter().filter_map(Evidence::identity);
        if !identities.any(|identity| identity.is_signed(&subject.identity_key, &transcript)) {
            return Err(ProofError::Identity);
        }
        // Both are X25519 points that are not of low order; only the role differs.
        let their_key =
            ChallengeKey::from_bytes(*self.wireguard_key.as_bytes()).map_err(|_| ProofError::WireGuard)?;
        possession(transcript.as_bytes(), &challenge_secret.agree(&their_key))
            .verify_slice(&self.possession.0)
            .map_err(|_| ProofError::WireGuard)?;
        let statement = |evidence: &Evidence| Statement {
            moment,
            wireguard_key: self.wireguard_key,
            evidence: evidence.clone(),
            appraised_at: now,
        };
        Ok(self.evidence.iter().map(statement).collect())
    }
}

fn possession(transcript: &[u8; 64], shared_secret: &[u8; 32]) -> Hmac<Sha256> {
    let mut mac = <Hmac<Sha256>>::new_from_slice(shared_secret).expect("HMAC takes a key of any length");
    mac.update(transcript);
    mac
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
    /// More evidence than is looked at.
    #[error("{0} pieces of evidence are too many")]
    TooMuch(usize),
    /// A join token among the evidence, where nobody counts its uses.
    #[error("a join token is shown in a hello, beside the evidence")]
    Token,
    /// More than one piece of evidence of a kind.
    #[error("evidence of kind {0} is shown twice")]
    Twice(Kind),
    /// A heartbeat is not the node's.
    #[error("the identity key did not sign this heartbeat")]
    Heartbeat,
}

/// A node's word that it runs on, as it was appraised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Rises by one with each.
    pub sequence: u64,
    /// SHA-256 of the executable that the node runs.
    pub runtime_digest: Bytes<32>,
    /// The last head of the log that it has seen.
    pub log: Option<Head>,
    /// The identity key's signature.
    pub signature: Signature,
}

impl Heartbeat {
    /// Signs a heartbeat for the TLS session that exported `exporter`.
    pub fn sign(
        identity: &IdentitySecret,
        exporter: &[u8; 32],
        sequence: u64,
        runtime_digest: Bytes<32>,
        log: Option<Head>,
    ) -> Self {
        let message = heartbeat(&identity.public(), exporter, sequence, &runtime_digest, log);
        Self { sequence, runtime_digest, log, signature: identity.sign(&message) }
    }

    /// Checks the signature.
    ///
    /// # Errors
    /// [`ProofError::Heartbeat`].
    pub fn verify(&self, key: &IdentityKey, exporter: &[u8; 32]) -> Result<(), ProofError> {
        let message = heartbeat(key, exporter, self.sequence, &self.runtime_digest, self.log);
        if key.verifies(&message, &self.signature) { Ok(()) } else { Err(ProofError::Heartbeat) }
    }
}

fn heartbeat(
    key: &IdentityKey,
    exporter: &[u8; 32],
    sequence: u64,
    runtime_digest: &Bytes<32>,
    log: Option<Head>,
) -> [u8; 64] {
    let (size, head) = log.map_or((0, [0; 32]), |log| (log.size, log.head.0));
    Sha512::new()
        .chain_update(b"carrick/heartbeat/1")
        .chain_update(NodeId::of(key).as_bytes())
        .chain_update(exporter)
        .chain_update(sequence.to_be_bytes())
        .chain_update(runtime_digest.0)
        .chain_update(size.to_be_bytes())
        .chain_update(head)
        .finalize()
        .into()
}

#[cfg(test)]
mod tests {
    use carrick_attest::{
        Signed,
        token::{self, Capability},
    };
    use carrick_types::OperatorSecret;

    use super::*;

    const EXPORTER: [u8; 32] = [5; 32];
    const NOW: UnixTime = UnixTime::from_millis(7);

    fn request() -> (Request, WireGuardSecret) {
        let secret = WireGuardSecret::from_bytes([6; 32]);
        let request = Request {
            mesh: MeshId::from_bytes([1; 16]),
            log_size: 3,
            log_head: Bytes([2; 32]),
            salt: Bytes([3; 32]),
            challenge_key: ChallengeKey::from_bytes(*secret.public().as_bytes()).unwrap(),
        };
        (request, secret)
    }

    fn keys() -> (IdentitySecret, WireGuardSecret) {
        (IdentitySecret::from_bytes([7; 32]), WireGuardSecret::from_bytes([8; 32]))
    }

    fn subject() -> Subject {
        let (identity, wireguard) = keys();
        Subject {
            mesh: MeshId::from_bytes([1; 16]),
            cluster: "east".parse().unwrap(),
            identity_key: identity.public(),
            wireguard_key: wireguard.public(),
        }
    }

    fn proof(request: &Request, subject: &Subject) -> Proof {
        let (identity, wireguard) = keys();
        let moment = request.moment(&EXPORTER, 1, Bytes([9; 32]));
        Proof::answer(
            request,
            &moment,
            subject,
            (&"a".parse().unwrap(), &[]),
            (&identity, &wireguard),
            vec![],
        )
    }

    #[test]
    fn a_true_proof_becomes_statements() {
        let (request, secret) = request();
        let statements =
            proof(&request, &subject()).verify(&subject(), &request, &secret, &EXPORTER, NOW).unwrap();
        assert_eq!(statements.len(), 1);
        assert_eq!(statements[0].moment.nonce(), request.moment(&EXPORTER, 1, Bytes([9; 32])).nonce());
    }

    #[test]
    fn a_proof_is_worth_nothing_elsewhere() {
        let (request, secret) = request();
        let proof = proof(&request, &subject());
        let refused = |proof: &Proof, subject: &Subject, request: &Request, exporter| {
            proof.verify(subject, request, &secret, exporter, NOW).unwrap_err()
        };
        assert_eq!(
            refused(&proof, &subject(), &request, &[0; 32]),
            ProofError::Identity,
            "another TLS session"
        );
        let later = Request { salt: Bytes([4; 32]), ..request.clone() };
        assert_eq!(refused(&proof, &subject(), &later, &EXPORTER), ProofError::Identity, "another moment");
        let fork = Request { log_head: Bytes([4; 32]), ..request.clone() };
        assert_eq!(refused(&proof, &subject(), &fork, &EXPORTER), ProofError::Identity, "another log");
        let mesh = Subject { mesh: MeshId::from_bytes([9; 16]), ..subject() };
        assert_eq!(refused(&proof, &mesh, &request, &EXPORTER), ProofError::Identity, "another mesh");
        let cluster = Subject { cluster: "west".parse().unwrap(), ..subject() };
        assert_eq!(refused(&proof, &cluster, &request, &EXPORTER), ProofError::Identity, "another cluster");
        let key = WireGuardSecret::from_bytes([11; 32]).public();
        let key = Subject { wireguard_key: key, ..subject() };
        assert_eq!(refused(&proof, &key, &request, &EXPORTER), ProofError::Identity, "another key");
        let policy = Proof { policy_version: 2, ..proof.clone() };
        assert_eq!(refused(&policy, &subject(), &request, &EXPORTER), ProofError::Identity, "another policy");
        let runtime = Proof { runtime_digest: Bytes([0; 32]), ..proof.clone() };
        assert_eq!(
            refused(&runtime, &subject(), &request, &EXPORTER),
            ProofError::Identity,
            "other software"
        );
        let unsigned = Proof { evidence: vec![], ..proof };
        assert_eq!(refused(&unsigned, &subject(), &request, &EXPORTER), ProofError::Identity);
    }

    #[test]
    fn a_join_token_among_the_evidence_is_refused_since_nobody_would_count_its_use() {
        let (request, secret) = request();
        let operator = OperatorSecret::from_bytes([12; 32]);
        let seed = TokenSeed::from_bytes([13; 32]);
        let capability = Capability {
            mesh: subject().mesh,
            token: TokenId::from_bytes([14; 10]),
            key: seed.public(),
            cluster: subject().cluster,
            uses: 1,
            expires_at: UnixTime::from_millis(1000),
            prefixes: None,
        };
        let moment = request.moment(&EXPORTER, 1, Bytes([9; 32]));
        let transcript = moment.transcript(&subject(), Kind::JoinToken);
        let token = Evidence::JoinToken(token::Evidence {
            capability: Signed::seal(&capability, &operator),
            signature: seed.sign(transcript.as_bytes()),
        });
        let (identity, wireguard) = keys();
        let proof = Proof::answer(
            &request,
            &moment,
            &subject(),
            (&"a".parse().unwrap(), &[]),
            (&identity, &wireguard),
            vec![token],
        );
        let refused = proof.verify(&subject(), &request, &secret, &EXPORTER, NOW).unwrap_err();
        assert_eq!(refused, ProofError::Token);
    }

    #[test]
    fn evidence_of_one_kind_is_shown_once() {
        let (request, secret) = request();
        let mut proof = proof(&request, &subject());
        proof.evidence.push(proof.evidence[0].clone());
        let refused = proof.verify(&subject(), &request, &secret, &EXPORTER, NOW).unwrap_err();
        assert_eq!(refused, ProofError::Twice(Kind::Identity));
    }

    #[test]
    fn a_wireguard_key_of_somebody_else_is_refused() {
        let (request, secret) = request();
        let proof = Proof { possession: Bytes([0; 32]), ..proof(&request, &subject()) };
        let refused = proof.verify(&subject(), &request, &secret, &EXPORTER, NOW).unwrap_err();
        assert_eq!(refused, ProofError::WireGuard);
    }

    #[test]
    fn a_heartbeat_is_of_one_node_session_and_state() {
        let identity = keys().0;
        let beat = Heartbeat::sign(&identity, &EXPORTER, 4, Bytes([1; 32]), None);
        beat.verify(&identity.public(), &EXPORTER).unwrap();
        beat.verify(&identity.public(), &[0; 32]).unwrap_err();
        beat.verify(&IdentitySecret::from_bytes([1; 32]).public(), &EXPORTER).unwrap_err();
        Heartbeat { sequence: 5, ..beat.clone() }.verify(&identity.public(), &EXPORTER).unwrap_err();
        Heartbeat { runtime_digest: Bytes([2; 32]), ..beat.clone() }
            .verify(&identity.public(), &EXPORTER)
            .unwrap_err();
        let head = Head { size: 1, head: Bytes([0; 32]) };
        Heartbeat { log: Some(head), ..beat }.verify(&identity.public(), &EXPORTER).unwrap_err();
    }
}
