//! Heads that are known to be of one log, and the question that a head of a peer raises.

use std::collections::BTreeMap;

use carrick_attest::Bytes;
use carrick_wire::{hello::Head, log::tree::verify_consistency};

use crate::Distrust;

/// The most heads that are known at a time.
const MAX_HEADS: usize = 256;

/// A head that a peer told of and that this node does not know: the coordinator has to prove that it is of the same log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    told: Head,
    /// The last head that this node had seen when it asked.
    ours: Head,
}

impl Question {
    /// The smaller and the larger of the two sizes between which the coordinator has to prove consistency.
    pub fn sizes(&self) -> (u64, u64) {
        (self.told.size.min(self.ours.size), self.told.size.max(self.ours.size))
    }
}

/// Heads of one log.
#[derive(Debug)]
pub(crate) struct Heads {
    /// By size. The largest is the last that the coordinator showed.
    known: BTreeMap<u64, Bytes<32>>,
}

impl Heads {
    pub(crate) fn new(head: Option<Head>) -> Self {
        Self { known: head.into_iter().map(|head| (head.size, head.head)).collect() }
    }

    /// Adds a head that was proven to be of this log.
    pub(crate) fn insert(&mut self, head: Head) {
        self.known.insert(head.size, head.head);
        if self.known.len() > MAX_HEADS {
            self.known.pop_first();
        }
    }

    /// Compares a head that a peer told of with those of this log. The question, where that alone does not tell.
    pub(crate) fn compare(&self, told: Head) -> Result<Option<Question>, Distrust> {
        match (self.known.get(&told.size), self.known.last_key_value()) {
            (Some(known), _) if *known == told.head => Ok(None),
            (Some(_), _) => Err(Distrust::Fork { size: told.size, seen: told.size }),
            (None, Some((&size, &head))) => Ok(Some(Question { told, ours: Head { size, head } })),
            (None, None) => Ok(None),
        }
    }

    /// Takes the answer to a question. Another question, where the log has moved on in a way that the answer does not cover.
    pub(crate) fn answer(
        &mut self,
        question: Question,
        proof: &[Bytes<32>],
    ) -> Result<Option<Question>, Distrust> {
        let Question { told, ours } = question;
        if self.known.get(&ours.size) != Some(&ours.head) {
            // The log was set back by the operator, or has moved on far.
            return self.compare(told);
        }
        let (old, new) = if told.size < ours.size { (told, ours) } else { (ours, told) };
        if !consistent(old, new, proof) {
            return Err(Distrust::Fork { size: told.size, seen: ours.size });
        }
        if told.size < ours.size {
            self.insert(told);
            return Ok(None);
        }
        // That a larger head continues the one of then says nothing of the heads since.
        let moved_on = self.known.last_key_value().is_some_and(|(&size, _)| size > ours.size);
        if moved_on { self.compare(told) } else { Ok(None) }
    }
}

/// Whether `proof` shows that the log of one head begins with that of the other.
pub(crate) fn consistent(old: Head, new: Head, proof: &[Bytes<32>]) -> bool {
    let proof: Vec<[u8; 32]> = proof.iter().map(|hash| hash.0).collect();
    verify_consistency(old.size, &old.head.0, new.size, &new.head.0, &proof)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_heads_are_bounded_and_the_last_one_stays() {
        let mut heads = Heads::new(None);
        for size in 1..=1000 {
            heads.insert(Head { size, head: Bytes([1; 32]) });
        }
        assert_eq!(heads.known.len(), MAX_HEADS);
        assert_eq!(heads.known.last_key_value(), Some((&1000, &Bytes([1; 32]))));
    }
}
