//! Two devices that begin at the same moment: their initiations cross on the way.

#![allow(clippy::unwrap_used, reason = "in a test it is the assertion that the value is there")]

mod net;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use carrick_dataplane::{Device, PeerConfig, Transmit, offload::VnetHeader};
use carrick_types::WireGuardSecret;

#[test]
fn initiations_that_cross_make_one_handshake_each_whatever_else_is_sent_meanwhile() {
    let mut pair = Pair::new();
    for number in 0..20 {
        pair.send(0, number);
        pair.send(1, number);
        pair.exchange_what_is_on_the_way();
    }
    pair.exchange_what_is_on_the_way();
    assert_eq!(pair.initiations, [1, 1]);
    for received in &pair.received {
        assert_eq!(*received, (0..20).collect::<Vec<u8>>(), "every packet came, in order");
    }
}

#[test]
fn a_peer_that_does_not_complete_its_handshake_keeps_packets_waiting_for_five_seconds_only() {
    let mut pair = Pair::new();
    pair.send(1, 0);
    pair.exchange_what_is_on_the_way();
    assert_eq!(pair.drain(0).len(), 1, "the response, which is lost");
    for number in [7, 8, 9] {
        pair.send(0, number);
    }
    assert!(pair.drain(0).is_empty(), "the peer has its time to complete the handshake");
    pair.now += Duration::from_secs(5);
    pair.devices[0].handle_timeout(pair.now);
    for _ in 0..4 {
        pair.exchange_what_is_on_the_way();
    }
    assert_eq!(pair.initiations, [1, 1]);
    assert_eq!(pair.received, [vec![0], vec![7, 8, 9]]);
}

/// The first speaks for 10.0.0.0/24, the second for 10.0.1.0/24; each knows where the other is.
struct Pair {
    devices: [Device; 2],
    now: Instant,
    /// How many initiations each sent.
    initiations: [usize; 2],
    /// The numbers of the packets that came out at each.
    received: [Vec<u8>; 2],
}

impl Pair {
    #[expect(clippy::disallowed_methods, reason = "an `Instant` to count from; no test depends on which")]
    fn new() -> Self {
        let devices = [0, 1].map(|me| {
            let mut device = Device::new(&secret(me), net::Simulated(me.into()));
            device.set_own(vec![prefix(me).parse().unwrap()]);
            let allowed_ips = vec![prefix(1 - me).parse().unwrap()];
            let config = PeerConfig { allowed_ips, endpoints: vec![address(1 - me)], admits_new: true };
            device.set_peer(secret(1 - me).public(), config);
            device
        });
        Self { devices, now: Instant::now(), initiations: [0; 2], received: [Vec::new(), Vec::new()] }
    }

    fn send(&mut self, from: u8, number: u8) {
        self.devices[usize::from(from)].handle_packet(
            &VnetHeader::default(),
            &packet(from, number),
            self.now,
        );
    }

    /// Everything that the two have sent arrives, at the same moment.
    fn exchange_what_is_on_the_way(&mut self) {
        let on_the_way = [self.drain(0), self.drain(1)];
        for (from, transmits) in (0_u8..).zip(on_the_way) {
            let to = usize::from(1 - from);
            for transmit in transmits {
                self.initiations[usize::from(from)] += usize::from(transmit.payload.len() == 148);
                let (mut datagrams, received) = (transmit.payload, &mut self.received[to]);
                let from = address(from);
                self.devices[to].handle_datagrams(
                    from,
                    &mut datagrams,
                    transmit.segment,
                    self.now,
                    |packet| {
                        received.push(*packet.parts().last().unwrap().last().unwrap());
                    },
                );
            }
        }
    }

    fn drain(&mut self, from: usize) -> Vec<Transmit> {
        std::iter::from_fn(|| self.devices[from].poll_transmit()).collect()
    }
}

fn secret(of: u8) -> WireGuardSecret {
    WireGuardSecret::from_bytes([of + 1; 32])
}

fn prefix(of: u8) -> String {
    format!("10.0.{of}.0/24")
}

fn address(of: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, of], 51820))
}

/// An IPv4 packet whose last byte is its number.
fn packet(from: u8, number: u8) -> Vec<u8> {
    let mut packet = vec![0; 28];
    packet[0] = 0x45;
    packet[3] = 28;
    packet[12..16].copy_from_slice(&[10, 0, from, 1]);
    packet[16..20].copy_from_slice(&[10, 0, 1 - from, 1]);
    packet[27] = number;
    packet
}
