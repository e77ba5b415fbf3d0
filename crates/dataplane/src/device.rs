//! The device: every peer's tunnel behind one private key and one table of allowed IPs.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use boringtun::{
    noise::{Packet, TunnResult, handshake::parse_handshake_anon, rate_limiter::RateLimiter},
    x25519,
};
use carrick_types::{Cidr, WireGuardKey, WireGuardSecret};

use crate::{
    allowed_ips::AllowedIps,
    packet::addresses,
    tunnel::{MessageType, Step, Tunnel},
};

/// The longest datagram that UDP carries, in bytes.
pub const MAX_DATAGRAM: usize = 65_507;

/// Room for the longest packet (65,535 bytes) with WireGuard's 32 bytes around it.
const BUFFER: usize = 65_536 + 64;

/// How often the timers of the tunnels run.
const TICK: Duration = Duration::from_millis(250);

/// A handshake is sent to so many endpoints of a peer at once; the first to answer becomes its endpoint.
const MAX_TRIED_ENDPOINTS: usize = 8;

/// Handshake messages a second above which peers must prove their address with a cookie. Each is counted twice: when it
/// arrives, and by the tunnel it belongs to.
const HANDSHAKES_PER_SECOND: u64 = 2 * 100;

/// WireGuard's reject-after-messages: no counter from here on is taken (whitepaper, section 6.1).
const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);

/// Receiver indices have 24 bits for the tunnel; boringtun numbers a tunnel's sessions with the other 8.
const SLOTS: u32 = 1 << 24;

/// What is known of a peer before there is a tunnel to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerConfig {
    /// The prefixes that belong to it.
    pub allowed_ips: Vec<Cidr>,
    /// Where it may be reached, best first.
    pub endpoints: Vec<SocketAddr>,
}

/// A datagram to send.
#[derive(Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Where to.
    pub to: SocketAddr,
    /// The whole datagram.
    pub payload: Vec<u8>,
}

/// What a timeout is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timer {
    /// Handshake retries, rekeys, keepalives and expiry of every tunnel that is up.
    Tunnels,
}

/// The state of a tunnel, for people and for reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkState {
    /// Whose.
    pub peer: WireGuardKey,
    /// Where datagrams to the peer go.
    pub endpoint: SocketAddr,
    /// When the last handshake completed.
    pub last_handshake: Option<Instant>,
    /// How long the last handshake's answer took.
    pub rtt: Option<Duration>,
    /// Bytes of inner packets received since the peer is known.
    pub rx_bytes: u64,
    /// Bytes of inner packets sent since the peer is known.
    pub tx_bytes: u64,
}

/// What the device dropped, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets from this host whose destination belongs to no peer.
    pub no_peer: u64,
    /// Datagrams that are no WireGuard message, or of no peer, or not authentic.
    pub refused: u64,
    /// Authentic packets from a peer with a source address that is not the peer's.
    pub spoofed: u64,
    /// Authentic packets from a peer for somebody this node does not speak for.
    pub not_for_us: u64,
}

/// A WireGuard device. One mutation, then drain [`Device::poll_transmit`] and [`Device::poll_packet`], then wait.
pub struct Device {
    secret: WireGuardSecret,
    key: x25519::PublicKey,
    limiter: Arc<RateLimiter>,
    /// What this node speaks for: packets for anybody else end here.
    own: AllowedIps<()>,
    own_prefixes: Vec<Cidr>,
    allowed_ips: AllowedIps<WireGuardKey>,
    peers: BTreeMap<WireGuardKey, PeerState>,
    /// The peer of each tunnel that is up, by the upper 24 bits of its receiver indices.
    slots: BTreeMap<u32, WireGuardKey>,
    next_slot: u32,
    next_tick: Option<Instant>,
    transmits: VecDeque<Transmit>,
    packets: VecDeque<Vec<u8>>,
    counters: Counters,
    buffer: Box<[u8]>,
}

struct PeerState {
    config: PeerConfig,
    tunnel: Option<(u32, Tunnel)>,
    rx_bytes: u64,
    tx_bytes: u64,
}

impl Device {
    /// A device without peers.
    pub fn new(secret: WireGuardSecret) -> Self {
        let key = x25519::PublicKey::from(*secret.public().as_bytes());
        Self {
            secret,
            key,
            limiter: Arc::new(RateLimiter::new(&key, HANDSHAKES_PER_SECOND)),
            own: AllowedIps::default(),
            own_prefixes: Vec::new(),
            allowed_ips: AllowedIps::default(),
            peers: BTreeMap::new(),
            slots: BTreeMap::new(),
            next_slot: 1,
            next_tick: None,
            transmits: VecDeque::new(),
            packets: VecDeque::new(),
            counters: Counters::default(),
            buffer: vec![0; BUFFER].into(),
        }
    }

    /// Sets what this node speaks for.
    pub fn set_own(&mut self, prefixes: Vec<Cidr>) {
        for prefix in std::mem::replace(&mut self.own_prefixes, prefixes) {
            self.own.remove(prefix, ());
        }
        for &prefix in &self.own_prefixes {
            self.own.insert(prefix, ());
        }
    }

    /// Adds a peer, or changes what is known of it. No tunnel is made before a packet or a handshake asks for one.
    pub fn set_peer(&mut self, key: WireGuardKey, config: PeerConfig) {
        if key.as_bytes() == self.key.as_bytes() {
            return;
        }
        let peer = self.peers.entry(key).or_insert_with(|| PeerState {
            config: PeerConfig { allowed_ips: Vec::new(), endpoints: Vec::new() },
            tunnel: None,
            rx_bytes: 0,
            tx_bytes: 0,
        });
        let old = std::mem::replace(&mut peer.config, config);
        if let Some((_, tunnel)) = &mut peer.tunnel
            && old.endpoints != peer.config.endpoints
            && tunnel.endpoint.is_none_or(|at| !peer.config.endpoints.contains(&at))
        {
            tunnel.look_for_peer();
        }
        for prefix in old.allowed_ips {
            self.allowed_ips.remove(prefix, key);
        }
        for &prefix in &peer.config.allowed_ips {
            self.allowed_ips.insert(prefix, key);
        }
    }

    /// Forgets a peer with its session keys: from here on nothing goes to it and nothing of it is taken.
    pub fn remove_peer(&mut self, key: &WireGuardKey) {
        if let Some(peer) = self.peers.remove(key) {
            for prefix in peer.config.allowed_ips {
                self.allowed_ips.remove(prefix, *key);
            }
            if let Some((slot, _)) = peer.tunnel {
                self.slots.remove(&slot);
            }
        }
    }

    /// Takes a packet from this host.
    pub fn handle_packet(&mut self, packet: &[u8], now: Instant) {
        let destination = addresses(packet).map(|found| found.destination);
        let Some(key) = destination.and_then(|address| self.allowed_ips.lookup(address)) else {
            self.counters.no_peer += 1;
            return;
        };
        self.ensure_tunnel(key, now);
        let Some(PeerState { config, tunnel: Some((_, tunnel)), tx_bytes, .. }) = self.peers.get_mut(&key)
        else {
            return;
        };
        if packet.len() + 32 <= self.buffer.len() {
            *tx_bytes += packet.len() as u64;
            if let Step::Send(message) = tunnel.seal(packet, &mut self.buffer, now) {
                send(&mut self.transmits, config, tunnel.endpoint, message);
            }
        }
    }

    /// Takes a datagram from the network.
    pub fn handle_datagram(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) {
        if self.open(from, datagram, now).is_none() {
            self.counters.refused += 1;
        }
    }

    /// Runs the timers of every tunnel that is up.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.next_tick.is_none_or(|due| now < due) {
            return;
        }
        self.limiter.reset_count();
        for peer in self.peers.values_mut() {
            let Some((slot, tunnel)) = &mut peer.tunnel else { continue };
            match tunnel.tick(&mut self.buffer, now) {
                Ok(Step::Send(message)) => send(&mut self.transmits, &peer.config, tunnel.endpoint, message),
                Ok(Step::Nothing | Step::Packet(_)) => {}
                Err(_expired) => {
                    self.slots.remove(slot);
                    peer.tunnel = None;
                }
            }
        }
        self.next_tick = (!self.slots.is_empty()).then(|| now + TICK);
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next packet for this host.
    pub fn poll_packet(&mut self) -> Option<Vec<u8>> {
        self.packets.pop_front()
    }

    /// When [`Device::handle_timeout`] wants to be called, and what for.
    pub fn poll_timeout(&self) -> Option<(Instant, Timer)> {
        self.next_tick.map(|due| (due, Timer::Tunnels))
    }

    /// Every tunnel that has completed a handshake.
    pub fn links(&self) -> impl Iterator<Item = LinkState> {
        self.peers.iter().filter_map(|(&key, peer)| {
            let (_, tunnel) = peer.tunnel.as_ref()?;
            Some(LinkState {
                peer: key,
                endpoint: tunnel.endpoint?,
                last_handshake: tunnel.last_handshake,
                rtt: tunnel.rtt,
                rx_bytes: peer.rx_bytes,
                tx_bytes: peer.tx_bytes,
            })
        })
    }

    /// What was dropped so far.
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// `None` where the datagram is refused.
    fn open(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) -> Option<()> {
        let message = MessageType::of(datagram).filter(|_| datagram.len() <= MAX_DATAGRAM)?;
        let key = self.sender_of(from, message, datagram)?;
        self.ensure_tunnel(key, now);
        let PeerState { config, tunnel: Some((_, tunnel)), rx_bytes, .. } = self.peers.get_mut(&key)? else {
            return None;
        };
        match tunnel.open(from, message, datagram, &mut self.buffer, now)? {
            Step::Nothing => {}
            // Straight back to where it came from: an answer to a handshake is for whoever sent it.
            Step::Send(answer) => self.transmits.push_back(Transmit { to: from, payload: answer.to_vec() }),
            Step::Packet(packet) => {
                let found = addresses(packet)?;
                if self.allowed_ips.lookup(found.source) != Some(key) {
                    self.counters.spoofed += 1;
                } else if self.own.lookup(found.destination).is_none() {
                    self.counters.not_for_us += 1;
                } else {
                    *rx_bytes += packet.len() as u64;
                    self.packets.push_back(packet.to_vec());
                }
            }
        }
        while let Step::Send(message) = tunnel.flush(&mut self.buffer, now) {
            send(&mut self.transmits, config, tunnel.endpoint, message);
        }
        Some(())
    }

    /// The peer that a message claims to be from, after the cheap checks: its MAC, and under load its cookie.
    fn sender_of(&mut self, from: SocketAddr, message: MessageType, datagram: &[u8]) -> Option<WireGuardKey> {
        if message == MessageType::Data {
            let counter = u64::from_le_bytes(*datagram.get(8..16)?.first_chunk()?);
            if counter >= REJECT_AFTER_MESSAGES {
                return None;
            }
        }
        // Its count is per second, also while there is no tunnel whose timers would reset it.
        self.limiter.reset_count();
        let receiver = match self.limiter.verify_packet(Some(from.ip()), datagram, &mut self.buffer) {
            Ok(Packet::HandshakeInit(initiation)) => {
                let secret = x25519::StaticSecret::from(*self.secret.expose());
                let half = parse_handshake_anon(&secret, &self.key, &initiation).ok()?;
                let key = WireGuardKey::from_bytes(half.peer_static_public).ok()?;
                return self.peers.contains_key(&key).then_some(key);
            }
            Ok(Packet::HandshakeResponse(response)) => response.receiver_idx,
            Ok(Packet::PacketCookieReply(reply)) => reply.receiver_idx,
            Ok(Packet::PacketData(data)) => data.receiver_idx,
            Err(TunnResult::WriteToNetwork(cookie_reply)) => {
                self.transmits.push_back(Transmit { to: from, payload: cookie_reply.to_vec() });
                return None;
            }
            Err(_) => return None,
        };
        self.slots.get(&(receiver >> 8)).copied()
    }

    fn ensure_tunnel(&mut self, key: WireGuardKey, now: Instant) {
        let Some(peer) = self.peers.get_mut(&key).filter(|peer| peer.tunnel.is_none()) else { return };
        let Some(slot) = free_slot(&self.slots, self.next_slot) else { return };
        self.next_slot = (slot + 1) % SLOTS;
        self.slots.insert(slot, key);
        peer.tunnel = Some((slot, Tunnel::new(&self.secret, &key, slot, self.limiter.clone())));
        self.next_tick.get_or_insert(now + TICK);
    }
}

fn free_slot(slots: &BTreeMap<u32, WireGuardKey>, from: u32) -> Option<u32> {
    (from..SLOTS).chain(0..from).find(|slot| !slots.contains_key(slot))
}

/// A handshake initiation goes wherever the peer may be, anything else where it was last heard of.
fn send(
    transmits: &mut VecDeque<Transmit>,
    config: &PeerConfig,
    endpoint: Option<SocketAddr>,
    message: &[u8],
) {
    let candidates: &[SocketAddr] = match MessageType::of(message) {
        Some(MessageType::Initiation) => &config.endpoints,
        _ => &[],
    };
    let others = candidates.iter().copied().filter(|&candidate| Some(candidate) != endpoint);
    for to in endpoint.into_iter().chain(others).take(MAX_TRIED_ENDPOINTS) {
        transmits.push_back(Transmit { to, payload: message.to_vec() });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ONE: &str = "192.0.2.1:51820";
    const TWO: &str = "192.0.2.2:51820";

    fn secret(n: u8) -> WireGuardSecret {
        WireGuardSecret::from_bytes([n; 32])
    }

    fn peer(allowed_ips: &[&str], endpoints: &[&str]) -> PeerConfig {
        PeerConfig {
            allowed_ips: allowed_ips.iter().map(|text| text.parse().unwrap()).collect(),
            endpoints: endpoints.iter().map(|text| text.parse().unwrap()).collect(),
        }
    }

    /// Two devices that know each other: 10.1.0.0/16 behind the one, 10.2.0.0/16 behind the other.
    fn pair() -> (Device, Device) {
        let (mut one, mut two) = (Device::new(secret(1)), Device::new(secret(2)));
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
    fn exchange(one: &mut Device, two: &mut Device, now: Instant) -> usize {
        let mut count = 0;
        loop {
            if let Some(transmit) = one.poll_transmit() {
                assert_eq!(transmit.to, TWO.parse().unwrap());
                two.handle_datagram(ONE.parse().unwrap(), &transmit.payload, now);
            } else if let Some(transmit) = two.poll_transmit() {
                assert_eq!(transmit.to, ONE.parse().unwrap());
                one.handle_datagram(TWO.parse().unwrap(), &transmit.payload, now);
            } else {
                return count;
            }
            count += 1;
        }
    }

    fn connected() -> (Device, Device, Instant) {
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
    fn there_is_no_tunnel_before_there_is_traffic() {
        let (one, two) = pair();
        for device in [one, two] {
            assert_eq!(device.poll_timeout(), None);
            assert!(device.slots.is_empty());
        }
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
        assert_eq!(two.poll_timeout().map(|_| two.slots.len()).unwrap_or_default(), 0);
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
}
