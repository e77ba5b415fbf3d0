//! Cookie replies, as a whole device takes them.

#![allow(clippy::unwrap_used, reason = "in a test it is the assertion that the value is there")]

mod net;

use std::{net::SocketAddr, time::Duration};

use carrick_dataplane::{Transmit, offload::VnetHeader};
use net::{Net, stream::address};

const INITIATION: usize = 148;
const COOKIE_REPLY: usize = 64;

#[test]
fn a_genuine_cookie_reply_from_elsewhere_does_not_move_a_peer_whoever_takes_it() {
    for forked in [false, true] {
        let mut net = if forked { Net::forked(2) } else { Net::new(2) };
        net.send(0, 1);
        net.pass(200);
        // Old enough to be renewed by the next packet, and young enough to carry it.
        net.now += Duration::from_secs(125);
        let initiation = begin(&mut net);
        let reply = challenge(&mut net, &initiation);
        take_from_elsewhere(&mut net, reply);
        assert_eq!(net.devices[0].links().next().unwrap().endpoint, address(1));
        let packet = net::packet(0, 1, 1);
        net.devices[0].handle_packet(&VnetHeader::default(), &packet, net.now);
        assert_eq!(net.devices[0].poll_transmit().unwrap().to, address(1));
        if let Some(forwarder) = &mut net.forwarders[0] {
            forwarder.handle_packet(&VnetHeader::default(), &packet, net.now);
            assert_eq!(forwarder.poll_transmit().unwrap().to, address(1));
        }
        assert_it_was_taken(&mut net);
    }
}

#[test]
fn a_genuine_cookie_reply_from_elsewhere_does_not_say_where_a_peer_is_that_was_never_heard_of() {
    for forked in [false, true] {
        let mut net = if forked { Net::forked(2) } else { Net::new(2) };
        let initiation = begin(&mut net);
        let reply = challenge(&mut net, &initiation);
        take_from_elsewhere(&mut net, reply);
        assert_eq!(net.devices[0].links().next(), None);
        assert_it_was_taken(&mut net);
    }
}

fn elsewhere() -> SocketAddr {
    "198.51.100.7:9".parse().unwrap()
}

fn transmits(net: &mut Net, node: usize) -> Vec<Transmit> {
    std::iter::from_fn(|| net.devices[node].poll_transmit()).collect()
}

/// The initiation that a packet of node 0 asks for.
fn begin(net: &mut Net) -> Vec<u8> {
    net.devices[0].handle_packet(&VnetHeader::default(), &net::packet(0, 1, 0), net.now);
    let sent = transmits(net, 0);
    sent.into_iter().find(|sent| sent.payload.len() == INITIATION).unwrap().payload
}

/// What node 1 answers to the initiation when there were too many.
fn challenge(net: &mut Net, initiation: &[u8]) -> Vec<u8> {
    let mut answers = (0..1_000).map(|_| {
        let mut copy = initiation.to_vec();
        net.devices[1].handle_datagrams(address(0), &mut copy, INITIATION, net.now, |_| {});
        transmits(net, 1).pop().map(|answer| answer.payload)
    });
    answers.find_map(|answer| answer.filter(|answer| answer.len() == COOKIE_REPLY)).unwrap()
}

/// Node 0 takes it, once: nothing is sent for it, and a copy is refused.
fn take_from_elsewhere(net: &mut Net, reply: Vec<u8>) {
    for refused in [0, 1] {
        let before = net.devices[0].counters().refused;
        let mut datagram = reply.clone();
        if let Some(forwarder) = &mut net.forwarders[0] {
            forwarder.handle_datagrams(elsewhere(), &mut datagram, COOKIE_REPLY, net.now, |_| {});
            let reports = forwarder.take_reports();
            assert_eq!(reports.len(), 1);
            reports.into_iter().for_each(|report| net.devices[0].handle_report(report, net.now));
        } else {
            net.devices[0].handle_datagrams(elsewhere(), &mut datagram, COOKIE_REPLY, net.now, |_| {});
        }
        assert_eq!(net.devices[0].counters().refused - before, refused);
        assert!(transmits(net, 0).is_empty());
    }
}

/// The next initiation has a second MAC, and goes to where the peer is, or is said to be, and nowhere else.
fn assert_it_was_taken(net: &mut Net) {
    let initiations = (0..28).find_map(|_| {
        net.now += Duration::from_millis(250);
        net.devices[0].handle_timeout(net.now);
        let mut sent = transmits(net, 0);
        sent.retain(|sent| sent.payload.len() == INITIATION);
        Some(sent).filter(|sent| !sent.is_empty())
    });
    let initiations = initiations.unwrap();
    assert_eq!(initiations.iter().map(|sent| sent.to).collect::<Vec<_>>(), [address(1)]);
    assert_ne!(initiations[0].payload[INITIATION - 16..], [0; 16]);
}
