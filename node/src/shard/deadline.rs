//! Until when packets may pass without another word from the control side.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// No end.
const NONE: u64 = u64::MAX;

/// See [`Command::ReviseBy`](super::Command::ReviseBy). All shards look at it, so that none has to hear of it.
#[derive(Debug)]
pub(super) struct Deadline {
    origin: Instant,
    /// Nanoseconds after the origin.
    by: AtomicU64,
}

impl Default for Deadline {
    fn default() -> Self {
        Self { origin: Instant::now(), by: NONE.into() }
    }
}

impl Deadline {
    /// To be called when every shard has been told, or will have been told before it looks again, what holds from now on.
    pub(super) fn set(&self, by: Option<Instant>) {
        let by = by.map_or(NONE, |by| {
            let since = by.saturating_duration_since(self.origin);
            u64::try_from(since.as_nanos()).unwrap_or(NONE - 1)
        });
        self.by.store(by, Ordering::Release);
    }

    /// Whether a lease has lapsed and the control side has not said what follows: it hangs, or all of this process stood still. What comes
    /// meanwhile waits in the kernel, and meets whatever holds then.
    pub(super) fn is_over(&self) -> bool {
        let by = self.by.load(Ordering::Acquire);
        by != NONE && self.origin + Duration::from_nanos(by) <= Instant::now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_over_when_its_time_has_come_and_none_never_is() {
        let (deadline, now) = (Deadline::default(), Instant::now());
        assert!(!deadline.is_over());
        deadline.set(Some(now));
        assert!(deadline.is_over());
        deadline.set(Some(now + Duration::from_secs(3600)));
        assert!(!deadline.is_over());
        deadline.set(now.checked_sub(Duration::from_millis(1)));
        assert!(deadline.is_over());
        deadline.set(None);
        assert!(!deadline.is_over());
    }
}
