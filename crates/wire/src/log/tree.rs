//! The Merkle tree of RFC 6962 section 2.1: heads, inclusion proofs and consistency proofs, with SHA-256.

use sha2::{Digest as _, Sha256};

/// A hash of a tree's leaf, node or head.
pub type Hash = [u8; 32];

/// The longest proof: one hash a level of a tree of 2^63 leaves.
pub const MAX_PROOF: usize = 63;

/// The hash of an entry.
pub fn leaf_hash(entry: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(entry).finalize().into()
}

fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// The head of a tree without leaves.
pub fn empty_head() -> Hash {
    Sha256::digest([]).into()
}

/// A whole tree: the hashes of all its complete subtrees, by level. Appends cost a hash each on average, proofs a hash a level.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    levels: Vec<Vec<Hash>>,
}

impl Tree {
    /// How many leaves there are.
    pub fn size(&self) -> u64 {
        self.levels.first().map_or(0, |leaves| leaves.len() as u64)
    }

    /// Adds a leaf by its hash.
    pub fn push(&mut self, leaf: Hash) {
        let mut hash = leaf;
        for level in 0.. {
            if self.levels.len() == level {
                self.levels.push(Vec::new());
            }
            let hashes = &mut self.levels[level];
            hashes.push(hash);
            match hashes.as_slice() {
                [.., left, right] if hashes.len().is_multiple_of(2) => hash = node_hash(left, right),
                _ => break,
            }
        }
    }

    /// The head of the tree as it was with its first `size` leaves; `None` where it never had so many.
    pub fn head(&self, size: u64) -> Option<Hash> {
        (size <= self.size()).then(|| self.range(0, size))
    }

    /// Proof that leaf `index` is in the tree of `size` leaves; `None` where it is not.
    pub fn inclusion(&self, index: u64, size: u64) -> Option<Vec<Hash>> {
        if index >= size || size > self.size() {
            return None;
        }
        let mut proof = Vec::new();
        let (mut start, mut length) = (0, size);
        while length > 1 {
            let split = left_of(length);
            if index < start + split {
                proof.push(self.range(start + split, length - split));
                length = split;
            } else {
                proof.push(self.range(start, split));
                (start, length) = (start + split, length - split);
            }
        }
        proof.reverse();
        Some(proof)
    }

    /// Proof that the tree of `new` leaves begins with the tree of `old` leaves; `None` where there were never so many.
    pub fn consistency(&self, old: u64, new: u64) -> Option<Vec<Hash>> {
        if old > new || new > self.size() {
            return None;
        }
        let mut proof = Vec::new();
        if old == 0 || old == new {
            return Some(proof);
        }
        let (mut start, mut length, mut kept) = (0, new, old);
        // Whether what is left of the old tree is the whole of it: its head is known to whoever verifies.
        let mut whole = true;
        while kept < length {
            let split = left_of(length);
            if kept <= split {
                proof.push(self.range(start + split, length - split));
                length = split;
            } else {
                proof.push(self.range(start, split));
                (start, length, kept) = (start + split, length - split, kept - split);
                whole = false;
            }
        }
        if !whole {
            proof.push(self.range(start, length));
        }
        proof.reverse();
        Some(proof)
    }

    /// The head of the leaves from `start` on, `length` of them. `start` is a multiple of every power of two below `length`.
    fn range(&self, start: u64, length: u64) -> Hash {
        if length == 0 {
            return empty_head();
        }
        if length.is_power_of_two() {
            let level = length.trailing_zeros();
            let complete =
                self.levels.get(level as usize).and_then(|hashes| hashes.get((start >> level) as usize));
            return *complete.expect("a tree keeps every complete subtree of its leaves");
        }
        let split = left_of(length);
        node_hash(&self.range(start, split), &self.range(start + split, length - split))
    }
}

/// The largest power of two below `length`, which is at least 2.
const fn left_of(length: u64) -> u64 {
    1 << (u64::BITS - 1 - (length - 1).leading_zeros())
}

/// Whether `proof` shows that the leaf at `index` is in the tree of `size` leaves with this head (RFC 9162 section 2.1.3.2).
pub fn verify_inclusion(leaf: Hash, index: u64, size: u64, head: &Hash, proof: &[Hash]) -> bool {
    if index >= size || proof.len() > MAX_PROOF {
        return false;
    }
    let (mut node, mut last, mut hash) = (index, size - 1, leaf);
    for sibling in proof {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(sibling, &hash);
            while node & 1 == 0 && node != 0 {
                (node, last) = (node >> 1, last >> 1);
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        (node, last) = (node >> 1, last >> 1);
    }
    last == 0 && hash == *head
}

/// Whether `proof` shows that the tree of `new` leaves begins with the tree of `old` leaves (RFC 9162 section 2.1.4.2).
pub fn verify_consistency(old: u64, old_head: &Hash, new: u64, new_head: &Hash, proof: &[Hash]) -> bool {
    if old > new || proof.len() > MAX_PROOF + 1 {
        return false;
    }
    if old == new {
        return proof.is_empty() && old_head == new_head;
    }
    if old == 0 {
        return proof.is_empty() && *old_head == empty_head();
    }
    let mut proof = proof.iter();
    let first = if old.is_power_of_two() { Some(old_head) } else { proof.next() };
    let Some(first) = first else { return false };
    let (mut node, mut last) = (old - 1, new - 1);
    while node & 1 == 1 {
        (node, last) = (node >> 1, last >> 1);
    }
    let (mut from_old, mut from_new) = (*first, *first);
    for sibling in proof {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            from_old = node_hash(sibling, &from_old);
            from_new = node_hash(sibling, &from_new);
            while node & 1 == 0 && node != 0 {
                (node, last) = (node >> 1, last >> 1);
            }
        } else {
            from_new = node_hash(&from_new, sibling);
        }
        (node, last) = (node >> 1, last >> 1);
    }
    last == 0 && from_old == *old_head && from_new == *new_head
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tree(size: u64) -> Tree {
        let mut tree = Tree::default();
        (0..size).for_each(|n| tree.push(leaf_hash(&n.to_be_bytes())));
        tree
    }

    /// The definition of RFC 6962, word by word.
    fn naive_head(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => empty_head(),
            [leaf] => *leaf,
            leaves => {
                let mut split = 1;
                while split * 2 < leaves.len() {
                    split *= 2;
                }
                node_hash(&naive_head(&leaves[..split]), &naive_head(&leaves[split..]))
            }
        }
    }

    #[test]
    fn heads_are_those_of_the_definition() {
        let leaves: Vec<Hash> = (0..70_u64).map(|n| leaf_hash(&n.to_be_bytes())).collect();
        let tree = tree(70);
        for size in 0..=70 {
            assert_eq!(tree.head(size), Some(naive_head(&leaves[..size as usize])), "{size}");
        }
        assert_eq!(tree.head(71), None);
    }

    #[test]
    fn the_known_answers_of_certificate_transparency() {
        // The test vectors that the implementations of RFC 6962 share: leaves and the head of all eight.
        let leaves = [
            "",
            "00",
            "10",
            "2021",
            "3031",
            "40414243",
            "5051525354555657",
            "606162636465666768696a6b6c6d6e6f",
        ];
        let mut tree = Tree::default();
        for leaf in leaves {
            let bytes: Vec<u8> = (0..leaf.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&leaf[at..at + 2], 16).unwrap())
                .collect();
            tree.push(leaf_hash(&bytes));
        }
        let hex = |hash: Hash| hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(
            hex(tree.head(8).unwrap()),
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"
        );
        assert_eq!(hex(empty_head()), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }

    #[test]
    fn every_proof_of_a_small_tree_holds_for_what_it_proves_only() {
        let tree = tree(20);
        for size in 1..=20 {
            let head = tree.head(size).unwrap();
            for index in 0..size {
                let leaf = leaf_hash(&index.to_be_bytes());
                let proof = tree.inclusion(index, size).unwrap();
                assert!(verify_inclusion(leaf, index, size, &head, &proof), "{index} of {size}");
                assert!(!verify_inclusion(leaf_hash(b"other"), index, size, &head, &proof));
                for other in (0..size).filter(|&other| other != index) {
                    assert!(
                        !verify_inclusion(leaf, other, size, &head, &proof),
                        "{other} for {index} of {size}"
                    );
                }
            }
            for old in 0..=size {
                let old_head = tree.head(old).unwrap();
                let proof = tree.consistency(old, size).unwrap();
                assert!(verify_consistency(old, &old_head, size, &head, &proof), "{old} to {size}");
                if old > 0 && old < size {
                    assert!(!verify_consistency(old, &leaf_hash(b"fork"), size, &head, &proof));
                    assert!(!verify_consistency(old, &old_head, size, &leaf_hash(b"fork"), &proof));
                }
            }
        }
        assert_eq!((tree.inclusion(20, 20), tree.consistency(3, 21)), (None, None));
    }

    proptest! {
        #[test]
        fn an_altered_proof_holds_for_nothing(size in 2..200_u64, index: prop::sample::Index, at: prop::sample::Index, bit in 0..256_usize) {
            let tree = tree(size);
            let index = index.index(size as usize) as u64;
            let head = tree.head(size).unwrap();
            let leaf = leaf_hash(&index.to_be_bytes());
            let proof = tree.inclusion(index, size).unwrap();
            let mut altered = proof.clone();
            let at = at.index(proof.len());
            altered[at][bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!verify_inclusion(leaf, index, size, &head, &altered));
            prop_assert!(!verify_inclusion(leaf, index, size, &head, &proof[1..]));
            let longer: Vec<Hash> = proof.iter().copied().chain([leaf]).collect();
            prop_assert!(!verify_inclusion(leaf, index, size, &head, &longer));
        }

        #[test]
        fn junk_never_panics(old: u64, new: u64, hash: Hash, proof in prop::collection::vec(any::<Hash>(), 0..70)) {
            verify_inclusion(hash, old, new, &hash, &proof);
            verify_consistency(old, &hash, new, &hash, &proof);
        }
    }
}
