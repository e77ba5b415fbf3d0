//! What is in the log.

use carrick_types::{Cidr, ClusterName, IdentityKey, NodeId, NodeName, TokenId, UnixTime, WireGuardKey};
use serde::{Deserialize, Serialize};

use super::tree::{Hash, leaf_hash};

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
    /// An operator made a join token.
    TokenCreated {
        /// Which.
        token: TokenId,
        /// The cluster that nodes join with it.
        cluster: ClusterName,
        /// How many may.
        uses: u32,
        /// Until when.
        expires_at: UnixTime,
    },
    /// An operator took a join token back.
    TokenRevoked {
        /// Which.
        token: TokenId,
    },
    /// A node joined, for one use of a token.
    NodeJoined {
        /// Its id.
        node: NodeId,
        /// Its name.
        name: NodeName,
        /// Its cluster.
        cluster: ClusterName,
        /// Its identity key.
        identity_key: IdentityKey,
        /// Its WireGuard key.
        wireguard_key: WireGuardKey,
        /// Its overlay addresses and the prefixes that it speaks for.
        allowed_ips: Vec<Cidr>,
        /// The token that it joined with.
        token: TokenId,
    },
    /// A node speaks for other prefixes than before.
    PrefixesChanged {
        /// Which.
        node: NodeId,
        /// Its overlay addresses and the prefixes that it speaks for now.
        allowed_ips: Vec<Cidr>,
    },
    /// An operator cut a node off.
    NodeRevoked {
        /// Which.
        node: NodeId,
        /// Why, as the operator said.
        reason: Option<String>,
    },
}

impl Entry {
    /// The text that goes into the log.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("an entry is plain data")
    }

    /// The hash of this entry's leaf.
    pub fn leaf_hash(&self) -> Hash {
        leaf_hash(self.to_text().as_bytes())
    }
}
