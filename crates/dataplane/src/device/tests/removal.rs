//! Peers that are removed in the middle of their handshake.

use super::*;

const RESPONSE: usize = 92;

/// A packet from the first host to the second.
fn out() -> Vec<u8> {
    packet([10, 1, 0, 1], [10, 2, 0, 1])
}

/// The first host has begun, and the second has answered. The response is still on the way.
pub(super) fn answered(one: &mut Host, two: &mut Host, now: Instant) -> Vec<u8> {
    one.handle_packet(&out(), now);
    let initiation = one.poll_transmit().unwrap().payload;
    two.handle_datagram(ONE.parse().unwrap(), &initiation, now);
    let response = two.poll_transmit().unwrap().payload;
    assert_eq!(response.len(), RESPONSE);
    response
}

/// A datagram comes to the device, or to its forwarder on another thread, where it has one.
fn arrive(host: &mut Host, fork: &mut Option<Forwarder>, from: &str, datagram: &[u8], now: Instant) {
    let from: SocketAddr = from.parse().unwrap();
    let Some(fork) = fork else { return host.handle_datagram(from, datagram, now) };
    fork.handle_datagrams(from, &mut datagram.to_vec(), datagram.len(), now, |_| {
        panic!("there is no session");
    });
    fork.take_reports().into_iter().for_each(|report| host.handle_report(report, now));
    std::iter::from_fn(|| host.poll_update()).for_each(|update| fork.handle_update(update, now));
}

/// It does nothing but count as refused.
fn assert_refused(host: &mut Host, fork: &mut Option<Forwarder>, from: &str, datagram: &[u8], now: Instant) {
    let (refused, slots) = (host.counters().refused, host.slots.len());
    arrive(host, fork, from, datagram, now);
    assert_eq!(host.counters().refused, refused + 1);
    assert_eq!((host.poll_transmit(), host.poll_packet()), (None, None));
    assert_eq!((host.slots.len(), host.links().next()), (slots, None), "nobody was heard of");
}

/// Packets pass both ways, also through the first host's other forwarder.
fn assert_connected(one: &mut Host, fork: &mut Option<Forwarder>, two: &mut Host, now: Instant) {
    one.handle_packet(&out(), now);
    exchange(one, two, now);
    two.handle_packet(&packet([10, 2, 0, 1], [10, 1, 0, 1]), now);
    exchange(one, two, now);
    assert!(one.poll_packet().is_some() && two.poll_packet().is_some());
    if let Some(fork) = fork {
        std::iter::from_fn(|| one.poll_update()).for_each(|update| fork.handle_update(update, now));
        fork.handle_packet(&VnetHeader::default(), &out(), now);
        let sent = fork.poll_transmit().unwrap();
        two.handle_datagram(ONE.parse().unwrap(), &sent.payload, now);
        assert_eq!(two.poll_packet(), Some(out()));
    }
}

#[test]
fn a_late_response_of_a_peer_that_was_removed_does_nothing_and_the_peer_can_come_back() {
    for forked in [false, true] {
        let (mut one, mut two) = pair();
        let mut fork = forked.then(|| one.fork());
        let mut now = Instant::now_for_tests();
        let response = answered(&mut one, &mut two, now);
        one.remove_peer(&secret(2).public());
        assert_eq!((one.counters().unanswered, one.slots.len()), (1, 0), "nothing waits any more");
        assert_refused(&mut one, &mut fork, TWO, &response, now);
        if let Some(fork) = &mut fork {
            fork.handle_packet(&VnetHeader::default(), &out(), now);
            assert_eq!(fork.poll_transmit(), None);
        }
        while one.poll_timeout().is_some() {
            now += TICK;
            one.handle_timeout(now);
            assert_eq!(one.poll_transmit(), None, "nor is anything tried again");
        }
        // It was an answer to what the peer is not asked any more.
        one.set_peer(secret(2).public(), peer(&["10.2.0.0/16"], &[TWO]));
        assert_refused(&mut one, &mut fork, TWO, &response, now);
        now += Duration::from_secs(1);
        assert_connected(&mut one, &mut fork, &mut two, now);
    }
}

#[test]
fn a_slot_that_is_another_peers_by_now_takes_no_response_of_the_peer_before() {
    const THREE: &str = "192.0.2.3:51820";
    for forked in [false, true] {
        let (mut one, mut two) = pair();
        let mut three = Host::new(&secret(3), Simulated(3));
        three.set_own(vec!["10.3.0.0/16".parse().unwrap()]);
        three.set_peer(secret(1).public(), peer(&["10.1.0.0/16"], &[ONE]));
        let mut fork = forked.then(|| one.fork());
        let now = Instant::now_for_tests();
        let late = answered(&mut one, &mut two, now);
        one.remove_peer(&secret(2).public());
        // As if all others had been taken in between.
        let index = u32::from_le_bytes(late[8..12].try_into().unwrap());
        one.slots = Slots::new((index >> 8).wrapping_sub(1));
        one.set_peer(secret(3).public(), peer(&["10.3.0.0/16"], &[THREE]));
        one.handle_packet(&packet([10, 1, 0, 1], [10, 3, 0, 1]), now);
        let initiation = one.poll_transmit().unwrap().payload;
        assert_eq!(initiation[4..8], late[8..12], "it is asked for under the same index");
        for from in [TWO, THREE] {
            assert_refused(&mut one, &mut fork, from, &late, now);
        }
        // Which does not disturb the one that is under way.
        three.handle_datagram(ONE.parse().unwrap(), &initiation, now);
        let response = three.poll_transmit().unwrap().payload;
        arrive(&mut one, &mut fork, THREE, &response, now);
        while let Some(sent) = one.poll_transmit() {
            assert_eq!(sent.to, THREE.parse().unwrap());
            three.handle_datagrams(ONE.parse().unwrap(), &sent.payload, sent.segment, now);
        }
        assert!(three.poll_packet().is_some());
        let link = one.links().next().unwrap();
        assert_eq!((link.peer, link.endpoint), (secret(3).public(), THREE.parse().unwrap()));
    }
}

#[test]
fn a_session_that_a_removed_peer_was_about_to_have_is_none_and_the_peer_can_come_back() {
    for forked in [false, true] {
        let (mut one, mut two) = pair();
        let mut fork = forked.then(|| two.fork());
        let now = Instant::now_for_tests();
        let response = answered(&mut one, &mut two, now);
        let obey = |two: &mut Host, fork: &mut Option<Forwarder>| {
            let updates: Vec<_> = std::iter::from_fn(|| two.poll_update()).collect();
            fork.iter_mut()
                .for_each(|fork| updates.iter().for_each(|update| fork.handle_update(update.clone(), now)));
        };
        obey(&mut two, &mut fork);
        two.remove_peer(&secret(1).public());
        obey(&mut two, &mut fork);
        one.handle_datagram(TWO.parse().unwrap(), &response, now);
        for datagram in std::iter::from_fn(|| one.poll_transmit()).collect::<Vec<_>>() {
            assert_eq!(datagram.payload[0], 4, "a keepalive, and the packet that waited");
            if let Some(fork) = &mut fork {
                fork.handle_datagrams(
                    ONE.parse::<SocketAddr>().unwrap(),
                    &mut datagram.payload.clone(),
                    datagram.segment,
                    now,
                    |_| panic!("a removed peer is heard"),
                );
                assert!(matches!(fork.take_reports()[..], [Report::Dropped(Counters { refused: 1, .. })]));
            }
            assert_refused(&mut two, &mut None, ONE, &datagram.payload, now);
        }
        two.set_peer(secret(1).public(), peer(&["10.1.0.0/16"], &[ONE]));
        let later = now + Duration::from_secs(1);
        two.handle_packet(&packet([10, 2, 0, 1], [10, 1, 0, 1]), later);
        exchange(&mut one, &mut two, later);
        assert!(one.poll_packet().is_some());
    }
}
