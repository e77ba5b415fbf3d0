//! Lease profiles.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long the word of the coordinator holds.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum LeaseProfile {
    /// 30 seconds; tunnels that are up stay up while the coordinator is away, and no new ones are made.
    #[default]
    Available,
    /// One second; without the coordinator the mesh closes.
    Strict,
}

impl LeaseProfile {
    /// How long a lease holds after the heartbeat that renewed it.
    pub const fn lease(self) -> Duration {
        match self {
            Self::Available => Duration::from_secs(30),
            Self::Strict => Duration::from_secs(1),
        }
    }

    /// How often it is renewed.
    pub const fn heartbeat(self) -> Duration {
        match self {
            Self::Available => Duration::from_secs(5),
            Self::Strict => Duration::from_millis(250),
        }
    }
}
