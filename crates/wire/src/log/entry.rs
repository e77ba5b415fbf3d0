//! What is in the log.

use carrick_attest::{Bytes, Grant, Signed, SignedBundle, token::Capability};
use carrick_types::{NodeId, OperatorKey, TokenId, UnixTime};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::tree::{Hash, leaf_hash};

/// The longest entry that is read, in bytes.
pub const MAX_ENTRY: usize = 64 * 1024;

/// One decision, and when it was made. The bytes in the tree are this as JSON, as the coordinator wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When, by the coordinator's clock.
    pub at: UnixTime,
    /// What.
    #[serde(flatten)]
    pub decision: Decision,
}

/// What was decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Decision {
    /// A policy bundle came into force.
    BundlePublished {
        /// Its version.
        version: u64,
        /// Who signed it.
        operator: OperatorKey,
        /// SHA-256 of its text.
        sha256: Bytes<32>,
    },
    /// An operator made a join token.
    TokenCreated {
        /// What it allows, signed.
        capability: Signed<Capability>,
    },
    /// An operator took a join token back.
    TokenRevoked {
        /// Which.
        token: TokenId,
    },
    /// Peers accept a node's key from now on.
    Granted {
        /// The node, its key, its prefixes and its evidence.
        grant: Grant,
        /// The token that it joined with, for one use; `None` where it was a member already.
        token: Option<TokenId>,
    },
    /// Peers accept a node no longer, for now: its lease lapsed.
    Suspended {
        /// Which.
        node: NodeId,
        /// Why.
        reason: String,
    },
    /// Peers accept a node again, by the grant that it has.
    Resumed {
        /// Which.
        node: NodeId,
    },
    /// Peers never accept a node again.
    NodeRevoked {
        /// Which.
        node: NodeId,
        /// Why, as the operator said.
        reason: Option<String>,
    },
}

impl Decision {
    /// A policy bundle of this version comes into force.
    pub fn bundle_published(version: u64, signed: &SignedBundle) -> Self {
        let sha256 = Bytes(Sha256::digest(signed.bundle.text()).into());
        Self::BundlePublished { version, operator: signed.operator, sha256 }
    }
}

impl Entry {
    /// The text that goes into the log.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("an entry is plain data")
    }

    /// Reads an entry's text. `None` where it is none, or too long.
    pub fn from_text(text: &str) -> Option<Self> {
        (text.len() <= MAX_ENTRY).then(|| serde_json::from_str(text).ok())?
    }

    /// The hash of this entry's leaf.
    pub fn leaf_hash(&self) -> Hash {
        leaf_hash(self.to_text().as_bytes())
    }
}
