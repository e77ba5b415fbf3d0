//! Whose turn it is among the queues of the interface.

use std::collections::VecDeque;

/// The queues that are readable. They are read one after the other, and the next turn begins behind the queue that the last one ended with:
/// however short turns are, and whatever fills the first queues, each has its share.
#[derive(Debug, Default)]
pub(super) struct Queues {
    readable: VecDeque<usize>,
    /// The one that was read last.
    last: usize,
}

impl Queues {
    /// Begins a turn with these.
    pub(super) fn begin(&mut self, readable: impl Iterator<Item = usize>) {
        self.readable.clear();
        self.readable.extend(readable);
        let readable = self.readable.make_contiguous();
        readable.sort_unstable();
        let first = readable.partition_point(|queue| *queue <= self.last);
        self.readable.rotate_left(first);
    }

    /// The next one to read; [`Queues::again`] says that there may be more in it.
    pub(super) fn next(&mut self) -> Option<usize> {
        let queue = self.readable.pop_front()?;
        self.last = queue;
        Some(queue)
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
    fn what_is_empty_is_not_read_again() {
        let mut queues = Queues::default();
        queues.begin([1, 2].into_iter());
        assert_eq!(queues.next(), Some(1));
        assert_eq!(queues.next(), Some(2));
        queues.again(2);
        assert_eq!([queues.next(), queues.next()], [Some(2), None]);
    }
}
