use std::collections::VecDeque;

use super::*;
use crate::{Transmit, forwarder::Forwarder, offload::VnetHeader};

#[test]
fn a_device_without_a_key_sends_nothing_and_begins_when_it_gets_one() {
    let mut pair = Pair::new();
    pair.one.set_secret(None, pair.now);
    pair.send(0);
    pair.wait(Duration::from_secs(30));
    assert_eq!(pair.carried, 0);
    pair.one.set_secret(Some(&secret(1)), pair.now);
    pair.send(0);
    assert_eq!(pair.exchange(), 1);
}

#[test]
fn a_mute_peer_has_what_it_was_given_and_neither_sends_nor_gets_anything() {
    let mut pair = Pair::new();
    pair.one.remove_peer(&key(2));
    pair.one.add_mute_peer(key(2));
    pair.one.allow(&key(2), "10.0.0.2/32".parse().unwrap());
    pair.one.set_endpoint(&key(2), "192.0.2.2:51820".parse().unwrap(), pair.now);
    pair.one.set_persistent_keepalive(&key(2), Some(Duration::from_secs(1)), pair.now);
    // Whatever key the device has.
    for secret in [None, Some(&secret(1))] {
        pair.one.set_secret(secret, pair.now);
        pair.send(0);
        pair.wait(Duration::from_secs(30));
    }
    assert_eq!((pair.carried, pair.transfer()[0]), (0, (0, 0)));
    let shown: Vec<_> = pair.one.peers(None).map(|peer| (peer.key, peer.allowed_ips.len())).collect();
    assert_eq!(shown, [(key(2), 1)]);
    // Nor is it answered.
    pair.two.set_endpoint(&key(1), pair.places[0], pair.now);
    pair.send(1);
    pair.wait(Duration::from_secs(30));
    assert!(pair.carried > 0);
    assert_eq!(pair.transfer()[0], (0, 0));
    // Until it is a peer like any other.
    pair.one.remove_peer(&key(2));
    pair.one.add_peer(key(2));
    pair.one.allow(&key(2), "10.0.0.2/32".parse().unwrap());
    pair.one.set_endpoint(&key(2), pair.places[1], pair.now);
    pair.wait(Duration::from_secs(30));
    pair.send(0);
    // Its own packet waited for that, too.
    assert_eq!(pair.exchange(), 2);
}

#[test]
fn counters_count_every_message_as_it_is_on_the_wire() {
    let mut pair = Pair::new();
    pair.send(0);
    assert_eq!(pair.exchange(), 1);
    // Initiation, response, and a packet of 28 bytes padded to 32; the initiator may have sent a keepalive before it.
    let [one, two] = pair.transfer();
    assert!(one.0 == 92 && [148 + 64, 148 + 32 + 64].contains(&one.1), "{one:?}");
    assert_eq!(two, (one.1, one.0));
    // They are not forgotten with the tunnel.
    pair.one.set_secret(Some(&secret(3)), pair.now);
    assert_eq!(pair.transfer()[0], one);
}

#[test]
fn every_inner_destination_is_taken_and_only_the_peers_own_source() {
    let mut pair = Pair::new();
    pair.send(0);
    pair.exchange();
    pair.one.allow(&key(2), "10.9.0.0/16".parse().unwrap());
    pair.send_packet(0, [10, 0, 0, 1], [10, 9, 9, 9]);
    assert_eq!(pair.exchange(), 1);
    pair.send_packet(0, [10, 0, 0, 7], [10, 9, 9, 9]);
    assert_eq!((pair.exchange(), pair.two.counters().spoofed), (0, 1));
}

#[test]
fn a_prefix_has_one_owner_and_goes_with_it() {
    let mut pair = Pair::new();
    let prefix = "10.0.0.2/32".parse().unwrap();
    pair.one.add_peer(key(9));
    pair.one.allow(&key(9), prefix);
    let owners = |device: &Device| {
        let peers = device.peers(None).filter(|peer| peer.allowed_ips.contains(&prefix));
        peers.map(|peer| peer.key).collect::<Vec<_>>()
    };
    assert_eq!(owners(&pair.one), [key(9)]);
    pair.one.disallow(&key(2), prefix);
    assert_eq!(owners(&pair.one), [key(9)], "it is not that peer's to lose");
    pair.one.allow(&key(2), prefix);
    assert_eq!(owners(&pair.one), [key(2)]);
    pair.one.remove_peer(&key(9));
    pair.send(0);
    assert_eq!(pair.exchange(), 1, "it is the other peer's still");
    pair.one.disallow_all(&key(2));
    pair.send(0);
    assert_eq!((pair.exchange(), pair.one.counters().no_peer), (0, 1));
}

#[test]
fn a_preshared_key_counts_from_the_next_handshake_on() {
    let mut pair = Pair::new();
    pair.send(0);
    assert_eq!(pair.exchange(), 1);
    pair.one.set_preshared_key(&key(2), PresharedKey::from_bytes([7; 32]));
    pair.send(0);
    assert_eq!(pair.exchange(), 1, "the session goes on");
    pair.wait(Duration::from_secs(181));
    pair.send(0);
    assert_eq!(pair.exchange(), 0, "the other one does not know it");
    pair.two.set_preshared_key(&key(1), PresharedKey::from_bytes([7; 32]));
    pair.wait(Duration::from_secs(6));
    assert_eq!(pair.delivered(), 1, "what waited is sent when a handshake is through");
}

#[test]
fn hosts_that_go_on_sending_find_each_other_when_their_preshared_key_is_set_right_however_late() {
    for forked in [false, true] {
        let mut pair = if forked { Pair::forked() } else { Pair::new() };
        pair.two.set_endpoint(&key(1), pair.places[0], pair.now);
        pair.one.set_preshared_key(&key(2), PresharedKey::from_bytes([7; 32]));
        for _ in 0..120 {
            pair.send(0);
            pair.send(1);
            pair.wait(Duration::from_secs(1));
        }
        assert_eq!(pair.delivered(), 0);
        pair.two.set_preshared_key(&key(1), PresharedKey::from_bytes([7; 32]));
        for _ in 0..12 {
            pair.send(0);
            pair.send(1);
            pair.wait(Duration::from_secs(1));
        }
        assert!(pair.delivered() > 10, "forked: {forked}");
    }
}

#[test]
fn hosts_with_different_preshared_keys_that_send_no_more_come_to_rest() {
    for forked in [false, true] {
        let mut pair = if forked { Pair::forked() } else { Pair::new() };
        pair.two.set_endpoint(&key(1), pair.places[0], pair.now);
        pair.one.set_preshared_key(&key(2), PresharedKey::from_bytes([7; 32]));
        for from in [0, 1, 0, 1] {
            pair.send(from);
            pair.wait(Duration::from_millis(500));
        }
        pair.wait(Duration::from_secs(200));
        let unanswered = [&pair.one, &pair.two].map(|device| device.counters().unanswered);
        assert_eq!(unanswered, [2, 2], "what waited is given up, forked: {forked}");
        let before = pair.carried;
        pair.wait(Duration::from_secs(600));
        assert_eq!(pair.carried, before, "forked: {forked}");
    }
}

#[test]
fn what_waits_for_a_peer_goes_where_its_prefix_is_when_there_are_keys() {
    for forked in [false, true] {
        let mut pair = if forked { Pair::forked() } else { Pair::new() };
        pair.cut = true;
        pair.send(0);
        pair.exchange();
        pair.one.add_peer(key(3));
        pair.one.allow(&key(3), "10.0.0.2/32".parse().unwrap());
        pair.cut = false;
        pair.wait(Duration::from_secs(10));
        assert_eq!(pair.delivered(), 0, "forked: {forked}");
        assert!(pair.one.peers(None).any(|peer| peer.key == key(2) && peer.last_handshake.is_some()));
        // It waits for the other one, which nobody knows a way to.
        assert_eq!(pair.one.counters().unanswered, 0);
        pair.wait(Duration::from_secs(100));
        assert_eq!(pair.one.counters().unanswered, 1, "forked: {forked}");
        pair.one.allow(&key(2), "10.0.0.2/32".parse().unwrap());
        pair.exchange();
        pair.send(0);
        assert_eq!(pair.exchange(), 1, "it was the other peer's, forked: {forked}");
    }
}

#[test]
fn a_keepalive_is_sent_at_once_and_a_tunnel_that_was_given_up_is_begun_again() {
    let mut pair = Pair::new();
    pair.cut = true;
    pair.one.set_persistent_keepalive(&key(2), Some(Duration::from_secs(25)), pair.now);
    pair.wait(Duration::from_secs(400));
    assert!(pair.carried > 20, "{} initiations", pair.carried);
    pair.cut = false;
    pair.wait(Duration::from_secs(10));
    assert!(pair.two.peers(None).all(|peer| peer.last_handshake.is_some()));
    let before = pair.transfer()[1].0;
    pair.wait(Duration::from_secs(100));
    let keepalives = (pair.transfer()[1].0 - before) / 32;
    assert!((3..=5).contains(&keepalives), "{keepalives}");
    pair.one.set_persistent_keepalive(&key(2), None, pair.now);
    let before = pair.transfer();
    pair.wait(Duration::from_secs(60));
    assert_eq!(pair.transfer(), before);
}

#[test]
fn a_tunnel_that_was_given_up_is_begun_again_after_the_interval_of_its_keepalives() {
    let mut pair = Pair::new();
    pair.cut = true;
    pair.one.set_persistent_keepalive(&key(2), Some(Duration::from_secs(600)), pair.now);
    pair.wait(Duration::from_secs(100));
    let first = pair.carried;
    assert!((15..20).contains(&first), "{first} initiations");
    pair.wait(Duration::from_secs(480));
    assert_eq!(pair.carried, first);
    pair.wait(Duration::from_secs(220));
    assert!(pair.carried >= 2 * first - 2, "{} initiations", pair.carried);
}

#[test]
fn what_waits_for_a_handshake_is_not_lost_when_the_time_of_the_former_session_is_over() {
    let mut pair = Pair::new();
    pair.send(0);
    assert_eq!(pair.exchange(), 1);
    // Its secrets are forgotten after 540 seconds (whitepaper, section 6.3).
    pair.wait(Duration::from_secs(500));
    pair.cut = true;
    pair.send(0);
    pair.wait(Duration::from_secs(60));
    pair.cut = false;
    pair.wait(Duration::from_secs(10));
    assert_eq!(pair.delivered(), 1);
}

#[test]
fn what_is_sent_after_an_endpoint_was_set_goes_there_and_nowhere_else() {
    let mut pair = Pair::new();
    pair.send(0);
    pair.exchange();
    let elsewhere: SocketAddr = "192.0.2.9:9".parse().unwrap();
    pair.one.set_endpoint(&key(2), elsewhere, pair.now);
    pair.send(0);
    let to: Vec<_> = std::iter::from_fn(|| pair.one.poll_transmit()).map(|transmit| transmit.to).collect();
    assert_eq!(to, [elsewhere]);
    // Nothing brings the old place back, not even a handshake.
    pair.one.set_secret(Some(&secret(3)), pair.now);
    pair.send(0);
    let to: Vec<_> = std::iter::from_fn(|| pair.one.poll_transmit()).map(|transmit| transmit.to).collect();
    assert_eq!(to, [elsewhere]);
}

#[test]
fn a_peer_that_roamed_is_found_where_it_was_last() {
    let mut pair = Pair::new();
    pair.send(0);
    pair.exchange();
    pair.places[0] = "192.0.2.77:7".parse().unwrap();
    pair.send(0);
    pair.exchange();
    // The tunnel is over, and what is known of the peer is not.
    pair.wait(Duration::from_secs(600));
    assert!(pair.two.peers(None).all(|peer| peer.endpoint == Some(pair.places[0])));
    pair.send(1);
    assert_eq!(pair.exchange(), 1);
}

#[test]
fn a_new_key_ends_what_was_made_with_the_old_one_and_removes_itself_as_a_peer() {
    let mut pair = Pair::new();
    pair.send(0);
    pair.exchange();
    pair.one.add_peer(key(3));
    pair.one.set_secret(Some(&secret(3)), pair.now);
    assert!(!pair.one.has_peer(&key(3)));
    pair.one.add_peer(key(3));
    assert!(!pair.one.has_peer(&key(3)));
    pair.send(1);
    assert_eq!(pair.exchange(), 0, "the session of the old key is over");
    pair.two.add_peer(key(3));
    pair.two.allow(&key(3), "10.0.0.1/32".parse().unwrap());
    pair.send(0);
    assert_eq!(pair.exchange(), 1);
    let same = pair.transfer();
    pair.one.set_secret(Some(&secret(3)), pair.now);
    pair.send(0);
    assert_eq!(pair.exchange(), 1);
    assert_eq!(pair.transfer()[0].1, same[0].1 + 64, "the same key again changes nothing");
}

/// Two devices that know each other: 10.0.0.1 and 10.0.0.2. The first knows where the second is.
struct Pair {
    one: Device,
    two: Device,
    /// What moves the packets of their hosts in their stead, where there is one.
    movers: [Option<Forwarder>; 2],
    places: [SocketAddr; 2],
    now: Instant,
    packets: [VecDeque<Vec<u8>>; 2],
    /// Whether datagrams are lost.
    cut: bool,
    /// Datagrams so far.
    carried: usize,
    counted: usize,
}

impl Pair {
    fn new() -> Self {
        let (mut one, mut two) = (Device::stand_alone(Seed(1)), Device::stand_alone(Seed(2)));
        #[expect(clippy::disallowed_methods, reason = "an `Instant` to count from; no test depends on which")]
        let now = Instant::now();
        let places = ["192.0.2.1:1", "192.0.2.2:2"].map(|place| place.parse().unwrap());
        for (device, own, peer) in [(&mut one, 1, 2), (&mut two, 2, 1)] {
            device.set_secret(Some(&secret(own)), now);
            device.add_peer(key(peer));
            device.allow(&key(peer), format!("10.0.0.{peer}/32").parse().unwrap());
        }
        one.set_endpoint(&key(2), places[1], now);
        let (movers, packets) = ([None, None], Default::default());
        Self { one, two, movers, places, now, packets, cut: false, carried: 0, counted: 0 }
    }

    fn forked() -> Self {
        let mut pair = Self::new();
        pair.movers = [&mut pair.one, &mut pair.two].map(|device| Some(device.fork()));
        pair
    }

    fn send(&mut self, from: usize) {
        let addresses = [[10, 0, 0, 1], [10, 0, 0, 2]];
        self.send_packet(from, addresses[from], addresses[1 - from]);
    }

    fn send_packet(&mut self, from: usize, source: [u8; 4], destination: [u8; 4]) {
        let mut packet = [0; 28];
        (packet[0], packet[3]) = (0x45, 28);
        packet[12..16].copy_from_slice(&source);
        packet[16..20].copy_from_slice(&destination);
        let (now, header) = (self.now, VnetHeader::default());
        match self.side(from) {
            (_, Some(mover)) => mover.handle_packet(&header, &packet, now),
            (device, None) => device.handle_packet(&header, &packet, now),
        }
    }

    fn side(&mut self, number: usize) -> (&mut Device, &mut Option<Forwarder>) {
        let device = if number == 0 { &mut self.one } else { &mut self.two };
        (device, &mut self.movers[number])
    }

    /// The next datagrams of a side, and of what moves its packets, which have told each other what there is to tell.
    fn poll_transmit(&mut self, number: usize) -> Option<(usize, Transmit)> {
        let now = self.now;
        let (device, mover) = self.side(number);
        let moved = mover.as_mut().and_then(|mover| {
            mover.take_reports().into_iter().for_each(|report| device.handle_report(report, now));
            std::iter::from_fn(|| device.poll_update()).for_each(|update| mover.handle_update(update, now));
            mover.poll_transmit()
        });
        Some((number, moved.or_else(|| device.poll_transmit())?))
    }

    /// Carries datagrams until there are none, and says how many packets came out that were not counted before.
    fn exchange(&mut self) -> usize {
        loop {
            let next = self.poll_transmit(0).or_else(|| self.poll_transmit(1));
            let Some((from, transmit)) = next else { return self.delivered() };
            self.carried += 1;
            if self.cut || transmit.to != self.places[1 - from] {
                continue;
            }
            let packets = &mut self.packets[1 - from];
            let device = if from == 0 { &mut self.two } else { &mut self.one };
            let (mut payload, segment) = (transmit.payload, transmit.segment);
            device.handle_datagrams(self.places[from], &mut payload, segment, self.now, |packet| {
                packets.push_back(packet.parts().collect::<Vec<_>>().concat());
            });
        }
    }

    fn delivered(&mut self) -> usize {
        let all = self.packets.iter().map(VecDeque::len).sum();
        all - std::mem::replace(&mut self.counted, all)
    }

    fn wait(&mut self, duration: Duration) {
        let end = self.now + duration;
        let counted = self.counted;
        while self.now < end {
            self.now += Duration::from_millis(250);
            self.one.handle_timeout(self.now);
            self.two.handle_timeout(self.now);
            self.exchange();
        }
        self.counted = counted;
    }

    /// Bytes received and sent by each, with its first peer.
    fn transfer(&self) -> [(u64, u64); 2] {
        [&self.one, &self.two].map(|device| {
            device.peers(None).fold((0, 0), |sum, peer| (sum.0 + peer.rx_bytes, sum.1 + peer.tx_bytes))
        })
    }
}

/// A seed, and a wall clock that stands still.
struct Seed(u8);

impl Outside for Seed {
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

fn secret(number: u8) -> WireGuardSecret {
    WireGuardSecret::from_bytes([number; 32])
}

fn key(number: u8) -> WireGuardKey {
    secret(number).public()
}
