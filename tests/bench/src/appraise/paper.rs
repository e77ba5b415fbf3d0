//! A mesh on paper: an operator, a policy bundle, and nodes that join with a token.

use std::{collections::BTreeMap, time::Duration};

use carrick_attest::{
    Bundle, Bytes, Evidence, Kind, Moment, Signed, SignedBundle, Statement, Subject, Transcript,
    TrustedBundle, identity,
    policy::ClusterPolicy,
    token::{self, Capability},
};
use carrick_types::{
    Cidr, CoordinatorSecret, IdentitySecret, MeshId, NodeName, OperatorPin, OperatorSecret, TokenId,
    TokenSeed, UnixTime, WireGuardSecret,
};

pub(super) const NOW: UnixTime = UnixTime::from_millis(1_800_000_000_000);
pub(super) const MESH: MeshId = MeshId::from_bytes([1; 16]);

/// A node; everything of it follows from its number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node(u16);

fn operator() -> OperatorSecret {
    OperatorSecret::from_bytes([2; 32])
}

pub(super) fn operator_pin() -> OperatorPin {
    OperatorPin::of(&operator().public())
}

/// Signs the log.
pub(super) fn coordinator() -> CoordinatorSecret {
    CoordinatorSecret::from_bytes([3; 32])
}

pub(super) fn bundle() -> SignedBundle {
    let bundle = Bundle {
        mesh: MESH,
        version: 1,
        expires_at: NOW.saturating_add(Duration::from_secs(3600)),
        coordinator_key: coordinator().public(),
        former_operators: Vec::new(),
        rotate_keys_s: 86_400,
        log_restart: None,
        default: ClusterPolicy::default(),
        clusters: BTreeMap::new(),
    };
    let operator = operator();
    SignedBundle {
        operator: operator.public(),
        successions: Vec::new(),
        bundle: Signed::seal(&bundle, &operator),
    }
}

pub(super) fn trusted() -> TrustedBundle {
    bundle().open(&operator_pin(), &MESH).expect("this operator signed it")
}

impl Node {
    pub(super) const fn new(n: u16) -> Self {
        Self(n)
    }

    fn bytes(self, what: u8) -> [u8; 32] {
        let mut bytes = [what; 32];
        // X25519 leaves bits of the first and the last byte out.
        bytes[1..3].copy_from_slice(&self.0.to_be_bytes());
        bytes
    }

    fn identity(self) -> IdentitySecret {
        IdentitySecret::from_bytes(self.bytes(4))
    }

    pub(super) fn subject(self) -> Subject {
        Subject {
            mesh: MESH,
            cluster: "east".parse().expect("it is a name"),
            identity_key: self.identity().public(),
            wireguard_key: WireGuardSecret::from_bytes(self.bytes(5)).public(),
        }
    }

    /// What it showed when it joined: its identity, and a token.
    pub(super) fn statements(self) -> Vec<Statement> {
        let seed = TokenSeed::from_bytes([6; 32]);
        let capability = Capability {
            mesh: MESH,
            token: TokenId::from_bytes([7; 10]),
            key: seed.public(),
            cluster: "east".parse().expect("it is a name"),
            uses: 10_000,
            expires_at: NOW.saturating_add(Duration::from_secs(3600)),
            prefixes: None,
        };
        let identity = self.statement(Kind::Identity, |transcript| {
            let (name, prefixes) = (self.name(), self.allowed_ips().split_off(2));
            Evidence::Identity(identity::Evidence::sign(&self.identity(), name, prefixes, transcript))
        });
        let token = self.statement(Kind::JoinToken, |transcript| {
            Evidence::JoinToken(token::Evidence {
                capability: Signed::seal(&capability, &operator()),
                signature: seed.sign(transcript.as_bytes()),
            })
        });
        vec![identity, token]
    }

    fn statement(self, kind: Kind, evidence: impl FnOnce(&Transcript) -> Evidence) -> Statement {
        let subject = self.subject();
        let moment = Moment {
            log_size: 1,
            log_head: Bytes([8; 32]),
            salt: Bytes(self.bytes(9)),
            exporter: Bytes(self.bytes(10)),
            policy_version: 1,
            runtime_digest: Bytes([11; 32]),
        };
        Statement {
            moment,
            wireguard_key: subject.wireguard_key,
            evidence: evidence(&moment.transcript(&subject, kind)),
            appraised_at: NOW,
        }
    }

    /// What it is called.
    pub(super) fn name(self) -> NodeName {
        format!("n{}", self.0).parse().expect("it is a name")
    }

    /// Its overlay addresses and its prefix.
    pub(super) fn allowed_ips(self) -> Vec<Cidr> {
        let [high, low] = self.0.to_be_bytes();
        let addresses = [
            format!("100.64.{high}.{low}/32"),
            format!("fd00::{:x}/128", self.0),
            format!("10.{high}.{low}.0/24"),
        ];
        addresses.iter().map(|text| text.parse().expect("it is an address")).collect()
    }
}
