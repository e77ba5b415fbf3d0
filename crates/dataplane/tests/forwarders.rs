//! Packets that another thread's forwarder moves, with the keys of the device.

#![allow(clippy::unwrap_used, reason = "in a test it is the assertion that the value is there")]

mod net;

use std::{net::SocketAddr, time::Duration};

use carrick_dataplane::{
    Device, Endpoint, Forwarder, PeerConfig, Report, Source, Transmit, offload::VnetHeader,
};
use net::{Net, key};
use proptest::prelude::*;

/// What a forwarder makes of a packet of node 0 for node 1.
fn forward(net: &mut Net, number: u32) -> &mut Forwarder {
    let packet = net::packet(0, 1, number);
    let forwarder = net.forwarders[0].as_mut().unwrap();
    forwarder.handle_packet(&VnetHeader::default(), &packet, net.now);
    forwarder
}

#[test]
fn packets_without_keys_wait_where_they_are_and_the_others_need_nobody() {
    let mut net = Net::forked(2);
    net.flow(100);
    net.pass(20);
    net.assert_all_arrived_in_order();
    assert_eq!(net.initiations, [1, 1]);
    let link = net.devices[0].links().next().unwrap();
    assert_eq!((link.tx_bytes, link.rx_bytes), (100 * 28, 100 * 28), "all that moved is counted");
    net.forwarders[0].as_mut().unwrap().take_reports();
    let forwarder = forward(&mut net, 0);
    assert!(forwarder.poll_transmit().is_some() && !forwarder.is_urgent());
    assert!(matches!(forwarder.take_reports()[..], [Report::Sent { .. }]));
}

#[test]
fn sessions_are_renewed_for_as_long_as_packets_go_one_way_or_both() {
    for both in [false, true] {
        let mut net = Net::forked(2);
        let mut handshakes = Vec::new();
        for second in 0..600 {
            net.send(0, 1);
            if both || second == 0 {
                net.send(1, 0);
            }
            net.pass(1000);
            handshakes.push(net.last_handshake(0, 1).unwrap());
        }
        net.assert_all_arrived();
        handshakes.dedup();
        assert!((4..=7).contains(&handshakes.len()), "{} handshakes in ten minutes", handshakes.len());
    }
}

#[test]
fn a_peer_that_only_listens_says_that_it_is_there() {
    let mut net = Net::forked(2);
    net.flow(10);
    net.pass(20);
    let before = net.devices[0].links().next().unwrap();
    // A keepalive answers what is not answered for 10 seconds, and so no handshake is begun after 15.
    net.send(0, 1);
    net.pass(30_000);
    assert_eq!(net.initiations, [1, 1]);
    assert_eq!(net.devices[0].links().next().unwrap().last_handshake, before.last_handshake);
}

#[test]
fn what_is_cut_off_is_cut_off_before_the_forwarder_hears_of_it() {
    let mut net = Net::forked(2);
    net.flow(100);
    net.pass(20);
    net.devices[0].remove_peer(&key(1, 0));
    let forwarder = forward(&mut net, 0);
    assert!(forwarder.poll_transmit().is_none(), "nothing goes out");
    net.send(1, 0);
    net.pass(20);
    net.take_received(1, 0);
    net.forwarders[0].as_mut().unwrap().take_reports();
    net.forget(0, 1);
    for _ in 0..10 {
        net.send(1, 0);
        net.send(0, 1);
        net.pass(10);
    }
    assert_eq!(
        (net.take_received(1, 0), net.take_received(0, 1).len()),
        (vec![], 100),
        "nor does anything come in"
    );
}

#[test]
fn so_many_messages_are_passed_on_at_once_and_no_more() {
    let mut net = Net::forked(2);
    let from: SocketAddr = "192.0.2.1:51820".parse().unwrap();
    let mut initiation = [0; 148];
    initiation[0] = 1;
    let now = net.now;
    let forwarder = net.forwarders[0].as_mut().unwrap();
    for _ in 0..1000 {
        forwarder.handle_datagrams(from, &mut initiation, 148, now, |_| {});
    }
    assert!(forwarder.is_urgent());
    let reports = forwarder.take_reports();
    assert_eq!(reports.iter().filter(|report| matches!(report, Report::Message(..))).count(), 256);
    for report in reports {
        net.devices[0].handle_report(report, net.now);
    }
    assert_eq!(net.devices[0].counters().refused, 1000, "none was worth anything");
}

#[test]
fn packets_that_wait_go_before_those_that_come_when_there_are_keys() {
    let mut net = Net::forked(2);
    for number in 0..10 {
        forward(&mut net, number);
    }
    // The device has yet to hear of them when there are keys, since the peer has begun.
    let late = net.forwarders[0].as_mut().unwrap().take_reports();
    net.send(1, 0);
    net.pass(20);
    for number in 10..20 {
        forward(&mut net, number);
    }
    net.pass(6_000);
    late.into_iter().for_each(|report| net.devices[0].handle_report(report, net.now));
    net.pass(200);
    assert_eq!(net.take_received(0, 1), (0..20).collect::<Vec<_>>());
    assert_eq!(net.initiations, [0, 1]);
}

#[test]
fn keys_that_were_over_before_a_forwarder_heard_of_them_are_asked_for_again() {
    let mut net = Net::forked(2);
    let mut forwarder = net.forwarders[0].take().unwrap();
    forwarder.handle_packet(&VnetHeader::default(), &net::packet(0, 1, 0), net.now);
    let reports = forwarder.take_reports();
    reports.into_iter().for_each(|report| net.devices[0].handle_report(report, net.now));
    net.drain(0);
    net.pass(20);
    assert!(net.last_handshake(0, 1).is_some());
    net.leap(Duration::from_secs(200));
    net.forwarders[0] = Some(forwarder);
    net.drain(0);
    net.pass(20);
    assert_eq!(net.take_received(0, 1), [0]);
}

#[test]
fn the_newest_256_packets_for_a_peer_wait_in_a_forwarder_and_the_device_hears_of_them_once() {
    let mut net = Net::forked(2);
    for number in 0..300 {
        forward(&mut net, number);
    }
    let forwarder = net.forwarders[0].as_mut().unwrap();
    assert!(forwarder.is_urgent());
    let reports = forwarder.take_reports();
    assert!(matches!(reports[..], [Report::Wanted { .. }, Report::Dropped(_)]));
    reports.into_iter().for_each(|report| net.devices[0].handle_report(report, net.now));
    // A handshake is tried for so long after the last of them, but that can be heard later.
    let forwarder = forward(&mut net, 300);
    assert!(!forwarder.is_urgent());
    assert!(matches!(forwarder.take_reports()[..], [Report::Wanted { .. }, Report::Dropped(_)]));
    assert_eq!(net.devices[0].counters().crowded_out, 44);
    net.send(1, 0);
    net.pass(20);
    assert_eq!(net.take_received(0, 1), (45..301).collect::<Vec<_>>());
}

#[test]
fn what_waits_in_a_forwarder_for_a_key_that_is_replaced_goes_to_whoever_has_the_new_one() {
    for heard in [false, true] {
        let mut net = Net::forked(2);
        net.rotate(1);
        for number in 0..5 {
            forward(&mut net, number);
        }
        let mut late = net.forwarders[0].as_mut().unwrap().take_reports();
        if heard {
            late.drain(..).for_each(|report| net.devices[0].handle_report(report, net.now));
        }
        net.tell(0, 1);
        late.into_iter().for_each(|report| net.devices[0].handle_report(report, net.now));
        for number in 5..10 {
            forward(&mut net, number);
        }
        net.drain(0);
        net.pass(20);
        assert_eq!(net.take_received(0, 1), (0..10).collect::<Vec<_>>(), "heard: {heard}");
    }
}

#[test]
fn what_is_to_be_sealed_for_a_key_that_is_replaced_is_sealed_for_the_new_one() {
    let mut net = Net::forked(2);
    net.flow(50);
    net.pass(20);
    net.take_received(0, 1);
    for number in 0..5 {
        forward(&mut net, number);
        let now = net.now;
        net.devices[0].handle_packet(&VnetHeader::default(), &net::packet(0, 1, 5 + number), now);
    }
    let now = net.now;
    net.devices[0].replace_peer(&key(1, 0), key(1, 1), net::config(1), now);
    let (device, forwarder) = (&mut net.devices[0], net.forwarders[0].as_mut().unwrap());
    std::iter::from_fn(|| device.poll_update()).for_each(|update| forwarder.handle_update(update, now));
    net.drain(0);
    net.pass(20);
    let mut received = net.take_received(0, 1);
    received.sort_unstable();
    assert_eq!(received, (0..10).collect::<Vec<_>>());
    assert_eq!(net.devices[0].counters().no_key, 0);
}

#[test]
fn what_waits_in_a_forwarder_ends_with_the_peer_or_where_none_is_admitted_or_answers() {
    const NUMBER: u64 = 3;
    const CASES: [&str; 4] = ["removed", "not admitted", "silent", "replaced by one that is not admitted"];
    for (case, expected) in CASES.into_iter().zip([(NUMBER, 0), (0, NUMBER), (NUMBER, 0), (NUMBER, 0)]) {
        let mut net = Net::forked(2);
        net.forget(1, 0);
        if case == "not admitted" {
            net.admit(0, 1, false);
        }
        for number in 0..3 {
            forward(&mut net, number);
        }
        net.drain(0);
        if case == "removed" {
            net.forget(0, 1);
        }
        if case == "replaced by one that is not admitted" {
            let (now, lapsed) = (net.now, PeerConfig { admits_new: false, ..net::config(1) });
            net.rotate(1);
            net.devices[0].replace_peer(&key(1, 0), key(1, 1), lapsed, now);
        }
        net.pass(100_000);
        net.meet(1, 0);
        net.meet(0, 1);
        net.send(1, 0);
        net.pass(200);
        assert_eq!(net.take_received(1, 0), [0], "{case}");
        assert!(net.take_received(0, 1).is_empty(), "{case}");
        net.send(0, 1);
        net.pass(2_000);
        assert_eq!(net.take_received(0, 1), [0], "{case}: what comes later does not wait");
        let counters = net.devices[0].counters();
        assert_eq!((counters.unanswered, counters.not_admitted), expected, "{case}");
    }
}

#[test]
fn nobody_hears_of_packets_for_a_peer_that_may_not_have_a_tunnel_but_by_their_number() {
    let mut net = Net::forked(2);
    net.admit(0, 1, false);
    let now = net.now;
    for number in 0..50 {
        forward(&mut net, number);
        net.devices[0].handle_packet(&VnetHeader::default(), &net::packet(0, 1, number), now);
    }
    let forwarder = net.forwarders[0].as_mut().unwrap();
    assert!(!forwarder.is_urgent());
    let reports = forwarder.take_reports();
    assert!(matches!(reports[..], [Report::Dropped(_)]));
    assert!(net.devices[0].poll_update().is_none() && net.devices[0].poll_transmit().is_none());
    reports.into_iter().for_each(|report| net.devices[0].handle_report(report, now));
    assert_eq!(net.devices[0].counters().not_admitted, 100);
}

#[test]
fn a_handshake_message_that_comes_to_the_wrong_shard_is_passed_on() {
    // Every datagram comes to the forwarders of these nets, handshakes among them.
    let mut net = Net::forked(2);
    net.send(0, 1);
    net.pass(20);
    assert_eq!(net.take_received(0, 1), [0]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_packet_is_lost_when_keys_change_whoever_moves_the_packets(
        forked in prop::sample::select(vec![[true, true], [true, false], [false, true]]),
        overtaking in prop::option::of(any::<u64>()),
        changes in prop::collection::vec((0..2_usize, 0..300_u64, 0..150_u64), 1..6),
    ) {
        let mut net = Net::forked(2);
        for (forwarder, forked) in net.forwarders.iter_mut().zip(forked) {
            forwarder.take_if(|_| !forked);
        }
        net.flow(50);
        if let Some(seed) = overtaking {
            net.reorder(seed);
        }
        let mut events: Vec<_> = changes.iter().flat_map(|&(node, at, delay)| [(at, node, false), (at + delay, node, true)]).collect();
        events.sort_unstable();
        let mut rotated = [0_usize; 2];
        for time in 0..600 {
            for &(_, node, told) in events.iter().filter(|event| event.0 == time) {
                if told && rotated[node] > 0 {
                    rotated[node] -= 1;
                    net.tell(1 - node, node);
                } else if !told {
                    rotated[node] += 1;
                    net.rotate(node);
                }
            }
            net.flow(1);
        }
        net.pass(100);
        net.assert_all_arrived();
    }
}

/// A packet of node 1 for node 0 in one datagram, from keys that both have.
fn sealed(net: &mut Net) -> Vec<u8> {
    net.devices[1].handle_packet(&VnetHeader::default(), &net::packet(1, 0, 0), net.now);
    net.devices[1].poll_transmit().unwrap().payload
}

#[test]
fn an_answer_goes_to_where_the_question_came_from_whoever_opened_it() {
    let mut net = Net::forked(2);
    net.flow(10);
    net.pass(200);
    let mut third = net.devices[0].fork();
    let source = Source { address: [203, 0, 113, 1].into(), interface: 3 };
    for (number, opens) in (7..).zip(["second", "third", "second", "first"]) {
        let remote = SocketAddr::from(([198, 51, 100, number], 9));
        let elsewhere = Endpoint { remote, source: Some(source) };
        let mut datagram = sealed(&mut net);
        let (length, now) = (datagram.len(), net.now);
        let second = net.forwarders[0].as_mut().unwrap();
        match opens {
            "second" => second.handle_datagrams(elsewhere, &mut datagram, length, now, |_| {}),
            "third" => third.handle_datagrams(elsewhere, &mut datagram, length, now, |_| {}),
            _ => net.devices[0].handle_datagrams(elsewhere, &mut datagram, length, now, |_| {}),
        }
        // Nobody has told anybody anything.
        let packet = net::packet(0, 1, 0);
        second.handle_packet(&VnetHeader::default(), &packet, now);
        third.handle_packet(&VnetHeader::default(), &packet, now);
        net.devices[0].handle_packet(&VnetHeader::default(), &packet, now);
        for sent in [second.poll_transmit(), third.poll_transmit(), net.devices[0].poll_transmit()] {
            let sent = sent.unwrap();
            assert_eq!((sent.to, sent.source), (remote, Some(source)), "opened by the {opens}");
        }
        assert_eq!(net.devices[0].links().next().unwrap().endpoint, remote);
    }
}

#[test]
fn an_answer_is_sealed_in_the_session_that_the_question_came_in_whoever_opened_it() {
    for had_session in [true, false] {
        let mut net = Net::forked(2);
        if had_session {
            net.flow(10);
            net.pass(200);
            net.forget(1, 0);
            net.meet(1, 0);
        }
        let [place_0, place_1] = [0, 1].map(|node| net::config(node).endpoints[0]);
        let now = net.now;
        let mut second = net.forwarders[0].take().unwrap();
        let mut others = [net.devices[0].fork(), net.devices[0].fork()];
        let mut quiet = net.devices[0].fork();
        let header = VnetHeader::default();
        let [one, two]: &mut [Device; 2] = net.devices.first_chunk_mut().unwrap();
        if !had_session {
            // This waits, and nobody hears of it in time.
            let packet = net::packet(0, 1, 0);
            others.iter_mut().for_each(|other| other.handle_packet(&header, &packet, now));
            quiet.handle_packet(&header, &packet, now);
        }
        // The peer begins another session.
        two.handle_packet(&header, &net::packet(1, 0, 0), now);
        let mut initiation = two.poll_transmit().unwrap().payload;
        one.handle_datagrams(place_1, &mut initiation, 148, now, |_| {});
        while let Some(update) = one.poll_update() {
            others.iter_mut().for_each(|other| other.handle_update(update.clone(), now));
            quiet.handle_update(update.clone(), now);
            second.handle_update(update, now);
        }
        let mut response = one.poll_transmit().unwrap().payload;
        two.handle_datagrams(place_0, &mut response, 92, now, |_| {});
        let mut answered = false;
        while let Some(mut question) = two.poll_transmit() {
            second
                .handle_datagrams(place_1, &mut question.payload, question.segment, now, |_| answered = true);
        }
        assert!(answered);
        // Nobody has told anybody anything.
        let mut received = Vec::new();
        let mut take = |mut sent: Transmit| {
            two.handle_datagrams(place_0, &mut sent.payload, sent.segment, now, |packet| {
                received.push(*packet.parts().collect::<Vec<_>>().concat().last().unwrap());
            });
        };
        for other in &mut others {
            other.handle_packet(&header, &net::packet(0, 1, 1), now);
            std::iter::from_fn(|| other.poll_transmit()).for_each(&mut take);
        }
        one.handle_packet(&header, &net::packet(0, 1, 1), now);
        std::iter::from_fn(|| one.poll_transmit()).for_each(&mut take);
        // That packets went before the device heard what for is no reason for a handshake.
        others.iter_mut().flat_map(Forwarder::take_reports).for_each(|report| one.handle_report(report, now));
        assert_eq!(one.poll_transmit(), None);
        // And whoever has only packets that wait hears of it by the device.
        second.take_reports().into_iter().for_each(|report| one.handle_report(report, now));
        std::iter::from_fn(|| one.poll_update()).for_each(|update| quiet.handle_update(update, now));
        std::iter::from_fn(|| quiet.poll_transmit()).for_each(&mut take);
        assert_eq!(received, if had_session { vec![1, 1, 1] } else { vec![0, 1, 0, 1, 1, 0] });
    }
}

#[test]
fn what_is_reported_late_does_not_move_a_peer_back_to_where_it_was() {
    let mut net = Net::forked(2);
    net.flow(10);
    net.pass(200);
    // One more packet, of which the device hears when the peer has been elsewhere for a while.
    net.send(1, 0);
    net.pass(6);
    let late = net.forwarders[0].as_mut().unwrap().take_reports();
    assert!(matches!(late[..], [Report::Received { .. }]));
    let elsewhere: SocketAddr = "198.51.100.7:9".parse().unwrap();
    let mut datagram = sealed(&mut net);
    let length = datagram.len();
    net.pass(1);
    net.devices[0].handle_datagrams(elsewhere, &mut datagram, length, net.now, |_| {});
    for report in late {
        net.devices[0].handle_report(report, net.now);
    }
    assert_eq!(net.devices[0].links().next().unwrap().endpoint, elsewhere);
}

#[test]
fn what_is_reported_under_a_key_that_was_replaced_counts_for_the_new_one() {
    let mut net = Net::forked(2);
    net.flow(10);
    net.pass(200);
    // The peer is not heard of any more, of which only reports under its former key tell.
    forward(&mut net, 0).poll_transmit().unwrap();
    let late = net.forwarders[0].as_mut().unwrap().take_reports();
    assert!(matches!(late[..], [Report::Sent { .. }]));
    net.tell(0, 1);
    for report in late {
        net.devices[0].handle_report(report, net.now);
    }
    // A packet went out under a key that the peer has no longer: there is to be a session with the one that it has.
    net.pass(1);
    assert_eq!(net.initiations[0], 2);
}

#[test]
fn a_key_that_was_replaced_and_is_a_peer_again_is_that_peer() {
    for forked in [true, false] {
        let mut net = if forked { Net::forked(2) } else { Net::new(2) };
        net.flow(10);
        net.pass(200);
        net.devices[0].replace_peer(&key(1, 0), key(9, 9), net::config(1), net.now);
        net.meet(0, 1);
        net.leap(Duration::from_secs(200));
        net.send(1, 0);
        net.pass(20);
        for _ in 0..10 {
            net.send(0, 1);
            net.pass(1);
        }
        net.pass(200);
        net.assert_all_arrived();
    }
}

#[test]
fn what_could_not_be_sealed_in_the_past_begins_no_handshake_where_there_are_keys_by_now() {
    let mut net = Net::forked(2);
    net.flow(10);
    net.pass(200);
    // A packet waits to be sealed when the keys end.
    forward(&mut net, 10);
    net.devices[0].remove_peer(&key(1, 0));
    let forwarder = net.forwarders[0].as_mut().unwrap();
    assert!(forwarder.poll_transmit().is_none());
    let late = forwarder.take_reports();
    let unsealed = |report: &Report| matches!(report, Report::Unsealed { .. });
    assert!(late.iter().any(unsealed));
    net.meet(0, 1);
    net.flow(10);
    net.pass(6_000);
    let before = net.initiations[0];
    late.into_iter().for_each(|report| net.devices[0].handle_report(report, net.now));
    net.pass(200);
    assert_eq!(net.initiations[0], before);
    assert_eq!(net.devices[0].counters().no_key, 1);
}

#[test]
fn what_is_reported_late_begins_no_handshake_with_a_peer_that_is_not_admitted_any_more() {
    for unsealed in [false, true] {
        let mut net = Net::forked(2);
        net.flow(10);
        net.pass(200);
        let forwarder = forward(&mut net, 0);
        if !unsealed {
            assert!(forwarder.poll_transmit().is_some());
        }
        net.devices[0].remove_peer(&key(1, 0));
        net.devices[0].set_peer(key(1, 0), PeerConfig { admits_new: false, ..net::config(1) });
        let forwarder = net.forwarders[0].as_mut().unwrap();
        assert!(forwarder.poll_transmit().is_none());
        let late = forwarder.take_reports();
        assert!(matches!(late[0], Report::Sent { .. } | Report::Unsealed { .. }));
        for report in late {
            net.devices[0].handle_report(report, net.now);
        }
        assert!(net.devices[0].poll_transmit().is_none(), "unsealed: {unsealed}");
    }
}

#[test]
fn a_packet_that_was_answered_before_it_is_reported_is_not_waited_for() {
    let mut net = Net::forked(2);
    net.flow(10);
    net.pass(200);
    // One thread sends, and the device's own takes what comes.
    let mut forwarder = net.forwarders[0].take().unwrap();
    forwarder.handle_packet(&VnetHeader::default(), &net::packet(0, 1, 10), net.now);
    let sent = forwarder.poll_transmit().unwrap();
    net.post_all(0, &sent);
    net.pass(6);
    net.send(1, 0);
    net.pass(6);
    assert!(!forwarder.is_urgent());
    for report in forwarder.take_reports() {
        net.devices[0].handle_report(report, net.now);
    }
    // The answer asks for a keepalive. Without it the peer would begin a handshake, and so would this node if it took the answer for missing.
    net.pass(30_000);
    assert_eq!(net.initiations, [1, 1]);
}

#[test]
fn a_session_that_is_too_old_is_replaced_by_the_next_packet() {
    let mut net = Net::forked(2);
    net.flow(10);
    net.pass(20);
    net.leap(Duration::from_secs(200));
    net.send(0, 1);
    net.pass(20);
    net.assert_all_arrived();
}
