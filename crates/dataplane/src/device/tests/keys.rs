//! Keys that are over are nowhere any more: neither in the device nor in the forwarders that have heard of it.

use std::sync::Weak;

use carrick_wireguard::{Identity, ReceiveKey, SendKey};

use super::*;

/// The keys of sessions, seen from outside.
struct Keys {
    sending: Vec<Weak<SendKey>>,
    receiving: Vec<Weak<ReceiveKey>>,
}

impl Keys {
    /// All that a device has with a peer by now.
    fn of(device: &Device, peer: &WireGuardKey) -> Self {
        let tunnels = || device.peers[peer].tunnels();
        let sending = tunnels().filter_map(|tunnel| tunnel.sending.as_ref().map(Arc::downgrade)).collect();
        let receiving = tunnels().flat_map(Tunnel::receiving).map(Arc::downgrade).collect();
        let keys = Self { sending, receiving };
        assert!(!keys.sending.is_empty() && !keys.receiving.is_empty());
        keys
    }

    /// How many there are still, to send with and to receive with.
    fn left(&self) -> [usize; 2] {
        let sending = self.sending.iter().filter(|key| key.strong_count() > 0).count();
        [sending, self.receiving.iter().filter(|key| key.strong_count() > 0).count()]
    }
}

/// A host with a session and two more forwarders, one from before and one from afterwards.
struct Forked {
    one: Host,
    two: Host,
    forks: [Forwarder; 2],
    now: Instant,
}

impl Forked {
    fn connected() -> Self {
        let (mut one, mut two) = pair();
        let before = one.fork();
        let now = Instant::now_for_tests();
        one.handle_packet(&packet([10, 1, 0, 1], [10, 2, 0, 1]), now);
        exchange(&mut one, &mut two, now);
        let afterwards = one.fork();
        let mut forked = Self { one, two, forks: [before, afterwards], now };
        forked.tell();
        forked
    }

    fn keys(&self) -> Keys {
        Keys::of(&self.one, &secret(2).public())
    }

    /// The forwarders hear what there is to hear.
    fn tell(&mut self) {
        while let Some(update) = self.one.poll_update() {
            self.forks.iter_mut().for_each(|fork| fork.handle_update(update.clone(), self.now));
        }
    }

    /// Each forwarder moves a packet each way, and says so.
    fn use_keys(&mut self) {
        for fork in &mut self.forks {
            fork.handle_packet(&VnetHeader::default(), &packet([10, 1, 0, 1], [10, 2, 0, 1]), self.now);
            let sent = fork.poll_transmit().unwrap();
            self.two.handle_datagram(ONE.parse().unwrap(), &sent.payload, self.now);
            assert!(self.two.poll_packet().is_some());
            self.two.handle_packet(&packet([10, 2, 0, 1], [10, 1, 0, 1]), self.now);
            let mut datagram = self.two.poll_transmit().unwrap().payload;
            let (from, length) = (TWO.parse::<SocketAddr>().unwrap(), datagram.len());
            let mut received = 0;
            fork.handle_datagrams(from, &mut datagram, length, self.now, |_| received += 1);
            assert_eq!(received, 1);
            fork.take_reports().into_iter().for_each(|report| self.one.handle_report(report, self.now));
        }
    }

    /// Time passes for the device. What it sends is lost.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += TICK;
            self.one.handle_timeout(self.now);
            std::iter::from_fn(|| self.one.poll_transmit()).for_each(drop);
        }
    }
}

#[test]
fn of_a_removed_peer_no_session_key_is_left_in_the_device_nor_in_any_forwarder() {
    let mut host = Forked::connected();
    host.use_keys();
    let keys = host.keys();
    // What waits to be sealed holds no key either.
    host.one.handle_packet(&packet([10, 1, 0, 1], [10, 2, 0, 1]), host.now);
    host.one.remove_peer(&secret(2).public());
    assert_eq!(keys.left(), [1, 1], "the forwarders have not heard of it");
    host.tell();
    assert_eq!(keys.left(), [0, 0]);
}

#[test]
fn of_a_key_that_a_peer_had_before_no_session_key_is_left_after_its_minute() {
    let mut host = Forked::connected();
    let keys = host.keys();
    let config = peer(&["10.2.0.0/16"], &[TWO]);
    host.one.replace_peer(&secret(2).public(), secret(4).public(), config, host.now);
    host.tell();
    assert_eq!(keys.left(), [1, 1], "the session goes on");
    host.pass(REPLACED_KEY_LIFE);
    host.tell();
    assert_eq!(keys.left(), [0, 0]);
}

#[test]
fn of_a_key_that_this_node_had_before_neither_it_nor_a_session_key_is_left_after_three_minutes() {
    let mut host = Forked::connected();
    let keys = host.keys();
    let own = Arc::downgrade(&host.one.keys.current.identity);
    host.one.rotate(&secret(5), host.now);
    host.tell();
    assert_eq!((keys.left(), alive(&own)), ([1, 1], true), "the session goes on");
    host.pass(FORMER_KEY_LIFE);
    host.tell();
    assert_eq!((keys.left(), alive(&own)), ([0, 0], false));
}

#[test]
fn of_a_private_key_that_an_administrator_takes_away_or_exchanges_nothing_is_left_at_once() {
    for next in [None, Some(secret(6))] {
        let now = Instant::now_for_tests();
        let (mut one, mut two) = pair();
        one.device = Device::stand_alone(Simulated(1));
        one.set_secret(Some(&secret(1)), now);
        let two_key = secret(2).public();
        one.add_peer(two_key);
        one.allow(&two_key, "10.2.0.0/16".parse().unwrap());
        one.set_endpoint(&two_key, TWO.parse().unwrap(), now);
        let before = one.fork();
        one.handle_packet(&packet([10, 1, 0, 1], [10, 2, 0, 1]), now);
        exchange(&mut one, &mut two, now);
        let afterwards = one.fork();
        let mut host = Forked { one, two, forks: [before, afterwards], now };
        host.tell();
        host.use_keys();
        let (keys, own) = (host.keys(), Arc::downgrade(&host.one.keys.current.identity));
        host.one.set_secret(next.as_ref(), now);
        assert!(!alive(&own));
        host.tell();
        assert_eq!(keys.left(), [0, 0]);
    }
}

#[test]
fn of_a_session_that_is_too_old_no_key_is_left() {
    let mut host = Forked::connected();
    let keys = host.keys();
    host.pass(Duration::from_secs(179));
    host.tell();
    assert_eq!(keys.left()[1], 1, "what is on the way may still come");
    host.pass(Duration::from_secs(1) + TICK);
    host.tell();
    assert_eq!(keys.left(), [0, 0]);
}

#[test]
fn of_sessions_that_others_have_replaced_a_bounded_number_is_left() {
    let mut host = Forked::connected();
    let (mut sending, mut receiving) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        let Keys { sending: some, receiving: others } = host.keys();
        sending.extend(some);
        receiving.extend(others);
        host.pass(Duration::from_secs(6));
        // As if the peer were elsewhere: a handshake at once.
        let endpoint = if sending.len() % 2 == 0 { "192.0.2.8:1" } else { "192.0.2.9:1" };
        host.one.set_peer(secret(2).public(), peer(&["10.2.0.0/16"], &[endpoint]));
        host.now += TICK;
        host.one.handle_timeout(host.now);
        let initiation = host.one.poll_transmit().unwrap();
        assert_eq!(initiation.payload.len(), 148);
        std::iter::from_fn(|| host.one.poll_transmit()).for_each(drop);
        host.two.handle_datagram(ONE.parse().unwrap(), &initiation.payload, host.now);
        exchange(&mut host.one, &mut host.two, host.now);
        host.tell();
    }
    let unique = |mut addresses: Vec<usize>| {
        addresses.sort_unstable();
        addresses.dedup();
        addresses.len()
    };
    let left = sending.iter().filter_map(Weak::upgrade).map(|key| Arc::as_ptr(&key).addr()).collect();
    assert!(unique(left) <= 4, "to send with");
    let left = receiving.iter().filter_map(Weak::upgrade).map(|key| Arc::as_ptr(&key).addr()).collect();
    assert!(unique(left) <= 4, "to receive with");
    assert!(sending[0].upgrade().is_none() && receiving[0].upgrade().is_none(), "the first is long gone");
}

fn alive(identity: &Weak<Identity>) -> bool {
    identity.strong_count() > 0
}
