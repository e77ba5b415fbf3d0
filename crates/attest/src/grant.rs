//! Grants: the binding of a node, its key and its prefixes to evidence, that peers act on.

use carrick_types::{Cidr, ClusterName, IdentityKey, NodeId, NodeName, WireGuardKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{AttestationResult, Bytes, Kind, Statement};

/// A grant as it stands in the log. The coordinator's signature is the one on the log's head.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// To whom.
    pub node: NodeId,
    /// Its name.
    pub name: NodeName,
    /// Its cluster.
    pub cluster: ClusterName,
    /// Its identity key.
    pub identity_key: IdentityKey,
    /// The WireGuard key that peers accept.
    pub wireguard_key: WireGuardKey,
    /// Its overlay addresses and the prefixes it speaks for.
    pub allowed_ips: Vec<Cidr>,
    /// The policy bundle under which its evidence was appraised.
    pub policy_version: u64,
    /// The evidence, which travels beside the grant.
    pub statements: Vec<StatementDigest>,
}

/// Names a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatementDigest {
    /// Its kind.
    pub kind: Kind,
    /// SHA-256 of its text.
    pub sha256: Bytes<32>,
}

impl StatementDigest {
    /// Of a statement's text.
    pub fn of(kind: Kind, text: &str) -> Self {
        Self { kind, sha256: Bytes(Sha256::digest(text).into()) }
    }
}

/// Grants what evidence has earned. No proof, no grant.
pub fn grant(proof: &AttestationResult, name: NodeName, allowed_ips: Vec<Cidr>) -> Grant {
    let subject = proof.subject();
    let digest = |statement: &Statement| StatementDigest::of(statement.evidence.kind(), &statement.to_text());
    Grant {
        node: NodeId::of(&subject.identity_key),
        name,
        cluster: subject.cluster.clone(),
        identity_key: subject.identity_key,
        wireguard_key: subject.wireguard_key,
        allowed_ips,
        policy_version: proof.policy_version(),
        statements: proof.statements().iter().map(digest).collect(),
    }
}
