//! Peers that have never heard of each other.

#![allow(clippy::unwrap_used, reason = "in a test it is the assertion that the value is there")]

mod net;

use net::{Net, config, key};

#[test]
fn a_peer_that_is_told_of_a_node_a_moment_too_late_is_reached_in_less_than_a_second() {
    let mut net = Net::new(2);
    net.devices[1].remove_peer(&key(0, 0));
    net.send(0, 1);
    net.pass(200);
    assert_eq!((net.initiations[0], net.devices[1].counters().refused), (1, 1));
    net.devices[1].set_peer(key(0, 0), config(0));
    net.pass(600);
    assert_eq!(net.take_received(0, 1), [0]);
}

#[test]
fn a_peer_that_never_answers_is_not_asked_more_and_more_often() {
    let mut net = Net::new(2);
    net.devices[1].remove_peer(&key(0, 0));
    net.send(0, 1);
    net.pass(4999);
    // After 0.25, 0.75, 1.75 and 3.75 seconds, give or take a tick.
    assert_eq!(net.initiations[0], 5);
}

#[test]
fn a_path_that_is_slower_than_the_first_repetition_comes_to_keys() {
    for round_trip in [300, 600, 900, 1400] {
        let mut net = Net::slow(2, round_trip / 2);
        net.send(0, 1);
        net.pass(round_trip * 4);
        assert_eq!(net.take_received(0, 1), [0], "{round_trip} ms");
    }
}
