//! What a device is told rules every forwarder of it: its own, those that it had before, and those that it makes afterwards.

#![allow(clippy::unwrap_used, reason = "in a test it is the assertion that the value is there")]

mod net;

use std::{sync::Arc, time::Instant};

use carrick_dataplane::{
    Counters, Device, Forwarder, PeerConfig, Report, Transmit, addresses,
    offload::{Coalesced, VnetHeader},
};
use net::{Net, Simulated, config, key, secret, stream::address};

#[test]
fn a_filter_that_is_set_or_changed_or_taken_away_rules_every_forwarder_both_ways() {
    let mut node = Node::connected();
    let refused = |node: &mut Node| {
        node.each(|mover, peer, now| {
            let out = [8, 9].map(|number| mover.sent(&net::packet(0, 1, number), now).is_empty());
            let back = [8, 9].map(|number| {
                let datagram = sealed(peer, &net::packet(1, 0, number), now);
                mover.received(datagram, now).is_empty()
            });
            assert_eq!(out, back);
            let refused = out.iter().filter(|refused| **refused).count() as u64;
            assert_eq!(mover.dropped(|counters| [counters.filtered]), [2 * refused]);
            out
        })
    };
    node.assert_all([false, false], refused);
    for number in [9, 8] {
        node.one.set_filter(Some(Arc::new(move |_, packet: &[u8]| packet[27] != number)));
        node.assert_all([number == 8, number == 9], refused);
    }
    node.one.set_filter(None);
    node.assert_all([false, false], refused);
}

#[test]
fn an_mtu_that_is_set_pads_and_clamps_in_every_forwarder() {
    let mut node = Node::connected();
    let sizes = |node: &mut Node| {
        node.each(|mover, peer, now| {
            let long = packet(1_281, false);
            let sealed_size = mover.sent(&long, now)[0].payload.len();
            let sent = mover.sent(&syn(0, 1), now).remove(0);
            let datagram = sealed(peer, &syn(1, 0), now);
            let received = mover.received(datagram, now).remove(0);
            (sealed_size - 32, offer(&opened(peer, sent, now)), offer(&received))
        })
    };
    // The peer, whose MTU is 1,420, clamps as well.
    node.assert_all((1_296, 1_380, 1_380), sizes);
    node.one.set_mtu(1_281);
    node.assert_all((1_281, 1_241, 1_241), sizes);
    node.one.set_mtu(1_400);
    node.assert_all((1_296, 1_360, 1_360), sizes);
}

#[test]
fn a_path_that_takes_less_is_heeded_by_every_forwarder_and_so_is_that_it_takes_more_again() {
    let mut node = Node::connected();
    let sizes = |node: &mut Node| {
        node.each(|mover, peer, now| {
            let out = mover.sent(&packet(1_301, true), now).len();
            let told = mover.answer().map(|answer| {
                assert_eq!(addresses(&answer).unwrap().destination.to_string(), "10.0.0.1");
                u16::from_be_bytes([answer[26], answer[27]])
            });
            assert_eq!(mover.answer(), None);
            assert_eq!(mover.dropped(|counters| [counters.too_big]), [u64::from(told.is_some())]);
            assert_eq!(mover.sent(&packet(1_300, true), now).len(), 1, "this one fits always");
            let sent = mover.sent(&syn(0, 1), now).remove(0);
            let datagram = sealed(peer, &syn(1, 0), now);
            let received = mover.received(datagram, now).remove(0);
            (out, told, offer(&opened(peer, sent, now)), offer(&received))
        })
    };
    node.assert_all((1, None, 1_380, 1_380), sizes);
    node.one.set_path_mtu(&key(1, 0), Some(1_300));
    node.assert_all((0, Some(1_300), 1_260, 1_260), sizes);
    node.one.set_path_mtu(&key(1, 0), None);
    node.assert_all((1, None, 1_380, 1_380), sizes);
}

#[test]
fn what_a_node_speaks_for_and_what_is_its_peers_rules_every_forwarder() {
    let mut node = Node::connected();
    let outcome = |node: &mut Node| {
        node.each(|mover, peer, now| {
            let out = mover.sent(&net::packet(0, 1, 0), now).len();
            let datagram = sealed(peer, &net::packet(1, 0, 0), now);
            let back = mover.received(datagram, now).len();
            let dropped = mover.dropped(|dropped| [dropped.no_peer, dropped.spoofed, dropped.not_for_us]);
            ([out, back], dropped)
        })
    };
    node.assert_all(([1, 1], [0, 0, 0]), outcome);
    node.one.set_own(vec!["10.0.7.0/24".parse().unwrap()]);
    node.assert_all(([1, 0], [0, 0, 1]), outcome);
    node.one.set_own(vec!["10.0.0.0/24".parse().unwrap()]);
    let allowed_ips = vec!["10.0.7.0/24".parse().unwrap()];
    node.one.set_peer(key(1, 0), PeerConfig { allowed_ips, ..config(1) });
    node.assert_all(([0, 0], [1, 1, 0]), outcome);
    node.one.set_peer(key(1, 0), config(1));
    node.assert_all(([1, 1], [0, 0, 0]), outcome);
}

/// Node 0 with its forwarders, and node 1, which it has a session with.
struct Node {
    one: Device,
    two: Device,
    forks: Vec<Forwarder>,
    now: Instant,
}

impl Node {
    /// Of the forwarders one is older than everything that it has been told of, and one is younger.
    fn connected() -> Self {
        let now = Net::new(0).now;
        let [mut one, mut two] = [0, 1].map(|me| Device::new(&secret(me, 0), Simulated(me as u64)));
        let mut forks = vec![one.fork()];
        for (me, device) in [&mut one, &mut two].into_iter().enumerate() {
            device.set_own(vec![format!("10.0.{me}.0/24").parse().unwrap()]);
            device.set_peer(key(1 - me, 0), config(1 - me));
        }
        one.handle_packet(&VnetHeader::default(), &net::packet(0, 1, 0), now);
        loop {
            if let Some(mut sent) = one.poll_transmit() {
                two.handle_datagrams(address(0), &mut sent.payload, sent.segment, now, |_| {});
            } else if let Some(mut sent) = two.poll_transmit() {
                one.handle_datagrams(address(1), &mut sent.payload, sent.segment, now, |_| {});
            } else {
                break;
            }
        }
        forks.push(one.fork());
        Self { one, two, forks, now }
    }

    /// Does something with each forwarder, when it has heard what there is to hear, and with one more.
    fn each<R>(&mut self, mut act: impl FnMut(&mut Mover<'_>, &mut Device, Instant) -> R) -> Vec<R> {
        while let Some(update) = self.one.poll_update() {
            self.forks.iter_mut().for_each(|fork| fork.handle_update(update.clone(), self.now));
        }
        self.forks.push(self.one.fork());
        let forks = self.forks.iter_mut().map(Mover::of_forwarder);
        let movers = std::iter::once(Mover::of_device(&mut self.one)).chain(forks);
        movers.map(|mut mover| act(&mut mover, &mut self.two, self.now)).collect()
    }

    fn assert_all<R: PartialEq + std::fmt::Debug>(
        &mut self,
        expected: R,
        of: impl FnOnce(&mut Self) -> Vec<R>,
    ) {
        let outcomes = of(self);
        assert!(outcomes.len() >= 4, "the device's own, an old one, a younger one, a new one");
        for (number, outcome) in outcomes.iter().enumerate() {
            assert_eq!(*outcome, expected, "forwarder {number}");
        }
    }
}

/// Whoever moves packets.
enum Who<'a> {
    Device(&'a mut Device),
    Forwarder(&'a mut Forwarder),
}

struct Mover<'a> {
    who: Who<'a>,
    /// Of the device what it had dropped before, of a forwarder what it has dropped since.
    counted: Counters,
}

impl<'a> Mover<'a> {
    fn of_device(device: &'a mut Device) -> Self {
        Self { counted: device.counters(), who: Who::Device(device) }
    }

    fn of_forwarder(forwarder: &'a mut Forwarder) -> Self {
        Self { counted: Counters::default(), who: Who::Forwarder(forwarder) }
    }

    /// What goes out for a packet.
    fn sent(&mut self, packet: &[u8], now: Instant) -> Vec<Transmit> {
        let header = VnetHeader::default();
        match &mut self.who {
            Who::Device(device) => {
                device.handle_packet(&header, packet, now);
                std::iter::from_fn(|| device.poll_transmit()).collect()
            }
            Who::Forwarder(forwarder) => {
                forwarder.handle_packet(&header, packet, now);
                std::iter::from_fn(|| forwarder.poll_transmit()).collect()
            }
        }
    }

    /// What comes out of datagrams of the other node.
    fn received(&mut self, mut sent: Transmit, now: Instant) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        let deliver = |packet: Coalesced<'_>| packets.push(packet.parts().collect::<Vec<_>>().concat());
        let (datagrams, segment) = (&mut sent.payload, sent.segment);
        match &mut self.who {
            Who::Device(device) => device.handle_datagrams(address(1), datagrams, segment, now, deliver),
            Who::Forwarder(fork) => fork.handle_datagrams(address(1), datagrams, segment, now, deliver),
        }
        packets
    }

    fn answer(&mut self) -> Option<Vec<u8>> {
        match &mut self.who {
            Who::Device(device) => device.poll_answer(),
            Who::Forwarder(forwarder) => forwarder.poll_answer(),
        }
    }

    /// How many packets it has dropped for these reasons.
    fn dropped<const N: usize>(&mut self, of: fn(&Counters) -> [u64; N]) -> [u64; N] {
        match &mut self.who {
            Who::Device(device) => {
                let (before, after) = (of(&self.counted), of(&device.counters()));
                std::array::from_fn(|reason| after[reason] - before[reason])
            }
            Who::Forwarder(forwarder) => {
                for report in forwarder.take_reports() {
                    if let Report::Dropped(counters) = report {
                        self.counted += counters;
                    }
                }
                of(&self.counted)
            }
        }
    }
}

/// What the other node makes of a packet.
fn sealed(peer: &mut Device, packet: &[u8], now: Instant) -> Transmit {
    Mover::of_device(peer).sent(packet, now).remove(0)
}

/// What the other node makes of what it is sent.
fn opened(peer: &mut Device, sent: Transmit, now: Instant) -> Vec<u8> {
    Mover::of_device(peer).received(sent, now).remove(0)
}

/// A packet of node 0 for node 1, so many bytes long.
fn packet(length: u16, unfragmented: bool) -> Vec<u8> {
    let mut packet = net::packet(0, 1, 0);
    packet.resize(length.into(), 0);
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet[6] = if unfragmented { 0x40 } else { 0 };
    packet
}

/// The first packet of a connection, which offers segments as long as can be.
fn syn(from: usize, to: usize) -> Vec<u8> {
    let mut syn = net::packet(from, to, 0);
    syn.resize(44, 0);
    (syn[3], syn[9], syn[32], syn[33]) = (44, 6, 0x60, 2);
    syn[40..44].copy_from_slice(&[2, 4, 0xff, 0xff]);
    syn
}

/// The length of segments that is offered.
fn offer(syn: &[u8]) -> u16 {
    u16::from_be_bytes([syn[42], syn[43]])
}
