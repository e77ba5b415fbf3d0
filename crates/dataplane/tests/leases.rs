//! Peers that admit no new tunnel.

#![allow(clippy::unwrap_used, reason = "in a test it is the assertion that the value is there")]

mod net;

use std::time::Duration;

use carrick_dataplane::PeerConfig;
use net::{Net, config, key};

const NONE: [u32; 0] = [];

#[test]
fn no_packet_makes_a_tunnel_with_a_frozen_peer() {
    let mut net = Net::new(2);
    net.admit(0, 1, false);
    net.send(0, 1);
    net.pass(20);
    assert_eq!((net.initiations[0], net.devices[0].counters().not_admitted), (0, 1));
    net.admit(0, 1, true);
    net.send(0, 1);
    net.pass(20);
    assert_eq!(net.take_received(0, 1), [1], "thawed; what came before did not wait");
}

#[test]
fn no_initiation_of_a_frozen_peer_makes_a_tunnel() {
    let mut net = Net::new(2);
    net.admit(1, 0, false);
    net.send(0, 1);
    net.pass(20);
    assert_eq!((net.initiations[0], net.take_received(0, 1)), (1, NONE.to_vec()));
    assert_eq!((net.devices[1].links().count(), net.devices[1].counters().refused), (0, 1));
    assert_eq!(net.devices[1].poll_timeout(), None, "there is no tunnel");
}

#[test]
fn a_handshake_under_way_ends_with_the_freeze() {
    for answered in [false, true] {
        let mut net = Net::new(2);
        net.send(usize::from(answered), usize::from(!answered));
        net.pass(6);
        net.admit(0, 1, false);
        net.pass(20);
        assert_eq!((net.take_received(0, 1), net.take_received(1, 0)), (NONE.to_vec(), NONE.to_vec()));
        assert_eq!(net.devices[0].links().count(), 0);
        assert_eq!(net.devices[0].counters().unanswered, u64::from(!answered));
    }
}

#[test]
fn a_tunnel_that_is_up_goes_on_through_a_freeze_and_is_rekeyed_by_either_side() {
    for begins in [0, 1] {
        let mut net = Net::new(2);
        net.flow(50);
        net.admit(0, 1, false);
        net.admit(1, 0, false);
        net.flow(50);
        net.pass(20);
        let (before, initiations) = (net.now, net.initiations[begins]);
        // A peer that says it is elsewhere, and is silent, is looked for with a handshake.
        let elsewhere = vec!["198.51.100.1:1".parse().unwrap()];
        let moved = PeerConfig { endpoints: elsewhere, admits_new: false, ..config(1 - begins) };
        net.devices[begins].set_peer(key(1 - begins, 0), moved);
        net.pass(300);
        net.flow(50);
        net.pass(20);
        net.assert_all_arrived_in_order();
        assert!(net.initiations[begins] > initiations);
        assert!(net.last_handshake(begins, 1 - begins).unwrap() > before, "{begins} has other keys");
    }
}

#[test]
fn a_frozen_tunnel_goes_on_through_changes_of_keys() {
    let mut net = Net::new(2);
    net.flow(50);
    net.admit(0, 1, false);
    net.rotate(0);
    let (now, frozen) = (net.now, PeerConfig { admits_new: false, ..config(0) });
    net.devices[1].replace_peer(&key(0, 0), key(0, 1), frozen, now);
    net.flow(100);
    net.pass(20);
    net.assert_all_arrived_in_order();
    assert!(net.last_handshake(0, 1).unwrap() > now);
}

#[test]
fn a_frozen_tunnel_that_is_over_does_not_come_again() {
    let mut net = Net::new(2);
    net.flow(50);
    net.pass(20);
    net.admit(0, 1, false);
    // The peer is not told, so that the tunnel ends with the former key.
    net.rotate(0);
    net.flow(50);
    net.pass(20);
    net.assert_all_arrived_in_order();
    net.leap(Duration::from_secs(180));
    net.tell(1, 0);
    let before = net.devices[0].counters().not_admitted;
    net.flow(50);
    net.pass(20);
    assert_eq!((net.take_received(0, 1), net.take_received(1, 0)), (NONE.to_vec(), NONE.to_vec()));
    assert_eq!(net.devices[0].counters().not_admitted, before + 50);
    net.admit(0, 1, true);
    net.flow(50);
    net.pass(20);
    assert!(!net.take_received(0, 1).is_empty() && !net.take_received(1, 0).is_empty(), "thawed");
}
