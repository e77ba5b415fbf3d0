//! What goes to the network: datagrams one behind the other in one buffer, for as long as they go to one place and have one length,
//! so that the kernel takes them all in one call.

use std::{collections::VecDeque, net::SocketAddr};

use crate::device::MAX_DATAGRAM;

/// The most datagrams that the kernel takes in one call (`UDP_MAX_SEGMENTS` of its earlier versions).
pub const MAX_SEGMENTS: usize = 64;

/// Buffers that are kept for the next time, at most.
const MAX_SPARE: usize = 8;

/// Datagrams to send, to one place.
#[derive(Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Where to.
    pub to: SocketAddr,
    /// The datagrams, one behind the other.
    pub payload: Vec<u8>,
    /// How long each datagram is, but for the last, which may be shorter.
    pub segment: usize,
    /// So many bytes are sealed, and so may be sent.
    sealed: usize,
}

/// Datagrams, in the order in which they go.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    transmits: VecDeque<Transmit>,
    spare: Vec<Vec<u8>>,
}

impl Outbox {
    /// Room for one more datagram, to be sealed by [`Outbox::seal`].
    pub(crate) fn append(&mut self, to: SocketAddr, length: usize) -> &mut [u8] {
        let fits = self.transmits.back().is_some_and(|last| {
            last.to == to
                && length <= last.segment
                && last.payload.len().is_multiple_of(last.segment)
                && last.payload.len() / last.segment < MAX_SEGMENTS
                && last.payload.len() + length <= MAX_DATAGRAM
        });
        if !fits {
            let payload = self.spare.pop().unwrap_or_default();
            self.transmits.push_back(Transmit { to, payload, segment: length.max(1), sealed: 0 });
        }
        // One was pushed if there was none.
        let Some(last) = self.transmits.back_mut() else { return &mut [] };
        let from = last.payload.len();
        last.payload.resize(from + length, 0);
        &mut last.payload[from..]
    }

    /// Hands over the datagrams that are not sealed yet, a batch at a time, each with how long its datagrams are. Those for which
    /// `seal` says no are dropped.
    pub(crate) fn seal(&mut self, mut seal: impl FnMut(&mut [u8], usize) -> bool) {
        let first = self.transmits.iter().rposition(|transmit| transmit.sealed == transmit.payload.len());
        for transmit in self.transmits.iter_mut().skip(first.map_or(0, |sealed| sealed + 1)) {
            let unsealed = transmit.payload.get_mut(transmit.sealed..).unwrap_or_default();
            if seal(unsealed, transmit.segment) {
                transmit.sealed = transmit.payload.len();
            } else {
                transmit.payload.truncate(transmit.sealed);
            }
        }
        self.transmits.retain(|transmit| !transmit.payload.is_empty());
    }

    /// A datagram that needs no sealing.
    pub(crate) fn push(&mut self, to: SocketAddr, datagram: &[u8]) {
        let payload = datagram.to_vec();
        let (segment, sealed) = (payload.len().max(1), payload.len());
        self.transmits.push_back(Transmit { to, payload, segment, sealed });
    }

    /// The next datagrams to send.
    pub(crate) fn pop(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// How many bytes wait.
    pub(crate) fn bytes(&self) -> usize {
        self.transmits.iter().map(|transmit| transmit.payload.len()).sum()
    }

    /// Takes a buffer back.
    pub(crate) fn recycle(&mut self, transmit: Transmit) {
        let mut payload = transmit.payload;
        if self.spare.len() < MAX_SPARE && payload.capacity() > 1 << 15 {
            payload.clear();
            self.spare.push(payload);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(n: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, n], 51_820))
    }

    /// Where to, how long each is, and how long all are.
    fn drain(outbox: &mut Outbox) -> Vec<(SocketAddr, usize, usize)> {
        std::iter::from_fn(|| outbox.pop()).map(|sent| (sent.to, sent.segment, sent.payload.len())).collect()
    }

    fn filled(lengths: &[(u8, usize)]) -> Outbox {
        let mut outbox = Outbox::default();
        for (to, length) in lengths {
            assert_eq!(outbox.append(place(*to), *length).len(), *length);
        }
        outbox.seal(|_, _| true);
        outbox
    }

    #[test]
    fn datagrams_of_one_length_to_one_place_go_together_and_a_shorter_one_ends_them() {
        let mut outbox = filled(&[(1, 100), (1, 100), (1, 40), (1, 40), (1, 41), (2, 41)]);
        let expected = [(place(1), 100, 240), (place(1), 40, 40), (place(1), 41, 41), (place(2), 41, 41)];
        assert_eq!(drain(&mut outbox), expected);
    }

    #[test]
    fn no_more_go_together_than_the_kernel_takes() {
        let small = filled(&[(1, 64); 70]);
        assert_eq!(small.transmits.iter().map(|sent| sent.payload.len() / 64).collect::<Vec<_>>(), [64, 6]);
        let large = filled(&[(1, 1452); 48]);
        assert_eq!(large.transmits.iter().map(|sent| sent.payload.len() / 1452).collect::<Vec<_>>(), [45, 3]);
    }

    #[test]
    fn what_cannot_be_sealed_is_not_sent_and_what_was_sealed_before_is() {
        let mut outbox = filled(&[(1, 100), (1, 100)]);
        outbox.append(place(1), 100);
        outbox.append(place(2), 100);
        let mut asked = Vec::new();
        outbox.seal(|bytes, segment| {
            asked.push((bytes.len(), segment));
            false
        });
        assert_eq!(asked, [(100, 100), (100, 100)]);
        assert_eq!(drain(&mut outbox), [(place(1), 100, 200)]);
    }
}
