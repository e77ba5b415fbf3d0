use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use carrick_types::{WireGuardKey, WireGuardSecret};

use super::*;

use crate::{endpoint::Source, offload::VnetHeader, outside::Outside};

#[test]
fn an_answer_leaves_from_the_address_that_was_asked_last() {
    let mut pair = Pair::new();
    for asked in [1, 2, 1] {
        pair.ask(asked);
        assert_eq!(pair.answers(), [Some(source(asked))]);
    }
}

#[test]
fn what_is_not_authentic_changes_no_source() {
    let mut pair = Pair::new();
    pair.ask(1);
    let mut datagram = pair.asking();
    *datagram.last_mut().unwrap() ^= 1;
    pair.two.handle_datagrams(from(2), &mut datagram, usize::MAX, pair.now, |_| {});
    assert_eq!(pair.answers(), [Some(source(1))]);
}

#[test]
fn an_endpoint_that_is_set_is_spoken_to_from_anywhere() {
    let mut pair = Pair::new();
    pair.ask(1);
    pair.two.set_endpoint(&key(1), REMOTE.parse().unwrap(), pair.now);
    assert_eq!(pair.answers(), [None]);
}

#[test]
fn a_source_is_forgotten_until_something_comes_again() {
    let mut pair = Pair::new();
    pair.ask(1);
    assert_eq!(pair.two.sources().collect::<Vec<_>>(), [from(1)]);
    pair.two.forget_sources(|endpoint| *endpoint == from(2));
    assert_eq!(pair.answers(), [Some(source(1))]);
    pair.two.forget_sources(|endpoint| *endpoint == from(1));
    assert_eq!((pair.answers(), pair.two.sources().count()), (vec![None], 0));
    pair.ask(1);
    assert_eq!(pair.answers(), [Some(source(1))]);
}

#[test]
fn a_peer_that_does_not_answer_is_looked_for_from_anywhere() {
    let mut pair = Pair::new();
    pair.ask(1);
    assert_eq!(pair.answers(), [Some(source(1))]);
    // The keepalive that would answer it is due after 10 seconds, and is missed 5 seconds later.
    let mut sent = Vec::new();
    for _ in 0..80 {
        pair.now += Duration::from_millis(250);
        pair.two.handle_timeout(pair.now);
        sent.extend(std::iter::from_fn(|| pair.two.poll_transmit()));
    }
    let initiations: Vec<_> = sent.iter().filter(|sent| sent.payload.first() == Some(&1)).collect();
    assert!(!initiations.is_empty() && initiations.iter().all(|sent| sent.source.is_none()));
}

const REMOTE: &str = "198.51.100.1:1";

/// A peer, and a device with several addresses.
struct Pair {
    one: Device,
    two: Device,
    now: Instant,
}

impl Pair {
    fn new() -> Self {
        let (mut one, mut two) = (Device::stand_alone(Seed(1)), Device::stand_alone(Seed(2)));
        #[expect(clippy::disallowed_methods, reason = "an `Instant` to count from; no test depends on which")]
        let now = Instant::now();
        for (device, own, peer) in [(&mut one, 1, 2), (&mut two, 2, 1)] {
            device.set_secret(Some(&secret(own)), now);
            device.add_peer(key(peer));
            device.allow(&key(peer), format!("10.0.0.{peer}/32").parse().unwrap());
        }
        one.set_endpoint(&key(2), "192.0.2.1:2".parse().unwrap(), now);
        Self { one, two, now }
    }

    /// Sends a packet to one of the addresses, after a handshake if need be.
    fn ask(&mut self, asked: u8) {
        self.one.handle_packet(&VnetHeader::default(), &packet(1, 2), self.now);
        loop {
            if let Some(mut sent) = self.one.poll_transmit() {
                self.two.handle_datagrams(from(asked), &mut sent.payload, sent.segment, self.now, |_| {});
            } else if let Some(mut sent) = self.two.poll_transmit() {
                assert_eq!((sent.to, sent.source), (from(asked).remote, Some(source(asked))));
                self.one.handle_datagrams(sent.to, &mut sent.payload, sent.segment, self.now, |_| {});
            } else {
                return;
            }
        }
    }

    /// A datagram of a packet on its way.
    fn asking(&mut self) -> Vec<u8> {
        self.one.handle_packet(&VnetHeader::default(), &packet(1, 2), self.now);
        self.one.poll_transmit().unwrap().payload
    }

    /// Where the answers to a packet are from.
    fn answers(&mut self) -> Vec<Option<Source>> {
        self.two.handle_packet(&VnetHeader::default(), &packet(2, 1), self.now);
        std::iter::from_fn(|| self.two.poll_transmit()).map(|sent| sent.source).collect()
    }
}

fn source(n: u8) -> Source {
    Source { address: [192, 0, 2, n].into(), interface: 7 }
}

fn from(n: u8) -> Endpoint {
    Endpoint { remote: REMOTE.parse::<SocketAddr>().unwrap(), source: Some(source(n)) }
}

fn secret(n: u8) -> WireGuardSecret {
    WireGuardSecret::from_bytes([n; 32])
}

fn key(n: u8) -> WireGuardKey {
    secret(n).public()
}

fn packet(from: u8, to: u8) -> [u8; 28] {
    let mut packet = [0; 28];
    (packet[0], packet[3]) = (0x45, 28);
    packet[12..16].copy_from_slice(&[10, 0, 0, from]);
    packet[16..20].copy_from_slice(&[10, 0, 0, to]);
    packet
}

/// A seed, and a wall clock that stands still.
struct Seed(u8);

impl Outside for Seed {
    fn random(&mut self, buffer: &mut [u8]) {
        for byte in buffer {
            self.0 = self.0.wrapping_mul(5).wrapping_add(3);
            *byte = self.0;
        }
    }

    fn wall_clock(&mut self) -> Duration {
        Duration::from_secs(1_800_000_000)
    }
}
