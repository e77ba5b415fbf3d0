//! Why a node is not let in, in words that say what to do.

use carrick_attest::{Appraisal, Rejection, Verdict};
use carrick_types::{Cidr, ClusterName, NodeId, NodeName, PrefixClaimError, TokenId, UnixTime};
use carrick_wire::{
    api,
    hello::ProofError,
    session::{DecodeError, Refusal, RefusalCode},
};

use crate::store::StoreError;

/// Every reason for which a join or a session is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error(
        "the join token {id} is not known to this coordinator: make a new one with `carrick token create --cluster {cluster}`"
    )]
    UnknownToken { id: TokenId, cluster: ClusterName },
    #[error("the join token {0} is not the one that was made under this id: copy it again, whole")]
    AlteredToken(TokenId),
    #[error("the join token expired at {at}: make a new one with `carrick token create --cluster {cluster}`")]
    ExpiredToken { at: UnixTime, cluster: ClusterName },
    #[error("the join token was revoked: make a new one with `carrick token create --cluster {0}`")]
    RevokedToken(ClusterName),
    #[error(
        "the join token is used up ({uses} of {uses}): make a new one with `carrick token create --cluster {cluster}`"
    )]
    UsedUpToken { uses: u32, cluster: ClusterName },
    #[error(
        "the join token is for cluster {token}, not for {asked}: make one with `carrick token create --cluster {asked}`"
    )]
    OtherCluster { token: ClusterName, asked: ClusterName },
    #[error(
        "this node is in cluster {now}: to move it to {asked}, revoke it and join again with an empty state directory"
    )]
    MovedCluster { now: ClusterName, asked: ClusterName },
    #[error("the name {0} belongs to another node: choose another with --name, or revoke that node first")]
    NameTaken(NodeName),
    #[error("this node is called {is} and asks to be called {asked}: start it with --name {is}")]
    Renamed { is: NodeName, asked: NodeName },
    #[error(
        "the WireGuard key belongs to node {0}: start with an empty state directory, so that new keys are made"
    )]
    KeyTaken(NodeName),
    #[error(
        "the WireGuard key was another node's: start with an empty state directory, so that new keys are made"
    )]
    FormerKey,
    #[error(
        "the WireGuard key is not the one that this node joined with: restore its state directory, or revoke the node and join again"
    )]
    KeyChanged,
    #[error("{0}")]
    Prefix(#[from] PrefixClaimError),
    #[error("prefix {claimed} overlaps {held} of node {holder}: claim another, or revoke that node first")]
    PrefixTaken { claimed: Cidr, held: Cidr, holder: NodeName },
    #[error("prefix {0} is not among those that the join token allows: make a token with --prefix {0}")]
    PrefixNotAllowed(Cidr),
    #[error("{0} prefixes are too many: claim at most {MAX_PREFIXES}")]
    TooManyPrefixes(usize),
    #[error(
        "this node was revoked: join with an empty state directory and a new token, so that new keys are made"
    )]
    Revoked,
    #[error(
        "this node is no member of the mesh: join with a token from `carrick token create --cluster {0}`"
    )]
    NotAMember(ClusterName),
    #[error("the overlay range {0} has no address left")]
    OverlayExhausted(Cidr),
    #[error(
        "the mesh is full: a netmap of it would be longer than a node takes, and there is no place for another node; revoke those that are gone, or make a second mesh"
    )]
    MeshFull,
    #[error("{0}")]
    Evidence(#[from] Rejection),
    #[error("{0}: start the node again, and upgrade it where that does not help")]
    Proof(#[from] ProofError),
    #[error("{0}")]
    Decode(#[from] DecodeError),
    #[error("{0}")]
    Protocol(&'static str),
    #[error(
        "a newer session of this node took over: see that no other process uses a copy of its state directory"
    )]
    Superseded,
    #[error("the coordinator cannot answer at the moment: {0}")]
    Unavailable(#[from] StoreError),
    #[error("this node asks too often: it is served again in a moment")]
    TooOften,
    #[error("the coordinator is stopping: it will be back")]
    Stopping,
}

/// The most prefixes that one node may speak for.
pub(crate) const MAX_PREFIXES: usize = 64;

impl Refused {
    pub(crate) const fn code(&self) -> RefusalCode {
        match self {
            Self::UnknownToken { .. }
            | Self::AlteredToken(_)
            | Self::ExpiredToken { .. }
            | Self::RevokedToken(_)
            | Self::UsedUpToken { .. }
            | Self::OtherCluster { .. }
            | Self::MovedCluster { .. } => RefusalCode::Token,
            Self::NameTaken(_) | Self::Renamed { .. } => RefusalCode::NameTaken,
            Self::KeyTaken(_) | Self::FormerKey | Self::KeyChanged => RefusalCode::KeyTaken,
            Self::Prefix(_)
            | Self::PrefixTaken { .. }
            | Self::PrefixNotAllowed(_)
            | Self::TooManyPrefixes(_) => RefusalCode::Prefix,
            Self::Revoked => RefusalCode::Revoked,
            Self::NotAMember(_) => RefusalCode::NotAMember,
            Self::Proof(_) => RefusalCode::Proof,
            Self::Evidence(_) => RefusalCode::Evidence,
            Self::Decode(_) | Self::Protocol(_) => RefusalCode::Protocol,
            Self::Superseded => RefusalCode::Superseded,
            Self::OverlayExhausted(_)
            | Self::MeshFull
            | Self::Unavailable(_)
            | Self::TooOften
            | Self::Stopping => RefusalCode::Unavailable,
        }
    }
}

impl Refused {
    /// The refusal as people are shown it, with every claim that was looked at.
    pub(crate) fn shown(
        &self,
        node: Option<NodeId>,
        name: &NodeName,
        cluster: &ClusterName,
        at: UnixTime,
    ) -> api::Refusal {
        let appraisals =
            if let Self::Evidence(rejection) = self { rejection.appraisals.as_slice() } else { &[] };
        api::Refusal {
            at,
            node,
            name: name.clone(),
            cluster: cluster.clone(),
            code: self.code(),
            detail: self.to_string(),
            evidence: appraisals.iter().map(|appraisal| evidence(appraisal, at)).collect(),
        }
    }
}

/// An appraisal as people are shown it, with every claim.
pub(crate) fn evidence(appraisal: &Appraisal, appraised_at: UnixTime) -> api::Evidence {
    let decision = if appraisal.is_accepted() { Verdict::Accepted } else { Verdict::Refused };
    api::Evidence { kind: appraisal.kind, appraised_at, decision, claims: appraisal.claims.clone() }
}

impl From<&Refused> for Refusal {
    fn from(refused: &Refused) -> Self {
        // A node is not told where the coordinator keeps its files.
        let detail = if matches!(refused, Refused::Unavailable(_)) {
            "the coordinator cannot write at the moment: try again later, and look at its log".to_owned()
        } else {
            refused.to_string()
        };
        Self { code: refused.code(), detail }
    }
}
