//! What comes from the network and from pods: datagrams and packets.

use std::{
    net::SocketAddr,
    sync::LazyLock,
    time::{Duration, Instant},
};

use carrick_dataplane::{
    Device, Outside, PeerConfig, addresses,
    offload::{Segments, VnetHeader},
};
use carrick_types::{WireGuardKey, WireGuardSecret};

/// The same randomness every time, and a clock that stands still.
pub(super) struct Seeded(pub(super) u8);

impl Outside for Seeded {
    fn random(&mut self, buffer: &mut [u8]) {
        buffer.fill(self.0);
    }

    fn wall_clock(&mut self) -> Duration {
        Duration::from_secs(1_800_000_000)
    }
}

/// An `Instant` to count from.
pub(super) static START: LazyLock<Instant> = LazyLock::new(Instant::now);

pub(super) fn secret(n: u8) -> WireGuardSecret {
    WireGuardSecret::from_bytes([n; 32])
}

pub(super) fn key(n: u8) -> WireGuardKey {
    secret(n).public()
}

pub(super) fn endpoint() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 51_820))
}

/// Node `own`, which knows node `peer`.
pub(super) fn device(own: u8, peer: u8) -> Device {
    let prefix = |n: u8| format!("10.0.{n}.0/24").parse().expect("a prefix");
    let mut device = Device::new(&secret(own), Seeded(own));
    device.set_own(vec![prefix(own)]);
    let config =
        PeerConfig { allowed_ips: vec![prefix(peer)], endpoints: vec![endpoint()], admits_new: true };
    device.set_peer(key(peer), config);
    device
}

pub(super) fn packet(from: u8, to: u8) -> Vec<u8> {
    let mut packet = vec![0; 28];
    packet[0] = 0x45;
    packet[3] = 28;
    packet[8] = 64;
    packet[9] = 17;
    packet[12..16].copy_from_slice(&[10, 0, from, 1]);
    packet[16..20].copy_from_slice(&[10, 0, to, 1]);
    packet
}

/// A handshake's first message, and junk of the other types.
pub(super) fn datagrams() -> Vec<Vec<u8>> {
    let mut peer = device(2, 1);
    peer.handle_packet(&VnetHeader::default(), &packet(2, 1), *START);
    let initiation = peer.poll_transmit().map(|transmit| transmit.payload).unwrap_or_default();
    let junk = |kind: u8, length: usize| {
        let mut message = vec![0; length];
        message[0] = kind;
        message
    };
    vec![initiation, junk(2, 92), junk(3, 64), junk(4, 32), junk(4, 80)]
}

/// One datagram, and as many of half its length in one call.
pub(super) fn run_datagrams(input: &[u8]) {
    let mut device = device(1, 2);
    for segment in [input.len(), input.len() / 2] {
        let mut datagrams = input.to_vec();
        device.handle_datagrams(endpoint(), &mut datagrams, segment, *START, |_| {
            panic!("nothing comes out of a tunnel that never was");
        });
        device.handle_packet(&VnetHeader::default(), &packet(1, 2), *START);
    }
    device.handle_timeout(*START + Duration::from_secs(1));
    while device.poll_transmit().is_some() {}
}

/// Packets as the interface gives them, behind their header.
pub(super) fn packets() -> Vec<Vec<u8>> {
    let mut v6 = vec![0; 48];
    v6[0] = 0x60;
    let mut superpacket = packet(1, 2);
    superpacket.resize(500, 1);
    [(0, packet(1, 2)), (0, v6), (5, superpacket)]
        .map(|(gso, packet)| [&[0, gso, 0, 0, 100, 0, 0, 0, 0, 0], packet.as_slice()].concat())
        .to_vec()
}

pub(super) fn run_packet(input: &[u8]) {
    let Some((header, packet)) = input.split_first_chunk() else { return };
    let _ = addresses(packet);
    let Some(header) = VnetHeader::parse(header) else { return };
    if let Ok(mut segments) = Segments::of(&header, packet) {
        while let Some(length) = segments.next_length() {
            let mut packet = Vec::new();
            segments.append_next(&mut packet);
            assert_eq!(packet.len(), length);
        }
    }
    let mut device = device(1, 2);
    device.handle_packet(&header, packet, *START);
    while device.poll_transmit().is_some() {}
}
