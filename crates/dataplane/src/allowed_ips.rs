//! WireGuard's cryptokey routing table.

use std::{collections::BTreeMap, net::IpAddr};

use carrick_types::Cidr;

/// Which peer a prefix belongs to; an address belongs to the longest prefix that holds it, over all peers.
///
/// A lookup asks once for each prefix length that is in use, longest first: a mesh uses a handful.
#[derive(Debug, Clone)]
pub struct AllowedIps<P> {
    v4: Family<P>,
    v6: Family<P>,
}

impl<P> Default for AllowedIps<P> {
    fn default() -> Self {
        Self { v4: Family::default(), v6: Family::default() }
    }
}

impl<P: Copy + PartialEq> AllowedIps<P> {
    /// Gives a prefix to a peer, and says who had it before.
    pub fn insert(&mut self, prefix: Cidr, peer: P) -> Option<P> {
        self.family_mut(prefix.address()).insert(prefix, peer)
    }

    /// Takes a prefix from a peer, if that peer has it.
    pub fn remove(&mut self, prefix: Cidr, peer: P) -> bool {
        self.family_mut(prefix.address()).remove(prefix, peer)
    }

    /// Whose the address is.
    pub fn lookup(&self, address: IpAddr) -> Option<P> {
        let family = if address.is_ipv4() { &self.v4 } else { &self.v6 };
        family.lookup(bits(address))
    }

    const fn family_mut(&mut self, address: IpAddr) -> &mut Family<P> {
        if address.is_ipv4() { &mut self.v4 } else { &mut self.v6 }
    }
}

/// The prefixes of one family by length, then by their bits. No entry is empty.
#[derive(Debug, Clone)]
struct Family<P>(BTreeMap<u8, BTreeMap<u128, P>>);

impl<P> Default for Family<P> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<P: Copy + PartialEq> Family<P> {
    fn insert(&mut self, prefix: Cidr, peer: P) -> Option<P> {
        self.0.entry(prefix.length()).or_default().insert(bits(prefix.address()), peer)
    }

    fn remove(&mut self, prefix: Cidr, peer: P) -> bool {
        let Some(of_length) = self.0.get_mut(&prefix.length()) else { return false };
        let key = bits(prefix.address());
        let has_it = of_length.get(&key) == Some(&peer);
        if has_it {
            of_length.remove(&key);
            if of_length.is_empty() {
                self.0.remove(&prefix.length());
            }
        }
        has_it
    }

    fn lookup(&self, address: u128) -> Option<P> {
        self.0.iter().rev().find_map(|(&length, of_length)| of_length.get(&(address & mask(length))).copied())
    }
}

/// The address at the top of 128 bits, so that one mask serves both families.
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
