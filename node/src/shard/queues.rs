//! Whose turn it is among the queues of the interface.

use std::{collections::VecDeque, mem};

/// The queues that are readable. They are read one after the other, and the next turn begins behind the queue that the last one ended with:
/// however short turns are, and whatever fills the first queues, each has its share. What comes now and then does not wait for its share:
/// a queue that was empty when the last turn began is read before those that were not, as by `FQ-CoDel` (RFC 8290, section 4.2), but
/// not in two turns on end.
#[derive(Debug, Default)]
pub(super) struct Queues {
    readable: VecDeque<usize>,
    /// Those that this turn began with, sorted.
    now: Vec<usize>,
    /// Those that the turn before it began with, sorted.
    before: Vec<usize>,
    /// The one that was read last of those that are news, and of the others.
    last: [usize; 2],
    /// Whether all that are readable are news.
    only_news: bool,
    /// Whether nothing but news was read, though there was more.
    owes: bool,
}

impl Queues {
    /// Begins a turn with these.
    pub(super) fn begin(&mut self, readable: impl Iterator<Item = usize>) {
        mem::swap(&mut self.now, &mut self.before);
        self.now.clear();
        self.now.extend(readable);
        self.now.sort_unstable();
        self.only_news = !self.now.iter().any(|queue| self.is_old(*queue));
        self.readable.clear();
        self.readable.extend(&self.now);
        let (before, last, owes) = (&self.before, self.last, self.owes);
        let is_old = |queue: &usize| before.binary_search(queue).is_ok();
        self.readable.make_contiguous().sort_unstable_by_key(|queue| {
            let is_old = is_old(queue);
            (is_old != owes, *queue <= last[usize::from(is_old)], *queue)
        });
        self.owes = !self.only_news;
    }

    /// The next one to read; [`Queues::again`] says that there may be more in it.
    pub(super) fn next(&mut self) -> Option<usize> {
        let queue = self.readable.pop_front()?;
        if self.only_news {
            self.last = [queue; 2];
        } else {
            let is_old = self.is_old(queue);
            self.last[usize::from(is_old)] = queue;
            self.owes &= !is_old;
        }
        Some(queue)
    }

    fn is_old(&self, queue: usize) -> bool {
        self.before.binary_search(&queue).is_ok()
    }

    /// Has a queue read once more, after the others.
    pub(super) fn again(&mut self, queue: usize) {
        self.readable.push_back(queue);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many reads of queues that never get empty.
    fn turn(queues: &mut Queues, readable: &[usize], reads: usize) -> Vec<usize> {
        queues.begin(readable.iter().copied());
        let read = || {
            let queue = queues.next()?;
            queues.again(queue);
            Some(queue)
        };
        std::iter::from_fn(read).take(reads).collect()
    }

    #[test]
    fn each_queue_has_its_share_though_turns_end_before_all_were_read() {
        for shares in 1..40 {
            let (mut queues, mut read) = (Queues::default(), [0; 5]);
            for _ in 0..5 {
                for queue in turn(&mut queues, &[0, 1, 2, 3, 4], shares) {
                    read[queue] += 1;
                }
            }
            assert_eq!(read, [shares; 5], "turns of {shares} reads");
        }
    }

    #[test]
    fn a_turn_begins_behind_the_last_one_whichever_queues_are_readable_and_in_whichever_order() {
        let mut queues = Queues::default();
        assert_eq!(turn(&mut queues, &[9, 1, 5], 2), [1, 5]);
        assert_eq!(turn(&mut queues, &[5, 1, 9], 1), [9]);
        assert_eq!(turn(&mut queues, &[13, 5], 3), [13, 5, 13]);
        assert!(turn(&mut queues, &[], 3).is_empty());
        assert_eq!(turn(&mut queues, &[1, 5], 1), [1]);
        assert_eq!(turn(&mut queues, &[1], 2), [1, 1]);
    }

    #[test]
    fn a_queue_that_was_empty_comes_first_and_not_always() {
        let mut queues = Queues::default();
        assert_eq!(turn(&mut queues, &[1, 2, 3, 4], 1), [1]);
        assert_eq!(turn(&mut queues, &[0, 1, 2, 3, 4], 2), [0, 2]);
        assert_eq!(turn(&mut queues, &[0, 1, 2, 3, 4], 2), [3, 4]);
        assert_eq!(turn(&mut queues, &[1, 2, 3, 4], 1), [1]);
        assert_eq!(turn(&mut queues, &[0, 1, 2, 3, 4, 9], 3), [9, 0, 2]);
    }

    /// How often each of twelve queues is read in a thousand turns of two reads, of which the first are never empty, and some are news.
    fn shares(never_empty: usize, news: [&[usize]; 2]) -> [usize; 12] {
        let (mut queues, mut read) = (Queues::default(), [0; 12]);
        for round in 0..1000 {
            let readable: Vec<_> = (0..never_empty).chain(news[round % 2].iter().copied()).collect();
            turn(&mut queues, &readable, 2).into_iter().for_each(|queue| read[queue] += 1);
        }
        read
    }

    #[test]
    fn news_let_nobody_starve() {
        let read = shares(4, [&[8, 9], &[]]);
        assert!(read[..4].iter().all(|reads| (240..=260).contains(reads)), "{read:?}");
        let read = shares(1, [&[8, 9], &[10, 11]]);
        assert!(read[0] >= 490, "{read:?}");
    }

    #[test]
    fn what_is_empty_is_not_read_again() {
        let mut queues = Queues::default();
        queues.begin([1, 2].into_iter());
        assert_eq!(queues.next(), Some(1));
        assert_eq!(queues.next(), Some(2));
        queues.again(2);
        assert_eq!([queues.next(), queues.next()], [Some(2), None]);
    }
}
