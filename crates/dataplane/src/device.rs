//! The device: every peer's tunnels behind this node's keys and one table of allowed IPs.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    ops::Range,
    time::{Duration, Instant},
};

use carrick_types::{Cidr, WireGuardKey, WireGuardSecret};
use carrick_wireguard::{
    HEADER, OVERHEAD,
    message::{self, MessageType},
    padded,
};

use crate::{
    allowed_ips::AllowedIps,
    filter::{Direction, Filter},
    mss,
    offload::{Coalesced, Coalescer, Segments, VnetHeader},
    outbox::{Outbox, Transmit, Unsealed},
    outside::{Outside, Surroundings},
    own_keys::{Claim, FORMER_KEY_LIFE, OwnKeys},
    packet::{addresses, unpadded},
    peer::{Former, Peer, PeerConfig, REPLACED_KEY_LIFE},
    slots::Slots,
    too_big::TooBig,
    tunnel::{Handshake, Tunnel},
    waiting::Waiting,
};

/// The longest datagram that UDP carries, in bytes.
pub const MAX_DATAGRAM: usize = 65_507;

/// The MTU of the interface unless [`Device::set_mtu`] says otherwise, in bytes.
const MTU: usize = 1420;

/// How often the timers of the tunnels run.
const TICK: Duration = Duration::from_millis(250);

/// A handshake is sent to so many endpoints of a peer at once; the first to answer becomes its endpoint.
const MAX_TRIED_ENDPOINTS: usize = 8;

/// What a timeout is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timer {
    /// Handshake retries, rekeys, keepalives and expiry of every tunnel that is up, and the end of keys that others have replaced.
    Tunnels,
}

/// The state of the tunnel with a peer, for people and for reports.
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
    /// Bytes of inner packets received since the peer is known, under whichever key.
    pub rx_bytes: u64,
    /// Bytes of inner packets sent since the peer is known, under whichever key.
    pub tx_bytes: u64,
}

/// What the device dropped, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets from this host whose destination belongs to no peer.
    pub no_peer: u64,
    /// Packets from this host for a peer that admits no new tunnel and has none.
    pub not_admitted: u64,
    /// Packets from this host that waited for a handshake and made room for newer ones.
    pub crowded_out: u64,
    /// Packets from this host that waited for a handshake that did not come about.
    pub unanswered: u64,
    /// Packets, from this host or authentic ones of a peer, that are not what they say they are.
    pub malformed: u64,
    /// Datagrams that are no WireGuard message, or of no peer, or not authentic.
    pub refused: u64,
    /// Authentic packets from a peer with a source address that is not the peer's.
    pub spoofed: u64,
    /// Authentic packets from a peer for somebody this node does not speak for.
    pub not_for_us: u64,
    /// Packets of either direction that the filter did not let pass.
    pub filtered: u64,
    /// Packets from this host that are longer than the path to the peer takes.
    pub too_big: u64,
}

/// A WireGuard device. One mutation, or a few, then drain [`Device::poll_transmit`], then wait.
pub struct Device {
    surroundings: Surroundings,
    keys: OwnKeys,
    mtu: usize,
    /// What this node speaks for: packets for anybody else end here.
    own: AllowedIps<()>,
    own_prefixes: Vec<Cidr>,
    allowed_ips: AllowedIps<WireGuardKey>,
    peers: BTreeMap<WireGuardKey, Peer>,
    /// The keys that peers had before and may still have tunnels under: which key they have now, and until when.
    replaced: BTreeMap<WireGuardKey, (WireGuardKey, Instant)>,
    slots: Slots,
    waiting: Waiting,
    next_tick: Option<Instant>,
    outbox: Outbox,
    coalescer: Coalescer,
    /// For each message of a batch, how long its text is; `None` where it is refused. Kept for its memory.
    opened: Vec<Option<usize>>,
    counters: Counters,
    filter: Option<Box<dyn Filter>>,
    too_big: TooBig,
    /// What this host is to hear from the device itself.
    answers: VecDeque<Vec<u8>>,
    /// Of a device that is no mesh's; it speaks for every address.
    stand_alone: Option<StandAlone>,
}

impl Device {
    /// A device without peers.
    pub fn new(secret: &WireGuardSecret, outside: impl Outside + 'static) -> Self {
        Self {
            surroundings: Surroundings::new(outside),
            keys: OwnKeys::new(secret),
            mtu: MTU,
            own: AllowedIps::default(),
            own_prefixes: Vec::new(),
            allowed_ips: AllowedIps::default(),
            peers: BTreeMap::new(),
            replaced: BTreeMap::new(),
            slots: Slots::default(),
            waiting: Waiting::default(),
            next_tick: None,
            outbox: Outbox::default(),
            coalescer: Coalescer::default(),
            opened: Vec::new(),
            counters: Counters::default(),
            filter: None,
            too_big: TooBig::default(),
            answers: VecDeque::new(),
            stand_alone: None,
        }
    }

    /// Sets the MTU of the interface: no packet is padded beyond it, so that none has to be fragmented for its padding.
    pub fn set_mtu(&mut self, mtu: u16) {
        self.mtu = mtu.into();
    }

    /// Whether the kernel takes many UDP datagrams as one packet. As long as nothing is said, it does.
    pub fn set_udp_segments(&mut self, takes: bool) {
        self.coalescer.set_udp(takes);
    }

    /// Lets a filter look at every packet; `None`: all pass.
    pub fn set_filter(&mut self, filter: Option<Box<dyn Filter>>) {
        self.filter = filter;
    }

    /// Lets no packet to a peer be longer than this; `None`: than the MTU of the interface. Who sends longer ones is told so, in
    /// [`Device::poll_answer`].
    pub fn set_path_mtu(&mut self, key: &WireGuardKey, mtu: Option<u16>) {
        if let Some(peer) = self.peers.get_mut(key) {
            peer.path_mtu = mtu;
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

    /// Makes every handshake with another key from here on.
    ///
    /// Sessions of the former key go on, both ways; packets move over to the new key peer by peer, when a session with it is up.
    /// Handshakes that peers begin with the former key, since they do not know the new one yet, are taken for 180 seconds
    /// (WireGuard's reject-after-time) or until the next rotation. Sessions of a key before that are kept for the rest of their
    /// 180 seconds, and no new ones made.
    pub fn rotate(&mut self, secret: &WireGuardSecret, now: Instant) {
        let (former, new) = (self.keys.current.public, secret.public());
        if former == new {
            return;
        }
        self.remove_peer(&new);
        self.keys.rotate(secret, now);
        for peer in self.peers.values_mut() {
            peer.retire_current(now + FORMER_KEY_LIFE);
            peer.cut(&mut self.slots, |tunnel| tunnel.own != former && !tunnel.has_session());
            peer.bound_former(&mut self.slots);
        }
        self.next_tick.get_or_insert(now + TICK);
        for key in self.waiting.peers().collect::<Vec<_>>() {
            self.begin(key, now);
        }
    }

    /// Adds a peer, or changes what is known of it. No tunnel is made before a packet or a handshake asks for one.
    pub fn set_peer(&mut self, key: WireGuardKey, config: PeerConfig) {
        if key == self.keys.current.public {
            return;
        }
        let peer = self.peers.entry(key).or_insert_with(Peer::unknown);
        let old = std::mem::replace(&mut peer.config, config);
        if old.endpoints != peer.config.endpoints
            && peer.endpoint().is_none_or(|at| !peer.config.endpoints.contains(&at))
            && let Some(tunnel) = &mut peer.current
        {
            tunnel.look_for_peer();
        }
        for prefix in old.allowed_ips {
            self.allowed_ips.remove(prefix, key);
        }
        for &prefix in &peer.config.allowed_ips {
            self.allowed_ips.insert(prefix, key);
        }
        if !peer.may_shake_hands() {
            peer.cut(&mut self.slots, |_| true);
            self.counters.unanswered += self.waiting.clear(&key);
        }
    }

    /// Makes another key the peer's: what belonged to the old key belongs to the new one.
    ///
    /// From here on no session is made with the old key. One that lives goes on, both ways, for 60 seconds at most; packets move over
    /// when a session with the new key is up. Where the old key is no peer's, this is [`Device::set_peer`].
    pub fn replace_peer(&mut self, old: &WireGuardKey, new: WireGuardKey, config: PeerConfig, now: Instant) {
        if new == self.keys.current.public {
            return self.remove_peer(old);
        }
        if *old != new
            && let Some(mut predecessor) = self.detach(old)
        {
            let until = now + REPLACED_KEY_LIFE;
            predecessor.retire_current(until);
            predecessor.former.iter_mut().for_each(|former| former.until = former.until.min(until));
            predecessor.cut(&mut self.slots, |tunnel| !tunnel.has_session());
            predecessor.tunnels().for_each(|tunnel| self.slots.give(tunnel.slot, new));
            let peer = self.peers.entry(new).or_insert_with(Peer::unknown);
            peer.succeed(predecessor);
            peer.bound_former(&mut self.slots);
            self.waiting.hand_over(old, new);
            self.replaced.values_mut().filter(|(key, _)| key == old).for_each(|(key, _)| *key = new);
            self.replaced.insert(*old, (new, until));
            self.next_tick.get_or_insert(now + TICK);
        }
        self.set_peer(new, config);
        self.send_waiting(new, now);
        if self.waiting.waits_for(&new) {
            self.begin(new, now);
        }
    }

    /// Forgets a peer with its session keys, also those under keys that it had before: from here on nothing goes to it and nothing
    /// of it is taken. Where another key has replaced this one, only what is left of this one ends.
    pub fn remove_peer(&mut self, key: &WireGuardKey) {
        if let Some(mut peer) = self.detach(key) {
            peer.cut(&mut self.slots, |_| true);
            self.counters.unanswered += self.waiting.clear(key);
        }
        if let Some((successor, _)) = self.replaced.remove(key)
            && let Some(peer) = self.peers.get_mut(&successor)
        {
            peer.cut(&mut self.slots, |tunnel| tunnel.peer == *key);
        }
    }

    /// Takes a packet from this host, or many at once, as the kernel's header says.
    pub fn handle_packet(&mut self, header: &VnetHeader, packet: &[u8], now: Instant) {
        let destination = addresses(packet).map(|found| found.destination);
        let Some(key) = destination.and_then(|address| self.allowed_ips.lookup(address)) else {
            self.counters.no_peer += 1;
            return;
        };
        let Ok(mut segments) = Segments::of(header, packet) else {
            self.counters.malformed += 1;
            return;
        };
        if self.filter.as_mut().is_some_and(|filter| !filter.passes(Direction::Out, packet)) {
            self.counters.filtered += 1;
            return;
        }
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if let Some(mtu) = peer.path_mtu
            && segments.next_length().is_some_and(|length| length > mtu.into())
        {
            self.counters.too_big += 1;
            self.answers.extend(self.too_big.answer(packet, mtu, now));
            return;
        }
        let fits = peer.mtu(self.mtu);
        if let Some(tunnel) = peer.sending(now) {
            peer.tx_bytes += append(&mut self.outbox, tunnel, segments, [self.mtu, fits], now);
            if peer.current.as_ref().is_some_and(Tunnel::has_keys) {
                return;
            }
        } else if peer.config.admits_new {
            while let Some(length) = segments.next_length() {
                let mut packet = Vec::with_capacity(length);
                segments.append_next(&mut packet);
                self.counters.crowded_out += self.waiting.push(key, packet);
            }
        } else {
            self.counters.not_admitted += 1;
            return;
        }
        self.begin(key, now);
    }

    /// Takes datagrams of one sender from the network: one behind the other, each `segment` bytes long but for the last, which may be
    /// shorter. They are opened where they are, and the packets in them are delivered in as few parts as the kernel takes.
    pub fn handle_datagrams(
        &mut self,
        from: SocketAddr,
        datagrams: &mut [u8],
        segment: usize,
        now: Instant,
        deliver: impl FnMut(Coalesced<'_>),
    ) {
        let segment = segment.max(1);
        let mut at = 0;
        while at < datagrams.len() {
            let rest = &mut datagrams[at..];
            let batch = batch(rest, segment);
            let end = at + batch;
            let taken = match MessageType::of(&rest[..batch.min(segment)]) {
                Ok(MessageType::Data) => self.open(from, datagrams, at..end, segment, now),
                Ok(message) => self.shake_hands(from, message, &rest[..batch], now),
                Err(_) => None,
            };
            if taken.is_none() {
                self.counters.refused += batch.div_ceil(segment) as u64;
            }
            at = end;
        }
        self.coalescer.flush(datagrams, deliver);
    }

    /// Runs the timers of every tunnel that is up, and forgets keys whose time is over.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.next_tick.is_none_or(|due| now < due) {
            return;
        }
        self.keys.expire(now);
        self.replaced.retain(|_, (_, until)| now < *until);
        let mut given_up = Vec::new();
        for (key, peer) in &mut self.peers {
            let (outbox, surroundings) = (&mut self.outbox, &mut self.surroundings);
            let former = peer.former.extract_if(.., |Former { tunnel, until }| {
                let lives = now < *until && tunnel.tick(false, now).is_ok();
                if lives {
                    flush_former(outbox, tunnel, surroundings, now);
                }
                !lives
            });
            let mut over: Vec<_> = former.map(|former| former.tunnel).collect();
            let wanted = self.waiting.waits_for(key);
            over.extend(peer.current.take_if(|tunnel| {
                let lives = tunnel.tick(wanted, now).is_ok();
                if lives {
                    flush(outbox, &peer.config.endpoints, tunnel, surroundings, now);
                }
                !lives
            }));
            for tunnel in over {
                self.slots.release(tunnel.slot);
                peer.remember(&tunnel);
            }
            if !peer.may_shake_hands() {
                peer.cut(&mut self.slots, |_| true);
            }
            if wanted && peer.current.is_none() {
                given_up.push(*key);
            }
        }
        for key in given_up {
            self.counters.unanswered += self.waiting.clear(&key);
        }
        self.keep_alive(now);
        let idle = self.slots.is_empty() && self.replaced.is_empty() && self.keys.former().is_none();
        self.next_tick = (!idle).then(|| now + TICK);
    }

    /// The next datagrams to send. [`Device::recycle`] takes the buffer back.
    ///
    /// Packets are sealed here: the more there are of one tunnel by now, the less each costs.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        loop {
            let mut transmit = self.outbox.pop()?;
            let sealed = match transmit.unsealed.take() {
                Some(by) => self.seal(&mut transmit, by).is_some(),
                None => true,
            };
            if sealed {
                return Some(transmit);
            }
            self.outbox.recycle(transmit);
        }
    }

    /// The next packet that this host is to hear from the device itself.
    pub fn poll_answer(&mut self) -> Option<Vec<u8>> {
        self.answers.pop_front()
    }

    /// Takes the buffer of what was sent.
    pub fn recycle(&mut self, transmit: Transmit) {
        self.outbox.recycle(transmit);
    }

    /// How many bytes [`Device::poll_transmit`] has to give.
    pub fn transmit_bytes(&self) -> usize {
        self.outbox.bytes()
    }

    /// When [`Device::handle_timeout`] wants to be called, and what for.
    pub fn poll_timeout(&self) -> Option<(Instant, Timer)> {
        self.next_tick.map(|due| (due, Timer::Tunnels))
    }

    /// Every peer that has been heard of.
    pub fn links(&self) -> impl Iterator<Item = LinkState> {
        self.peers.iter().filter_map(|(&key, peer)| {
            let latest = peer.tunnels().max_by_key(|tunnel| tunnel.last_handshake)?;
            Some(LinkState {
                peer: key,
                endpoint: peer.endpoint()?,
                last_handshake: latest.last_handshake,
                rtt: latest.rtt,
                rx_bytes: peer.rx_bytes,
                tx_bytes: peer.tx_bytes,
            })
        })
    }

    /// What was dropped so far.
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// Takes a handshake message; `None` where it is refused.
    fn shake_hands(
        &mut self,
        from: SocketAddr,
        message: MessageType,
        datagram: &[u8],
        now: Instant,
    ) -> Option<()> {
        let (key, slot, incoming) =
            match self.keys.claim(from, message, datagram, &mut self.surroundings, now) {
                Claim::Initiation(identified) => {
                    let (own, peer) = (*identified.responder(), *identified.initiator());
                    (peer, self.responder(own, peer, now)?, Handshake::Initiation(identified))
                }
                Claim::Slot(slot) => (self.slots.peer(slot)?, slot, Handshake::Message(datagram)),
                Claim::Challenge(cookie_reply) => {
                    self.outbox.push(from, &cookie_reply);
                    return None;
                }
                Claim::Refused(reason) => {
                    tracing::trace!(%from, ?message, %reason, "datagram refused");
                    return None;
                }
            };
        let peer = self.peers.get_mut(&key)?;
        let tunnel = peer.tunnels_mut().find(|tunnel| tunnel.slot == slot)?;
        // The end of a handshake with a key that the peer has no longer. The peer sends nothing under it that would be lost.
        if message == MessageType::Response && tunnel.peer != key {
            return None;
        }
        tunnel
            .shake_hands(from, incoming, &mut self.surroundings, now)
            .inspect_err(|reason| tracing::trace!(%from, ?message, %reason, "datagram refused"))
            .ok()?;
        if message == MessageType::Initiation && tunnel.peer == key {
            peer.heard = tunnel.heard().map(|when| (tunnel.own, when));
        }
        self.follow_up(key, slot, now);
        Some(())
    }

    /// Opens data messages that all name one session, in `range` of the datagrams; `None` where all are refused.
    fn open(
        &mut self,
        from: SocketAddr,
        datagrams: &mut [u8],
        range: Range<usize>,
        segment: usize,
        now: Instant,
    ) -> Option<()> {
        let messages = datagrams.get_mut(range.clone())?;
        let slot = message::receiver(messages)? >> 8;
        let key = self.slots.peer(slot)?;
        let peer = self.peers.get_mut(&key)?;
        let fits = peer.mtu(self.mtu);
        let tunnel = peer.tunnels_mut().find(|tunnel| tunnel.slot == slot)?;
        self.opened.clear();
        tunnel
            .open(from, messages, segment, &mut self.opened, now)
            .inspect_err(|reason| tracing::trace!(%from, %reason, "datagrams refused"))
            .ok()?;
        // Packets of a batch are mostly of one flow: the addresses that were looked up last, and passed.
        let mut admitted = None;
        for (number, text) in self.opened.iter().enumerate() {
            let Some(text) = *text else {
                self.counters.refused += 1;
                continue;
            };
            // Nothing at all is a keepalive.
            if text == 0 {
                continue;
            }
            let start = range.start + number * segment + HEADER;
            let found = datagrams
                .get(start..start + text)
                .and_then(|text| Some((unpadded(text)?.len(), addresses(text)?)));
            let Some((length, found)) = found else {
                self.counters.malformed += 1;
                continue;
            };
            let known = admitted == Some(found);
            if !known && self.allowed_ips.lookup(found.source) != Some(key) {
                self.counters.spoofed += 1;
                continue;
            }
            if !known && self.stand_alone.is_none() && self.own.lookup(found.destination).is_none() {
                self.counters.not_for_us += 1;
                continue;
            }
            admitted = Some(found);
            if let Some(filter) = &mut self.filter
                && let Some(packet) = datagrams.get(start..start + length)
                && !filter.passes(Direction::In, packet)
            {
                self.counters.filtered += 1;
            } else {
                peer.rx_bytes += length as u64;
                if let Some(packet) = datagrams.get_mut(start..start + length) {
                    mss::clamp(packet, fits);
                }
                self.coalescer.push(datagrams, start..start + length);
            }
        }
        self.follow_up(key, slot, now);
        Some(())
    }

    /// Says what the tunnel in a slot has to say, and sends what waited for its keys.
    fn follow_up(&mut self, key: WireGuardKey, slot: u32, now: Instant) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if let Some(tunnel) = peer.current.as_mut().filter(|tunnel| tunnel.slot == slot) {
            flush(&mut self.outbox, &peer.config.endpoints, tunnel, &mut self.surroundings, now);
        } else if let Some(former) = peer.former.iter_mut().find(|former| former.tunnel.slot == slot) {
            flush_former(&mut self.outbox, &mut former.tunnel, &mut self.surroundings, now);
        }
        self.send_waiting(key, now);
    }

    /// The slot of the tunnel that answers a peer's initiation; `None` where none may.
    fn responder(&mut self, own: WireGuardKey, key: WireGuardKey, now: Instant) -> Option<u32> {
        let peer = self.peers.get_mut(&key).filter(|peer| peer.may_shake_hands())?;
        let (former_own, until) = match self.keys.former() {
            Some((former, until)) if former.public == own => (former, until),
            Some(_) | None => return self.ensure_current(key, now).map(|tunnel| tunnel.slot),
        };
        let known = peer.former.iter().find(|former| former.tunnel.own == own && former.tunnel.peer == key);
        if let Some(known) = known {
            return Some(known.tunnel.slot);
        }
        let slot = self.slots.take(key)?;
        let tunnel = Tunnel::new(former_own, key, slot, peer.endpoint(), peer.heard(&own));
        peer.former.insert(0, Former { tunnel, until });
        peer.bound_former(&mut self.slots);
        Some(slot)
    }

    /// Begins a handshake under the keys that both sides have now, unless one is under way.
    fn begin(&mut self, key: WireGuardKey, now: Instant) {
        self.ensure_current(key, now);
        let Some(Peer { config, current: Some(tunnel), .. }) = self.peers.get_mut(&key) else { return };
        tunnel.initiate(now);
        flush(&mut self.outbox, &config.endpoints, tunnel, &mut self.surroundings, now);
    }

    /// The tunnel under the keys that both sides have now.
    fn ensure_current(&mut self, key: WireGuardKey, now: Instant) -> Option<&Tunnel> {
        let peer = self.peers.get_mut(&key)?;
        if peer.current.is_none() {
            let slot = self.slots.take(key)?;
            let heard = peer.heard(&self.keys.current.public);
            let mut tunnel = Tunnel::new(&self.keys.current, key, slot, peer.endpoint(), heard);
            if let Some(settings) = &peer.settings {
                settings.apply(&mut tunnel, now);
            }
            peer.current = Some(tunnel);
            self.next_tick.get_or_insert(now + TICK);
        }
        peer.current.as_ref()
    }

    /// Sends what waited for a peer, where there are keys by now.
    fn send_waiting(&mut self, key: WireGuardKey, now: Instant) {
        let Some(peer) = self.peers.get_mut(&key).filter(|_| self.waiting.waits_for(&key)) else { return };
        let fits = peer.mtu(self.mtu);
        while let Some(tunnel) = peer.sending(now)
            && let Some(packet) = self.waiting.pop(&key)
        {
            let Ok(segments) = Segments::of(&VnetHeader::default(), &packet) else { continue };
            peer.tx_bytes += append(&mut self.outbox, tunnel, segments, [self.mtu, fits], now);
        }
    }

    /// Seals what is about to be sent; `None` where the tunnel is gone, or its keys are used up.
    fn seal(&mut self, transmit: &mut Transmit, Unsealed { slot, at: now }: Unsealed) -> Option<()> {
        let key = self.slots.peer(slot)?;
        let peer = self.peers.get_mut(&key)?;
        let tunnel = peer.tunnels_mut().find(|tunnel| tunnel.slot == slot)?;
        let sealed = tunnel.seal(&mut transmit.payload, transmit.segment, self.mtu, now);
        // What is sent may have asked for the next session.
        if let Some(tunnel) = &mut peer.current {
            flush(&mut self.outbox, &peer.config.endpoints, tunnel, &mut self.surroundings, now);
        }
        if !sealed {
            self.begin(key, now);
        }
        sealed.then_some(())
    }

    /// Takes a peer out of the tables; its tunnels are the caller's.
    fn detach(&mut self, key: &WireGuardKey) -> Option<Peer> {
        let peer = self.peers.remove(key)?;
        let settings = peer.settings.iter().flat_map(|settings| &settings.allowed_ips);
        for &prefix in peer.config.allowed_ips.iter().chain(settings) {
            self.allowed_ips.remove(prefix, *key);
        }
        Some(peer)
    }
}

/// How many bytes of the datagrams, from the beginning, are one handshake message, or data messages of one session.
fn batch(datagrams: &[u8], segment: usize) -> usize {
    let first = datagrams.chunks(segment).next().unwrap_or_default();
    let session = |datagram: &[u8]| {
        let data = MessageType::of(datagram).is_ok_and(|message| message == MessageType::Data);
        if data { message::receiver(datagram) } else { None }
    };
    let Some(index) = session(first) else { return first.len() };
    let same = datagrams.chunks(segment).take_while(|datagram| session(datagram) == Some(index));
    same.map(<[u8]>::len).sum()
}

/// Appends packets for a tunnel, and says how many bytes they have. Padding goes up to the MTU of the interface, and connections are told what
/// fits into the path.
fn append(
    outbox: &mut Outbox,
    tunnel: &Tunnel,
    mut segments: Segments<'_>,
    [mtu, fits]: [usize; 2],
    now: Instant,
) -> u64 {
    let Some(to) = tunnel.endpoint else { return 0 };
    let by = Unsealed { slot: tunnel.slot, at: now };
    // Nothing that is cut up is a SYN.
    let is_whole = segments.is_whole();
    let mut bytes = 0;
    while let Some(length) = segments.next_length() {
        let sealed = padded(length, mtu) + OVERHEAD;
        if sealed > MAX_DATAGRAM {
            break;
        }
        outbox.append(to, by, sealed, |payload| {
            let from = payload.len();
            segments.append_next(payload);
            if let Some(packet) = payload.get_mut(from..).filter(|_| is_whole) {
                mss::clamp(packet, fits);
            }
        });
        bytes += length as u64;
    }
    bytes
}

/// Sends what a tunnel has to say beside packets. A handshake initiation goes wherever the peer may be, anything else where it was last
/// heard of: an answer to a handshake thus goes back to whoever sent it.
fn flush(
    outbox: &mut Outbox,
    candidates: &[SocketAddr],
    tunnel: &mut Tunnel,
    surroundings: &mut Surroundings,
    now: Instant,
) {
    while let Some(transmit) = tunnel.poll_transmit(surroundings, now) {
        let candidates = match transmit.message_type() {
            MessageType::Initiation => candidates,
            MessageType::Response | MessageType::CookieReply | MessageType::Data => &[],
        };
        send(outbox, candidates, tunnel.endpoint, transmit.datagram());
    }
}

/// The same for a tunnel under a key that one side has no longer: no handshake is begun there.
fn flush_former(outbox: &mut Outbox, tunnel: &mut Tunnel, surroundings: &mut Surroundings, now: Instant) {
    while let Some(transmit) = tunnel.poll_transmit(surroundings, now) {
        if transmit.message_type() != MessageType::Initiation {
            send(outbox, &[], tunnel.endpoint, transmit.datagram());
        }
    }
}

/// Where the peer was last heard of comes first.
fn send(outbox: &mut Outbox, candidates: &[SocketAddr], endpoint: Option<SocketAddr>, message: &[u8]) {
    let others = candidates.iter().copied().filter(|&candidate| Some(candidate) != endpoint);
    for to in endpoint.into_iter().chain(others).take(MAX_TRIED_ENDPOINTS) {
        outbox.push(to, message);
    }
}

mod describe;
mod stand_alone;
#[cfg(test)]
mod tests;

pub use describe::PeerState;
pub(crate) use stand_alone::Settings;
use stand_alone::StandAlone;
