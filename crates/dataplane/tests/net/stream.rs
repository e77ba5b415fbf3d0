//! Two devices that know each other, and a stream of TCP super-packets from the one to the other.

#![allow(dead_code, reason = "no test uses all of it")]

use std::{net::SocketAddr, time::Instant};

use carrick_dataplane::{
    Device, Transmit,
    offload::{Coalesced, Gso, VnetHeader},
};

use super::{Simulated, config, key, secret};

/// Payload of each packet, and packets of each super-packet: what fits into one call at an MTU of 1,420.
pub(crate) const PAYLOAD: usize = 1_380;
pub(crate) const PACKETS: usize = 45;

const HEADERS: usize = 40;

pub(crate) struct Pair {
    pub(crate) one: Device,
    pub(crate) two: Device,
    pub(crate) now: Instant,
}

/// Where the nodes are.
pub(crate) fn address(node: usize) -> SocketAddr {
    super::address(node)
}

impl Pair {
    /// With a session between them.
    #[expect(clippy::disallowed_methods, reason = "an `Instant` to count from; no test depends on which")]
    pub(crate) fn connected() -> Self {
        let now = Instant::now();
        let device = |node: usize| {
            let mut device = Device::new(&secret(node, 0), Simulated(node as u64));
            device.set_own(vec![super::prefix(node).parse().unwrap()]);
            device.set_peer(key(1 - node, 0), config(1 - node));
            device
        };
        let mut pair = Self { one: device(0), two: device(1), now };
        pair.one.handle_packet(&VnetHeader::default(), &super::packet(0, 1, 0), now);
        loop {
            if let Some(mut sent) = pair.one.poll_transmit() {
                pair.two.handle_datagrams(address(0), &mut sent.payload, sent.segment, now, |_| {});
            } else if let Some(mut sent) = pair.two.poll_transmit() {
                pair.one.handle_datagrams(address(1), &mut sent.payload, sent.segment, now, |_| {});
            } else {
                return pair;
            }
        }
    }

    /// Bytes of the stream that follow each other from `sequence` on, as the kernel hands them over, become what goes to the network.
    pub(crate) fn send(&mut self, sequence: u32, bytes: &[u8]) -> Transmit {
        let (header, packet) = superpacket(sequence, bytes);
        self.one.handle_packet(&header, &packet, self.now);
        self.one.poll_transmit().expect("there is a session")
    }
}

/// Bytes of a stream from node 0 to node 1.
pub(crate) fn superpacket(sequence: u32, bytes: &[u8]) -> (VnetHeader, Vec<u8>) {
    let mut packet = vec![0; HEADERS];
    (packet[0], packet[6], packet[8], packet[9]) = (0x45, 0x40, 64, 6);
    packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 1, 1]);
    (packet[21], packet[23]) = (80, 81);
    packet[24..28].copy_from_slice(&sequence.to_be_bytes());
    (packet[32], packet[33]) = (0x50, 0x10);
    packet.extend_from_slice(bytes);
    let gso = if bytes.len() > PAYLOAD { Gso::TcpV4 } else { Gso::None };
    if gso == Gso::None {
        let total = u16::try_from(packet.len()).unwrap();
        packet[2..4].copy_from_slice(&total.to_be_bytes());
    }
    let (header_length, gso_size) = (HEADERS as u16, PAYLOAD as u16);
    (VnetHeader { gso, ecn: false, header_length, gso_size, checksum: Some((20, 16)) }, packet)
}

/// Where in the stream a packet that comes out begins, and what it brings.
pub(crate) fn brought(packet: &Coalesced<'_>) -> (u32, Vec<u8>) {
    let mut bytes = packet.parts().collect::<Vec<_>>().concat();
    let sequence = u32::from_be_bytes(bytes[24..28].try_into().unwrap());
    (sequence, bytes.split_off(HEADERS))
}
