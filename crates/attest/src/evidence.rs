//! Evidence as it travels: what a node showed, when, and for which keys.

use carrick_types::{ClusterName, IdentityKey, MeshId, UnixTime, WireGuardKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    Binding, Bytes, Kind, Transcript, identity, kubernetes, nitro, policy::LogHead, sev_snp, tdx, token, tpm,
};

/// The longest text of one statement, in bytes.
pub const MAX_STATEMENT: usize = 64 * 1024;

/// One piece of evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Evidence {
    /// See [`Kind::Identity`].
    Identity(identity::Evidence),
    /// See [`Kind::JoinToken`].
    JoinToken(token::Evidence),
    /// See [`Kind::Kubernetes`].
    Kubernetes(kubernetes::Evidence),
    /// See [`Kind::Tpm`].
    Tpm(Box<tpm::Evidence>),
    /// See [`Kind::SevSnp`].
    SevSnp(Box<sev_snp::Evidence>),
    /// See [`Kind::Tdx`].
    Tdx(Box<tdx::Evidence>),
    /// See [`Kind::Nitro`].
    Nitro(Box<nitro::Evidence>),
}

impl Evidence {
    /// What it says of the node's identity, where it is of that kind.
    pub const fn identity(&self) -> Option<&identity::Evidence> {
        if let Self::Identity(identity) = self { Some(identity) } else { None }
    }

    /// Its kind.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Identity(_) => Kind::Identity,
            Self::JoinToken(_) => Kind::JoinToken,
            Self::Kubernetes(_) => Kind::Kubernetes,
            Self::Tpm(_) => Kind::Tpm,
            Self::SevSnp(_) => Kind::SevSnp,
            Self::Tdx(_) => Kind::Tdx,
            Self::Nitro(_) => Kind::Nitro,
        }
    }
}

/// Whose evidence: what every transcript of a node has in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The mesh.
    pub mesh: MeshId,
    /// The node's cluster.
    pub cluster: ClusterName,
    /// The node's identity key.
    pub identity_key: IdentityKey,
    /// The WireGuard key that peers would accept.
    pub wireguard_key: WireGuardKey,
}

/// When evidence was made, in which session, and of which software.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Moment {
    /// The size of the log when the nonce was made: the evidence is no older.
    pub log_size: u64,
    /// The head of the log at that size.
    pub log_head: Bytes<32>,
    /// Random, from whoever asked for the evidence.
    pub salt: Bytes<32>,
    /// The keying material that the TLS session exported.
    pub exporter: Bytes<32>,
    /// The version of the policy bundle that the node saw.
    pub policy_version: u64,
    /// SHA-256 of the executable that the node runs.
    pub runtime_digest: Bytes<32>,
}

impl Moment {
    /// The head of the log that it names.
    pub const fn head(&self) -> LogHead {
        LogHead { size: self.log_size, head: self.log_head }
    }

    /// The nonce: whoever knows the log can tell that the evidence is younger than the head it names.
    pub fn nonce(&self) -> [u8; 32] {
        Sha256::new()
            .chain_update(b"carrick/nonce/1")
            .chain_update(self.log_size.to_be_bytes())
            .chain_update(self.log_head.0)
            .chain_update(self.salt.0)
            .finalize()
            .into()
    }

    /// The transcript of evidence of a kind, for a subject.
    pub fn transcript(&self, subject: &Subject, kind: Kind) -> Transcript {
        let binding = Binding {
            mesh: &subject.mesh,
            cluster: &subject.cluster,
            identity_key: &subject.identity_key,
            wireguard_key: &subject.wireguard_key,
            nonce: &self.nonce(),
            exporter: &self.exporter.0,
            policy_version: self.policy_version,
            runtime_digest: &self.runtime_digest.0,
        };
        binding.transcript(kind)
    }
}

/// Evidence with everything that is needed to appraise it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// When it was made.
    pub moment: Moment,
    /// The WireGuard key that it was made for. Of a join token, the one that the node joined with.
    pub wireguard_key: WireGuardKey,
    /// The evidence.
    pub evidence: Evidence,
    /// When the coordinator appraised it, by its clock.
    pub appraised_at: UnixTime,
}

impl Statement {
    /// The statement as it is kept, hashed and sent.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("a statement is plain data")
    }

    /// Reads a statement's text. `None` where it is none, or too long.
    pub fn from_text(text: &str) -> Option<Self> {
        (text.len() <= MAX_STATEMENT).then(|| serde_json::from_str(text).ok())?
    }
}
