//! A coordinator without sockets: it keeps a log, tells true netmaps, and lies on request.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use carrick_attest::{
    Bundle, Bytes, Evidence, Grant, Kind, Moment, Signed, SignedBundle, Statement, StatementDigest, Subject,
    Transcript, identity as attested,
    policy::ClusterPolicy,
    token::{self, Capability},
};
use carrick_trust::{Distrust, Doubt, Memory, Myself, Witness};
use carrick_types::{
    Cidr, CoordinatorSecret, IdentitySecret, MeshId, NodeId, NodeName, OperatorPin, OperatorSecret, Revision,
    TokenId, TokenSeed, UnixTime, WireGuardSecret,
};
use carrick_wire::{
    hello::{Head, Trust},
    log::{
        Checkpoint, Decision, Entry, Origin,
        tree::{Tree, leaf_hash},
    },
    netmap::{GrantProof, LogNews, Logged, Netmap, NetmapDelta, OwnNode, Peer},
};

pub(crate) const MESH: MeshId = MeshId::from_bytes([1; 16]);
pub(crate) const NOW: UnixTime = UnixTime::from_millis(1_000_000_000);

/// The node that watches; the others are 1 and up.
pub(crate) const ME: u8 = 100;

pub(crate) fn operator(n: u8) -> OperatorSecret {
    OperatorSecret::from_bytes([n; 32])
}

pub(crate) fn pin(n: u8) -> OperatorPin {
    OperatorPin::of(&operator(n).public())
}

pub(crate) fn identity(n: u8) -> IdentitySecret {
    IdentitySecret::from_bytes([n; 32])
}

pub(crate) fn id(n: u8) -> NodeId {
    NodeId::of(&identity(n).public())
}

/// A WireGuard key; a node's first one has its number.
pub(crate) fn key(n: u8) -> WireGuardSecret {
    WireGuardSecret::from_bytes([n; 32])
}

pub(crate) fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

pub(crate) fn later(seconds: u64) -> UnixTime {
    NOW.saturating_add(Duration::from_secs(seconds))
}

pub(crate) fn myself() -> Myself {
    Myself { id: id(ME), wireguard_key: key(ME).public(), prefixes: vec![cidr(&format!("10.{ME}.0.0/16"))] }
}

/// A node that joined with a token of the operator, and has seen nothing yet.
pub(crate) fn newcomer(trust: Trust) -> Witness {
    restarted(trust, Memory::new(pin(2), 0))
}

pub(crate) fn restarted(trust: Trust, memory: Memory) -> Witness {
    Witness::new(MESH, myself(), trust, memory)
}

/// What a node shows to be granted a key, and what it is granted; a node is by default what it should be.
#[derive(Debug, Clone)]
pub(crate) struct Profile {
    pub(crate) n: u8,
    pub(crate) key: u8,
    pub(crate) prefixes: Vec<Cidr>,
    /// The prefixes that its token names.
    pub(crate) allowed: Option<Vec<Cidr>>,
}

impl Profile {
    pub(crate) fn of(n: u8) -> Self {
        Self { n, key: n, prefixes: vec![cidr(&format!("10.{n}.0.0/16"))], allowed: None }
    }

    pub(crate) fn with_key(self, key: u8) -> Self {
        Self { key, ..self }
    }

    pub(crate) fn with_prefixes(self, prefixes: &[&str]) -> Self {
        Self { prefixes: prefixes.iter().map(|text| cidr(text)).collect(), ..self }
    }

    pub(crate) fn allowing(self, allowed: &[&str]) -> Self {
        Self { allowed: Some(allowed.iter().map(|text| cidr(text)).collect()), ..self }
    }

    fn name(&self) -> NodeName {
        format!("n{}", self.n).parse().unwrap()
    }

    fn subject(&self, key: u8) -> Subject {
        Subject {
            mesh: MESH,
            cluster: "east".parse().unwrap(),
            identity_key: identity(self.n).public(),
            wireguard_key: self::key(key).public(),
        }
    }

    pub(crate) fn statement(
        &self,
        key: u8,
        kind: Kind,
        evidence: impl FnOnce(&Transcript) -> Evidence,
    ) -> Statement {
        self.statement_at(first_head(), key, kind, evidence)
    }

    /// A statement that names a head of the log.
    pub(crate) fn statement_at(
        &self,
        head: Head,
        key: u8,
        kind: Kind,
        evidence: impl FnOnce(&Transcript) -> Evidence,
    ) -> Statement {
        let subject = self.subject(key);
        let moment = Moment {
            log_size: head.size,
            log_head: head.head,
            salt: Bytes([6; 32]),
            exporter: Bytes([7; 32]),
            policy_version: 1,
            runtime_digest: Bytes([8; 32]),
        };
        Statement {
            moment,
            wireguard_key: subject.wireguard_key,
            evidence: evidence(&moment.transcript(&subject, kind)),
            appraised_at: NOW,
        }
    }

    pub(crate) fn identity_statement(&self) -> String {
        let sign = |transcript: &Transcript| {
            let (key, prefixes) = (identity(self.n), self.prefixes.clone());
            Evidence::Identity(attested::Evidence::sign(&key, self.name(), prefixes, transcript))
        };
        self.statement(self.key, Kind::Identity, sign).to_text()
    }

    /// Made with the key that the node joined with, by an operator.
    pub(crate) fn token_statement(&self, by: u8) -> String {
        let seed = TokenSeed::from_bytes([10; 32]);
        let capability = Capability {
            mesh: MESH,
            token: TokenId::from_bytes([11; 10]),
            key: seed.public(),
            cluster: "east".parse().unwrap(),
            uses: 100,
            expires_at: later(1),
            prefixes: self.allowed.clone(),
        };
        let sign = |transcript: &Transcript| {
            Evidence::JoinToken(token::Evidence {
                capability: Signed::seal(&capability, &operator(by)),
                signature: seed.sign(transcript.as_bytes()),
            })
        };
        self.statement(self.n, Kind::JoinToken, sign).to_text()
    }

    pub(crate) fn statements(&self) -> Vec<String> {
        vec![self.identity_statement(), self.token_statement(2)]
    }

    /// The grant that these statements would earn.
    pub(crate) fn grant(&self, statements: &[String]) -> Grant {
        let overlay = [format!("100.64.0.{}/32", self.n), format!("fd00::{}/128", self.n)];
        let kind = |text: &String| Statement::from_text(text).unwrap().evidence.kind();
        Grant {
            node: id(self.n),
            name: self.name(),
            cluster: "east".parse().unwrap(),
            identity_key: identity(self.n).public(),
            wireguard_key: key(self.key).public(),
            allowed_ips: overlay.iter().map(|text| cidr(text)).chain(self.prefixes.clone()).collect(),
            policy_version: 1,
            statements: statements.iter().map(|text| StatementDigest::of(kind(text), text)).collect(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Active,
    Suspended,
    Revoked,
}

/// A node as the coordinator knows it.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) profile: Profile,
    pub(crate) standing: Standing,
    pub(crate) endpoints: Vec<SocketAddr>,
    statements: Vec<String>,
    /// Its grant, or its revocation.
    logged: (u64, String),
    revision: u64,
    grant_revision: u64,
}

/// What every log begins with.
fn first_decision() -> Decision {
    Decision::BundlePublished { version: 1, operator: operator(2).public(), sha256: Bytes([0; 32]) }
}

/// The head of every log with one entry.
pub(crate) fn first_head() -> Head {
    let text = Entry { at: NOW, decision: first_decision() }.to_text();
    Head { size: 1, head: Bytes(leaf_hash(text.as_bytes())) }
}

/// The coordinator. A clone of it is another history from here on.
#[derive(Debug, Clone)]
pub(crate) struct Mesh {
    pub(crate) coordinator: CoordinatorSecret,
    pub(crate) tree: Tree,
    /// Where the operator set the log back.
    pub(crate) restart: Option<Head>,
    pub(crate) nodes: BTreeMap<u8, Record>,
    pub(crate) own: OwnNode,
    own_revision: u64,
    pub(crate) revision: u64,
}

impl Mesh {
    pub(crate) fn new() -> Self {
        let own = OwnNode {
            overlay_v4: [100, 64, 0, ME].into(),
            overlay_v6: format!("fd00::{ME}").parse().unwrap(),
            prefixes: myself().prefixes,
            wireguard_key: myself().wireguard_key,
        };
        let mut mesh = Self {
            coordinator: CoordinatorSecret::from_bytes([9; 32]),
            tree: Tree::default(),
            restart: None,
            nodes: BTreeMap::new(),
            own,
            own_revision: 1,
            revision: 1,
        };
        mesh.log(first_decision());
        mesh
    }

    /// A mesh of nodes 1 to `nodes`, and a witness that has seen it.
    pub(crate) fn seen_by(trust: Trust, nodes: u8) -> (Self, Witness) {
        let mut mesh = Self::new();
        (1..=nodes).for_each(|n| mesh.grant(Profile::of(n)));
        let mut witness = newcomer(trust);
        witness.handle_bundle(&mesh.bundle(), NOW).unwrap();
        mesh.show_whole(&mut witness).unwrap();
        assert_eq!(members(&witness), (1..=nodes).collect::<Vec<_>>());
        (mesh, witness)
    }

    pub(crate) fn bundle(&self) -> SignedBundle {
        self.bundle_of(1, |_| ())
    }

    pub(crate) fn bundle_of(&self, version: u64, change: impl FnOnce(&mut Bundle)) -> SignedBundle {
        let mut bundle = Bundle {
            mesh: MESH,
            version,
            expires_at: later(1000),
            coordinator_key: self.coordinator.public(),
            former_operators: vec![],
            rotate_keys_s: 60,
            log_restart: self.restart,
            default: ClusterPolicy::default(),
            clusters: BTreeMap::new(),
        };
        change(&mut bundle);
        sealed(&bundle, 2)
    }

    /// Adds an entry to the log.
    pub(crate) fn log(&mut self, decision: Decision) -> (u64, String) {
        let text = Entry { at: NOW, decision }.to_text();
        self.tree.push(leaf_hash(text.as_bytes()));
        (self.tree.size() - 1, text)
    }

    pub(crate) fn head(&self) -> Head {
        self.head_at(self.tree.size())
    }

    pub(crate) fn head_at(&self, size: u64) -> Head {
        Head { size, head: Bytes(self.tree.head(size).unwrap()) }
    }

    /// A note of the log as it was.
    pub(crate) fn note(&self, size: u64) -> String {
        self.sign(self.head_at(size))
    }

    pub(crate) fn origin(&self) -> Origin {
        Origin { mesh: MESH, restart: self.restart }
    }

    pub(crate) fn sign(&self, head: Head) -> String {
        Checkpoint { origin: self.origin(), size: head.size, head: head.head.0 }
            .sign(&self.coordinator)
            .to_string()
    }

    pub(crate) fn news(&self, seen: Option<Head>) -> LogNews {
        let proof = seen.and_then(|seen| self.tree.consistency(seen.size, self.tree.size()));
        LogNews { checkpoint: self.note(self.tree.size()), consistency: hashes(proof.unwrap_or_default()) }
    }

    pub(crate) fn consistency(&self, (old, new): (u64, u64)) -> Vec<Bytes<32>> {
        hashes(self.tree.consistency(old, new).unwrap())
    }

    pub(crate) fn logged(&self, (index, entry): &(u64, String)) -> Logged {
        let inclusion = hashes(self.tree.inclusion(*index, self.tree.size()).unwrap());
        Logged { index: *index, entry: entry.clone(), inclusion }
    }

    /// Grants a node what it should be granted: it joins, has a new key, or other prefixes.
    pub(crate) fn grant(&mut self, profile: Profile) {
        let statements = profile.statements();
        let grant = profile.grant(&statements);
        self.grant_as(profile, grant, statements);
    }

    /// Writes any grant into the log, and shows peers any statements beside it.
    pub(crate) fn grant_as(&mut self, profile: Profile, grant: Grant, statements: Vec<String>) {
        let logged = self.log(Decision::Granted { grant, token: None });
        self.revision += 1;
        let n = profile.n;
        let record = Record {
            profile,
            standing: Standing::Active,
            endpoints: vec![([192, 0, 2, n], 51820).into()],
            statements,
            logged,
            revision: self.revision,
            grant_revision: self.revision,
        };
        self.nodes.insert(n, record);
    }

    fn change(&mut self, n: u8) -> &mut Record {
        self.revision += 1;
        let record = self.nodes.get_mut(&n).unwrap();
        record.revision = self.revision;
        record
    }

    pub(crate) fn suspend(&mut self, n: u8) {
        self.log(Decision::Suspended { node: id(n), reason: "silent".to_owned() });
        self.change(n).standing = Standing::Suspended;
    }

    pub(crate) fn resume(&mut self, n: u8) {
        self.log(Decision::Resumed { node: id(n) });
        let record = self.change(n);
        record.standing = Standing::Active;
        record.grant_revision = record.revision;
    }

    pub(crate) fn revoke(&mut self, n: u8) {
        let logged = self.log(Decision::NodeRevoked { node: id(n), reason: None });
        let record = self.change(n);
        record.standing = Standing::Revoked;
        record.logged = logged;
    }

    pub(crate) fn move_to(&mut self, n: u8, endpoints: &[SocketAddr]) {
        self.change(n).endpoints = endpoints.to_vec();
    }

    pub(crate) fn tell_own(&mut self, change: impl FnOnce(&mut OwnNode)) {
        change(&mut self.own);
        self.revision += 1;
        self.own_revision = self.revision;
    }

    /// As if a node's grant, as it was in an earlier state of the mesh, were the last one.
    pub(crate) fn show_again(&mut self, n: u8, earlier: &Self) {
        let former = earlier.nodes[&n].clone();
        self.revision += 1;
        let (revision, grant_revision) = (self.revision, self.revision);
        self.nodes.insert(n, Record { revision, grant_revision, ..former });
    }

    pub(crate) fn peer(&self, n: u8) -> Peer {
        let record = &self.nodes[&n];
        let logged = self.logged(&record.logged);
        let statements = record.statements.clone();
        let moments = statements.iter().map(|text| self.moment(text)).collect();
        let grant = Some(GrantProof { logged, statements, moments });
        Peer { id: id(n), endpoints: record.endpoints.clone(), grant }
    }

    /// Proof of the moment that a statement names, where the log had such a head.
    fn moment(&self, text: &str) -> Vec<Bytes<32>> {
        let then = Statement::from_text(text).map_or(0, |statement| statement.moment.log_size);
        hashes(self.tree.consistency(then, self.tree.size()).unwrap_or_default())
    }

    pub(crate) fn netmap(&self, seen: Option<Head>) -> Netmap {
        let active = self.nodes.iter().filter(|(_, record)| record.standing == Standing::Active);
        let missed = self.nodes.values().filter(|record| {
            record.standing == Standing::Revoked && seen.is_some_and(|seen| record.logged.0 >= seen.size)
        });
        Netmap {
            revision: Revision(self.revision),
            own: self.own.clone(),
            peers: active.map(|(n, _)| self.peer(*n)).collect(),
            revocations: missed.map(|record| self.logged(&record.logged)).collect(),
            log: self.news(seen),
        }
    }

    pub(crate) fn delta(&self, since: Revision, seen: Option<Head>) -> NetmapDelta {
        let changed = || self.nodes.iter().filter(|(_, record)| record.revision > since.0);
        let upsert = |(n, record): (&u8, &Record)| {
            let peer = self.peer(*n);
            Peer { grant: peer.grant.filter(|_| record.grant_revision > since.0), ..peer }
        };
        let active = |record: &Record| record.standing == Standing::Active;
        let revoked = changed().filter(|(_, record)| record.standing == Standing::Revoked);
        NetmapDelta {
            from: since,
            to: Revision(self.revision),
            own: (self.own_revision > since.0).then(|| self.own.clone()),
            upserts: changed().filter(|(_, record)| active(record)).map(upsert).collect(),
            removes: changed().filter(|(_, record)| !active(record)).map(|(n, _)| id(*n)).collect(),
            revocations: revoked.map(|(_, record)| self.logged(&record.logged)).collect(),
            log: Some(self.news(seen)),
        }
    }

    /// The delta that leads a witness here.
    pub(crate) fn delta_for(&self, witness: &Witness) -> NetmapDelta {
        self.delta(witness.view().unwrap().revision, witness.head())
    }

    pub(crate) fn show(&self, witness: &mut Witness) -> Result<(), Distrust> {
        witness.handle_delta(self.delta_for(witness), NOW)
    }

    pub(crate) fn show_whole(&self, witness: &mut Witness) -> Result<(), Distrust> {
        witness.handle_netmap(self.netmap(witness.head()), NOW)
    }
}

pub(crate) fn sealed(bundle: &Bundle, by: u8) -> SignedBundle {
    let operator = operator(by);
    SignedBundle { operator: operator.public(), successions: vec![], bundle: Signed::seal(bundle, &operator) }
}

/// The nodes that are believed. Whatever else holds, no two of them have the same key or a network in common, and none is
/// doubted at the same time.
pub(crate) fn members(witness: &Witness) -> Vec<u8> {
    let view = witness.view().unwrap();
    let grants: Vec<&Grant> = view.members.values().map(|member| &member.grant).collect();
    for (at, grant) in grants.iter().enumerate() {
        assert!(!view.doubted.contains_key(&grant.node));
        for other in &grants[..at] {
            assert_ne!(grant.wireguard_key, other.wireguard_key);
            let mut networks =
                grant.allowed_ips.iter().flat_map(|a| other.allowed_ips.iter().map(move |b| (a, b)));
            assert!(!networks.any(|(a, b)| a.overlaps(b)), "{grant:?} {other:?}");
        }
    }
    (1..=ME).filter(|n| view.members.contains_key(&id(*n))).collect()
}

pub(crate) fn doubt(witness: &Witness, n: u8) -> Doubt {
    witness.view().unwrap().doubted[&id(n)].clone()
}

/// What was said about the evidence of a node that is doubted for it.
pub(crate) fn doubted_evidence(witness: &Witness, n: u8) -> String {
    let Doubt::Evidence(why) = doubt(witness, n) else { panic!("{}", doubt(witness, n)) };
    why
}

fn hashes(proof: Vec<[u8; 32]>) -> Vec<Bytes<32>> {
    proof.into_iter().map(Bytes).collect()
}
