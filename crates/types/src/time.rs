//! Wall-clock time as it appears in JSON and in tokens.

use std::{
    fmt,
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::text::string_schema;

/// Milliseconds since 1970-01-01 UTC, without leap seconds. RFC 3339 in text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UnixTime(u64);

/// Why a time was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a time: write it as 2026-01-31T12:00:00Z, between 1970 and 9999")]
pub struct ParseTimeError(String);

/// 9999-12-31T23:59:59.999Z, the last time that RFC 3339 can write.
const MAX_MILLIS: u64 = 253_402_300_799_999;

impl UnixTime {
    /// This many milliseconds since 1970, at the most the end of the year 9999.
    pub const fn from_millis(millis: u64) -> Self {
        Self(if millis < MAX_MILLIS { millis } else { MAX_MILLIS })
    }

    /// Milliseconds since 1970.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// This time, and so much more.
    #[must_use]
    pub fn saturating_add(self, more: Duration) -> Self {
        Self::from_millis(self.0.saturating_add(u64::try_from(more.as_millis()).unwrap_or(u64::MAX)))
    }

    /// This time, and so much less; 1970 at the least.
    #[must_use]
    pub fn saturating_sub(self, less: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(less.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long ago `earlier` was; zero where it lies ahead.
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl From<SystemTime> for UnixTime {
    /// A clock before 1970 reads as 1970.
    fn from(time: SystemTime) -> Self {
        Self(0).saturating_add(time.duration_since(UNIX_EPOCH).unwrap_or_default())
    }
}

impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000_000)
            .ok()
            .and_then(|time| time.format(&Rfc3339).ok());
        f.pad(&text.ok_or(fmt::Error)?)
    }
}

impl fmt::Debug for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for UnixTime {
    type Err = ParseTimeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        OffsetDateTime::parse(text, &Rfc3339)
            .ok()
            .and_then(|time| u64::try_from(time.unix_timestamp_nanos() / 1_000_000).ok())
            .filter(|&millis| millis <= MAX_MILLIS)
            .map(Self)
            .ok_or_else(|| ParseTimeError(text.chars().take(80).collect()))
    }
}

impl TryFrom<String> for UnixTime {
    type Error = ParseTimeError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<UnixTime> for String {
    fn from(time: UnixTime) -> Self {
        time.to_string()
    }
}

string_schema!(UnixTime, "time: RFC 3339");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_time_comes_back_from_text(millis in 0..=MAX_MILLIS) {
            let time = UnixTime::from_millis(millis);
            prop_assert_eq!(time.to_string().parse(), Ok(time));
        }
    }

    #[test]
    fn a_time_is_rfc_3339() {
        assert_eq!(UnixTime::from_millis(1_700_000_000_000).to_string(), "2023-11-14T22:13:20Z");
        "yesterday".parse::<UnixTime>().unwrap_err();
        "1969-12-31T23:59:59Z".parse::<UnixTime>().unwrap_err();
    }
}
