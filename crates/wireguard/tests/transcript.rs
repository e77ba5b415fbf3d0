//! Handshakes with boringtun, message by message.

#![allow(clippy::unwrap_used, reason = "in a test it is the assertion that the value is there")]

mod world;

use std::time::Duration;

use carrick_wireguard::{Config, PresharedKey, Role};
use world::{Boring, Carrick, End as _, World};

const PLENTY: u64 = 1_000;

const CARRICK: usize = 0;
const BORINGTUN: usize = 1;

fn world(ours: Option<[u8; 32]>, theirs: Option<[u8; 32]>, handshakes: u64) -> World<Carrick, Boring> {
    let preshared_key = ours.map(PresharedKey::from_bytes).unwrap_or_default();
    let carrick = Carrick::new(CARRICK, Config { preshared_key, ..Config::default() }, 1);
    World::new(carrick, Boring::new(BORINGTUN, theirs, handshakes), 1)
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Who sent which type of message, in order.
fn transcript(world: &World<Carrick, Boring>) -> Vec<(usize, u8)> {
    world.log.iter().map(|&(_, end, message)| (end, message)).collect()
}

#[test]
fn a_handshake_that_carrick_begins_takes_one_round_trip() {
    for preshared in [None, Some([3; 32])] {
        let mut world = world(preshared, preshared, PLENTY);
        world.send(CARRICK).unwrap();
        world.pass(seconds(1)).unwrap();
        assert_eq!(transcript(&world), [(CARRICK, 1), (BORINGTUN, 2), (CARRICK, 4)]);
        world.send(BORINGTUN).unwrap();
        world.pass(seconds(1)).unwrap();
        assert_eq!(world.received.each_ref().map(|numbers| numbers.len()), [1, 1]);
        assert_eq!(world.a.established, [(Role::Initiator, Duration::from_millis(10))]);
    }
}

#[test]
fn a_handshake_that_boringtun_begins_takes_one_round_trip() {
    for preshared in [None, Some([3; 32])] {
        let mut world = world(preshared, preshared, PLENTY);
        world.send(BORINGTUN).unwrap();
        world.pass(seconds(1)).unwrap();
        assert_eq!(transcript(&world), [(BORINGTUN, 1), (CARRICK, 2), (BORINGTUN, 4), (BORINGTUN, 4)]);
        world.send(CARRICK).unwrap();
        world.pass(seconds(1)).unwrap();
        assert_eq!(world.received.each_ref().map(|numbers| numbers.len()), [1, 1]);
        assert_eq!(world.a.established, [(Role::Responder, Duration::from_millis(10))]);
    }
}

#[test]
fn nothing_comes_of_different_preshared_keys_until_they_are_the_same() {
    for beginner in [CARRICK, BORINGTUN] {
        let mut world = world(Some([3; 32]), Some([4; 32]), PLENTY);
        world.send(beginner).unwrap();
        world.pass(seconds(12)).unwrap();
        assert!(world.received.iter().all(|numbers| numbers.is_empty()));
        world.a.tunnel.set_preshared_key(PresharedKey::from_bytes([4; 32]));
        world.pass(seconds(12)).unwrap();
        assert_eq!(world.received[1 - beginner].len(), 1, "what waited is there");
    }
}

#[test]
fn a_flow_of_ten_minutes_has_its_rekeys_and_loses_nothing() {
    for beginner in [CARRICK, BORINGTUN] {
        let mut world = world(None, None, PLENTY);
        world.send(beginner).unwrap();
        world.pass(seconds(1)).unwrap();
        for _ in 0..600 {
            world.send(CARRICK).unwrap();
            world.send(BORINGTUN).unwrap();
            world.pass(seconds(1)).unwrap();
        }
        let mut received = world.received.each_ref().map(|numbers| numbers.len());
        received[1 - beginner] -= 1;
        assert_eq!(received, [600, 600]);
        let initiations = world.count(beginner, 1);
        assert!((5..=6).contains(&initiations), "{initiations}: one every two minutes, or a little more");
        assert_eq!(world.count(1 - beginner, 1), 0, "only whoever began asks for another session");
    }
}

#[test]
fn carrick_proves_its_address_to_a_boringtun_under_load() {
    let mut world = world(None, None, 0);
    world.send(CARRICK).unwrap();
    world.pass(seconds(4)).unwrap();
    assert_eq!(transcript(&world), [(CARRICK, 1), (BORINGTUN, 3)], "nothing is sent for a cookie reply");
    world.pass(seconds(2)).unwrap();
    assert_eq!(transcript(&world)[2..], [(CARRICK, 1), (BORINGTUN, 2), (CARRICK, 4)]);
    assert_eq!(world.received[BORINGTUN].len(), 1);
}

#[test]
fn boringtun_proves_its_address_to_a_carrick_under_load() {
    let mut world = world(None, None, PLENTY);
    world.a.set_load(true);
    world.send(BORINGTUN).unwrap();
    world.pass(seconds(7)).unwrap();
    assert_eq!(transcript(&world)[..4], [(BORINGTUN, 1), (CARRICK, 3), (BORINGTUN, 1), (CARRICK, 2)]);
    assert_eq!(world.received[CARRICK].len(), 1);
}

#[test]
fn initiations_that_cross_come_to_a_session_at_once() {
    let mut world = world(None, None, PLENTY);
    for _ in 0..3 {
        world.send(CARRICK).unwrap();
        world.send(BORINGTUN).unwrap();
    }
    world.pass(seconds(20)).unwrap();
    assert_eq!(world.received.each_ref().map(|numbers| numbers.len()), [3, 3]);
}
