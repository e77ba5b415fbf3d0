//! What goes to the network: datagrams one behind the other in one buffer, for as long as they go to one place and have one length,
//! so that the kernel takes them all in one call.

use std::{collections::VecDeque, net::SocketAddr, time::Instant};

use carrick_types::WireGuardKey;
use carrick_wireguard::HEADER;

use crate::endpoint::{Endpoint, Source};

/// The longest datagram that UDP carries, in bytes.
pub const MAX_DATAGRAM: usize = 65_507;

/// The most datagrams that the kernel takes in one call (`UDP_MAX_SEGMENTS` of its earlier versions).
pub const MAX_SEGMENTS: usize = 64;

/// Buffers that are kept for the next time, at most.
const MAX_SPARE: usize = 8;

/// Datagrams to send, to one place.
#[derive(Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Where to.
    pub to: SocketAddr,
    /// Where from; `None`: wherever the routing table says.
    pub source: Option<Source>,
    /// The datagrams, one behind the other.
    pub payload: Vec<u8>,
    /// How long each datagram is, but for the last, which may be shorter.
    pub segment: usize,
    /// What has to seal them first.
    pub(crate) unsealed: Option<Unsealed>,
}

impl Transmit {
    fn new(Endpoint { remote, source }: Endpoint, payload: Vec<u8>, segment: usize) -> Self {
        Self { to: remote, source, payload, segment: segment.max(1), unsealed: None }
    }
}

/// What seals datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unsealed {
    /// The keys of the link to this peer.
    pub(crate) peer: WireGuardKey,
    /// When the last of them was appended.
    pub(crate) at: Instant,
    /// How long the packets in them are, altogether.
    pub(crate) bytes: u64,
}

/// Datagrams, in the order in which they go.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    transmits: VecDeque<Transmit>,
    /// How many bytes they have.
    bytes: usize,
    spare: Vec<Vec<u8>>,
}

impl Outbox {
    /// One more datagram: `write` writes the `packet` bytes of text, which become `sealed` bytes. It is sealed when it is popped, together
    /// with those that go with it: cipher and kernel take many at once.
    pub(crate) fn append(
        &mut self,
        to: Endpoint,
        by: Unsealed,
        sealed: usize,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let fits = self.transmits.back().is_some_and(|last| {
            (last.to, last.source) == (to.remote, to.source)
                && last.unsealed.is_some_and(|last| last.peer == by.peer)
                && sealed <= last.segment
                && last.payload.len().is_multiple_of(last.segment)
                && last.payload.len() / last.segment < MAX_SEGMENTS
                && last.payload.len() + sealed <= MAX_DATAGRAM
        });
        if !fits {
            let payload = self.spare.pop().unwrap_or_default();
            self.transmits.push_back(Transmit::new(to, payload, sealed));
        }
        // One was pushed if there was none.
        let Some(Transmit { payload, unsealed, .. }) = self.transmits.back_mut() else { return };
        let end = payload.len() + sealed;
        payload.reserve(sealed);
        payload.extend_from_slice(&[0; HEADER]);
        write(payload);
        // Padding, and room for the tag.
        payload.resize(end, 0);
        let before = unsealed.map_or(0, |unsealed| unsealed.bytes);
        *unsealed = Some(Unsealed { bytes: before + by.bytes, ..by });
        self.bytes += sealed;
    }

    /// A datagram that needs no sealing.
    pub(crate) fn push(&mut self, to: Endpoint, datagram: &[u8]) {
        let mut payload = self.spare.pop().unwrap_or_default();
        payload.extend_from_slice(datagram);
        self.bytes += payload.len();
        let segment = payload.len();
        self.transmits.push_back(Transmit::new(to, payload, segment));
    }

    /// The next datagrams.
    pub(crate) fn pop(&mut self) -> Option<Transmit> {
        let transmit = self.transmits.pop_front()?;
        self.bytes -= transmit.payload.len();
        Some(transmit)
    }

    /// What one peer's keys were to seal, another's seal.
    pub(crate) fn hand_over(&mut self, from: WireGuardKey, to: WireGuardKey) {
        for by in self.transmits.iter_mut().filter_map(|transmit| transmit.unsealed.as_mut()) {
            if by.peer == from {
                by.peer = to;
            }
        }
    }

    /// How many bytes wait.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes a buffer back.
    pub(crate) fn recycle(&mut self, transmit: Transmit) {
        let mut payload = transmit.payload;
        if self.spare.len() < MAX_SPARE {
            payload.clear();
            self.spare.push(payload);
        }
    }
}

#[cfg(test)]
mod tests {
    use carrick_types::WireGuardSecret;

    use super::*;

    fn place(n: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, n], 51_820))
    }

    /// Where to, how long each is, and how long all are.
    fn drain(outbox: &mut Outbox) -> Vec<(SocketAddr, usize, usize)> {
        std::iter::from_fn(|| outbox.pop()).map(|sent| (sent.to, sent.segment, sent.payload.len())).collect()
    }

    #[expect(clippy::disallowed_methods, reason = "an `Instant` to count from; no test depends on which")]
    fn by(peer: u8) -> Unsealed {
        Unsealed { peer: WireGuardSecret::from_bytes([peer; 32]).public(), at: Instant::now(), bytes: 3 }
    }

    fn filled(lengths: &[(u8, usize)]) -> Outbox {
        let mut outbox = Outbox::default();
        for (to, length) in lengths {
            outbox.append(place(*to).into(), by(1), *length, |payload| payload.extend_from_slice(&[7; 3]));
        }
        outbox
    }

    #[test]
    fn a_text_has_room_before_and_behind_it() {
        let mut outbox = filled(&[(1, 40), (1, 40)]);
        assert_eq!(outbox.bytes(), 80);
        let sent = outbox.pop().unwrap();
        let expected = [vec![0; 16], vec![7; 3], vec![0; 21]].concat().repeat(2);
        assert_eq!(sent.payload, expected);
        assert_eq!(outbox.bytes(), 0);
        outbox.recycle(sent);
        outbox.append(place(1).into(), by(1), 40, |payload| payload.extend_from_slice(&[7; 3]));
        assert_eq!(
            outbox.pop().unwrap().payload,
            expected[..40],
            "nothing is left of what a buffer had before"
        );
    }

    #[test]
    fn peers_and_datagrams_that_need_no_sealing_go_by_themselves() {
        let mut outbox = filled(&[(1, 100)]);
        outbox.append(place(1).into(), by(2), 100, |_| {});
        outbox.push(place(1).into(), &[1; 100]);
        outbox.append(place(1).into(), by(2), 100, |_| {});
        let peers: Vec<_> =
            std::iter::from_fn(|| outbox.pop()).map(|sent| sent.unsealed.map(|by| by.peer)).collect();
        assert_eq!(peers, [Some(by(1).peer), Some(by(2).peer), None, Some(by(2).peer)]);
    }

    #[test]
    fn datagrams_of_one_length_to_one_place_go_together_and_a_shorter_one_ends_them() {
        let mut outbox = filled(&[(1, 100), (1, 100), (1, 40), (1, 40), (1, 41), (2, 41)]);
        let expected = [(place(1), 100, 240), (place(1), 40, 40), (place(1), 41, 41), (place(2), 41, 41)];
        assert_eq!(drain(&mut outbox), expected);
    }

    #[test]
    fn datagrams_from_different_addresses_do_not_go_together() {
        let mut outbox = Outbox::default();
        let from = |n| Source { address: place(n).ip(), interface: 2 };
        for source in [Some(from(1)), Some(from(1)), Some(from(2)), None] {
            outbox.append(Endpoint { remote: place(9), source }, by(1), 40, |_| {});
        }
        let sent = std::iter::from_fn(|| outbox.pop()).map(|sent| (sent.source, sent.payload.len() / 40));
        assert_eq!(sent.collect::<Vec<_>>(), [(Some(from(1)), 2), (Some(from(2)), 1), (None, 1)]);
    }

    #[test]
    fn no_more_go_together_than_the_kernel_takes() {
        let small = filled(&[(1, 64); 70]);
        assert_eq!(small.transmits.iter().map(|sent| sent.payload.len() / 64).collect::<Vec<_>>(), [64, 6]);
        let large = filled(&[(1, 1452); 48]);
        assert_eq!(large.transmits.iter().map(|sent| sent.payload.len() / 1452).collect::<Vec<_>>(), [45, 3]);
    }
}
