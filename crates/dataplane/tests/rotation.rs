//! Changes of keys, on one side and on both, while packets flow.

#![allow(clippy::unwrap_used, reason = "in a test it is the assertion that the value is there")]

mod net;

use std::time::Duration;

use carrick_dataplane::{Device, PeerConfig, offload::VnetHeader};
use net::{Net, config, key, secret};
use proptest::prelude::*;

const NONE: [u32; 0] = [];

/// What happens in a test, and after how many milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A node takes another key.
    Rotate(usize),
    /// The other node is told.
    Tell(usize),
}

/// Packets flow for so many milliseconds while this happens, and until everything has arrived.
fn flow(net: &mut Net, milliseconds: u64, events: &[(u64, Event)]) {
    net.flow(100);
    for time in 0..milliseconds {
        for &(_, event) in events.iter().filter(|&&(at, _)| at == time) {
            match event {
                Event::Rotate(node) => net.rotate(node),
                Event::Tell(node) => net.tell(1 - node, node),
            }
        }
        net.flow(1);
    }
    net.pass(100);
}

#[test]
fn a_rotation_loses_no_packet_whenever_the_peer_is_told() {
    for (rotated, told) in [(100, 50), (100, 99), (100, 100), (100, 104), (100, 200), (100, 900)] {
        let mut net = Net::new(2);
        flow(&mut net, 1000, &[(rotated, Event::Rotate(0)), (told, Event::Tell(0))]);
        net.assert_all_arrived_in_order();
        let begun = net.now - Duration::from_millis(1100);
        for (node, peer) in [(0, 1), (1, 0)] {
            assert!(net.last_handshake(node, peer).unwrap() > begun + Duration::from_millis(100), "{told}");
        }
    }
}

#[test]
fn rotations_of_both_at_once_lose_no_packet_whenever_they_are_told() {
    let times = [50, 99, 100, 103, 150, 500];
    for (first, second) in times.into_iter().flat_map(|first| times.map(|second| (first, second))) {
        let mut net = Net::new(2);
        let rotate = [(100, Event::Rotate(0)), (100, Event::Rotate(1))];
        let tell = [(first, Event::Tell(0)), (second, Event::Tell(1))];
        flow(&mut net, 700, &[rotate, tell].concat());
        net.assert_all_arrived_in_order();
        let begun = net.now - Duration::from_millis(800);
        let both_told = begun + Duration::from_millis(first.max(second));
        assert!(net.last_handshake(0, 1).unwrap() >= both_told, "told at {first} and {second}");
    }
}

#[test]
fn a_rotation_repeated_before_the_peer_is_told_loses_no_packet() {
    let mut net = Net::new(2);
    let rotations = (0..6).map(|number| (100 + 10 * number, Event::Rotate(0)));
    let news = (0..6).map(|number| (125 + 10 * number, Event::Tell(0)));
    flow(&mut net, 400, &rotations.chain(news).collect::<Vec<_>>());
    net.assert_all_arrived_in_order();
    assert!(net.last_handshake(0, 1).is_some() && net.last_handshake(1, 0).is_some());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_packet_is_lost_whoever_rotates_when_and_order_is_kept_where_the_network_keeps_it(
        overtaking in prop::option::of(any::<u64>()),
        rotations in prop::collection::vec((0..2_usize, 0..300_u64, -40..200_i64), 0..6),
    ) {
        let mut events = Vec::new();
        for node in 0..2 {
            // News comes in the order in which it was made.
            let own = rotations.iter().filter(|rotation| rotation.0 == node);
            let mut rotated: Vec<u64> = own.clone().map(|&(_, at, _)| at).collect();
            let mut told: Vec<u64> = own.map(|&(_, at, delay)| at.saturating_add_signed(delay)).collect();
            rotated.sort_unstable();
            told.sort_unstable();
            events.extend(rotated.into_iter().map(|at| (at, Event::Rotate(node))));
            events.extend(told.into_iter().map(|at| (at, Event::Tell(node))));
        }
        let mut net = Net::new(2);
        net.flow(50);
        if let Some(seed) = overtaking {
            net.reorder(seed);
        }
        flow(&mut net, 600, &events);
        if overtaking.is_some() {
            net.assert_all_arrived();
        } else {
            net.assert_all_arrived_in_order();
        }
        for (node, peer) in [(0, 1), (1, 0)] {
            prop_assert!(net.last_handshake(node, peer).is_some(), "the link is with the peer's key");
        }
    }
}

#[test]
fn a_peer_that_is_never_told_is_heard_for_180_seconds_and_then_no_more() {
    let mut net = Net::new(2);
    net.flow(100);
    net.rotate(0);
    net.leap(Duration::from_secs(179));
    net.flow(100);
    net.pass(20);
    net.assert_all_arrived_in_order();
    net.leap(Duration::from_secs(1));
    net.flow(100);
    net.pass(20);
    assert_eq!((net.take_received(0, 1), net.take_received(1, 0)), (vec![], vec![]));
}

#[test]
fn a_key_that_was_replaced_is_heard_for_60_seconds_and_then_no_more() {
    let mut net = Net::new(2);
    net.flow(100);
    net.tell(1, 0);
    net.leap(Duration::from_secs(59));
    net.flow(100);
    net.pass(20);
    net.assert_all_arrived_in_order();
    net.leap(Duration::from_secs(1));
    net.flow(100);
    net.pass(20);
    assert_eq!((net.take_received(0, 1), net.take_received(1, 0)), (vec![], vec![]));
}

#[test]
fn a_replaced_key_gets_no_new_session() {
    let mut net = Net::new(2);
    net.tell(1, 0);
    net.send(0, 1);
    net.pass(20);
    assert_eq!((net.initiations[0], net.take_received(0, 1)), (1, vec![]));
    assert!(net.devices[1].poll_timeout().is_some_and(|_| net.devices[1].links().next().is_none()));

    // Nor where its handshake began before.
    let mut net = Net::new(2);
    net.send(1, 0);
    net.pass(7);
    net.tell(1, 0);
    net.pass(20);
    assert_eq!(net.take_received(1, 0), NONE, "the response came from a key that was replaced meanwhile");
    net.rotate(0);
    net.send(0, 1);
    net.pass(20);
    assert_eq!((net.take_received(1, 0), net.take_received(0, 1)), (vec![0], vec![0]));
}

#[test]
fn a_rekey_under_way_with_a_replaced_key_comes_to_nothing() {
    let mut net = Net::new(2);
    net.flow(50);
    net.pass(20);
    let elsewhere = vec!["198.51.100.1:1".parse().unwrap()];
    net.devices[1].set_peer(key(0, 0), PeerConfig { endpoints: elsewhere, ..config(0) });
    while net.initiations[1] == 1 {
        net.pass(1);
    }
    net.tell(1, 0);
    let refused = net.devices[1].counters().refused;
    net.pass(20);
    assert_eq!(net.devices[1].counters().refused, refused + 1, "the response");
    net.flow(50);
    net.pass(20);
    net.assert_all_arrived_in_order();
}

#[test]
fn a_peer_that_is_not_told_yet_begins_with_the_former_key_but_with_none_before_it() {
    let mut net = Net::new(2);
    net.rotate(0);
    net.send(1, 0);
    net.pass(20);
    net.send(0, 1);
    net.pass(20);
    net.assert_all_arrived_in_order();
    assert_eq!(net.initiations, [1, 1], "the one with the new key gets no answer");

    let mut net = Net::new(2);
    net.rotate(0);
    net.rotate(0);
    net.send(1, 0);
    net.pass(20);
    assert_eq!(net.take_received(1, 0), NONE);

    let mut net = Net::new(2);
    net.rotate(0);
    net.leap(Duration::from_secs(180));
    net.send(1, 0);
    net.pass(20);
    assert_eq!(net.take_received(1, 0), NONE);
}

#[test]
fn packets_that_wait_for_a_handshake_survive_a_rotation_of_either_side() {
    for rotated in [0, 1] {
        for told in [0, 3, 7, 12, 30] {
            let mut net = Net::new(2);
            for _ in 0..5 {
                net.send(0, 1);
                net.send(1, 0);
            }
            net.rotate(rotated);
            net.pass(told);
            net.tell(1 - rotated, rotated);
            net.pass(40);
            net.send(0, 1);
            net.send(1, 0);
            net.pass(40);
            net.assert_all_arrived_in_order();
        }
    }
}

#[test]
fn packets_that_wait_do_not_need_another_packet_to_go_under_the_new_key() {
    let mut net = Net::new(2);
    net.send(0, 1);
    net.rotate(0);
    net.tell(1, 0);
    net.pass(40);
    assert_eq!(net.take_received(0, 1), [0], "the new key of its sender");

    let mut net = Net::new(2);
    net.rotate(0);
    net.rotate(0);
    net.send(1, 0);
    net.pass(20);
    let nothing_yet = PeerConfig { allowed_ips: Vec::new(), ..config(0) };
    net.devices[1].set_peer(key(0, 2), nothing_yet);
    net.send(0, 1);
    net.pass(20);
    assert_eq!(net.take_received(1, 0), NONE, "it waits for a key that is no more");
    let now = net.now;
    net.devices[1].replace_peer(&key(0, 0), key(0, 2), config(0), now);
    net.pass(6);
    assert_eq!(net.take_received(1, 0), [0], "the new key of its receiver, which has a session already");

    let mut net = Net::new(2);
    net.rotate(1);
    net.rotate(1);
    net.send(0, 1);
    net.pass(20);
    assert_eq!(net.take_received(0, 1), NONE, "it waits for a key that is no more");
    let now = net.now;
    net.devices[0].replace_peer(&key(1, 0), key(1, 2), config(1), now);
    net.pass(40);
    assert_eq!(net.take_received(0, 1), [0], "the new key of its receiver, which has no session");
}

#[test]
fn no_handshake_is_begun_with_a_former_key() {
    let mut net = Net::new(2);
    net.flow(50);
    net.pass(20);
    let initiations = net.initiations[0];
    let elsewhere = vec!["198.51.100.1:1".parse().unwrap()];
    net.devices[0].set_peer(key(1, 0), PeerConfig { endpoints: elsewhere, ..config(1) });
    // The next tick would look for the peer.
    net.rotate(0);
    net.pass(600);
    assert_eq!(net.initiations[0], initiations);
}

#[test]
fn packets_take_the_newest_session_that_is_up() {
    let mut net = Net::new(2);
    net.flow(50);
    net.rotate(0);
    net.tell(1, 0);
    net.flow(50);
    net.rotate(0);
    net.pass(20);
    net.leap(Duration::from_secs(60));
    net.flow(50);
    net.pass(20);
    net.assert_all_arrived_in_order();
}

#[test]
fn a_session_of_two_former_keys_ends_with_the_first_of_them() {
    let mut net = Net::new(2);
    net.flow(50);
    net.rotate(1);
    net.tell(1, 0);
    net.leap(Duration::from_secs(59));
    net.flow(50);
    net.pass(20);
    net.assert_all_arrived_in_order();
    net.leap(Duration::from_secs(1));
    net.flow(50);
    net.pass(20);
    assert_eq!(net.take_received(0, 1), NONE);
}

#[test]
fn a_revoked_peer_is_cut_at_once_in_the_midst_of_its_rotation() {
    for cut_after in 0..30 {
        let mut net = Net::new(2);
        net.flow(100);
        net.rotate(0);
        net.flow(2);
        net.tell(1, 0);
        net.flow(cut_after);
        net.devices[1].remove_peer(&key(0, 1));
        net.take_received(0, 1);
        net.pass(10);
        net.take_received(1, 0);
        net.flow(100);
        net.pass(20);
        assert_eq!(net.take_received(0, 1), NONE, "{cut_after} ms after the news");
        assert_eq!(net.take_received(1, 0), NONE);
        assert_eq!(net.devices[1].links().count(), 0);
    }
}

#[test]
fn the_end_of_a_replaced_key_cuts_its_sessions_and_leaves_the_new_one() {
    let mut net = Net::new(2);
    net.flow(100);
    net.tell(1, 0);
    net.flow(10);
    net.devices[1].remove_peer(&key(0, 0));
    net.take_received(0, 1);
    net.flow(50);
    assert_eq!(net.take_received(0, 1), NONE, "the session of the old key is gone");
    net.rotate(0);
    net.flow(10);
    net.pass(20);
    net.take_received(0, 1);
    let before = net.devices[1].counters();
    net.flow(100);
    net.pass(20);
    assert_eq!(net.take_received(0, 1).len(), 100, "the new key is a peer's");
    assert_eq!(net.devices[1].counters(), before);
}

#[test]
fn a_key_replaced_twice_leaves_nothing_when_the_first_or_the_last_one_is_revoked() {
    let mut net = Net::new(2);
    net.flow(100);
    net.tell(1, 0);
    net.tell(1, 0);
    net.flow(10);
    net.pass(10);
    net.assert_all_arrived_in_order();
    net.devices[1].remove_peer(&key(0, 2));
    net.flow(50);
    assert_eq!(net.take_received(0, 1), NONE);

    let mut net = Net::new(2);
    net.flow(100);
    net.tell(1, 0);
    net.tell(1, 0);
    net.pass(10);
    net.take_received(0, 1);
    net.devices[1].remove_peer(&key(0, 0));
    net.flow(50);
    assert_eq!(net.take_received(0, 1), NONE, "nor when the first one is, whose session it was");
}

#[test]
fn a_peers_bytes_are_counted_across_keys() {
    let mut net = Net::new(2);
    flow(
        &mut net,
        300,
        &[(100, Event::Rotate(0)), (120, Event::Tell(0)), (150, Event::Rotate(1)), (151, Event::Tell(1))],
    );
    for device in &net.devices {
        let links: Vec<_> = device.links().collect();
        assert_eq!(links.len(), 1);
        assert_eq!((links[0].rx_bytes, links[0].tx_bytes), (400 * 28, 400 * 28));
    }
}

#[test]
fn a_rotation_leaves_other_peers_alone() {
    let mut net = Net::new(3);
    net.flow(20);
    net.send(2, 0);
    net.send(2, 1);
    net.pass(20);
    net.rotate(0);
    net.tell(1, 0);
    net.flow(50);
    net.send(2, 1);
    net.send(2, 0);
    net.pass(20);
    net.assert_all_arrived_in_order();
    assert_eq!((net.take_received(2, 0), net.take_received(2, 1)), (vec![0, 1], vec![0, 1]));
}

#[test]
fn a_replaced_key_has_no_address_any_more() {
    let mut net = Net::new(2);
    net.flow(50);
    let elsewhere = PeerConfig { allowed_ips: vec!["10.0.9.0/24".parse().unwrap()], ..config(0) };
    let now = net.now;
    net.devices[1].replace_peer(&key(0, 0), key(0, 1), elsewhere, now);
    net.pass(10);
    net.take_received(0, 1);
    net.flow(50);
    assert_eq!(net.take_received(0, 1), NONE);
    assert!(net.devices[1].counters().spoofed > 0 && net.devices[1].counters().no_peer > 0);
}

#[test]
fn ones_own_key_is_no_peer() {
    let net = Net::new(2);
    let mut device = Device::new(&secret(0, 0), net::Simulated(0));
    device.set_peer(key(1, 0), config(1));
    device.replace_peer(&key(1, 0), key(0, 0), config(1), net.now);
    device.set_peer(key(0, 1), config(1));
    device.rotate(&secret(0, 1), net.now);
    device.handle_packet(&VnetHeader::default(), &[&[0x45; 16][..], &[10, 0, 1, 1]].concat(), net.now);
    assert_eq!(device.counters().no_peer, 1);
    assert_eq!(device.poll_transmit(), None);
}
