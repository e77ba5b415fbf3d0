//! WireGuard's cryptokey routing table.

use std::net::IpAddr;

use carrick_types::Cidr;

/// Which peer a prefix belongs to; an address belongs to the longest prefix that holds it, over all peers.
///
/// A tree of each family's prefixes by their bits, in which nothing but forks and prefixes has a node: a lookup passes as many as there are
/// prefixes around the address, and forks between those and others.
#[derive(Debug, Clone)]
pub struct AllowedIps<P> {
    v4: Tree<P>,
    v6: Tree<P>,
}

impl<P> Default for AllowedIps<P> {
    fn default() -> Self {
        Self { v4: Tree::default(), v6: Tree::default() }
    }
}

impl<P: Copy + PartialEq> AllowedIps<P> {
    /// Gives a prefix to a peer, and says who had it before.
    pub fn insert(&mut self, prefix: Cidr, peer: P) -> Option<P> {
        self.family_mut(prefix.address()).insert(bits(prefix.address()), prefix.length(), peer)
    }

    /// Takes a prefix from a peer, if that peer has it.
    pub fn remove(&mut self, prefix: Cidr, peer: P) -> bool {
        self.family_mut(prefix.address()).remove(bits(prefix.address()), prefix.length(), peer)
    }

    /// Whose the address is.
    pub fn lookup(&self, address: IpAddr) -> Option<P> {
        let family = if address.is_ipv4() { &self.v4 } else { &self.v6 };
        family.lookup(bits(address))
    }

    const fn family_mut(&mut self, address: IpAddr) -> &mut Tree<P> {
        if address.is_ipv4() { &mut self.v4 } else { &mut self.v6 }
    }
}

/// The number of a node.
type Number = u32;

/// Where a node hangs: at the root, or on one side of another.
type Link = Option<(Number, usize)>;

#[derive(Debug, Clone)]
struct Tree<P> {
    nodes: Vec<Node<P>>,
    /// Numbers of nodes that are not in the tree.
    free: Vec<Number>,
    root: Option<Number>,
}

/// A prefix, or the fork of two. A fork without a peer has two sides.
#[derive(Debug, Clone)]
struct Node<P> {
    bits: u128,
    length: u8,
    peer: Option<P>,
    /// Longer prefixes that begin with this one: those that go on with a zero, and with a one.
    sides: [Option<Number>; 2],
}

impl<P> Default for Tree<P> {
    fn default() -> Self {
        Self { nodes: Vec::new(), free: Vec::new(), root: None }
    }
}

impl<P: Copy + PartialEq> Tree<P> {
    fn insert(&mut self, bits: u128, length: u8, peer: P) -> Option<P> {
        let mut link = None;
        while let Some((number, node)) = self.follow(link) {
            let (theirs, their_length) = (node.bits, node.length);
            let common = common_length(bits, theirs).min(length).min(their_length);
            if common == their_length && common == length {
                return self.node_mut(number).and_then(|node| node.peer.replace(peer));
            }
            if common == their_length {
                link = Some((number, side(bits, common)));
                continue;
            }
            let mut fork = Node { bits: bits & mask(common), length: common, peer: None, sides: [None; 2] };
            fork.sides[side(theirs, common)] = Some(number);
            if common == length {
                fork.peer = Some(peer);
            } else {
                fork.sides[side(bits, common)] = Some(self.add(Node::leaf(bits, length, peer)));
            }
            let fork = self.add(fork);
            self.set(link, Some(fork));
            return None;
        }
        let leaf = self.add(Node::leaf(bits, length, peer));
        self.set(link, Some(leaf));
        None
    }

    fn remove(&mut self, bits: u128, length: u8, peer: P) -> bool {
        let (mut link, mut above) = (None, None);
        while let Some((number, node)) = self.follow(link) {
            if node.length > length || common_length(bits, node.bits) < node.length {
                return false;
            }
            if node.length < length {
                above = link;
                link = Some((number, side(bits, node.length)));
                continue;
            }
            let has_it = node.peer == Some(peer);
            if has_it {
                if let Some(node) = self.node_mut(number) {
                    node.peer = None;
                }
                self.tidy(link);
                // What held two prefixes apart may hold one now.
                if link.is_some() {
                    self.tidy(above);
                }
            }
            return has_it;
        }
        false
    }

    fn lookup(&self, address: u128) -> Option<P> {
        let (mut next, mut found) = (self.root, None);
        while let Some(node) = next.and_then(|number| self.nodes.get(number as usize))
            && common_length(address, node.bits) >= node.length
        {
            found = node.peer.or(found);
            next = node.sides[side(address, node.length)];
        }
        found
    }

    /// Takes the node at a link out, if it is neither a prefix nor a fork any more.
    fn tidy(&mut self, link: Link) {
        let Some((number, node)) = self.follow(link) else { return };
        if node.peer.is_none()
            && let [side, None] | [None, side] = node.sides
        {
            self.set(link, side);
            self.free.push(number);
        }
    }

    fn follow(&self, link: Link) -> Option<(Number, &Node<P>)> {
        let number = match link {
            None => self.root?,
            Some((above, side)) => self.nodes.get(above as usize)?.sides[side]?,
        };
        Some((number, self.nodes.get(number as usize)?))
    }

    fn set(&mut self, link: Link, number: Option<Number>) {
        match link {
            None => self.root = number,
            Some((above, side)) => {
                if let Some(node) = self.node_mut(above) {
                    node.sides[side] = number;
                }
            }
        }
    }

    fn node_mut(&mut self, number: Number) -> Option<&mut Node<P>> {
        self.nodes.get_mut(number as usize)
    }

    fn add(&mut self, node: Node<P>) -> Number {
        if let Some(number) = self.free.pop()
            && let Some(place) = self.node_mut(number)
        {
            *place = node;
            return number;
        }
        self.nodes.push(node);
        Number::try_from(self.nodes.len() - 1).expect("prefixes need more memory than there is before that")
    }
}

impl<P> Node<P> {
    const fn leaf(bits: u128, length: u8, peer: P) -> Self {
        Self { bits, length, peer: Some(peer), sides: [None; 2] }
    }
}

/// How many bits two addresses have in common.
fn common_length(a: u128, b: u128) -> u8 {
    (a ^ b).leading_zeros() as u8
}

/// On which side of a prefix of some length an address is. Nothing is longer than a whole address, and so nothing is on either side of one.
const fn side(bits: u128, length: u8) -> usize {
    match length {
        0..=127 => (bits >> (127 - length)) as usize & 1,
        128.. => 0,
    }
}

/// The address at the top of 128 bits, so that one tree serves both families.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    }
}

const fn mask(length: u8) -> u128 {
    match length {
        0 => 0,
        1..=127 => u128::MAX << (128 - length),
        128.. => u128::MAX,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    /// Few distinct bits, so that prefixes often nest.
    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            (0..4_u32, 0..4_u32).prop_map(|(a, b)| IpAddr::V4(Ipv4Addr::from_bits((a << 30) | b))),
            (0..4_u128, 0..4_u128).prop_map(|(a, b)| IpAddr::V6(Ipv6Addr::from_bits((a << 126) | b))),
        ]
    }

    fn prefix() -> impl Strategy<Value = Cidr> {
        (address(), prop_oneof![Just(0), Just(1), Just(2), Just(31), Just(32), Just(127), Just(128)])
            .prop_filter_map("too long for IPv4", |(address, length)| Cidr::containing(address, length))
    }

    /// Numbers without a system, the same each time.
    fn scattered(seed: &mut u64) -> u64 {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *seed >> 20
    }

    #[test]
    fn a_hundred_thousand_prefixes_are_looked_up_as_in_a_naive_list_and_leave_nothing_behind() {
        let mut seed = 1;
        let mut table = AllowedIps::default();
        let mut list = std::collections::BTreeMap::new();
        while list.len() < 100_000 {
            let bits = u128::from(scattered(&mut seed)) << 84 ^ u128::from(scattered(&mut seed)) << 50;
            let (v4, v6) = (IpAddr::V4(Ipv4Addr::from_bits((bits >> 96) as u32)), IpAddr::V6(bits.into()));
            let length = scattered(&mut seed);
            let prefix = if length & 1 == 0 {
                Cidr::containing(v4, (length % 33) as u8)
            } else {
                Cidr::containing(v6, (length % 129) as u8)
            };
            let (prefix, peer) = (prefix.unwrap(), list.len());
            assert_eq!(table.insert(prefix, peer), list.insert(prefix, peer));
        }
        let naive = |address: IpAddr| {
            let lengths = if address.is_ipv4() { 0..=32 } else { 0..=128 };
            lengths.rev().find_map(|length| list.get(&Cidr::containing(address, length)?).copied())
        };
        let probes = list.keys().step_by(7).map(|prefix| match prefix.address() {
            IpAddr::V4(address) => IpAddr::V4((address.to_bits() ^ 1).into()),
            IpAddr::V6(address) => IpAddr::V6((address.to_bits() ^ 1).into()),
        });
        for probe in probes {
            assert_eq!(table.lookup(probe), naive(probe), "{probe}");
        }
        assert!(list.iter().all(|(&prefix, &peer)| table.remove(prefix, peer)));
        assert_eq!((table.v4.root, table.v6.root), (None, None));
        assert_eq!(table.v4.free.len(), table.v4.nodes.len());
        assert_eq!(table.v6.free.len(), table.v6.nodes.len());
    }

    proptest! {
        #[test]
        fn a_lookup_agrees_with_a_naive_list(
            steps in prop::collection::vec((any::<bool>(), prefix(), 0..3_u8), 0..60),
            probes in prop::collection::vec(address(), 1..20),
        ) {
            let mut table = AllowedIps::default();
            let mut list: Vec<(Cidr, u8)> = Vec::new();
            for (insert, prefix, peer) in steps {
                if insert {
                    table.insert(prefix, peer);
                    list.retain(|&(other, _)| other != prefix);
                    list.push((prefix, peer));
                } else {
                    prop_assert_eq!(table.remove(prefix, peer), list.contains(&(prefix, peer)));
                    list.retain(|&entry| entry != (prefix, peer));
                }
            }
            for probe in probes {
                let holds = list.iter().filter(|(prefix, _)| prefix.contains(probe));
                let longest = holds.max_by_key(|(prefix, _)| prefix.length()).map(|&(_, peer)| peer);
                prop_assert_eq!(table.lookup(probe), longest);
            }
        }
    }
}
