//! Why the coordinator, or a peer, is not believed.

use carrick_attest::policy::BundleError;
use carrick_types::{Cidr, PrefixClaimError};
use carrick_wire::log::CheckpointError;

/// Why the coordinator is not believed: the session makes no sense any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Distrust {
    /// No bundle that can be believed.
    #[error("the coordinator's policy bundle is refused: {0}")]
    Bundle(#[from] BundleError),
    /// Another bundle of a version that was seen.
    #[error("the coordinator shows two policy bundles of version {0}: the operator's key signed both")]
    TwoBundles(u64),
    /// A head of the log that the coordinator's key did not sign.
    #[error("the head of the coordinator's log is refused: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// A log that does not continue the one that was seen.
    #[error(
        "the coordinator's log ({size} entries) does not continue the one that this node has seen ({seen} entries): \
         it was set back, or shows others another one; after a restored backup, the operator signs a bundle with `log_restart`"
    )]
    Fork {
        /// Of the log that is shown.
        size: u64,
        /// Of the log that was seen.
        seen: u64,
    },
    /// A message that does not say what it must.
    #[error("the coordinator said something out of turn: {0}")]
    OutOfTurn(&'static str),
}

/// Why one peer is not believed; the others are not concerned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// No proof that it is in the log.
    #[error("its grant is not in the log")]
    Inclusion,
    /// Something in the log, but no grant of this node.
    #[error("what is shown is no grant of this node")]
    NotItsGrant,
    /// The statements are not those that the grant names.
    #[error("its evidence is not the one that its grant names")]
    OtherEvidence,
    /// The evidence is not enough.
    #[error("{0}")]
    Evidence(String),
    /// The evidence names a head that is not proven to be the log's.
    #[error("its evidence is not of the moment that it names")]
    Moment,
    /// Its identity key did not sign for the name or a network of the grant.
    #[error(
        "it did not ask for what it was granted: its identity key signed for another name, or other prefixes"
    )]
    Unasked,
    /// The node was revoked.
    #[error("it was revoked")]
    Revoked,
    /// A later grant was seen.
    #[error("its grant (entry {shown}) was replaced by a later one (entry {seen})")]
    Replaced {
        /// The position that is shown.
        shown: u64,
        /// The position that was seen.
        seen: u64,
    },
    /// Granted under a bundle that this node does not know yet.
    #[error("its grant is of policy bundle {0}, which is not at hand")]
    UnknownPolicy(u64),
    /// A network that belongs to somebody else.
    #[error("its prefix {0} overlaps {1}, which is not its own")]
    Prefix(Cidr, Cidr),
    /// A network that nobody may speak for, or not this one.
    #[error("{0}")]
    Claim(#[from] PrefixClaimError),
    /// A network outside those that its token allows.
    #[error("its prefix {0} is not among those that its token allows")]
    NotAllowed(Cidr),
    /// Not two addresses first.
    #[error("its grant does not begin with an IPv4 and an IPv6 address of the overlay")]
    Overlay,
    /// Another node, or this one, has the key.
    #[error("its WireGuard key belongs to another node")]
    Key,
    /// The node that is told.
    #[error("it is this node itself")]
    Myself,
}
