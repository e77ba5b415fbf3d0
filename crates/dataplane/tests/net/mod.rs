//! Devices on a simulated network, with a simulated clock.

#![allow(dead_code, reason = "no test uses all of it")]

pub(crate) mod stream;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use carrick_dataplane::{
    Device, Forwarder, Outside, PeerConfig, Transmit,
    offload::{Coalesced, VnetHeader},
};
use carrick_types::{WireGuardKey, WireGuardSecret};

/// Randomness from a seed, and a wall clock that stands still.
pub(crate) struct Simulated(pub(crate) u64);

impl Outside for Simulated {
    fn random(&mut self, buffer: &mut [u8]) {
        for byte in buffer {
            // Knuth's multiplicative generator: any would do.
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = self.0.to_be_bytes()[0];
        }
    }

    fn wall_clock(&mut self) -> Duration {
        Duration::from_secs(1_800_000_000)
    }
}

/// Node N speaks for 10.0.N.0/24, and all know each other.
pub(crate) struct Net {
    pub(crate) devices: Vec<Device>,
    /// What moves the nodes' packets in their devices' stead, where there is one.
    pub(crate) forwarders: Vec<Option<Forwarder>>,
    /// When the devices hear of what is not urgent.
    reports_due: Instant,
    pub(crate) now: Instant,
    /// The packets that came out at a node from another (to, from), by number.
    received: BTreeMap<(usize, usize), Vec<u32>>,
    /// How many packets a node has sent to another (from, to).
    sent: BTreeMap<(usize, usize), u32>,
    /// How many keys each node has had before its own, and each node knows of each other.
    generations: Vec<usize>,
    known: BTreeMap<(usize, usize), usize>,
    on_the_way: BTreeMap<(Instant, u64), (usize, SocketAddr, Vec<u8>)>,
    datagrams: u64,
    /// How long the next datagram takes, in milliseconds, is between these two.
    latency: (u64, u64),
    seed: u64,
    /// How many handshake initiations each node has sent.
    pub(crate) initiations: Vec<usize>,
}

impl Net {
    #[expect(clippy::disallowed_methods, reason = "an `Instant` to count from; no test depends on which")]
    pub(crate) fn new(nodes: usize) -> Self {
        let mut net = Self {
            devices: (0..nodes).map(|node| Device::new(&secret(node, 0), Simulated(node as u64))).collect(),
            forwarders: (0..nodes).map(|_| None).collect(),
            reports_due: Instant::now(),
            now: Instant::now(),
            received: BTreeMap::new(),
            sent: BTreeMap::new(),
            generations: vec![0; nodes],
            known: BTreeMap::new(),
            on_the_way: BTreeMap::new(),
            datagrams: 0,
            latency: (5, 5),
            seed: 0,
            initiations: vec![0; nodes],
        };
        for node in 0..nodes {
            net.devices[node].set_own(vec![prefix(node).parse().unwrap()]);
            for peer in (0..nodes).filter(|&peer| peer != node) {
                net.devices[node].set_peer(key(peer, 0), config(peer));
            }
        }
        net
    }

    /// With so many milliseconds between any two nodes.
    pub(crate) fn slow(nodes: usize, latency: u64) -> Self {
        Self { latency: (latency, latency), ..Self::new(nodes) }
    }

    /// With another thread's forwarder for the packets of each node.
    pub(crate) fn forked(nodes: usize) -> Self {
        let mut net = Self::new(nodes);
        net.forwarders = net.devices.iter_mut().map(|device| Some(device.fork())).collect();
        net
    }

    /// From here on datagrams overtake each other.
    pub(crate) fn reorder(&mut self, seed: u64) {
        self.latency = (1, 30);
        self.seed = seed;
    }

    /// A node takes another key.
    pub(crate) fn rotate(&mut self, node: usize) {
        self.generations[node] += 1;
        self.devices[node].rotate(&secret(node, self.generations[node]), self.now);
        self.drain(node);
    }

    /// A node is told the next key of a peer.
    pub(crate) fn tell(&mut self, node: usize, peer: usize) {
        let known = self.known.entry((node, peer)).or_default();
        *known += 1;
        let (old, new) = (key(peer, *known - 1), key(peer, *known));
        self.devices[node].replace_peer(&old, new, config(peer), self.now);
        self.drain(node);
    }

    /// A node takes another key, and all others are told.
    pub(crate) fn renew(&mut self, node: usize) {
        self.rotate(node);
        for other in (0..self.devices.len()).filter(|&other| other != node) {
            self.tell(other, node);
        }
    }

    /// A node forgets a peer.
    pub(crate) fn forget(&mut self, node: usize, peer: usize) {
        self.devices[node].remove_peer(&key(peer, self.generations[peer]));
        self.drain(node);
    }

    /// A node is told of a peer that it may have forgotten.
    pub(crate) fn meet(&mut self, node: usize, peer: usize) {
        self.devices[node].set_peer(key(peer, self.generations[peer]), config(peer));
        self.drain(node);
    }

    /// A node is told whether it may make new tunnels with a peer, whose first key it knows.
    pub(crate) fn admit(&mut self, node: usize, peer: usize, admits_new: bool) {
        let config = PeerConfig { admits_new, ..config(peer) };
        self.devices[node].set_peer(key(peer, 0), config);
        self.drain(node);
    }

    /// A packet from one node to another.
    pub(crate) fn send(&mut self, from: usize, to: usize) {
        let number = self.sent.entry((from, to)).or_default();
        let packet = packet(from, to, *number);
        *number += 1;
        match &mut self.forwarders[from] {
            Some(forwarder) => forwarder.handle_packet(&VnetHeader::default(), &packet, self.now),
            None => self.devices[from].handle_packet(&VnetHeader::default(), &packet, self.now),
        }
        self.drain(from);
    }

    /// A packet a millisecond between the first two nodes, both ways.
    pub(crate) fn flow(&mut self, milliseconds: u64) {
        for _ in 0..milliseconds {
            self.send(0, 1);
            self.send(1, 0);
            self.pass(1);
        }
    }

    /// Time passes, and datagrams arrive.
    pub(crate) fn pass(&mut self, milliseconds: u64) {
        for _ in 0..milliseconds {
            self.now += Duration::from_millis(1);
            while let Some(entry) = self.on_the_way.first_entry()
                && entry.key().0 <= self.now
            {
                let (from, to, mut payload) = entry.remove();
                let Some(to) = (0..self.devices.len()).find(|&node| address(node) == to) else { continue };
                let received = &mut self.received;
                let length = payload.len();
                let deliver = |packet: Coalesced<'_>| {
                    let packet = packet.parts().collect::<Vec<_>>().concat();
                    let number = u32::from_be_bytes(*packet.last_chunk().unwrap());
                    received.entry((to, usize::from(packet[14]))).or_default().push(number);
                };
                match &mut self.forwarders[to] {
                    Some(forwarder) => {
                        forwarder.handle_datagrams(address(from), &mut payload, length, self.now, deliver);
                    }
                    None => {
                        self.devices[to].handle_datagrams(
                            address(from),
                            &mut payload,
                            length,
                            self.now,
                            deliver,
                        );
                    }
                }
                self.drain(to);
            }
            for node in 0..self.devices.len() {
                self.devices[node].handle_timeout(self.now);
                self.drain(node);
            }
            if self.reports_due <= self.now {
                self.reports_due = self.now + Duration::from_millis(100);
            }
        }
    }

    /// Time passes at once: what is on the way arrives afterwards.
    pub(crate) fn leap(&mut self, time: Duration) {
        self.now += time;
        self.pass(1);
    }

    /// What came from a node at another since the last call.
    pub(crate) fn take_received(&mut self, from: usize, to: usize) -> Vec<u32> {
        self.received.remove(&(to, from)).unwrap_or_default()
    }

    /// Everything that the first two nodes sent each other arrived, in order.
    pub(crate) fn assert_all_arrived_in_order(&mut self) {
        for (from, to) in [(0, 1), (1, 0)] {
            let expected: Vec<u32> = (0..self.sent[&(from, to)]).collect();
            assert_eq!(self.take_received(from, to), expected, "from {from} to {to}");
        }
    }

    /// Everything that the first two nodes sent each other arrived, once.
    pub(crate) fn assert_all_arrived(&mut self) {
        for (from, to) in [(0, 1), (1, 0)] {
            self.received.entry((to, from)).or_default().sort_unstable();
        }
        self.assert_all_arrived_in_order();
    }

    /// When the last handshake of a node completed, with the key that its peer has now.
    pub(crate) fn last_handshake(&self, node: usize, peer: usize) -> Option<Instant> {
        let key = key(peer, self.generations[peer]);
        self.devices[node].links().find(|link| link.peer == key)?.last_handshake
    }

    /// As the shards do: others hear of what has changed before the datagrams leave that let a peer make use of it.
    pub(crate) fn drain(&mut self, node: usize) {
        loop {
            let mut sent = Vec::new();
            if let Some(forwarder) = &mut self.forwarders[node] {
                sent.extend(std::iter::from_fn(|| forwarder.poll_transmit()));
                if forwarder.is_urgent() || self.reports_due <= self.now {
                    let reports = forwarder.take_reports();
                    reports.into_iter().for_each(|report| self.devices[node].handle_report(report, self.now));
                }
            }
            let transmits = std::iter::from_fn(|| self.devices[node].poll_transmit()).collect::<Vec<_>>();
            if let Some(forwarder) = &mut self.forwarders[node] {
                std::iter::from_fn(|| self.devices[node].poll_update())
                    .for_each(|update| forwarder.handle_update(update, self.now));
            }
            sent.extend(transmits);
            let more = self.forwarders[node].as_ref().is_some_and(|forwarder| forwarder.transmit_bytes() > 0);
            if sent.is_empty() && !more {
                return;
            }
            sent.iter().for_each(|transmit| self.post_all(node, transmit));
        }
    }

    pub(crate) fn post_all(&mut self, node: usize, transmit: &Transmit) {
        for datagram in transmit.payload.chunks(transmit.segment) {
            self.post(node, transmit.to, datagram.to_vec());
        }
    }

    fn post(&mut self, node: usize, to: SocketAddr, payload: Vec<u8>) {
        self.initiations[node] += usize::from(payload.len() == 148);
        let (least, most) = self.latency;
        // Knuth's multiplicative generator: any would do.
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let latency = least + (self.seed >> 33) % (most - least + 1);
        let arrival = self.now + Duration::from_millis(latency);
        self.on_the_way.insert((arrival, self.datagrams), (node, to, payload));
        self.datagrams += 1;
    }
}

pub(crate) fn secret(node: usize, generation: usize) -> WireGuardSecret {
    let mut bytes = [7; 32];
    bytes[8..16].copy_from_slice(&node.to_be_bytes());
    bytes[16..24].copy_from_slice(&generation.to_be_bytes());
    WireGuardSecret::from_bytes(bytes)
}

pub(crate) fn key(node: usize, generation: usize) -> WireGuardKey {
    secret(node, generation).public()
}

pub(crate) fn config(node: usize) -> PeerConfig {
    let allowed_ips = vec![prefix(node).parse().unwrap()];
    PeerConfig { allowed_ips, endpoints: vec![address(node)], admits_new: true }
}

fn address(node: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, u8::try_from(node).unwrap()], 51820))
}

fn prefix(node: usize) -> String {
    format!("10.0.{node}.0/24")
}

/// An IPv4 packet that ends in its number.
pub(crate) fn packet(from: usize, to: usize, number: u32) -> Vec<u8> {
    let mut packet = vec![0; 28];
    packet[0] = 0x45;
    packet[3] = 28;
    packet[12..16].copy_from_slice(&[10, 0, u8::try_from(from).unwrap(), 1]);
    packet[16..20].copy_from_slice(&[10, 0, u8::try_from(to).unwrap(), 1]);
    packet[24..].copy_from_slice(&number.to_be_bytes());
    packet
}
