//! Who this node is, what it remembers, and how it proves both.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read as _},
    time::SystemTime,
};

use carrick_attest::{Bytes, Evidence, Kind, Moment, Subject, tpm};
use carrick_trust::{Memory, Myself, Witness};
use carrick_types::{JoinToken, NodeId, NodeName, Revision, UnixTime};
use carrick_wire::{
    hello::{Have, Heartbeat, Hello, Introduction, Proof, Request, Trust},
    session::{Challenge, Refusal, RefusalCode, Welcome},
};
use sha2::{Digest as _, Sha256};
use tracing::warn;

use crate::{
    Config, NodeError, SessionError,
    attester::{AttesterError, Attesters},
    session::Coordinates,
    state::{Keys, Membership, StateDir},
};

/// Who this node is.
pub(crate) struct Identity {
    state: StateDir,
    pub(crate) keys: Keys,
    pub(crate) membership: Membership,
    /// What is on disk. What is there already is not written again: a disk that is full later must not cost a session.
    stored: (Option<Membership>, Option<Memory>),
    token: Option<JoinToken>,
    pub(crate) witness: Witness,
    attesters: Attesters,
    trust: Trust,
    runtime_digest: Bytes<32>,
}

/// What a node is about to prove.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    request: Request,
    moment: Moment,
    subject: Subject,
    kinds: BTreeSet<Kind>,
    attesters: Attesters,
}

/// How far evidence has come.
#[derive(Debug)]
pub(crate) enum Progress {
    /// The coordinator must make a credential for these keys first.
    Waiting(Question, Box<tpm::Keys>),
    /// There it is.
    Done(Question, Vec<Evidence>),
}

impl Question {
    /// Asks the attesters, unless they want a credential first.
    pub(crate) async fn begin(self) -> Result<Progress, AttesterError> {
        match self.attesters.keys(&self.kinds).await? {
            Some(keys) => Ok(Progress::Waiting(self, Box::new(keys))),
            None => self.evidence().await,
        }
    }

    /// Asks the attesters, with the credential that they wanted.
    pub(crate) async fn resume(self, credential: &tpm::Credential) -> Result<Progress, AttesterError> {
        self.attesters.activate(credential).await?;
        self.evidence().await
    }

    async fn evidence(self) -> Result<Progress, AttesterError> {
        let evidence = self.attesters.attest(&self.kinds, &self.moment, &self.subject).await?;
        Ok(Progress::Done(self, evidence))
    }
}

impl Identity {
    pub(crate) fn open(config: &Config) -> Result<Self, NodeError> {
        let state = StateDir::open(&config.state_dir)?;
        let keys = state.keys()?;
        let stored = (state.membership()?, state.memory()?);
        let mut membership = match (stored.0.clone(), &config.token) {
            (None, None) => return Err(NodeError::NoToken),
            (Some(membership), None) => membership,
            (Some(membership), Some(token)) if membership.mesh == token.mesh => {
                Membership { ca: token.ca, urls: token.urls.clone(), ..membership }
            }
            (Some(membership), Some(token)) => {
                return Err(NodeError::OtherMesh {
                    state_dir: state.path().to_owned(),
                    member: membership.mesh,
                    token: token.mesh,
                });
            }
            (None, Some(token)) => {
                let name = config.name.clone().or_else(hostname).ok_or(NodeError::NoName)?;
                Membership::asked(token, name, now())
            }
        };
        if let Some(prefixes) = &config.prefixes {
            membership.prefixes.clone_from(prefixes);
        }
        let memory = match (stored.1.clone(), &config.token) {
            (Some(memory), _) => memory,
            (None, Some(token)) => Memory::new(token.operator, token.policy_version),
            (None, None) => return Err(NodeError::NoToken),
        };
        let myself = Myself {
            id: NodeId::of(&keys.identity.public()),
            wireguard_key: keys.wireguard.public(),
            prefixes: membership.prefixes.clone(),
        };
        Ok(Self {
            witness: Witness::new(membership.mesh, myself, config.trust, memory),
            attesters: Attesters::new(&config.evidence),
            trust: config.trust,
            runtime_digest: runtime_digest().map_err(NodeError::Executable)?,
            token: config.token.clone(),
            state,
            keys,
            membership,
            stored,
        })
    }

    /// Where the coordinator is.
    pub(crate) fn coordinates(&self, mark: bool) -> Coordinates {
        Coordinates { urls: self.membership.urls.clone(), ca: self.membership.ca, mark }
    }

    /// Checks the challenge and the policy bundle that comes with it, and finds out what is to be shown. A member shows no more
    /// than its identity: it is asked for more where that is due.
    pub(crate) async fn consider(
        &mut self,
        challenge: &Challenge,
        exporter: &[u8; 32],
    ) -> Result<Question, SessionError> {
        let ours = self.membership.mesh;
        if challenge.request.mesh != ours {
            let detail = format!(
                "the token or state is of mesh {ours}, this coordinator serves mesh {}: get a token from the right one",
                challenge.request.mesh
            );
            return Err(Refusal { code: RefusalCode::WrongMesh, detail }.into());
        }
        self.witness.handle_bundle(&challenge.bundle, now())?;
        self.witness.handle_challenge(&challenge.request);
        self.remember();
        let question = self.question(&challenge.request, exporter).await?;
        let kinds = if self.is_member() { BTreeSet::new() } else { question.kinds };
        Ok(Question { kinds, ..question })
    }

    /// What is to be shown when the coordinator asks, with the key that follows where there is one.
    pub(crate) async fn question(
        &self,
        request: &Request,
        exporter: &[u8; 32],
    ) -> Result<Question, AttesterError> {
        let subject = Subject {
            mesh: self.membership.mesh,
            cluster: self.membership.cluster.clone(),
            identity_key: self.keys.identity.public(),
            wireguard_key: self.keys.next.as_ref().unwrap_or(&self.keys.wireguard).public(),
        };
        let bundle = self.witness.bundle().map(carrick_attest::TrustedBundle::get);
        let kinds = match bundle {
            Some(bundle) => {
                let place = (&subject.cluster, bundle.policy(&subject.cluster));
                self.attesters.choose(place, self.token.is_some() || self.membership.by_token).await?
            }
            None => BTreeSet::new(),
        };
        let version = bundle.map_or(0, |bundle| bundle.version);
        let moment = request.moment(exporter, version, self.runtime_digest);
        Ok(Question { request: request.clone(), moment, subject, kinds, attesters: self.attesters.clone() })
    }

    /// Proves what was asked for.
    pub(crate) fn proof(&self, question: &Question, evidence: Vec<Evidence>) -> Proof {
        let keys = (&self.keys.identity, self.keys.next.as_ref().unwrap_or(&self.keys.wireguard));
        let asked = (&self.membership.name, self.membership.prefixes.as_slice());
        Proof::answer(&question.request, &question.moment, &question.subject, asked, keys, evidence)
    }

    /// The first message of a session. A node whose next key was not granted yet comes with the one it has.
    pub(crate) fn hello(
        &self,
        question: &Question,
        evidence: Vec<Evidence>,
        revision: Option<Revision>,
        version: &str,
    ) -> Hello {
        let introduction = Introduction {
            name: self.membership.name.clone(),
            cluster: self.membership.cluster.clone(),
            prefixes: self.membership.prefixes.clone(),
            version: version.to_owned(),
            have: Have { revision, log: self.witness.head() },
            trust: self.trust,
            identity: &self.keys.identity,
            wireguard: &self.keys.wireguard,
            token: self.token.as_ref().map(|token| (token.id, &token.seed)),
            evidence,
        };
        introduction.answer(&question.request, &question.moment)
    }

    /// Signs that this node runs on.
    pub(crate) fn heartbeat(&self, exporter: &[u8; 32], sequence: u64) -> Heartbeat {
        let identity = &self.keys.identity;
        Heartbeat::sign(identity, exporter, sequence, self.runtime_digest, self.witness.head())
    }

    /// Keeps that this node was taken in, as what it asked to be: its identity key signs for its name, so that nobody else may choose it.
    ///
    /// # Errors
    /// Where the coordinator calls it something else, or a node that joins cannot store its membership.
    pub(crate) fn welcomed(&mut self, welcome: &Welcome) -> Result<(), NodeError> {
        let Membership { name, cluster, .. } = &self.membership;
        if (name, cluster) != (&welcome.name, &welcome.cluster) {
            let is = (welcome.name.clone(), welcome.cluster.clone());
            return Err(SessionError::Renamed { is, asked: (name.clone(), cluster.clone()) }.into());
        }
        if self.stored.0.as_ref() == Some(&self.membership) {
            return Ok(());
        }
        match self.state.set_membership(&self.membership) {
            Ok(()) => self.stored.0 = Some(self.membership.clone()),
            // A disk that is full must not keep a running node from hearing of revocations.
            Err(error) if self.is_member() => warn!(%error, "membership not stored"),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Stores what was seen of the mesh.
    pub(crate) fn remember(&mut self) {
        let memory = self.witness.memory();
        if self.stored.1.as_ref() != Some(memory) {
            match self.state.set_memory(memory) {
                Ok(()) => self.stored.1 = Some(memory.clone()),
                Err(error) => warn!(%error, "what was seen of the mesh is not stored"),
            }
        }
    }

    /// Whether this node has been taken in.
    fn is_member(&self) -> bool {
        self.stored.0.is_some()
    }

    /// Makes the key that follows, where the one in use is older than the policy bundle wants it to be, or the bundle is not asked.
    pub(crate) fn prepare_rotation(&mut self) -> bool {
        let every = self.witness.bundle().map_or(u32::MAX, |bundle| bundle.get().rotate_keys_s);
        let age = now().saturating_since(self.membership.key_since).as_secs();
        if self.keys.next.is_none() && age >= u64::from(every) {
            match self.state.next_key() {
                Ok(next) => self.keys.next = Some(next),
                Err(error) => warn!(%error, "no new WireGuard key"),
            }
        }
        self.keys.next.is_some()
    }

    /// Puts the key that follows to use, now that it was granted.
    pub(crate) fn rotate(&mut self) {
        let Some(next) = self.keys.next.take() else { return };
        if let Err(error) = self.state.use_next_key() {
            warn!(%error, "the new WireGuard key is in use, and not stored in its place");
        }
        self.witness.handle_key(next.public());
        self.keys.wireguard = next;
        self.membership.key_since = now();
        match self.state.set_membership(&self.membership) {
            Ok(()) => self.stored.0 = Some(self.membership.clone()),
            Err(error) => warn!(%error, "membership not stored"),
        }
    }
}

/// SHA-256 of the executable that this process runs.
fn runtime_digest() -> io::Result<Bytes<32>> {
    let mut file = File::open("/proc/self/exe")?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Bytes(hash.finalize().into())),
            read => hash.update(&buffer[..read]),
        }
    }
}

/// The wall clock, for what is compared with times that others wrote.
pub(crate) fn now() -> UnixTime {
    UnixTime::from(SystemTime::now())
}

fn hostname() -> Option<NodeName> {
    NodeName::from_hostname(nix::unistd::gethostname().ok()?.to_str()?)
}

#[cfg(test)]
mod tests {
    use carrick_types::{CaPin, MeshId, OperatorPin, OperatorSecret, TokenId, TokenSeed};

    use super::*;
    use crate::EvidenceSources;

    fn newcomer(state_dir: &std::path::Path) -> Identity {
        let token = JoinToken {
            id: TokenId::from_bytes([1; 10]),
            mesh: MeshId::from_bytes([2; 16]),
            cluster: "east".parse().unwrap(),
            ca: CaPin::from_bytes([3; 32]).unwrap(),
            operator: OperatorPin::of(&OperatorSecret::from_bytes([5; 32]).public()),
            policy_version: 1,
            seed: TokenSeed::from_bytes([4; 32]),
            urls: vec!["https://192.0.2.1:8443".to_owned()],
        };
        let config = Config {
            state_dir: state_dir.to_owned(),
            token: Some(token),
            name: Some("a".parse().unwrap()),
            prefixes: None,
            listen_port: 0,
            interface: String::new(),
            mtu: 1420,
            shards: 1,
            version: String::new(),
            trust: Trust::Evidence,
            evidence: EvidenceSources::default(),
        };
        Identity::open(&config).unwrap()
    }

    #[test]
    fn a_node_signs_for_no_name_and_no_cluster_that_the_coordinator_chose() {
        let dir = tempfile::tempdir().unwrap();
        let mut identity = newcomer(dir.path());
        let welcome = |name: &str, cluster: &str| Welcome {
            node: NodeId::of(&identity.keys.identity.public()),
            name: name.parse().unwrap(),
            cluster: cluster.parse().unwrap(),
            observed_ip: "192.0.2.2".parse().unwrap(),
            stun_port: None,
        };
        let (good, bad) = (welcome("a", "east"), [welcome("b", "east"), welcome("a", "west")]);
        for is_member in [false, true] {
            for welcome in &bad {
                let refused = identity.welcomed(welcome).unwrap_err().to_string();
                assert!(refused.contains("it asked to be a in east"), "{refused}");
                assert_eq!(identity.is_member(), is_member);
            }
            identity.welcomed(&good).unwrap();
        }
    }
}
