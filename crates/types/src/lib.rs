//! The words of Carrick as types: names, ids, keys, prefixes, tokens. Parsed once; illegal states do not compile.
//!
//! Pure: no sockets, files, clocks or randomness; key material and times come in as arguments.
//! Start at [`JoinToken`], which shows what a node is told before it trusts anybody, or at [`Cidr`].

mod address;
mod credential;
mod id;
mod key;
mod lease;
mod name;
mod operator;
mod text;
mod time;
mod token;

pub use address::{Cidr, ParseCidrError, PrefixClaimError, check_named_prefix_claim, check_prefix_claim};
pub use credential::{Credential, ParseCredentialError, Role};
pub use id::{MeshId, NodeId, ParseIdError, Revision, TokenId};
pub use key::{
    CaPin, ChallengeKey, CoordinatorKey, CoordinatorSecret, IdentityKey, IdentitySecret, OperatorKey,
    OperatorPin, OperatorSecret, ParseKeyError, Signature, TokenKey, TokenSeed, WireGuardKey,
    WireGuardSecret,
};
pub use lease::LeaseProfile;
pub use name::{ClusterName, NodeName, ParseNameError};
pub use operator::ParseOperatorError;
pub use time::{ParseTimeError, UnixTime};
pub use token::{JoinToken, ParseTokenError};
