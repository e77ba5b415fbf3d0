mod keys;
mod malformed;
mod removal;
mod responses;

use std::{
    collections::VecDeque,
    ops::{Deref, DerefMut},
};

use proptest::prelude::*;

use super::*;
use crate::{Direction, Ecn, MAX_DATAGRAM, addresses, own_keys::HANDSHAKES_PER_SECOND};

const ONE: &str = "192.0.2.1:51820";
const TWO: &str = "192.0.2.2:51820";

fn secret(n: u8) -> WireGuardSecret {
    WireGuardSecret::from_bytes([n; 32])
}

fn peer(allowed_ips: &[&str], endpoints: &[&str]) -> PeerConfig {
    PeerConfig {
        allowed_ips: allowed_ips.iter().map(|text| text.parse().unwrap()).collect(),
        endpoints: endpoints.iter().map(|text| text.parse().unwrap()).collect(),
        admits_new: true,
    }
}

/// A seed, and a wall clock that stands still.
struct Simulated(u8);

impl Outside for Simulated {
    fn random(&mut self, buffer: &mut [u8]) {
        for byte in buffer {
            self.0 = self.0.wrapping_mul(5).wrapping_add(3);
            *byte = self.0;
        }
    }

    fn wall_clock(&mut self) -> Duration {
        Duration::from_secs(1_800_000_000)
    }
}

/// A device, and the packets that came out of it.
struct Host {
    device: Device,
    packets: VecDeque<Vec<u8>>,
}

impl Deref for Host {
    type Target = Device;

    fn deref(&self) -> &Device {
        &self.device
    }
}

impl DerefMut for Host {
    fn deref_mut(&mut self) -> &mut Device {
        &mut self.device
    }
}

impl Host {
    fn new(secret: &WireGuardSecret, outside: Simulated) -> Self {
        Self { device: Device::new(secret, outside), packets: VecDeque::new() }
    }

    fn handle_packet(&mut self, packet: &[u8], now: Instant) {
        self.device.handle_packet(&VnetHeader::default(), packet, now);
    }

    fn handle_datagram(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) {
        self.handle_datagrams(from, datagram, datagram.len(), now);
    }

    fn handle_datagrams(&mut self, from: SocketAddr, datagrams: &[u8], segment: usize, now: Instant) {
        let packets = &mut self.packets;
        self.device.handle_datagrams(from, &mut datagrams.to_vec(), segment, now, |packet| {
            packets.push_back(packet.parts().collect::<Vec<_>>().concat());
        });
    }

    fn poll_packet(&mut self) -> Option<Vec<u8>> {
        self.packets.pop_front()
    }
}

/// Two hosts that know each other: 10.1.0.0/16 behind the one, 10.2.0.0/16 behind the other.
fn pair() -> (Host, Host) {
    let (mut one, mut two) = (Host::new(&secret(1), Simulated(1)), Host::new(&secret(2), Simulated(2)));
    one.set_own(vec!["10.1.0.0/16".parse().unwrap()]);
    two.set_own(vec!["10.2.0.0/16".parse().unwrap()]);
    one.set_peer(secret(2).public(), peer(&["10.2.0.0/16"], &[TWO]));
    two.set_peer(secret(1).public(), peer(&["10.1.0.0/16"], &[ONE]));
    (one, two)
}

fn packet(from: [u8; 4], to: [u8; 4]) -> Vec<u8> {
    let mut packet = vec![0; 28];
    packet[0] = 0x45;
    packet[3] = 28;
    packet[12..16].copy_from_slice(&from);
    packet[16..20].copy_from_slice(&to);
    packet
}

/// Carries datagrams between the two until neither has one. Returns how many there were.
fn exchange(one: &mut Host, two: &mut Host, now: Instant) -> usize {
    let mut count = 0;
    loop {
        if let Some(transmit) = one.poll_transmit() {
            assert_eq!(transmit.to, TWO.parse().unwrap());
            two.handle_datagrams(ONE.parse().unwrap(), &transmit.payload, transmit.segment, now);
        } else if let Some(transmit) = two.poll_transmit() {
            assert_eq!(transmit.to, ONE.parse().unwrap());
            one.handle_datagrams(TWO.parse().unwrap(), &transmit.payload, transmit.segment, now);
        } else {
            return count;
        }
        count += 1;
    }
}

fn connected() -> (Host, Host, Instant) {
    let (mut one, mut two) = pair();
    let now = Instant::now_for_tests();
    one.handle_packet(&packet([10, 1, 0, 1], [10, 2, 0, 1]), now);
    exchange(&mut one, &mut two, now);
    assert!(two.poll_packet().is_some());
    (one, two, now)
}

trait InstantForTests {
    fn now_for_tests() -> Self;
}

impl InstantForTests for Instant {
    #[expect(clippy::disallowed_methods, reason = "an `Instant` to count from; no test depends on which")]
    fn now_for_tests() -> Self {
        Self::now()
    }
}

#[test]
fn a_packet_reaches_the_peer_that_its_destination_belongs_to() {
    let (mut one, mut two) = pair();
    let now = Instant::now_for_tests();
    let sent = packet([10, 1, 0, 1], [10, 2, 0, 1]);
    one.handle_packet(&sent, now);
    assert_eq!(
        exchange(&mut one, &mut two, now),
        4,
        "initiation, response, keepalive, and the packet that waited"
    );
    assert_eq!(two.poll_packet(), Some(sent));
    let link = one.links().next().unwrap();
    assert_eq!((link.endpoint, link.tx_bytes), (TWO.parse().unwrap(), 28));
    assert!(link.rtt.is_some());
    assert_eq!(two.links().next().unwrap().rx_bytes, 28);
}

#[test]
fn nobody_waits_any_more_for_a_key_that_was_replaced() {
    let (mut one, _) = pair();
    let now = Instant::now_for_tests();
    one.handle_packet(&packet([10, 1, 0, 1], [10, 2, 0, 1]), now);
    assert!(one.wanted.iter().eq([&secret(2).public()]));
    one.replace_peer(&secret(2).public(), secret(3).public(), peer(&["10.2.0.0/16"], &[TWO]), now);
    assert!(one.wanted.iter().eq([&secret(3).public()]));
    one.remove_peer(&secret(3).public());
    assert!(one.wanted.is_empty());
}

#[test]
fn there_is_no_tunnel_before_there_is_traffic() {
    let (one, two) = pair();
    for device in [one, two] {
        assert_eq!(device.poll_timeout(), None);
        assert!(device.slots.is_empty());
    }
}

#[test]
fn changes_of_keys_in_a_row_leave_a_bounded_number_of_tunnels() {
    let (mut one, mut two, now) = connected();
    for generation in 10..30 {
        let (old, new) = (one.keys.current.public, secret(generation));
        two.replace_peer(&old, new.public(), peer(&["10.1.0.0/16"], &[ONE]), now);
        one.rotate(&new, now);
        one.handle_packet(&packet([10, 1, 0, 1], [10, 2, 0, 1]), now);
        exchange(&mut one, &mut two, now);
    }
    assert_eq!((one.slots.len(), two.slots.len()), (5, 5));
    one.handle_timeout(now + FORMER_KEY_LIFE);
    two.handle_timeout(now + REPLACED_KEY_LIFE);
    assert_eq!((one.slots.len(), two.slots.len()), (1, 1));
    assert!(one.keys.former().is_none() && two.replaced.is_empty());
    one.handle_packet(&packet([10, 1, 0, 1], [10, 2, 0, 1]), now);
    exchange(&mut one, &mut two, now);
    assert_eq!(std::iter::from_fn(|| two.poll_packet()).count(), 21);
}

#[test]
fn a_packet_for_nobody_goes_nowhere() {
    let (mut one, ..) = connected();
    one.handle_packet(&packet([10, 1, 0, 1], [10, 3, 0, 1]), Instant::now_for_tests());
    assert_eq!(one.poll_transmit(), None);
    assert_eq!(one.counters().no_peer, 1);
}

#[test]
fn a_peer_cannot_send_from_an_address_that_is_not_its_own() {
    let (mut one, mut two, now) = connected();
    one.handle_packet(&packet([10, 9, 0, 1], [10, 2, 0, 1]), now);
    exchange(&mut one, &mut two, now);
    assert_eq!(two.poll_packet(), None);
    assert_eq!(two.counters().spoofed, 1);

    two.set_peer(secret(3).public(), peer(&["10.1.0.1/32"], &[]));
    one.handle_packet(&packet([10, 1, 0, 1], [10, 2, 0, 1]), now);
    exchange(&mut one, &mut two, now);
    assert_eq!(two.poll_packet(), None, "a longer prefix of another peer takes the address away");
}

#[test]
fn a_peer_cannot_use_this_node_as_a_way_to_elsewhere() {
    let (mut one, mut two, now) = connected();
    one.set_peer(secret(2).public(), peer(&["10.2.0.0/16", "203.0.113.0/24"], &[TWO]));
    one.handle_packet(&packet([10, 1, 0, 1], [203, 0, 113, 1]), now);
    exchange(&mut one, &mut two, now);
    assert_eq!(two.poll_packet(), None);
    assert_eq!(two.counters().not_for_us, 1);
}

#[test]
fn a_removed_peer_is_heard_and_answered_no_more() {
    let (mut one, mut two, now) = connected();
    two.remove_peer(&secret(1).public());
    one.handle_packet(&packet([10, 1, 0, 1], [10, 2, 0, 1]), now);
    assert!(exchange(&mut one, &mut two, now) > 0);
    assert_eq!(two.poll_packet(), None);
    two.handle_packet(&packet([10, 2, 0, 1], [10, 1, 0, 1]), now);
    assert_eq!(two.poll_transmit(), None);
    assert!(two.slots.is_empty());
}

#[test]
fn a_replayed_datagram_is_refused() {
    let (mut one, mut two, now) = connected();
    one.handle_packet(&packet([10, 1, 0, 1], [10, 2, 0, 1]), now);
    let transmit = one.poll_transmit().unwrap();
    two.handle_datagram(ONE.parse().unwrap(), &transmit.payload, now);
    assert!(two.poll_packet().is_some());
    let refused = two.counters().refused;
    two.handle_datagram(ONE.parse().unwrap(), &transmit.payload, now);
    assert_eq!(two.poll_packet(), None);
    assert_eq!(two.counters().refused, refused + 1);
}

#[test]
fn a_replayed_initiation_is_refused_and_leaves_nothing_though_the_tunnel_that_took_it_is_gone() {
    let (mut one, mut two) = pair();
    let mut now = Instant::now_for_tests();
    one.handle_packet(&packet([10, 1, 0, 1], [10, 2, 0, 1]), now);
    let initiation = one.poll_transmit().unwrap().payload;
    two.handle_datagram(ONE.parse().unwrap(), &initiation, now);
    let response = two.poll_transmit().unwrap().payload;
    one.handle_datagram(TWO.parse().unwrap(), &response, now);
    exchange(&mut one, &mut two, now);
    while two.poll_timeout().is_some() {
        now += TICK;
        two.handle_timeout(now);
    }
    assert!(two.slots.is_empty());
    std::iter::from_fn(|| two.poll_transmit()).for_each(drop);
    let refused = two.counters().refused;
    two.handle_datagram("198.51.100.7:9".parse().unwrap(), &initiation, now);
    assert_eq!((two.counters().refused, two.poll_transmit()), (refused + 1, None));
    two.handle_timeout(now + TICK);
    assert!(two.slots.is_empty() && two.poll_timeout().is_none());
}

#[test]
fn junk_with_a_right_first_mac_makes_peers_prove_where_they_are_for_a_second() {
    let (mut one, mut two) = pair();
    let now = Instant::now_for_tests();
    one.handle_packet(&packet([10, 1, 0, 1], [10, 2, 0, 1]), now);
    let initiation = one.poll_transmit().unwrap().payload;
    for _ in 0..HANDSHAKES_PER_SECOND {
        two.handle_datagram("198.51.100.7:9".parse().unwrap(), &initiation, now);
    }
    std::iter::from_fn(|| two.poll_transmit()).for_each(drop);
    let challenged = |two: &mut Host, now| {
        two.handle_datagram(ONE.parse().unwrap(), &initiation, now);
        two.poll_transmit().is_some_and(|answer| answer.payload.len() == 64)
    };
    assert!(challenged(&mut two, now));
    assert!(!challenged(&mut two, now + Duration::from_secs(1)), "a replay, which gets no answer");
}

#[test]
fn whoever_has_proved_its_address_still_may_not_begin_as_many_handshakes_as_it_likes() {
    let (mut one, mut two) = pair();
    let begun = Instant::now_for_tests();
    let junk_comes = |two: &mut Host, junk: &[u8], now| {
        for _ in 0..=HANDSHAKES_PER_SECOND {
            two.handle_datagram("198.51.100.7:9".parse().unwrap(), junk, now);
        }
        std::iter::from_fn(|| two.poll_transmit()).for_each(drop);
    };
    one.handle_packet(&packet([10, 1, 0, 1], [10, 2, 0, 1]), begun);
    let junk = one.poll_transmit().unwrap().payload;
    junk_comes(&mut two, &junk, begun);
    two.handle_datagram(ONE.parse().unwrap(), &junk, begun);
    let cookie = two.poll_transmit().unwrap();
    one.handle_datagram(TWO.parse().unwrap(), &cookie.payload, begun);
    // The next initiation has the cookie.
    let mut now = begun;
    let initiation = loop {
        now += TICK;
        assert!(now < begun + Duration::from_secs(9), "no second initiation");
        one.handle_timeout(now);
        if let Some(transmit) = one.poll_transmit().filter(|transmit| transmit.payload.len() == 148)
            && now > begun + Duration::from_secs(5)
        {
            break transmit.payload;
        }
    };
    junk_comes(&mut two, &junk, now);
    let Host { device: Device { keys, surroundings, .. }, .. } = &mut two;
    let mut admitted = |from: &str, now| {
        let claim =
            keys.claim(from.parse().unwrap(), MessageType::Initiation, &initiation, surroundings, now);
        matches!(claim, Claim::Initiation(_))
    };
    assert_eq!((0..100).filter(|_| admitted(ONE, now)).count(), 5);
    assert!(!admitted("192.0.2.1:1", now), "and none without a cookie");
    now += Duration::from_millis(50);
    assert_eq!((0..100).filter(|_| admitted(ONE, now)).count(), 1);

    // Nor may its responses cost more.
    two.handle_packet(&packet([10, 2, 0, 1], [10, 1, 0, 1]), now);
    let initiation = std::iter::from_fn(|| two.poll_transmit()).last().unwrap().payload;
    one.handle_datagram(TWO.parse().unwrap(), &initiation, now);
    let response = one.poll_transmit().unwrap().payload;
    assert_eq!(response.len(), 92);
    let mut is_taken = |now| {
        two.handle_datagram(ONE.parse().unwrap(), &response, now);
        two.poll_transmit().is_some()
    };
    assert!(!is_taken(now));
    assert!(is_taken(now + Duration::from_millis(50)), "the packet goes");
}

#[test]
fn a_first_initiation_that_is_lost_is_repeated_for_a_minute_and_a_half_after_the_last_packet() {
    let (mut one, mut two) = pair();
    let begun = Instant::now_for_tests();
    one.handle_packet(&packet([10, 1, 0, 1], [10, 2, 0, 1]), begun);
    let mut sent = vec![];
    let mut now = begun;
    while one.poll_timeout().is_some() {
        for transmit in std::iter::from_fn(|| one.poll_transmit()) {
            assert_eq!(transmit.payload.len(), 148);
            sent.push(now - begun);
        }
        now += TICK;
        one.handle_timeout(now);
    }
    let after_seconds = sent.iter().filter(|sent| **sent >= Duration::from_secs(5)).count();
    assert!((15..=18).contains(&after_seconds), "{sent:?}");
    assert!(sent.last().unwrap() > &Duration::from_secs(80), "{sent:?}");
    assert_eq!(one.counters().unanswered, 1);
    // And the one that is not lost brings the packet there, however late.
    one.handle_packet(&packet([10, 1, 0, 1], [10, 2, 0, 1]), now);
    std::iter::from_fn(|| one.poll_transmit()).for_each(drop);
    let lost_until = now + Duration::from_secs(20);
    while two.poll_packet().is_none() {
        now += TICK;
        assert!(now < lost_until + Duration::from_secs(6), "no handshake");
        one.handle_timeout(now);
        if now < lost_until {
            std::iter::from_fn(|| one.poll_transmit()).for_each(drop);
        } else {
            exchange(&mut one, &mut two, now);
        }
    }
}

#[test]
fn a_message_of_this_host_that_a_route_leads_into_its_own_tunnel_is_not_sealed_again() {
    let (mut one, mut two, now) = connected();
    one.handle_packet(&packet([10, 1, 0, 1], [10, 2, 0, 1]), now);
    let sealed = one.poll_transmit().unwrap();
    let SocketAddr::V4(to) = sealed.to else { panic!("it is an IPv4 address") };
    one.set_peer(secret(2).public(), peer(&["10.2.0.0/16", "192.0.2.0/24"], &[TWO]));
    let looped = |to: std::net::Ipv4Addr, port: u16, payload: &[u8]| {
        let mut packet = packet([192, 0, 2, 1], to.octets());
        packet[9] = 17;
        packet[2..4].copy_from_slice(&(28 + payload.len() as u16).to_be_bytes());
        packet[20..22].copy_from_slice(&51820_u16.to_be_bytes());
        packet[22..24].copy_from_slice(&port.to_be_bytes());
        packet[24..26].copy_from_slice(&(8 + payload.len() as u16).to_be_bytes());
        packet.extend(payload);
        packet
    };
    one.handle_packet(&looped(*to.ip(), to.port(), &sealed.payload), now);
    assert_eq!((one.poll_transmit(), one.counters().looped), (None, 1));
    // Nor in that of another peer.
    one.set_peer(secret(2).public(), peer(&["10.2.0.0/16"], &[TWO]));
    one.set_peer(secret(3).public(), peer(&["192.0.2.0/24"], &["192.0.2.3:51820"]));
    one.handle_packet(&looped(*to.ip(), to.port(), &sealed.payload), now);
    assert_eq!((one.poll_transmit(), one.counters().looped), (None, 2));
    one.remove_peer(&secret(3).public());
    one.set_peer(secret(2).public(), peer(&["10.2.0.0/16", "192.0.2.0/24"], &[TWO]));
    // Another tunnel through this one is none of that: another session, or to somewhere else.
    let mut other = sealed.payload.clone();
    other[4] ^= 1;
    for packet in [
        looped(*to.ip(), to.port(), &other),
        looped(*to.ip(), to.port() + 1, &sealed.payload),
        looped("192.0.2.9".parse().unwrap(), to.port(), &sealed.payload),
    ] {
        one.handle_packet(&packet, now);
        assert_eq!(exchange(&mut one, &mut two, now), 1);
    }
    assert_eq!(one.counters().looped, 2);
}

#[test]
fn a_replayed_initiation_is_refused_though_keys_went_and_came_back_since() {
    let (mut one, mut two, mut now) = connected();
    let mut shake = |one: &mut Host, two: &mut Host| {
        now += Duration::from_secs(10);
        one.set_peer(two.keys.current.public, peer(&["10.2.0.0/16"], &[TWO]));
        one.handle_packet(&packet([10, 1, 0, 1], [10, 2, 0, 1]), now);
        let initiation = one.poll_transmit().unwrap();
        two.handle_datagrams(ONE.parse().unwrap(), &initiation.payload, initiation.segment, now);
        exchange(one, two, now);
        assert!(two.poll_packet().is_some());
        one.remove_peer(&two.keys.current.public);
        (initiation.payload, now)
    };
    one.remove_peer(&secret(2).public());
    let (initiation, now) = shake(&mut one, &mut two);
    two.rotate(&secret(3), now);
    let (_, now) = shake(&mut one, &mut two);
    two.rotate(&secret(2), now);
    let refused = two.counters().refused;
    two.handle_datagram("198.51.100.7:9".parse().unwrap(), &initiation, now + Duration::from_secs(1));
    assert_eq!((two.poll_transmit(), two.counters().refused), (None, refused + 1));
}

#[test]
fn a_packet_is_padded_to_sixteen_bytes_but_not_beyond_the_mtu() {
    let (mut one, mut two, now) = connected();
    one.set_mtu(1_281);
    for (length, expected) in [(28, 32), (1_280, 1_280), (1_281, 1_281)] {
        let mut sent = packet([10, 1, 0, 1], [10, 2, 0, 1]);
        sent.resize(length, 7);
        sent[2..4].copy_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
        one.handle_packet(&sent, now);
        let transmit = one.poll_transmit().unwrap();
        assert_eq!(transmit.payload.len(), expected + 32);
        two.handle_datagram(ONE.parse().unwrap(), &transmit.payload, now);
        assert_eq!(two.poll_packet(), Some(sent));
    }
}

#[test]
fn a_peer_that_tells_of_another_endpoint_is_looked_for_at_once_and_found_where_it_answers() {
    const NEW: &str = "192.0.2.99:51820";
    let (mut one, mut two, now) = connected();
    one.set_peer(secret(2).public(), peer(&["10.2.0.0/16"], &[NEW]));
    one.handle_timeout(now + TICK);
    let sent: Vec<_> = std::iter::from_fn(|| one.poll_transmit()).collect();
    let to: Vec<_> = sent.iter().map(|transmit| transmit.to.to_string()).collect();
    assert_eq!(to, [TWO, NEW], "it may still be where it was heard of");
    two.handle_datagram(ONE.parse().unwrap(), &sent[1].payload, now + TICK);
    let answer = two.poll_transmit().unwrap();
    one.handle_datagram(NEW.parse().unwrap(), &answer.payload, now + TICK);
    assert_eq!(one.links().next().unwrap().endpoint, NEW.parse().unwrap());

    one.set_peer(secret(2).public(), peer(&["10.2.0.0/16"], &[NEW, TWO]));
    std::iter::from_fn(|| one.poll_transmit()).for_each(drop);
    one.handle_timeout(now + 2 * TICK);
    assert_eq!(one.poll_transmit(), None, "it is where it says");
}

#[test]
fn a_peer_roams_with_authentic_messages_only() {
    let (mut one, mut two, now) = connected();
    let elsewhere: SocketAddr = "198.51.100.7:9".parse().unwrap();
    one.handle_packet(&packet([10, 1, 0, 1], [10, 2, 0, 1]), now);
    let mut payload = one.poll_transmit().unwrap().payload;
    let authentic = payload.clone();
    *payload.last_mut().unwrap() ^= 1;
    two.handle_datagram(elsewhere, &payload, now);
    assert_eq!(two.links().next().unwrap().endpoint, ONE.parse().unwrap());
    two.handle_datagram(elsewhere, &authentic, now);
    assert_eq!(two.links().next().unwrap().endpoint, elsewhere);
}

#[test]
fn a_handshake_tries_every_endpoint_and_keeps_the_first_that_answers() {
    let (mut one, mut two) = pair();
    let now = Instant::now_for_tests();
    one.set_peer(secret(2).public(), peer(&["10.2.0.0/16"], &["203.0.113.9:1", TWO]));
    one.handle_packet(&packet([10, 1, 0, 1], [10, 2, 0, 1]), now);
    let tried: Vec<SocketAddr> = std::iter::from_fn(|| one.poll_transmit())
        .map(|transmit| {
            two.handle_datagram(ONE.parse().unwrap(), &transmit.payload, now);
            transmit.to
        })
        .collect();
    assert_eq!(tried, ["203.0.113.9:1".parse().unwrap(), TWO.parse().unwrap()]);
    exchange(&mut one, &mut two, now);
    assert!(two.poll_packet().is_some());
    assert_eq!(one.links().next().unwrap().endpoint, TWO.parse().unwrap());
}

#[test]
fn datagrams_of_every_length_do_no_harm() {
    let (mut one, mut two, now) = connected();
    let junk = vec![0xa5; MAX_DATAGRAM];
    for first in [0, 1, 2, 3, 4, 0xa5] {
        let mut junk = junk.clone();
        junk[..4].copy_from_slice(&[first, 0, 0, 0]);
        for length in (0..2048).chain((2048..=MAX_DATAGRAM).step_by(997)).chain([MAX_DATAGRAM]) {
            two.handle_datagram(ONE.parse().unwrap(), &junk[..length], now);
        }
    }
    assert_eq!(two.poll_packet(), None);
    one.handle_packet(&packet([10, 1, 0, 1], [10, 2, 0, 1]), now);
    exchange(&mut one, &mut two, now);
    assert!(two.poll_packet().is_some());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn an_altered_handshake_or_datagram_never_panics(at: prop::sample::Index, flip in 1..=255_u8, cut: prop::sample::Index) {
        let (mut one, mut two) = pair();
        let now = Instant::now_for_tests();
        one.handle_packet(&packet([10, 1, 0, 1], [10, 2, 0, 1]), now);
        let mut payload = one.poll_transmit().unwrap().payload;
        let at = at.index(payload.len());
        payload[at] ^= flip;
        two.handle_datagram(ONE.parse().unwrap(), &payload, now);
        two.handle_datagram(ONE.parse().unwrap(), &payload[..cut.index(payload.len())], now);
        prop_assert_eq!(two.poll_packet(), None);
    }
}

#[test]
fn a_filter_sees_both_ways_and_what_it_refuses_does_not_pass() {
    let (mut one, mut two, now) = connected();
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let notes = seen.clone();
    one.device.set_filter(Some(std::sync::Arc::new(move |direction, packet: &[u8]| {
        notes.lock().unwrap().push((direction, packet.len()));
        packet[19] != 9
    })));
    for last in [1, 9] {
        one.handle_packet(&packet([10, 1, 0, 1], [10, 2, 0, last]), now);
        two.handle_packet(&packet([10, 2, 0, 1], [10, 1, 0, last]), now);
    }
    exchange(&mut one, &mut two, now);
    assert!(two.poll_packet().is_some() && two.poll_packet().is_none());
    assert!(one.poll_packet().is_some() && one.poll_packet().is_none());
    assert_eq!(one.device.counters().filtered, 2);
    let (out, back) = ((Direction::Out, 28), (Direction::In, 28));
    assert_eq!(*seen.lock().unwrap(), [out, out, back, back]);
}

#[test]
fn whoever_sends_more_than_the_path_takes_is_told_and_nothing_goes_out() {
    let (mut one, mut two, now) = connected();
    one.device.set_path_mtu(&secret(2).public(), Some(100));
    let mut long = packet([10, 1, 0, 1], [10, 2, 0, 1]);
    long.resize(101, 0);
    (long[3], long[6]) = (101, 0x40);
    one.handle_packet(&long, now);
    assert_eq!(exchange(&mut one, &mut two, now), 0);
    assert_eq!(one.device.counters().too_big, 1);
    let answer = one.device.poll_answer().expect("the sender is told");
    assert_eq!(addresses(&answer).unwrap().destination.to_string(), "10.1.0.1");
    assert_eq!(answer[26..28], [0, 100]);
    assert_eq!(one.device.poll_answer(), None);
    long.truncate(100);
    long[3] = 100;
    one.handle_packet(&long, now);
    exchange(&mut one, &mut two, now);
    assert_eq!(two.poll_packet(), Some(long));
}

#[test]
fn a_connection_is_told_what_fits_whichever_end_clamps() {
    let (mut one, mut two, now) = connected();
    // With MTU 1420 here and 1300 there, each end's SYN offers what fits through both.
    one.device.set_path_mtu(&secret(2).public(), Some(1300));
    let syn = |from, to| {
        let mut syn = packet(from, to);
        syn.resize(44, 0);
        (syn[3], syn[9], syn[32], syn[33]) = (44, 6, 0x60, 2);
        syn[40..44].copy_from_slice(&[2, 4, 0xff, 0xff]);
        syn
    };
    one.handle_packet(&syn([10, 1, 0, 1], [10, 2, 0, 1]), now);
    two.handle_packet(&syn([10, 2, 0, 1], [10, 1, 0, 1]), now);
    exchange(&mut one, &mut two, now);
    for host in [&mut one, &mut two] {
        assert_eq!(host.poll_packet().unwrap()[40..44], [2, 4, 0x04, 0xec], "1,260");
    }
}

#[test]
fn packets_of_one_turn_go_together_and_those_of_a_peer_that_is_gone_do_not_go() {
    let (mut one, mut two, now) = connected();
    let send = |one: &mut Host| {
        (0..10).for_each(|_| one.handle_packet(&packet([10, 1, 0, 1], [10, 2, 0, 1]), now));
    };
    send(&mut one);
    assert_eq!(exchange(&mut one, &mut two, now), 1, "in one call");
    assert_eq!(std::iter::from_fn(|| two.poll_packet()).count(), 10);
    send(&mut one);
    one.device.remove_peer(&secret(2).public());
    assert_eq!(exchange(&mut one, &mut two, now), 0);
}

#[test]
fn what_the_network_marked_instead_of_dropping_it_tells_its_receiver_or_is_dropped_here() {
    let (mut one, mut two, now) = connected();
    let mut capable = packet([10, 1, 0, 1], [10, 2, 0, 1]);
    capable[1] = 0xb8 | Ecn::Capable0 as u8;
    for packet in [&capable, &packet([10, 1, 0, 1], [10, 2, 0, 1])] {
        one.handle_packet(packet, now);
        let mut sent = one.poll_transmit().unwrap();
        let arrival = Arrival { from: ONE.parse::<SocketAddr>().unwrap().into(), ecn: Ecn::Congestion };
        let packets = &mut two.packets;
        two.device.handle_datagrams(arrival, &mut sent.payload, sent.segment, now, |packet| {
            packets.push_back(packet.parts().collect::<Vec<_>>().concat());
        });
    }
    assert_eq!(two.poll_packet().map(|packet| packet[1]), Some(0xb8 | Ecn::Congestion as u8));
    assert_eq!(two.poll_packet(), None);
    assert_eq!(two.counters().congested, 1);
}
