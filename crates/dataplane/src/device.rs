//! The device: every peer's tunnels behind this node's keys, and who has which prefix. It shakes hands and keeps time; packets are moved by
//! its [`Forwarder`], and by others beside it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use carrick_types::{Cidr, WireGuardKey, WireGuardSecret};
use carrick_wireguard::message::MessageType;

use crate::{
    allowed_ips::AllowedIps,
    counters::Counters,
    ecn::Arrival,
    endpoint::Endpoint,
    filter::Filter,
    forwarder::{Forwarder, Own, Update, for_each_batch},
    link::Transfer,
    offload::{Coalesced, VnetHeader},
    outbox::{Outbox, Transmit},
    outside::{Outside, Surroundings},
    own_keys::{Claim, FORMER_KEY_LIFE, OwnKeys},
    peer::{Former, Peer, PeerConfig, REPLACED_KEY_LIFE},
    report::Report,
    slots::Slots,
    tunnel::{Handshake, Tunnel},
};

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

/// A WireGuard device. One mutation, or a few, then drain [`Device::poll_transmit`], then wait.
pub struct Device {
    surroundings: Surroundings,
    keys: OwnKeys,
    peers: BTreeMap<WireGuardKey, Peer>,
    /// The keys that peers had before and may still have tunnels under: which key they have now, and until when.
    replaced: BTreeMap<WireGuardKey, (WireGuardKey, Instant)>,
    slots: Slots,
    /// The peers for whom some forwarder keeps packets until there are keys; a handshake is under way with each.
    wanted: BTreeSet<WireGuardKey>,
    next_tick: Option<Instant>,
    forwarder: Forwarder,
    /// What the forwarder has done. Kept for its memory.
    reports: Vec<Report>,
    /// What the other forwarders are to be told; `None` where there are none.
    updates: Option<VecDeque<Update>>,
    counters: Counters,
    /// Of a device that is no mesh's; it speaks for every address.
    stand_alone: Option<StandAlone>,
}

impl Device {
    /// A device without peers.
    pub fn new(secret: &WireGuardSecret, outside: impl Outside + 'static) -> Self {
        let mut surroundings = Surroundings::new(outside);
        let mut anywhere = [0; 4];
        surroundings.random(&mut anywhere);
        Self {
            surroundings,
            keys: OwnKeys::new(secret),
            peers: BTreeMap::new(),
            replaced: BTreeMap::new(),
            slots: Slots::new(u32::from_ne_bytes(anywhere)),
            wanted: BTreeSet::new(),
            next_tick: None,
            forwarder: Forwarder::new(Own::Prefixes(AllowedIps::default())),
            reports: Vec::new(),
            updates: None,
            counters: Counters::default(),
            stand_alone: None,
        }
    }

    /// One more forwarder, for another thread. It is to be told of every [`Device::poll_update`] from here on, and the device of its reports.
    pub fn fork(&mut self) -> Forwarder {
        self.updates.get_or_insert_default();
        self.forwarder.fork()
    }

    /// What every other forwarder is to be told next.
    pub fn poll_update(&mut self) -> Option<Update> {
        self.updates.as_mut()?.pop_front()
    }

    /// Hears what another forwarder has done.
    pub fn handle_report(&mut self, report: Report, now: Instant) {
        match report {
            Report::Message(from, message) => {
                // Data messages are none of the device's affair.
                if let Ok(kind) = MessageType::of(&message) {
                    self.shake_hands(from, kind, &message, now);
                }
            }
            Report::Dropped(counters) => self.counters += counters,
            Report::Sent { .. }
            | Report::Unsealed { .. }
            | Report::Wanted { .. }
            | Report::Received { .. } => self.heed(report),
        }
    }

    /// Sets the MTU of the interface: no packet is padded beyond it, so that none has to be fragmented for its padding.
    pub fn set_mtu(&mut self, mtu: u16) {
        self.update(Update::Mtu(mtu.into()));
    }

    /// Whether the kernel takes many UDP datagrams as one packet. As long as nothing is said, it does. To be said before [`Device::fork`].
    pub const fn set_udp_segments(&mut self, takes: bool) {
        self.forwarder.set_udp_segments(takes);
    }

    /// Lets a filter look at every packet; `None`: all pass.
    pub fn set_filter(&mut self, filter: Option<Arc<dyn Filter>>) {
        self.update(Update::Filter(filter));
    }

    /// Lets no packet to a peer be longer than this; `None`: than the MTU of the interface. Who sends longer ones is told so, in
    /// [`Device::poll_answer`].
    pub fn set_path_mtu(&mut self, key: &WireGuardKey, mtu: Option<u16>) {
        if let Some(peer) = self.peers.get_mut(key) {
            peer.path_mtu = mtu;
            self.publish(*key);
        }
    }

    /// Sets what this node speaks for: packets for anybody else end here.
    pub fn set_own(&mut self, prefixes: Vec<Cidr>) {
        let mut own = AllowedIps::default();
        for prefix in prefixes {
            own.insert(prefix, ());
        }
        self.update(Update::Own(Own::Prefixes(own)));
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
        self.publish_all();
        self.begin_wanted(now);
    }

    /// Adds a peer, or changes what is known of it. No tunnel is made before a packet or a handshake asks for one.
    pub fn set_peer(&mut self, key: WireGuardKey, config: PeerConfig) {
        if key == self.keys.current.public {
            return;
        }
        let peer = self.peers.entry(key).or_insert_with(Peer::unknown);
        let old = std::mem::replace(&mut peer.config, config);
        if old.endpoints != peer.config.endpoints
            && peer.endpoint().is_none_or(|at| !peer.config.endpoints.contains(&at.remote))
            && let Some(tunnel) = &mut peer.current
        {
            tunnel.look_for_peer();
        }
        if !peer.may_shake_hands() {
            peer.cut(&mut self.slots, |_| true);
        }
        let admits_new = peer.config.admits_new;
        if old.allowed_ips != peer.config.allowed_ips {
            let new = peer.config.allowed_ips.clone();
            old.allowed_ips.into_iter().for_each(|prefix| self.update(Update::Disallow(prefix, key)));
            new.into_iter().for_each(|prefix| self.update(Update::Allow(prefix, key)));
        }
        if old.admits_new != admits_new {
            self.admit(key, admits_new);
        }
        self.publish(key);
    }

    /// Makes another key the peer's: what belonged to the old key belongs to the new one.
    ///
    /// From here on no session is made with the old key. One that lives goes on, both ways, for 60 seconds at most; packets move over
    /// when a session with the new key is up. Where the old key is no peer's, this is [`Device::set_peer`].
    pub fn replace_peer(&mut self, old: &WireGuardKey, new: WireGuardKey, config: PeerConfig, now: Instant) {
        if new == self.keys.current.public {
            return self.remove_peer(old);
        }
        let predecessor = if *old == new { None } else { self.detach(old) };
        let succeeds = predecessor.is_some();
        if let Some(mut predecessor) = predecessor {
            let until = now + REPLACED_KEY_LIFE;
            predecessor.retire_current(until);
            predecessor.former.iter_mut().for_each(|former| former.until = former.until.min(until));
            predecessor.cut(&mut self.slots, |tunnel| !tunnel.has_session());
            predecessor.tunnels().for_each(|tunnel| self.slots.give(tunnel.slot, new));
            let peer = self.peers.entry(new).or_insert_with(Peer::unknown);
            peer.succeed(predecessor);
            peer.bound_former(&mut self.slots);
            self.publish(new);
            self.replaced.values_mut().filter(|(key, _)| key == old).for_each(|(key, _)| *key = new);
            self.replaced.insert(*old, (new, until));
            self.next_tick.get_or_insert(now + TICK);
        }
        self.set_peer(new, config);
        if succeeds {
            // Behind the prefixes, by which what waits finds its way.
            self.update(Update::Succeed(*old, new));
            let wanted = self.wanted.contains(old);
            self.admit(*old, false);
            self.send_waiting(new, now);
            if wanted {
                self.find_keys(new, now);
            }
        }
    }

    /// Forgets a peer with its session keys, also those under keys that it had before: from here on nothing goes to it and nothing
    /// of it is taken. Where another key has replaced this one, only what is left of this one ends.
    pub fn remove_peer(&mut self, key: &WireGuardKey) {
        if let Some(mut peer) = self.detach(key) {
            peer.cut(&mut self.slots, |_| true);
            self.admit(*key, false);
        }
        if let Some((successor, _)) = self.replaced.remove(key)
            && let Some(peer) = self.peers.get_mut(&successor)
        {
            peer.cut(&mut self.slots, |tunnel| tunnel.peer == *key);
            self.publish(successor);
        }
    }

    /// Takes a packet from this host, or many at once, as the kernel's header says.
    pub fn handle_packet(&mut self, header: &VnetHeader, packet: &[u8], now: Instant) {
        self.forwarder.handle_packet(header, packet, now);
        if self.forwarder.is_urgent() {
            self.settle();
        }
    }

    /// Takes datagrams of one sender to one address from the network: one behind the other, each `segment` bytes long but for the last, which may be
    /// shorter. They are opened where they are, and the packets in them are delivered in as few parts as the kernel takes.
    pub fn handle_datagrams(
        &mut self,
        arrival: impl Into<Arrival>,
        datagrams: &mut [u8],
        segment: usize,
        now: Instant,
        deliver: impl FnMut(Coalesced<'_>),
    ) {
        let arrival = arrival.into();
        let refused = for_each_batch(datagrams, segment, |datagrams, range, message| {
            if message == MessageType::Data {
                self.forwarder.open(arrival, datagrams, range, segment, now);
                self.settle();
            } else if let Some(datagram) = datagrams.get(range) {
                self.shake_hands(arrival.from, message, datagram, now);
            }
        });
        self.counters.refused += refused;
        self.forwarder.flush(datagrams, deliver);
    }

    /// Runs the timers of every tunnel that is up, and forgets keys whose time is over.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.next_tick.is_none_or(|due| now < due) {
            return;
        }
        self.keys.expire(now);
        self.replaced.retain(|_, (_, until)| now < *until);
        let (mut unanswered, mut changed) = (Vec::new(), Vec::new());
        for (key, peer) in &mut self.peers {
            let (outbox, surroundings) = (&mut self.forwarder.outbox, &mut self.surroundings);
            let former = peer.former.extract_if(.., |Former { tunnel, until }| {
                let lives = now < *until && tunnel.tick(false, now).is_ok();
                // One that only wants a handshake is of no use any more.
                let wants = lives && flush_former(outbox, &peer.transfer, tunnel, surroundings, now);
                !lives || (wants && !tunnel.has_session())
            });
            let mut over: Vec<_> = former.map(|former| former.tunnel).collect();
            let (wanted, mut gave_up) = (self.wanted.contains(key), false);
            over.extend(peer.current.take_if(|tunnel| {
                let lives = tunnel.tick(wanted, now).is_ok();
                // A session that only this side has keeps the tunnel, but nothing can be sent in it.
                gave_up = tunnel.take_gave_up() && !tunnel.has_keys();
                if lives && (peer.config.admits_new || tunnel.has_keys()) {
                    flush(outbox, &peer.config.endpoints, &peer.transfer, tunnel, surroundings, now);
                }
                !lives
            }));
            let ends = !over.is_empty() || !peer.may_shake_hands();
            for tunnel in over {
                self.slots.release(tunnel.slot);
                peer.remember(&tunnel);
            }
            if !peer.may_shake_hands() {
                peer.cut(&mut self.slots, |_| true);
            }
            if peer.take_changed() || ends {
                changed.push(*key);
            }
            if wanted && (gave_up || peer.current.is_none()) {
                unanswered.push(*key);
            }
        }
        for key in unanswered {
            self.wanted.remove(&key);
            self.update(Update::GiveUp(key));
        }
        changed.into_iter().for_each(|key| self.publish(key));
        self.keep_alive(now);
        let idle = self.slots.is_empty() && self.replaced.is_empty() && self.keys.former().is_none();
        self.next_tick = (!idle).then(|| now + TICK);
    }

    /// The next datagrams to send. [`Device::recycle`] takes the buffer back.
    ///
    /// Packets are sealed here: the more there are of one tunnel by now, the less each costs.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        loop {
            let transmit = self.forwarder.poll_transmit();
            // What was sealed may have asked for the next session, and what could not be may have asked for the first.
            let settled = self.settle();
            if transmit.is_some() || !settled {
                return transmit;
            }
        }
    }

    /// The next packet that this host is to hear from the device itself.
    pub fn poll_answer(&mut self) -> Option<Vec<u8>> {
        self.forwarder.poll_answer()
    }

    /// Takes the buffer of what was sent.
    pub fn recycle(&mut self, transmit: Transmit) {
        self.forwarder.recycle(transmit);
    }

    /// How many bytes [`Device::poll_transmit`] has to give.
    pub const fn transmit_bytes(&self) -> usize {
        self.forwarder.transmit_bytes()
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
                endpoint: peer.endpoint()?.remote,
                last_handshake: latest.last_handshake,
                rtt: latest.rtt,
                rx_bytes: peer.transfer.packets.received(),
                tx_bytes: peer.transfer.packets.sent(),
            })
        })
    }

    /// What was dropped so far, as far as is known: by this device's own forwarder, and by others as they report it.
    pub fn counters(&self) -> Counters {
        let mut counters = self.counters;
        counters += self.forwarder.counters;
        counters
    }

    /// Tells every forwarder, its own at once.
    fn update(&mut self, update: Update) {
        self.announce(update.clone());
        self.forwarder.apply(update);
    }

    /// Tells every other forwarder.
    fn announce(&mut self, update: Update) {
        if let Some(updates) = &mut self.updates {
            updates.push_back(update);
        }
    }

    /// Tells every forwarder what it takes to exchange packets with a peer by now.
    fn publish(&mut self, key: WireGuardKey) {
        let link = self.peers.get_mut(&key).and_then(|peer| {
            peer.take_changed();
            peer.link()
        });
        if self.forwarder.link(&key) != link.as_ref() {
            self.update(Update::Link(key, link));
        }
    }

    fn publish_all(&mut self) {
        for key in self.peers.keys().copied().collect::<Vec<_>>() {
            self.publish(key);
        }
    }

    /// Heeds the reports of its own forwarder; says whether there were any.
    fn settle(&mut self) -> bool {
        let mut reports = std::mem::take(&mut self.reports);
        self.forwarder.swap_reports(&mut reports);
        let settled = !reports.is_empty();
        reports.drain(..).for_each(|report| self.heed(report));
        self.reports = reports;
        settled
    }

    /// Heeds that messages went to a peer, or came from it.
    fn heed(&mut self, report: Report) {
        match report {
            Report::Sent { peer, tunnel: slot, at } => {
                // A tunnel that is gone, and no key has replaced its peer's: whoever removed it knew why.
                let successor = || Some(self.successor(peer)).filter(|key| *key != peer);
                let Some(key) = self.slots.peer(slot).or_else(successor) else { return };
                let Some(peer) = self.peers.get_mut(&key) else { return };
                if let Some(tunnel) = peer.tunnels_mut().find(|tunnel| tunnel.slot == slot) {
                    tunnel.handle_sent(at);
                }
                if let Some(tunnel) = peer.current.as_mut().filter(|tunnel| tunnel.has_keys()) {
                    let outbox = &mut self.forwarder.outbox;
                    flush(outbox, &peer.config.endpoints, &peer.transfer, tunnel, &mut self.surroundings, at);
                } else {
                    // There will be keys that both sides have now.
                    self.begin(key, at);
                }
            }
            Report::Unsealed { peer, at } => {
                let key = self.successor(peer);
                // There may be keys by now.
                if !self.forwarder.may_send(&key, at) {
                    self.begin(key, at);
                }
            }
            Report::Received { index, packets, keepalives, at } => {
                let slot = index >> 8;
                let Some(key) = self.slots.peer(slot) else { return };
                let Some(peer) = self.peers.get_mut(&key) else { return };
                let Some(tunnel) = peer.tunnels_mut().find(|tunnel| tunnel.slot == slot) else { return };
                tunnel.handle_received(index, [packets, keepalives], at);
                self.follow_up(key, slot, at);
            }
            Report::Wanted { peer, at } => self.find_keys(self.successor(peer), at),
            Report::Message(..) | Report::Dropped(_) => {}
        }
    }

    /// The key that a peer has now which had this one when something was reported, unless that is another peer's by now.
    fn successor(&self, key: WireGuardKey) -> WireGuardKey {
        let replaced = self.replaced.get(&key).filter(|_| !self.peers.contains_key(&key));
        replaced.map_or(key, |(successor, _)| *successor)
    }

    /// Sees to it that there will be keys for packets that wait. There is nothing to do where an update is on its way that settles it: keys
    /// ([`Update::Link`]), or that nothing may wait ([`Update::Admit`]).
    fn find_keys(&mut self, key: WireGuardKey, now: Instant) {
        let may_wait = self.peers.get(&key).is_some_and(|peer| peer.config.admits_new);
        if may_wait && !self.forwarder.may_send(&key, now) {
            self.wanted.insert(key);
            self.begin(key, now);
        }
    }

    /// Tells every forwarder whether packets may wait for keys of a peer. Where they may not, none does from here on.
    fn admit(&mut self, key: WireGuardKey, admits: bool) {
        if !admits {
            self.wanted.remove(&key);
        }
        self.update(Update::Admit(key, admits));
    }

    /// Begins a handshake with everyone that packets wait for.
    fn begin_wanted(&mut self, now: Instant) {
        for key in self.wanted.iter().copied().collect::<Vec<_>>() {
            self.begin(key, now);
        }
    }

    /// Takes a handshake message, or counts it as refused.
    fn shake_hands(&mut self, from: Endpoint, message: MessageType, datagram: &[u8], now: Instant) {
        if self.try_shake_hands(from, message, datagram, now).is_none() {
            self.counters.refused += 1;
        }
    }

    /// `None` where it is refused.
    fn try_shake_hands(
        &mut self,
        from: Endpoint,
        message: MessageType,
        datagram: &[u8],
        now: Instant,
    ) -> Option<()> {
        let claim = self.keys.claim(from.remote, message, datagram, &mut self.surroundings, now);
        let (key, slot, incoming, answered) = match claim {
            Claim::Initiation(identified) => {
                let (own, peer) = (*identified.responder(), *identified.initiator());
                (peer, self.responder(own, peer, now)?, Handshake::Initiation(identified), None)
            }
            Claim::Response(slot, own) => {
                (self.slots.peer(slot)?, slot, Handshake::Message(datagram), Some(own))
            }
            Claim::Slot(slot) => (self.slots.peer(slot)?, slot, Handshake::Message(datagram), None),
            Claim::Challenge(cookie_reply) => {
                self.forwarder.outbox.push(from, &cookie_reply);
                return None;
            }
            Claim::Refused(reason) => {
                tracing::trace!(from = %from.remote, ?message, %reason, "datagram refused");
                return None;
            }
        };
        let peer = self.peers.get_mut(&key)?;
        let tunnel = peer.tunnels_mut().find(|tunnel| tunnel.slot == slot)?;
        // The end of a handshake with a key that the peer has no longer: the peer sends nothing under it that would be lost. Or one under
        // another key than that which it was begun with.
        if let Some(own) = answered
            && (tunnel.peer != key
                || tunnel.own != own
                || !self.keys.allow_response(&own, from.remote.ip(), now))
        {
            return None;
        }
        let length = tunnel
            .shake_hands(from, incoming, &mut self.surroundings, now)
            .inspect_err(|reason| tracing::trace!(from = %from.remote, ?message, %reason, "datagram refused"))
            .ok()?;
        if message == MessageType::Initiation
            && tunnel.peer == key
            && let (own, Some(when)) = (tunnel.own, tunnel.heard())
        {
            peer.note_heard(own, when);
        }
        peer.transfer.messages.receive(length as u64);
        self.follow_up(key, slot, now);
        Some(())
    }

    /// Says what the tunnel in a slot has to say, and sends what waited for its keys.
    fn follow_up(&mut self, key: WireGuardKey, slot: u32, now: Instant) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if let Some(tunnel) = peer.current.as_mut().filter(|tunnel| tunnel.slot == slot) {
            let outbox = &mut self.forwarder.outbox;
            flush(outbox, &peer.config.endpoints, &peer.transfer, tunnel, &mut self.surroundings, now);
        } else if let Some(former) = peer.former.iter_mut().find(|former| former.tunnel.slot == slot) {
            let outbox = &mut self.forwarder.outbox;
            flush_former(outbox, &peer.transfer, &mut former.tunnel, &mut self.surroundings, now);
        }
        if peer.take_changed() {
            self.publish(key);
            self.send_waiting(key, now);
        }
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

    /// Begins a handshake under the keys that both sides have now, unless one is under way, or none may be: a report may be of a time when
    /// one might have been.
    fn begin(&mut self, key: WireGuardKey, now: Instant) {
        if !self.peers.get(&key).is_some_and(Peer::may_shake_hands) {
            return;
        }
        self.ensure_current(key, now);
        let Some(Peer { config, transfer, current: Some(tunnel), .. }) = self.peers.get_mut(&key) else {
            return;
        };
        tunnel.initiate(now);
        flush(&mut self.forwarder.outbox, &config.endpoints, transfer, tunnel, &mut self.surroundings, now);
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

    /// Sends what waited for a peer, where there are keys by now. The other forwarders do so when they hear of the keys.
    fn send_waiting(&mut self, key: WireGuardKey, now: Instant) {
        if self.forwarder.may_send(&key, now) {
            self.wanted.remove(&key);
            self.forwarder.send_waiting(&key, now);
        }
    }

    /// Takes a peer out of the tables; its tunnels are the caller's.
    fn detach(&mut self, key: &WireGuardKey) -> Option<Peer> {
        let peer = self.peers.remove(key)?;
        let settings = peer.settings.iter().flat_map(|settings| &settings.allowed_ips);
        let prefixes: Vec<_> = peer.config.allowed_ips.iter().chain(settings).copied().collect();
        prefixes.into_iter().for_each(|prefix| self.update(Update::Disallow(prefix, *key)));
        self.publish(*key);
        Some(peer)
    }
}

/// Sends what a tunnel has to say beside packets. A handshake initiation goes wherever the peer may be, anything else where it was last
/// heard of: an answer to a handshake thus goes back to whoever sent it.
fn flush(
    outbox: &mut Outbox,
    candidates: &[SocketAddr],
    transfer: &Transfer,
    tunnel: &mut Tunnel,
    surroundings: &mut Surroundings,
    now: Instant,
) {
    while let Some(transmit) = tunnel.poll_transmit(surroundings, now) {
        count(transfer, tunnel, &transmit);
        let candidates = match transmit.message_type() {
            MessageType::Initiation => candidates,
            MessageType::Response | MessageType::CookieReply | MessageType::Data => &[],
        };
        send(outbox, candidates, tunnel.endpoint(), transmit.datagram());
    }
}

/// The same for a tunnel under a key that one side has no longer: no handshake is begun there. Whether it wanted one.
fn flush_former(
    outbox: &mut Outbox,
    transfer: &Transfer,
    tunnel: &mut Tunnel,
    surroundings: &mut Surroundings,
    now: Instant,
) -> bool {
    let mut wants = false;
    while let Some(transmit) = tunnel.poll_transmit(surroundings, now) {
        if transmit.message_type() == MessageType::Initiation {
            wants = true;
        } else {
            count(transfer, tunnel, &transmit);
            send(outbox, &[], tunnel.endpoint(), transmit.datagram());
        }
    }
    wants
}

/// Counts what goes to where the peer was last heard of. What goes to where it may be is not counted.
fn count(transfer: &Transfer, tunnel: &Tunnel, transmit: &carrick_wireguard::Transmit) {
    if tunnel.endpoint().is_some() {
        transfer.messages.send(transmit.datagram().len() as u64);
    }
}

/// Where the peer was last heard of comes first.
fn send(outbox: &mut Outbox, candidates: &[SocketAddr], endpoint: Option<Endpoint>, message: &[u8]) {
    let heard = endpoint.map(|endpoint| endpoint.remote);
    let others = candidates.iter().copied().filter(|&candidate| Some(candidate) != heard).map(Endpoint::from);
    for to in endpoint.into_iter().chain(others).take(MAX_TRIED_ENDPOINTS) {
        outbox.push(to, message);
    }
}

mod describe;
mod sources;
mod stand_alone;
#[cfg(test)]
mod tests;

pub use describe::PeerState;
pub(crate) use stand_alone::Settings;
use stand_alone::StandAlone;
