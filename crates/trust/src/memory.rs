//! What outlives the process.

use std::collections::{BTreeMap, BTreeSet};

use carrick_attest::Bytes;
use carrick_types::{NodeId, OperatorPin};
use carrick_wire::hello::Head;
use serde::{Deserialize, Serialize};

/// The most nodes whose grants are remembered, and the most whose revocations are.
const MAX_REMEMBERED: usize = 65_536;

/// What a node remembers across restarts. With it, nobody can show it an older bundle, a shorter log, a node that was revoked, or
/// a grant that was replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// The operator.
    pub operator: OperatorPin,
    /// The highest version of the policy bundle that was seen.
    pub bundle_version: u64,
    /// SHA-256 of the text of that bundle.
    #[serde(default)]
    pub bundle: Option<Bytes<32>>,
    /// The last head of the log that was seen.
    pub log: Option<Head>,
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
    /// Nothing but the operator's pin, as a join token carries it.
    pub const fn new(operator: OperatorPin) -> Self {
        Self {
            operator,
            bundle_version: 0,
            bundle: None,
            log: None,
            restart: None,
            revoked: BTreeSet::new(),
            positions: BTreeMap::new(),
        }
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
        Memory::new(OperatorPin::of(&OperatorSecret::from_bytes([1; 32]).public()))
    }

    fn node(n: usize) -> NodeId {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&n.to_be_bytes());
        NodeId::from_bytes(bytes)
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
        assert_eq!(serde_json::from_value::<Memory>(short).unwrap(), Memory::new(memory.operator));
    }
}
