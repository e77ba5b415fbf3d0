//! Packets that wait for a handshake, within one budget for all that a forwarder has.
//!
//! What is over it goes oldest first. The oldest has most likely been sent again by whoever waits for an answer, and a refusal of
//! the newest would let a thousand silent peers keep the room from one that answers until their handshakes are given up.

use std::collections::{BTreeMap, VecDeque};

use carrick_types::WireGuardKey;

/// Bytes that may wait, for all peers together, [`OVERHEAD`] included.
const MAX_BYTES: usize = 4 << 20;

/// Packets that may wait for one peer.
const MAX_PACKETS: usize = 256;

/// What keeping a packet costs beside its bytes, about: small packets are not for free.
const OVERHEAD: usize = 128;

/// The packets, in the order they came in over all peers.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    packets: BTreeMap<u64, (WireGuardKey, Vec<u8>)>,
    /// The numbers of each peer's packets, oldest first. No entry is empty.
    numbers: BTreeMap<WireGuardKey, VecDeque<u64>>,
    next: u64,
    /// What all packets cost.
    bytes: usize,
}

impl Waiting {
    /// Keeps a packet. Says how many older ones made room.
    pub(crate) fn push(&mut self, peer: WireGuardKey, packet: Vec<u8>) -> u64 {
        let of_peer = self.numbers.entry(peer).or_default();
        of_peer.push_back(self.next);
        let peer_is_full = of_peer.len() > MAX_PACKETS;
        self.bytes += packet.len() + OVERHEAD;
        self.packets.insert(self.next, (peer, packet));
        self.next += 1;
        let mut dropped = u64::from(peer_is_full && self.pop(&peer).is_some());
        while self.bytes > MAX_BYTES
            && let Some((_, &(oldest, _))) = self.packets.first_key_value()
            && self.pop(&oldest).is_some()
        {
            dropped += 1;
        }
        dropped
    }

    /// The packet that waits longest for a peer.
    pub(crate) fn pop(&mut self, peer: &WireGuardKey) -> Option<Vec<u8>> {
        let numbers = self.numbers.get_mut(peer)?;
        let number = numbers.pop_front();
        if numbers.is_empty() {
            self.numbers.remove(peer);
        }
        let (_, packet) = self.packets.remove(&number?)?;
        self.bytes -= packet.len() + OVERHEAD;
        Some(packet)
    }

    /// Whether a packet waits for a peer.
    pub(crate) fn waits_for(&self, peer: &WireGuardKey) -> bool {
        self.numbers.contains_key(peer)
    }

    /// Drops what waits for a peer, and says how many packets that was.
    pub(crate) fn clear(&mut self, peer: &WireGuardKey) -> u64 {
        std::iter::from_fn(|| self.pop(peer)).fold(0, |count, _| count + 1)
    }

    /// What waits for one peer waits for another from here on, in the order it came in.
    pub(crate) fn hand_over(&mut self, from: &WireGuardKey, to: WireGuardKey) {
        let Some(moved) = self.numbers.remove(from) else { return };
        for number in &moved {
            if let Some((peer, _)) = self.packets.get_mut(number) {
                *peer = to;
            }
        }
        let numbers = self.numbers.entry(to).or_default();
        numbers.extend(moved);
        numbers.make_contiguous().sort_unstable();
    }

    /// What all packets that wait cost.
    #[cfg(test)]
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use carrick_types::WireGuardSecret;

    use super::*;

    #[test]
    fn the_oldest_packet_of_all_peers_makes_room() {
        let mut waiting = Waiting::default();
        let size = 65_000;
        let fit = MAX_BYTES / (size + OVERHEAD);
        for number in 0..fit {
            assert_eq!(waiting.push(key(number % 2), packet(number, size)), 0);
        }
        assert_eq!(waiting.push(key(2), packet(fit, size)), 1);
        assert!(waiting.bytes() <= MAX_BYTES);
        assert_eq!(waiting.pop(&key(0)), Some(packet(2, size)), "0 was the oldest");
        assert_eq!(waiting.pop(&key(1)), Some(packet(1, size)));
        assert_eq!(waiting.pop(&key(2)), Some(packet(fit, size)));
    }

    #[test]
    fn a_peer_has_its_newest_packets_waiting() {
        let mut waiting = Waiting::default();
        let dropped: u64 = (0..MAX_PACKETS + 10).map(|number| waiting.push(key(0), packet(number, 64))).sum();
        assert_eq!(dropped, 10);
        let rest: Vec<_> = std::iter::from_fn(|| waiting.pop(&key(0))).collect();
        assert_eq!(rest, (10..MAX_PACKETS + 10).map(|number| packet(number, 64)).collect::<Vec<_>>());
        assert_eq!(waiting.bytes(), 0);
    }

    #[test]
    fn empty_packets_are_not_for_free() {
        let mut waiting = Waiting::default();
        let peers = MAX_BYTES / OVERHEAD / MAX_PACKETS + 10;
        let dropped: u64 =
            (0..peers * MAX_PACKETS).map(|number| waiting.push(key(number % peers), vec![])).sum();
        assert_eq!(dropped, (10 * MAX_PACKETS) as u64);
    }

    #[test]
    fn what_is_handed_over_keeps_its_order() {
        let mut waiting = Waiting::default();
        for number in 0..10 {
            waiting.push(key(number % 2), packet(number, 64));
        }
        waiting.hand_over(&key(0), key(1));
        assert!(!waiting.waits_for(&key(0)));
        let all: Vec<_> = std::iter::from_fn(|| waiting.pop(&key(1))).collect();
        assert_eq!(all, (0..10).map(|number| packet(number, 64)).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_cleared_leaves_room() {
        let mut waiting = Waiting::default();
        waiting.push(key(0), packet(0, 1420));
        waiting.push(key(1), packet(1, 1420));
        assert_eq!((waiting.clear(&key(0)), waiting.clear(&key(0))), (1, 0));
        assert!(!waiting.waits_for(&key(0)) && waiting.waits_for(&key(1)));
        assert_eq!(waiting.bytes(), 1420 + OVERHEAD);
    }

    fn key(of: usize) -> WireGuardKey {
        let mut bytes = [7; 32];
        bytes[8..16].copy_from_slice(&of.to_le_bytes());
        WireGuardSecret::from_bytes(bytes).public()
    }

    fn packet(number: usize, size: usize) -> Vec<u8> {
        let mut packet = vec![0; size];
        packet[..8].copy_from_slice(&number.to_le_bytes());
        packet
    }
}
