//! The timers of two Carricks, on a network that does what it should.

#![allow(clippy::unwrap_used, reason = "in a test it is the assertion that the value is there")]

mod world;

use std::time::Duration;

use carrick_wireguard::{Config, MAX_JITTER, REKEY_TIMEOUT, Role, Timer};
use world::{Carrick, FAIR, Weather, World};

const LOST: Weather = Weather { loss: 255, ..FAIR };

fn world() -> World<Carrick, Carrick> {
    World::new(Carrick::new(0, Config::default(), 1), Carrick::new(1, Config::default(), 2), 3)
}

/// The first has begun a session with the second.
fn connected() -> World<Carrick, Carrick> {
    let mut world = world();
    world.send(0).unwrap();
    world.pass(Duration::from_millis(100)).unwrap();
    assert_eq!(world.received[1].len(), 1);
    world.log.clear();
    world
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// What was sent: when, by whom, of which type.
fn log(world: &World<Carrick, Carrick>) -> Vec<(u64, usize, u8)> {
    world.log.iter().map(|&(at, end, message)| (at.as_secs(), end, message)).collect()
}

#[test]
fn two_idle_peers_fall_silent_after_one_keepalive() {
    let mut world = connected();
    world.pass(seconds(1_000)).unwrap();
    assert_eq!(
        log(&world),
        [(10, 1, 4)],
        "it says that the packet came; nothing says that the keepalive came"
    );
    assert!(world.a.indices.is_empty() && world.b.indices.is_empty(), "no key is left");
    assert_eq!((world.a.expired, world.b.expired), (1, 1));
    assert_eq!((world.a.tunnel.poll_timeout(), world.b.tunnel.poll_timeout()), (None, None));
}

#[test]
fn keepalives_follow_each_other_while_packets_come_one_way() {
    let mut world = connected();
    for _ in 0..50 {
        world.send(0).unwrap();
        world.pass(seconds(1)).unwrap();
    }
    let keepalives = world.count(1, 4);
    assert!((4..=5).contains(&keepalives), "{keepalives}");
    assert_eq!(world.count(0, 1), 0, "the sender knows that the peer is there");
}

#[test]
fn whoever_sends_and_hears_nothing_asks_for_a_session_after_fifteen_seconds() {
    let mut world = connected();
    world.pass(seconds(30)).unwrap();
    world.log.clear();
    world.weather = LOST;
    world.send(0).unwrap();
    let begun = world.now;
    world.pass(seconds(20)).unwrap();
    let (at, ..) = *world.log.iter().find(|(_, _, message)| *message == 1).unwrap();
    let after = at - begun;
    assert!(
        after >= seconds(15) && after <= seconds(15) + MAX_JITTER + Duration::from_millis(250),
        "{after:?}"
    );
}

#[test]
fn an_initiation_is_tried_for_ninety_seconds_with_jitter_and_then_no_more() {
    let mut world = world();
    world.weather = LOST;
    world.send(0).unwrap();
    world.pass(seconds(300)).unwrap();
    let times: Vec<Duration> = world.log.iter().map(|&(at, ..)| at).collect();
    let gaps: Vec<Duration> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let longest = REKEY_TIMEOUT + MAX_JITTER + Duration::from_millis(250);
    assert!(gaps.iter().all(|gap| (REKEY_TIMEOUT..=longest).contains(gap)), "{gaps:?}");
    assert!((17..=18).contains(&times.len()), "{}", times.len());
    assert!(gaps.iter().any(|gap| *gap != gaps[0]));
    assert!(*times.last().unwrap() < seconds(90));
    assert_eq!((world.a.gave_up, world.a.tunnel.poll_timeout()), (1, None));
    assert!(world.a.indices.is_empty());

    world.weather = FAIR;
    world.send(0).unwrap();
    world.pass(seconds(1)).unwrap();
    assert_eq!(world.received[1].len(), 1, "what is sent later begins anew");
}

#[test]
fn whoever_began_rekeys_after_two_minutes_when_it_sends_and_the_other_does_not() {
    for sender in [0, 1] {
        let mut world = connected();
        world.pass(seconds(119)).unwrap();
        world.send(sender).unwrap();
        world.pass(Duration::from_millis(100)).unwrap();
        assert_eq!(world.count(0, 1) + world.count(1, 1), 0);
        world.pass(seconds(2)).unwrap();
        world.send(sender).unwrap();
        world.pass(Duration::from_millis(100)).unwrap();
        assert_eq!([world.count(0, 1), world.count(1, 1)], [usize::from(sender == 0), 0]);
    }
}

#[test]
fn whoever_began_rekeys_once_when_it_receives_shortly_before_the_end() {
    let mut world = connected();
    for _ in 0..164 {
        world.send(1).unwrap();
        world.pass(seconds(1)).unwrap();
    }
    // Its keepalives are sent, too, and ask for a session from 120 seconds on.
    assert_eq!(world.count(0, 1), 1);
    let mut world = connected();
    world.pass(seconds(166)).unwrap();
    world.log.clear();
    world.send(1).unwrap();
    world.pass(seconds(1)).unwrap();
    assert_eq!(log(&world)[..3], [(166, 1, 4), (166, 0, 1), (166, 1, 2)]);
    assert_eq!(world.a.established.last().unwrap().0, Role::Initiator);
}

#[test]
fn a_session_is_over_after_three_minutes_and_the_next_packet_begins_another() {
    let mut world = connected();
    world.pass(seconds(181)).unwrap();
    assert!(world.a.indices.is_empty() && world.b.indices.is_empty());
    for sender in [1, 0] {
        let number = world.send(sender).unwrap();
        world.pass(seconds(1)).unwrap();
        assert!(world.received[1 - sender].contains(&number));
    }
    assert_eq!((world.count(0, 1), world.count(1, 1)), (0, 1));
}

#[test]
fn nobody_goes_deaf_in_an_hour_of_rekeys_whoever_sends() {
    for senders in [&[0][..], &[1], &[0, 1]] {
        for crossing in [false, true] {
            let mut world = world();
            for sender in if crossing { &[0, 1][..] } else { senders } {
                world.send(*sender).unwrap();
            }
            for _ in 0..3_600 {
                world.pass(seconds(1)).unwrap();
                for &sender in senders {
                    world.send(sender).unwrap();
                }
            }
            world.pass(seconds(1)).unwrap();
            for &sender in senders {
                let expected = 3_601;
                assert_eq!(world.received[1 - sender].len(), expected, "{senders:?}, crossing: {crossing}");
            }
        }
    }
}

#[test]
fn a_persistent_keepalive_keeps_the_tunnel_open_and_begins_it() {
    let config = Config { persistent_keepalive: Some(seconds(25)), ..Config::default() };
    let mut world = World::new(Carrick::new(0, config, 1), Carrick::new(1, Config::default(), 2), 3);
    let now = world.a.at(Duration::ZERO);
    world.a.tunnel.set_persistent_keepalive(Some(seconds(25)), now);
    assert_eq!(world.a.tunnel.poll_timeout(), Some((now, Timer::PersistentKeepalive)));
    world.pass(seconds(110)).unwrap();
    assert_eq!(log(&world)[..3], [(0, 0, 1), (0, 1, 2), (0, 0, 4)]);
    assert_eq!((world.count(0, 4), world.count(1, 4)), (5, 0));
    world.pass(seconds(1_000)).unwrap();
    assert!(world.count(0, 1) >= 8, "it rekeys");
}

#[test]
fn a_clock_that_goes_back_stands_still_and_one_that_leaps_makes_a_new_session() {
    let mut world = connected();
    let past = world.a.at(Duration::ZERO);
    world.a.tunnel.handle_timeout(past);
    world.pass(seconds(1)).unwrap();
    world.leap(seconds(100_000)).unwrap();
    assert!(world.a.indices.is_empty() && world.b.indices.is_empty());
    world.send(1).unwrap();
    world.pass(seconds(1)).unwrap();
    assert_eq!(world.received[0].len(), 1);
}
