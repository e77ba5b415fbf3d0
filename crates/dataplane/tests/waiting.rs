//! Packets that wait for a handshake.

#![allow(clippy::unwrap_used, reason = "in a test it is the assertion that the value is there")]

mod net;

use carrick_dataplane::{PeerConfig, offload::VnetHeader};
use net::{Net, key};

/// What the device lets wait, and what it counts for each packet beside its bytes.
const BUDGET: u64 = 4 << 20;
const OVERHEAD: u64 = 128;

#[test]
fn a_thousand_silent_peers_share_one_budget() {
    const SIZE: usize = 1420;
    let mut net = net_with_silent_peers(1000);
    let now = net.now;
    let mut sent = 0;
    for _ in 0..50 {
        for peer in 0..1000 {
            net.devices[0].handle_packet(&VnetHeader::default(), &packet_to_silent(peer, SIZE), now);
            sent += 1;
        }
    }
    let fit = BUDGET / (SIZE as u64 + OVERHEAD);
    assert_eq!(net.devices[0].counters().crowded_out, sent - fit);
    let initiations = std::iter::from_fn(|| net.devices[0].poll_transmit()).count();
    assert_eq!(initiations, 1000, "the first packet asks for a handshake, no other does");
}

#[test]
fn a_peer_that_answers_gets_its_packets_in_order_while_others_are_silent() {
    let mut net = net_with_silent_peers(1000);
    let now = net.now;
    for peer in 0..10_000 {
        net.devices[0].handle_packet(&VnetHeader::default(), &packet_to_silent(peer % 1000, 1420), now);
    }
    while net.devices[0].poll_transmit().is_some() {}
    for _ in 0..100 {
        net.send(0, 1);
    }
    net.pass(20);
    assert_eq!(net.take_received(0, 1), (0..100).collect::<Vec<_>>());
}

#[test]
fn the_newest_256_packets_for_a_peer_wait() {
    let mut net = Net::new(2);
    for _ in 0..300 {
        net.send(0, 1);
    }
    net.pass(20);
    assert_eq!(net.take_received(0, 1), (44..300).collect::<Vec<_>>());
    assert_eq!(net.devices[0].counters().crowded_out, 44);
    let link = net.devices[0].links().next().unwrap();
    assert_eq!(link.tx_bytes, 256 * 28, "what was not sent is not counted");
}

#[test]
fn what_waits_for_a_peer_ends_with_the_peer() {
    let mut net = Net::new(2);
    for _ in 0..3 {
        net.send(0, 1);
    }
    net.devices[0].remove_peer(&key(1, 0));
    net.pass(20);
    assert_eq!(net.devices[0].counters().unanswered, 3);
}

/// Node 0 knows so many more peers, with 10.1.0.0/16 between them, of which nothing is ever heard.
fn net_with_silent_peers(count: usize) -> Net {
    let mut net = Net::new(2);
    for peer in 0..count {
        let [.., high, low] = peer.to_be_bytes();
        let allowed_ips = vec![format!("10.1.{high}.{low}/32").parse().unwrap()];
        let endpoints = vec!["198.51.100.1:1".parse().unwrap()];
        net.devices[0].set_peer(key(100 + peer, 0), PeerConfig { allowed_ips, endpoints, admits_new: true });
    }
    net
}

fn packet_to_silent(peer: usize, size: usize) -> Vec<u8> {
    let [.., high, low] = peer.to_be_bytes();
    let mut packet = vec![0; size];
    packet[0] = 0x45;
    packet[12..16].copy_from_slice(&[10, 0, 0, 1]);
    packet[16..20].copy_from_slice(&[10, 1, high, low]);
    packet
}
