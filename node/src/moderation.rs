//! When the packet path waits a moment on purpose, so that small packets come together: as network cards moderate their interrupts.
//!
//! The thread comes before others, and so would take each small packet by itself as soon as it is there, at the price of a wake-up each.

use std::time::{Duration, Instant};

/// How long the wait is.
pub(crate) const PAUSE: Duration = Duration::from_micros(50);

/// Turns that follow each other sooner are quick.
const QUICK: Duration = Duration::from_micros(40);

/// Fewer reads than this, of fewer bytes, are few: not worth a wake-up.
const FEW_READS: usize = 8;
const FEW_BYTES: usize = 16_384;

/// So many quick turns with few reads are no accident.
const STREAK: u32 = 4;

/// What is remembered of the turns before.
#[derive(Debug, Default)]
pub(crate) struct Moderation {
    begun: Option<Instant>,
    streak: u32,
    paused: bool,
}

impl Moderation {
    /// Whether to wait for [`PAUSE`] after a turn: when it began, how many reads it had and of how many bytes, and whether there is more
    /// to read at once.
    pub(crate) fn pauses(&mut self, begun: Instant, reads: usize, bytes: usize, more: bool) -> bool {
        let quick =
            self.begun.replace(begun).is_some_and(|last| begun.saturating_duration_since(last) < QUICK);
        let few = reads < FEW_READS && bytes < FEW_BYTES;
        self.streak = match (self.paused, few) {
            // It was worth the wait.
            (true, false) => self.streak,
            (false, true) if quick => self.streak + 1,
            (true, true) | (false, _) => 0,
        };
        self.paused = self.streak >= STREAK && !more;
        self.paused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Turns with so many reads of so many bytes each, one after the other; how many ended in a pause.
    fn pauses(moderation: &mut Moderation, turns: u32, every: Duration, reads: usize, bytes: usize) -> usize {
        let start = Instant::now() + Duration::from_secs(1);
        (0..turns)
            .filter(|turn| moderation.pauses(start + every * *turn, reads, reads * bytes, false))
            .count()
    }

    const MICROSECOND: Duration = Duration::from_micros(1);

    #[test]
    fn small_packets_that_follow_each_other_quickly_wait_for_each_other_as_long_as_that_is_worth_it() {
        let mut moderation = Moderation::default();
        let slow = pauses(&mut moderation, 5, 10 * MICROSECOND, 1, 100);
        assert_eq!(slow, 1, "the first few do not wait");
        assert_eq!(pauses(&mut moderation, 100, 60 * MICROSECOND, 20, 100), 100);
        assert_eq!(pauses(&mut moderation, 10, 60 * MICROSECOND, 1, 100), 0, "hardly anything came");
    }

    #[test]
    fn neither_a_conversation_nor_a_stream_waits() {
        assert_eq!(pauses(&mut Moderation::default(), 1000, 100 * MICROSECOND, 1, 100), 0);
        assert_eq!(pauses(&mut Moderation::default(), 1000, 10 * MICROSECOND, 1, 60_000), 0);
    }

    #[test]
    fn where_there_is_more_to_read_nothing_waits() {
        let mut moderation = Moderation::default();
        assert_eq!(pauses(&mut moderation, 5, MICROSECOND, 1, 100), 1);
        assert!(!moderation.pauses(Instant::now(), 64, 6400, true));
    }
}
