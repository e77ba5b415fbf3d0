//! What an operator hears of dropped packets: which reasons there were, now and then.

use std::time::{Duration, Instant};

use carrick_dataplane::Counters;

/// What was dropped is told so often at most.
const TELLS: Duration = Duration::from_secs(60);

/// Where nothing was, it is looked at so often at most.
const LOOKS: Duration = Duration::from_secs(1);

/// What was told so far.
#[derive(Debug, Default)]
pub(super) struct Drops {
    told: Counters,
    /// When it is looked at again.
    due: Option<Instant>,
}

impl Drops {
    /// Tells in the log what was dropped since it was last told.
    pub(super) fn tell(&mut self, counters: impl FnOnce() -> Counters, now: Instant) {
        if let Some(reasons) = self.news(counters, now) {
            tracing::info!(%reasons, "packets dropped");
        }
    }

    /// The reasons that there were since they were last told, and how often. `None` where there are none, or it is too early.
    fn news(&mut self, counters: impl FnOnce() -> Counters, now: Instant) -> Option<String> {
        if self.due.is_some_and(|due| now < due) {
            return None;
        }
        let counters = counters();
        let grown =
            counters.by_reason().zip(self.told.by_reason()).filter_map(|((reason, all), (_, told))| {
                let grown = all.saturating_sub(told);
                (grown > 0).then(|| format!("{reason} {grown}"))
            });
        let reasons = grown.collect::<Vec<_>>().join(", ");
        self.told = counters;
        self.due = Some(now + if reasons.is_empty() { LOOKS } else { TELLS });
        Some(reasons).filter(|reasons| !reasons.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_told_at_once_and_then_once_a_minute_and_only_those_that_there_were_since() {
        let (mut drops, begin) = (Drops::default(), Instant::now());
        let mut news = |seconds: f64, counters: Counters| {
            drops.news(|| counters, begin + Duration::from_secs_f64(seconds))
        };
        let none = Counters::default();
        assert_eq!(news(0.0, none), None);
        let some = Counters { no_peer: 3, refused: 1, ..none };
        assert_eq!(news(1.0, some).as_deref(), Some("no_peer 3, refused 1"));
        let more = Counters { refused: 5, malformed: 2, ..some };
        assert_eq!(news(60.9, more), None, "too early");
        assert_eq!(news(61.0, more).as_deref(), Some("malformed 2, refused 4"));
        assert_eq!(news(121.0, more), None, "nothing new");
        let most = Counters { malformed: 3, ..more };
        assert_eq!(news(122.0, most).as_deref(), Some("malformed 1"));
    }

    #[test]
    fn the_counters_are_looked_at_once_a_second_at_most() {
        let (mut drops, begin, mut looks) = (Drops::default(), Instant::now(), 0);
        for turn in 0..=1000 {
            let look = || {
                looks += 1;
                Counters::default()
            };
            assert_eq!(drops.news(look, begin + Duration::from_millis(2) * turn), None);
        }
        assert_eq!(looks, 3);
    }
}
