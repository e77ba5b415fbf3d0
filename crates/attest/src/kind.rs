//! The kinds of evidence.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A kind of evidence.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The node's identity key signed the transcript: always there, proves no more than that the node is who it says.
    Identity,
    /// A token that an operator signed admitted the node.
    JoinToken,
    /// A Kubernetes API server vouches for the agent's pod, node and service account.
    Kubernetes,
    /// A TPM 2.0 quotes the platform's registers.
    Tpm,
    /// An AMD SEV-SNP report.
    SevSnp,
    /// An Intel TDX quote.
    Tdx,
    /// An AWS Nitro Enclaves document.
    Nitro,
}

impl Kind {
    /// Whether evidence of this kind grows old, and has to be shown again and again. Who showed a token once is in; the identity key
    /// signs whenever there is something to sign.
    pub const fn ages(self) -> bool {
        !matches!(self, Self::Identity | Self::JoinToken)
    }

    /// Whether evidence of this kind is compared with what the node showed before: see [`follows`](crate::follows).
    pub const fn has_history(self) -> bool {
        matches!(self, Self::Tpm)
    }

    /// The kind as it is written, in transcripts as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::JoinToken => "join-token",
            Self::Kubernetes => "kubernetes",
            Self::Tpm => "tpm",
            Self::SevSnp => "sev-snp",
            Self::Tdx => "tdx",
            Self::Nitro => "nitro",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
