//! What has gone wrong in other implementations, or could.

#![allow(clippy::unwrap_used, reason = "in a test it is the assertion that the value is there")]

mod world;

use std::{sync::Arc, time::Duration};

use carrick_types::WireGuardKey;
use carrick_wireguard::{
    Config, CookieChecker, Event, Identity, Load, Message, PresharedKey, REJECT_AFTER_MESSAGES,
    REKEY_AFTER_MESSAGES, Refused, Traffic, Tunnel,
    message::{CookieReply, Initiation, MessageType, Response},
};
use proptest::prelude::*;
use world::{Carrick, End as _, World, address, secret};

const NOW: Duration = Duration::ZERO;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn ends() -> [Carrick; 2] {
    [0, 1].map(|me| Carrick::new(me, Config::default(), 7 + me as u64))
}

/// What an end sends when it is asked to begin, or to try again.
fn initiation(end: &mut Carrick, now: Duration) -> Vec<u8> {
    let at = end.at(now);
    end.tunnel.handle_timeout(at);
    end.tunnel.initiate(at);
    end.settle(now);
    end.transmits().pop().unwrap()
}

fn one(end: &mut Carrick, now: Duration) -> Vec<u8> {
    end.settle(now);
    let mut transmits = end.transmits();
    assert_eq!(transmits.len(), 1);
    transmits.remove(0)
}

/// The first has begun a session with the second, which has seen it.
fn connected() -> [Carrick; 2] {
    let [mut a, mut b] = ends();
    let message = initiation(&mut a, NOW);
    b.take(address(0), &message, NOW).unwrap();
    let message = one(&mut b, NOW);
    a.take(address(1), &message, NOW).unwrap();
    let message = one(&mut a, NOW);
    assert_eq!(b.take(address(0), &message, NOW), Ok(()), "the keepalive");
    b.settle(NOW);
    [a, b]
}

#[test]
fn datagrams_of_every_length_that_is_none_are_refused() {
    let [mut a, _] = connected();
    for length in (0..300).chain([1_500, 65_507, 200_000]) {
        for kind in 0..6 {
            let mut datagram = vec![0; length];
            if let Some(first) = datagram.first_mut() {
                *first = kind;
            }
            a.take(address(9), &datagram, NOW).unwrap_err();
        }
    }
    a.settle(NOW);
    assert_eq!((a.transmits().len(), a.endpoint), (0, Some(address(1))));
}

#[test]
fn a_tunnel_takes_no_response_to_its_predecessor_and_begins_anew() {
    let [mut a, mut b] = ends();
    let message = initiation(&mut a, NOW);
    b.take(address(0), &message, NOW).unwrap();
    let response = one(&mut b, NOW);
    let [mut a, _] = ends();
    assert_eq!(a.take(address(1), &response, NOW), Err(Refused::Unsolicited));
    let later = seconds(1);
    let message = initiation(&mut a, later);
    b.take(address(0), &message, later).unwrap();
    let response = one(&mut b, later);
    a.take(address(1), &response, later).unwrap();
}

#[test]
fn a_session_that_the_peer_was_seen_to_use_does_not_make_room_for_another_before_the_tunnel_hears_of_it() {
    for opened in [true, false] {
        let [mut a, mut b] = ends();
        let message = initiation(&mut a, NOW);
        b.take(address(0), &message, NOW).unwrap();
        let message = one(&mut b, NOW);
        a.take(address(1), &message, NOW).unwrap();
        let mut message = one(&mut a, NOW);
        let (now, unconfirmed) = (b.at(NOW), b.tunnel.unconfirmed().unwrap().clone());
        unconfirmed.check(now).unwrap_err();
        if opened {
            // By another thread.
            let receiving = b.tunnel.receiving().next().unwrap();
            assert_eq!(receiving.open(&mut [Message::incoming(&mut message).unwrap()], now).keepalives, 1);
            assert_eq!(unconfirmed.check(now), Ok(()));
        }
        // The peer begins another one.
        let [mut a, _] = ends();
        let later = seconds(1);
        let message = initiation(&mut a, later);
        b.take(address(0), &message, later).unwrap();
        assert_eq!(unconfirmed.check(b.at(later)).is_ok(), opened);
        assert_eq!(b.tunnel.sending(b.at(later)).is_some(), opened);
    }
}

#[test]
fn nothing_is_sealed_or_opened_with_the_keys_of_a_tunnel_that_is_gone() {
    let [a, b] = connected();
    let now = a.at(NOW);
    let (send, receive) =
        (a.tunnel.sending(now).unwrap().clone(), b.tunnel.receiving().next().unwrap().clone());
    let sealed = || {
        let mut buffer = [0; 32];
        send.reserve(1, now).unwrap().seal(&mut [Message::outgoing(&mut buffer, 0, 0).unwrap()]);
        buffer
    };
    let [mut first, mut second] = [sealed(), sealed()];
    assert_eq!(receive.open(&mut [Message::incoming(&mut first).unwrap()], now).keepalives, 1);
    drop((a, b));
    assert!(send.reserve(1, now).is_err());
    assert_eq!(receive.open(&mut [Message::incoming(&mut second).unwrap()], now).refused, 1);
    assert_eq!((Arc::strong_count(&send), Arc::strong_count(&receive)), (1, 1), "and nobody else has them");
}

#[test]
fn a_preshared_key_counts_from_the_next_handshake_on() {
    let mut world =
        World::new(Carrick::new(0, Config::default(), 1), Carrick::new(1, Config::default(), 2), 3);
    world.send(0).unwrap();
    world.pass(seconds(1)).unwrap();
    world.a.tunnel.set_preshared_key(PresharedKey::from_bytes([1; 32]));
    world.send(0).unwrap();
    world.pass(seconds(1)).unwrap();
    assert_eq!(world.received[1].len(), 2, "the session goes on");
    world.pass(seconds(200)).unwrap();
    world.send(0).unwrap();
    world.pass(seconds(20)).unwrap();
    assert_eq!(world.received[1].len(), 2, "the key is not the peer's");
    world.b.tunnel.set_preshared_key(PresharedKey::from_bytes([1; 32]));
    world.pass(seconds(10)).unwrap();
    assert_eq!(world.received[1].len(), 3);
}

#[test]
fn a_cookie_reply_is_taken_once_and_makes_nobody_send() {
    let [mut a, mut b] = connected();
    b.load = Load::Heavy;
    let message = initiation(&mut a, seconds(6));
    assert_eq!(b.take(address(0), &message, seconds(6)), Err(Refused::Mac));
    let reply = one(&mut b, seconds(6));
    assert_eq!(MessageType::of(&reply), Ok(MessageType::CookieReply));
    let mut forged = reply.clone();
    forged[40] ^= 1;
    assert_eq!(a.take(address(9), &forged, seconds(6)), Err(Refused::Forged));
    assert_eq!(a.take(address(9), &reply, seconds(6)), Ok(()));
    assert_eq!(a.take(address(9), &reply, seconds(6)), Err(Refused::Unsolicited));
    a.settle(seconds(6));
    assert!(a.transmits().is_empty());
    assert_eq!(b.take(address(0), &message, seconds(6)), Err(Refused::Mac), "the old one proves nothing");
}

#[test]
fn a_cookie_reply_to_another_message_is_refused() {
    let [mut a, mut b] = ends();
    b.load = Load::Heavy;
    let first = initiation(&mut a, NOW);
    b.take(address(0), &first, NOW).unwrap_err();
    b.settle(NOW);
    let reply = CookieReply::parse(&b.transmits()[0]).unwrap();
    let other = CookieReply { receiver: reply.receiver.wrapping_add(1), ..reply.clone() };
    let now = a.at(NOW);
    assert_eq!(a.tunnel.handle_cookie_reply(&other, now), Err(Refused::Unsolicited));
    assert_eq!(a.tunnel.handle_cookie_reply(&reply, now), Ok(()));
}

#[test]
fn initiations_that_cross_converge_in_one_round_trip_and_so_do_rekeys() {
    let mut world =
        World::new(Carrick::new(0, Config::default(), 1), Carrick::new(1, Config::default(), 2), 3);
    for _ in 0..20 {
        world.send(0).unwrap();
        world.send(1).unwrap();
        world.pass(Duration::from_millis(1)).unwrap();
    }
    world.pass(Duration::from_millis(20)).unwrap();
    assert_eq!(world.received.each_ref().map(|numbers| numbers.len()), [20, 20]);
    assert_eq!((world.count(0, 1), world.count(1, 1)), (1, 1));
    for round in 1..5 {
        world.pass(seconds(6)).unwrap();
        let now = world.a.at(world.now);
        world.a.tunnel.initiate(now);
        let now = world.b.at(world.now);
        world.b.tunnel.initiate(now);
        for _ in 0..40 {
            world.send(0).unwrap();
            world.send(1).unwrap();
            world.pass(Duration::from_millis(1)).unwrap();
        }
        world.pass(Duration::from_millis(20)).unwrap();
        let expected = 20 + 40 * round;
        assert_eq!(world.received.each_ref().map(|numbers| numbers.len()), [expected, expected]);
        assert_eq!((world.count(0, 1), world.count(1, 1)), (1 + round, 1 + round));
    }
}

#[test]
fn points_of_low_order_get_no_answer() {
    for low in [[0; 32], std::array::from_fn(|at| u8::from(at == 0))] {
        WireGuardKey::from_bytes(low).unwrap_err();
        let [mut a, _] = ends();
        let message = Initiation::parse(&initiation(&mut a, NOW)).unwrap();
        let response =
            Response { sender: 1, receiver: message.sender, ephemeral: low, sealed_nothing: [0; 16] };
        let identified = Identity::new(&secret(1)).identify(Initiation { ephemeral: low, ..message });
        assert_eq!(identified.err(), Some(Refused::LowOrder));
        let now = a.at(NOW);
        assert_eq!(a.tunnel.handle_response(&response, now), Err(Refused::LowOrder));
        a.settle(NOW);
        assert!(a.transmits().is_empty());
    }
}

#[test]
fn an_initiation_is_taken_once_even_after_a_restart() {
    let [mut a, mut b] = ends();
    let message = initiation(&mut a, NOW);
    b.take(address(0), &message, NOW).unwrap();
    assert_eq!(b.take(address(9), &message, seconds(1)), Err(Refused::Replayed));
    let heard = b.tunnel.heard();
    assert!(heard.is_some());
    let mut restarted = Carrick::new(1, Config { heard, ..Config::default() }, 99);
    assert_eq!(restarted.take(address(9), &message, seconds(1)), Err(Refused::Replayed));
    restarted.settle(seconds(1));
    assert_eq!((restarted.transmits().len(), restarted.endpoint), (0, None));
    let message = initiation(&mut a, seconds(6));
    restarted.take(address(0), &message, seconds(6)).unwrap();
}

#[test]
fn an_initiators_timestamps_rise_though_its_wall_clock_goes_back() {
    let [mut a, mut b] = ends();
    for n in 0..4 {
        let now = seconds(6 * n);
        a.wall -= seconds(3_600);
        let message = initiation(&mut a, now);
        b.take(address(0), &message, now).unwrap();
    }
}

#[test]
fn initiations_are_not_taken_faster_than_fifty_a_second() {
    let [_, mut b] = ends();
    let message = |wall| {
        let [mut a, _] = ends();
        a.wall += wall;
        initiation(&mut a, NOW)
    };
    let [first, second] = [seconds(1), seconds(2)].map(message);
    b.take(address(0), &first, NOW).unwrap();
    assert_eq!(b.take(address(0), &second, Duration::from_millis(19)), Err(Refused::TooFast));
    b.take(address(0), &second, Duration::from_millis(20)).unwrap();
}

#[test]
fn a_responder_sends_nothing_before_the_initiator_has_shown_that_it_has_the_session() {
    let [mut a, mut b] = ends();
    let message = initiation(&mut a, NOW);
    b.take(address(0), &message, NOW).unwrap();
    let response = one(&mut b, NOW);
    let now = b.at(NOW);
    assert!(b.tunnel.sending(now).is_none());
    b.send(&[0x45; 28], NOW);
    assert!(b.transmits().is_empty(), "nor another initiation, for five seconds");
    a.take(address(1), &response, NOW).unwrap();
    let keepalive = one(&mut a, NOW);
    b.take(address(0), &keepalive, NOW).unwrap();
    assert_eq!(MessageType::of(&one(&mut b, NOW)), Ok(MessageType::Data), "what waited");
}

#[test]
fn a_session_asks_for_its_successor_and_ends_before_its_counters_do() {
    let [mut a, _] = connected();
    let (later, at) = (seconds(6), a.at(seconds(6)));
    let key = a.tunnel.sending(at).unwrap().clone();
    key.reserve(REKEY_AFTER_MESSAGES - key.sent() - 1, at).unwrap();
    a.tunnel.handle_sent(Traffic::Packet, at);
    a.settle(later);
    assert!(a.transmits().is_empty());
    key.reserve(1, at).unwrap();
    a.tunnel.handle_sent(Traffic::Packet, at);
    assert_eq!(MessageType::of(&one(&mut a, later)), Ok(MessageType::Initiation));
    key.reserve(REJECT_AFTER_MESSAGES - key.sent(), at).unwrap();
    assert!(a.tunnel.sending(at).is_none());
    let mut buffer = [0; 32];
    a.tunnel.seal(&mut [Message::outgoing(&mut buffer, 0, 0).unwrap()], at).unwrap_err();
    assert_eq!(buffer, [0; 32]);
}

#[test]
fn a_peer_is_where_its_last_authentic_message_came_from_and_nowhere_else() {
    let [mut a, mut b] = connected();
    a.send(&[0x45; 28], NOW);
    let datagram = one(&mut a, NOW);
    let mut forged = datagram.clone();
    forged[20] ^= 1;
    b.take(address(8), &forged, NOW).unwrap_err();
    assert_eq!(b.endpoint, Some(address(0)));
    b.take(address(7), &datagram, NOW).unwrap();
    assert_eq!(b.endpoint, Some(address(7)));
    b.take(address(8), &datagram, NOW).unwrap_err();
    assert_eq!(b.endpoint, Some(address(7)), "a copy says nothing");
}

#[test]
fn every_index_is_given_back() {
    let [mut a, mut b] = connected();
    let indices = |end: &mut Carrick| end.indices.len();
    assert_eq!((indices(&mut a), indices(&mut b)), (1, 1));
    for end in [&mut a, &mut b] {
        let (due, _) = end.tunnel.poll_timeout().unwrap();
        end.tunnel.handle_timeout(due + seconds(1_000));
        let released = std::iter::from_fn(|| end.tunnel.poll_event());
        assert_eq!(released.filter(|event| matches!(event, Event::Released(_))).count(), 1);
    }
}

#[test]
fn an_initiation_of_another_peer_or_for_another_key_is_refused() {
    let [mut a, mut b] = ends();
    let message = initiation(&mut a, NOW);
    let identified = Identity::new(&secret(1)).identify(Initiation::parse(&message).unwrap()).unwrap();
    assert_eq!((identified.initiator(), identified.responder()), (&secret(0).public(), &secret(1).public()));
    let mut other = Tunnel::new(Identity::new(&secret(1)).into(), secret(5).public(), Config::default());
    let refused = b.with(NOW, |_, context| other.handle_initiation(identified, context));
    assert_eq!(refused, Err(Refused::Forged));
    let elsewhere = Identity::new(&secret(2)).identify(Initiation::parse(&message).unwrap());
    assert_eq!(elsewhere.err(), Some(Refused::Forged));
    assert_eq!(CookieChecker::new(&secret(2).public()).check_mac1(&message), Err(Refused::Mac));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_message_in_which_a_bit_is_other_does_nothing(which in 0..3_usize, at: prop::sample::Index, bit in 0..8_u8) {
        let [mut a, mut b] = connected();
        let now = seconds(6);
        let request = initiation(&mut a, now);
        let (mut message, receiver) = match which {
            0 => (request, &mut b),
            1 => {
                b.take(address(0), &request, now).unwrap();
                (one(&mut b, now), &mut a)
            }
            _ => {
                b.send(&[0x45; 28], now);
                (one(&mut b, now), &mut a)
            }
        };
        // The second MAC is looked at under load only.
        let length = if which == 2 { message.len() } else { message.len() - 16 };
        message[at.index(length)] ^= 1 << bit;
        let endpoint = receiver.endpoint;
        prop_assert!(receiver.take(address(9), &message, now).is_err());
        receiver.settle(now);
        prop_assert_eq!((receiver.transmits().len(), receiver.delivered().len(), receiver.endpoint), (0, 0, endpoint));
    }
}
