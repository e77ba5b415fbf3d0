//! What outlives the process.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use carrick_attest::Bytes;
use carrick_types::{NodeId, OperatorKey, OperatorPin, UnixTime};
use carrick_wire::hello::Head;
use serde::{Deserialize, Serialize};

/// The most nodes whose grants are remembered, and the most whose revocations are.
const MAX_REMEMBERED: usize = 65_536;

/// How often it is noted how long the log is, and how many notes are kept: they reach back 21 hours.
const NOTE_SIZE_EVERY: Duration = Duration::from_secs(300);
const MAX_SIZES: usize = 256;

/// What a node remembers across restarts. With it, nobody can show it an older bundle, a shorter log, a node that was revoked, or
/// a grant that was replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// The operator.
    pub operator: OperatorPin,
    /// Those whom the last bundle names: the operator, and the former ones whose tokens hold.
    #[serde(default)]
    pub operators: BTreeSet<OperatorPin>,
    /// Those whom an earlier bundle named and the last one does not. Their keys may have been stolen: no word of an operator's from before
    /// makes one of them the operator again.
    #[serde(default)]
    pub taken_out: BTreeSet<OperatorPin>,
    /// The highest version of the policy bundle that was seen.
    pub bundle_version: u64,
    /// SHA-256 of the text of that bundle.
    #[serde(default)]
    pub bundle: Option<Bytes<32>>,
    /// The last head of the log that was seen.
    pub log: Option<Head>,
    /// How long the log was at the least, by this node's own clock: who names a shorter log proves something of before.
    #[serde(default)]
    pub sizes: BTreeMap<UnixTime, u64>,
    /// The clock was set back: to when, and from when. Should it come to that moment again, most likely it was wrong in between, as that of
    /// a host that starts without the time.
    #[serde(default)]
    pub behind: Option<(UnixTime, UnixTime)>,
    /// The last `log_restart` that was followed. A bundle that repeats it restarts nothing.
    #[serde(default)]
    pub restart: Option<Head>,
    /// Every node that was seen to be revoked.
    #[serde(default)]
    pub revoked: BTreeSet<NodeId>,
    /// The position in the log of the last grant that was believed of each node, some 40 bytes of JSON a node: who shows an earlier
    /// one would be believed with a key that was replaced, and come before those who were given its former prefixes.
    #[serde(default)]
    pub positions: BTreeMap<NodeId, u64>,
}

impl Memory {
    /// Nothing but the operator's pin, and the version of the bundle that was in force then, as a join token carries them.
    pub const fn new(operator: OperatorPin, bundle_version: u64) -> Self {
        Self {
            operator,
            operators: BTreeSet::new(),
            taken_out: BTreeSet::new(),
            bundle_version,
            bundle: None,
            log: None,
            sizes: BTreeMap::new(),
            behind: None,
            restart: None,
            revoked: BTreeSet::new(),
            positions: BTreeMap::new(),
        }
    }

    /// A bundle is believed: the first of these signed it, and it names the others as former operators.
    pub(crate) fn follow_operators(&mut self, operators: &[OperatorKey]) {
        let named: BTreeSet<OperatorPin> = operators.iter().map(OperatorPin::of).collect();
        let before = std::mem::take(&mut self.operators).into_iter().chain([self.operator]);
        self.taken_out.extend(before);
        self.taken_out.retain(|operator| !named.contains(operator));
        self.operator = operators.first().map_or(self.operator, OperatorPin::of);
        self.operators = named;
    }

    /// The coordinator showed a log of this size.
    pub(crate) fn saw_size(&mut self, size: u64, now: UnixTime) {
        if let Some((to, from)) = self.behind
            && now >= from
        {
            self.sizes.split_off(&to);
            self.behind = None;
        }
        // What was seen by a clock that was set back since was seen by now as well.
        let later = self.sizes.split_off(&now);
        if let Some((&last, _)) = later.last_key_value().filter(|(last, _)| **last > now) {
            let (to, from) = self.behind.unwrap_or((now, last));
            self.behind = Some((to.min(now), from.max(last)));
        }
        let soon = |(last, _): (&UnixTime, &u64)| now < last.saturating_add(NOTE_SIZE_EVERY);
        if !self.sizes.last_key_value().is_some_and(soon) {
            self.sizes.insert(now, size);
        }
        if self.sizes.len() > MAX_SIZES {
            self.sizes.pop_first();
        }
    }

    /// How long the log was, at the least, at a moment.
    pub(crate) fn size_at(&self, moment: UnixTime) -> u64 {
        self.sizes.range(..=moment).next_back().map_or(0, |(_, size)| *size)
    }

    /// The log was set back to this size.
    pub(crate) fn set_back(&mut self, size: u64) {
        self.sizes.retain(|_, seen| *seen <= size);
        self.positions.clear();
    }

    /// A node was revoked. Where too many are remembered, the new one is not: nobody can make this forget the others.
    pub(crate) fn revoke(&mut self, node: NodeId) {
        if self.revoked.len() < MAX_REMEMBERED {
            self.revoked.insert(node);
            self.positions.remove(&node);
        }
    }

    /// Forgets the oldest grants, where too many are remembered.
    pub(crate) fn trim(&mut self) {
        let over = self.positions.len().saturating_sub(MAX_REMEMBERED);
        if over > 0 {
            let mut positions: Vec<u64> = self.positions.values().copied().collect();
            // An entry of the log is the grant of one node: no two have the same position.
            let (_, oldest_kept, _) = positions.select_nth_unstable(over);
            let oldest_kept = *oldest_kept;
            self.positions.retain(|_, position| *position >= oldest_kept);
        }
    }
}

#[cfg(test)]
mod tests {
    use carrick_types::OperatorSecret;

    use super::*;

    fn memory() -> Memory {
        Memory::new(OperatorPin::of(&OperatorSecret::from_bytes([1; 32]).public()), 0)
    }

    fn node(n: usize) -> NodeId {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&n.to_be_bytes());
        NodeId::from_bytes(bytes)
    }

    #[test]
    fn the_size_at_a_moment_is_the_last_one_seen_by_then() {
        let at = |minutes: u64| UnixTime::from_millis(minutes * 60_000);
        let mut memory = memory();
        for (minute, size) in [(10, 5), (11, 6), (20, 7), (30, 7)] {
            memory.saw_size(size, at(minute));
        }
        assert_eq!([9, 10, 19, 20, 99].map(|minute| memory.size_at(at(minute))), [0, 5, 5, 7, 7]);
        memory.set_back(5);
        assert_eq!(memory.size_at(at(99)), 5, "what was seen of the part that is gone says nothing");
        (0..10_000).for_each(|n| memory.saw_size(n + 8, at(n + 40)));
        assert!(memory.sizes.len() <= MAX_SIZES && memory.size_at(at(10_000)) > 9_900);
        assert_eq!(memory.size_at(at(50)), 0, "what is forgotten proves nothing");
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_stop_the_notes() {
        let at = |minutes: u64| UnixTime::from_millis(minutes * 60_000);
        let mut memory = memory();
        memory.saw_size(5, at(1_000_000));
        memory.saw_size(6, at(10));
        memory.saw_size(7, at(20));
        assert_eq!([10, 20, 2_000_000].map(|minute| memory.size_at(at(minute))), [6, 7, 7]);
    }

    #[test]
    fn what_was_noted_while_the_clock_was_behind_proves_nothing_once_it_is_right() {
        let at = |minutes: u64| UnixTime::from_millis(minutes * 60_000);
        let mut memory = memory();
        memory.saw_size(5, at(10_000));
        // It starts without the time, twice.
        for minute in [100, 110, 50, 60] {
            memory.saw_size(100, at(minute));
        }
        assert_eq!(memory.size_at(at(200)), 100, "as far as anybody can tell");
        memory.saw_size(101, at(10_010));
        assert_eq!([200, 10_009, 10_010].map(|minute| memory.size_at(at(minute))), [0, 0, 101]);
    }

    #[test]
    fn revocations_are_bounded_and_the_first_ones_stay() {
        let mut memory = memory();
        (0..MAX_REMEMBERED + 5).for_each(|n| memory.revoke(node(n)));
        assert_eq!(memory.revoked.len(), MAX_REMEMBERED);
        assert!(memory.revoked.contains(&node(0)));
    }

    #[test]
    fn grants_are_bounded_and_the_latest_ones_stay() {
        let mut memory = memory();
        // The later nodes hold the earlier positions.
        let last = MAX_REMEMBERED + 4;
        memory.positions = (0..=last).map(|n| (node(n), (last - n) as u64)).collect();
        memory.trim();
        assert_eq!(memory.positions.len(), MAX_REMEMBERED);
        assert!(memory.positions.contains_key(&node(0)) && !memory.positions.contains_key(&node(last)));
        assert_eq!(memory.positions.values().min(), Some(&5));
    }

    #[test]
    fn what_was_remembered_comes_back_and_what_is_left_out_is_empty() {
        let mut memory = memory();
        memory.revoke(node(1));
        memory.positions.insert(node(2), 7);
        memory.log = Some(Head { size: 8, head: Bytes([1; 32]) });
        let json = serde_json::to_string(&memory).unwrap();
        assert_eq!(serde_json::from_str::<Memory>(&json).unwrap(), memory);
        let short = serde_json::json!({"operator": memory.operator, "bundle_version": 0, "log": null});
        assert_eq!(serde_json::from_value::<Memory>(short).unwrap(), Memory::new(memory.operator, 0));
    }
}
