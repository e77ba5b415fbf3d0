//! Which counters were seen (RFC 6479).

use crate::REJECT_AFTER_MESSAGES;

/// A counter may be this far behind the greatest one, less one.
pub const REPLAY_WINDOW: u64 = 8192;

const BITS: u64 = u64::BITS as u64;

/// One word more than the window has, so that the greatest counter moves on by clearing whole words.
const WORDS: u64 = REPLAY_WINDOW / BITS + 1;

/// The counters of one session that were seen: each is accepted once, if it is not too far behind.
pub struct ReplayWindow {
    /// The greatest counter that was accepted, plus one.
    next: u64,
    seen: [u64; WORDS as usize],
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self { next: 0, seen: [0; WORDS as usize] }
    }
}

impl ReplayWindow {
    /// Whether the counter of an authentic message is new. From here on it is not.
    #[must_use]
    pub fn accept(&mut self, counter: u64) -> bool {
        if counter >= REJECT_AFTER_MESSAGES {
            return false;
        }
        if counter >= self.next {
            let last = self.next.saturating_sub(1) / BITS;
            for word in last + 1..=(counter / BITS).min(last + WORDS) {
                *self.word(word) = 0;
            }
            self.next = counter + 1;
        } else if self.next - counter > REPLAY_WINDOW {
            return false;
        }
        let word = self.word(counter / BITS);
        let bit = 1 << (counter % BITS);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    fn word(&mut self, number: u64) -> &mut u64 {
        &mut self.seen[(number % WORDS) as usize]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// The same, said slowly.
    #[derive(Default)]
    struct Naive {
        seen: BTreeSet<u64>,
    }

    impl Naive {
        fn accept(&mut self, counter: u64) -> bool {
            let oldest = self.seen.last().map_or(0, |greatest| greatest.saturating_sub(REPLAY_WINDOW - 1));
            counter >= oldest && counter < REJECT_AFTER_MESSAGES && self.seen.insert(counter)
        }
    }

    proptest! {
        #[test]
        fn it_does_what_the_naive_one_does(
            steps in prop::collection::vec((prop::bool::weighted(0.05), 0..20_000_u64, -9_000..300_i64), 1..400),
        ) {
            let (mut window, mut naive, mut at) = (ReplayWindow::default(), Naive::default(), 0_u64);
            for (jumps, jump, step) in steps {
                if jumps {
                    at += jump;
                }
                let counter = at.saturating_add_signed(step);
                prop_assert_eq!(window.accept(counter), naive.accept(counter), "{}", counter);
                at = at.max(counter);
            }
        }
    }

    #[test]
    fn each_counter_of_the_window_is_accepted_once() {
        let mut window = ReplayWindow::default();
        assert!(window.accept(3 * REPLAY_WINDOW));
        for counter in 2 * REPLAY_WINDOW + 1..3 * REPLAY_WINDOW {
            assert!(window.accept(counter) && !window.accept(counter), "{counter}");
        }
        assert!(!window.accept(2 * REPLAY_WINDOW), "too far behind to tell");
        assert!(!window.accept(3 * REPLAY_WINDOW));
    }

    #[test]
    fn no_counter_is_accepted_from_the_limit_on() {
        let mut window = ReplayWindow::default();
        assert!(window.accept(0));
        for refused in [REJECT_AFTER_MESSAGES, REJECT_AFTER_MESSAGES + 1, u64::MAX] {
            assert!(!window.accept(refused));
        }
        assert!(window.accept(1), "what is refused does not move the window");
        assert!(window.accept(REJECT_AFTER_MESSAGES - 1));
        assert!(!window.accept(2));
    }
}
