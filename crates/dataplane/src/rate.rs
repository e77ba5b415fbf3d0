//! How many handshakes a sender may have begun while there are too many.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

/// Between two handshakes of one sender, in the long run: 20 a second, as the kernel's WireGuard has it.
const INTERVAL: Duration = Duration::from_millis(50);

/// So many may come at once.
const BURST: u32 = 5;

/// Senders that are remembered at once. While there are more, new ones wait.
const MAX_SENDERS: usize = 65_536;

/// A bucket of tokens for each sender: an IPv4 address, or a network of IPv6 with 64 bits, whose addresses are often one host's.
#[derive(Debug, Default)]
pub(crate) struct RateLimiter {
    /// When each bucket will be full again.
    full: BTreeMap<IpAddr, Instant>,
    /// When full ones were last looked for.
    looked: Option<Instant>,
}

impl RateLimiter {
    /// Whether one more of this sender may begin.
    pub(crate) fn allows(&mut self, sender: IpAddr, now: Instant) -> bool {
        let sender = match sender.to_canonical() {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        };
        if self.full.len() >= MAX_SENDERS && !self.full.contains_key(&sender) {
            if self.looked.is_none_or(|looked| looked + INTERVAL <= now) {
                self.expire(now);
            }
            if self.full.len() >= MAX_SENDERS {
                return false;
            }
        }
        let full = self.full.entry(sender).or_insert(now);
        let next = now.max(*full) + INTERVAL;
        let allows = next <= now + INTERVAL * BURST;
        if allows {
            *full = next;
        }
        allows
    }

    /// Forgets whose bucket is full.
    pub(crate) fn expire(&mut self, now: Instant) {
        self.full.retain(|_, full| now < *full);
        self.looked = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_come_at_once_and_twenty_a_second_and_others_are_not_held_up() {
        let (mut limiter, begun) = (RateLimiter::default(), now());
        let (one, two) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        assert_eq!((0..100).filter(|_| limiter.allows(one, begun)).count(), 5);
        assert!(limiter.allows(two, begun));
        let later = |millisecond| begun + Duration::from_millis(millisecond);
        assert_eq!((1..=10_000).filter(|n| limiter.allows(one, later(*n))).count(), 200);
        limiter.expire(later(10_000));
        assert_eq!(limiter.full.len(), 1);
        limiter.expire(later(20_000));
        assert_eq!(limiter.full.len(), 0);
        assert_eq!((0..100).filter(|_| limiter.allows(one, later(20_000))).count(), 5);
    }

    #[test]
    fn all_addresses_of_one_network_are_one_sender_and_a_mapped_address_is_the_one_in_it() {
        let (mut limiter, now) = (RateLimiter::default(), now());
        let network = |n: u16| format!("2001:db8:0:1::{n:x}").parse().unwrap();
        assert_eq!((0..100).filter(|n| limiter.allows(network(*n), now)).count(), 5);
        assert!(limiter.allows("2001:db8:0:2::1".parse().unwrap(), now));
        let mapped = ["192.0.2.1", "::ffff:192.0.2.1"];
        assert_eq!((0..100).filter(|n| limiter.allows(mapped[n % 2].parse().unwrap(), now)).count(), 5);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut limiter, now) = (RateLimiter::default(), now());
        for n in 0..MAX_SENDERS as u32 {
            assert!(limiter.allows(IpAddr::V4(n.into()), now));
        }
        assert!(!limiter.allows("255.255.255.255".parse().unwrap(), now));
        assert!(limiter.allows("0.0.0.1".parse().unwrap(), now), "one that is remembered");
        assert_eq!(limiter.full.len(), MAX_SENDERS);
        let later = now + INTERVAL;
        assert!(limiter.allows("255.255.255.255".parse().unwrap(), later), "where others have gone");
        assert_eq!(limiter.full.len(), 2);
    }

    #[expect(clippy::disallowed_methods, reason = "an `Instant` to count from; no test depends on which")]
    fn now() -> Instant {
        Instant::now()
    }
}
