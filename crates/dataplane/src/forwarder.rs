//! What moves packets: it seals and opens with the keys that the device has handed out, and knows nothing of handshakes.
//!
//! The device has one of its own. Where several threads move packets, each of the others has one more ([`Device::fork`](crate::Device::fork)),
//! which the device tells what changes ([`Update`]), and which tells the device what happened ([`Report`]). None waits for another: packets
//! that a forwarder has no keys for stay with it until the device has, so that no later packet of their flows comes before them.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Range,
    sync::Arc,
    time::Instant,
};

use arrayvec::ArrayVec;
use carrick_types::{Cidr, WireGuardKey};
use carrick_wireguard::{
    HEADER, Message, OVERHEAD,
    message::{self, MessageType},
    padded,
};

use crate::{
    allowed_ips::AllowedIps,
    counters::Counters,
    ecn::{self, Arrival, Ecn},
    endpoint::Endpoint,
    filter::{Direction, Filter},
    link::{self, Link, Receiving, Sending},
    mss,
    offload::{Coalesced, Coalescer, Segments, VnetHeader},
    outbox::{MAX_DATAGRAM, MAX_SEGMENTS, Outbox, Transmit, Unsealed},
    packet::{addresses, udp, unpadded},
    report::{Report, Reports},
    too_big::TooBig,
    waiting::Waiting,
};

/// The MTU of the interface as long as nothing else is said, in bytes.
const MTU: usize = 1420;

/// Messages that are passed on to the device at once, at most.
const MAX_PASSED_ON: usize = 256;

/// What is sealed or opened at once.
type Batch<'a> = ArrayVec<Message<'a>, MAX_SEGMENTS>;

/// What a device says to the forwarders beside its own.
#[derive(Clone)]
pub enum Update {
    /// The MTU of the interface.
    Mtu(usize),
    /// What packets are taken for.
    Own(Own),
    /// A prefix is a peer's.
    Allow(Cidr, WireGuardKey),
    /// A prefix is not that peer's any more.
    Disallow(Cidr, WireGuardKey),
    /// What it takes to exchange packets with a peer; `None`: nothing goes there, and nothing is taken from there.
    Link(WireGuardKey, Option<Link>),
    /// Whether packets may wait until there are keys for a peer.
    Admit(WireGuardKey, bool),
    /// No handshake with a peer came about: what waits for it waits in vain.
    GiveUp(WireGuardKey),
    /// What is to go to the first peer goes to the second, which is the same one with another key.
    Succeed(WireGuardKey, WireGuardKey),
    /// What looks at every packet.
    Filter(Option<Arc<dyn Filter>>),
}

/// What packets from peers are taken for.
#[derive(Debug, Clone)]
pub enum Own {
    /// Whatever this host makes of them.
    Everything,
    /// What this node speaks for.
    Prefixes(AllowedIps<()>),
}

/// A receiver index of this host.
#[derive(Clone)]
struct Receiver {
    receiving: Receiving,
    peer: WireGuardKey,
    /// Whether something authentic has come for it.
    heard: bool,
}

/// What moves packets.
pub struct Forwarder {
    mtu: usize,
    own: Own,
    allowed_ips: AllowedIps<WireGuardKey>,
    links: BTreeMap<WireGuardKey, Link>,
    receivers: BTreeMap<u32, Receiver>,
    /// The peers that have given this index to the session that they are sent to by: mostly one.
    senders: BTreeMap<u32, Vec<WireGuardKey>>,
    pub(crate) outbox: Outbox,
    coalescer: Coalescer,
    /// For each message of a batch, how long its text is; `None` where it is refused. Kept for its memory.
    opened: Vec<Option<usize>>,
    pub(crate) counters: Counters,
    filter: Option<Arc<dyn Filter>>,
    too_big: TooBig,
    /// The peers that packets may wait for.
    admitted: BTreeSet<WireGuardKey>,
    /// Packets that there are no keys for. Where some are for a peer, the device was told so by [`Report::Wanted`], and answers some time, by
    /// [`Update::Link`] with a key that may seal, [`Update::GiveUp`], [`Update::Admit`] or [`Update::Succeed`].
    waiting: Waiting,
    /// What this host is to hear from the forwarder itself.
    answers: VecDeque<Vec<u8>>,
    reports: Reports,
    passed_on: usize,
    urgent: bool,
}

impl Forwarder {
    pub(crate) fn new(own: Own) -> Self {
        Self {
            mtu: MTU,
            own,
            allowed_ips: AllowedIps::default(),
            links: BTreeMap::new(),
            receivers: BTreeMap::new(),
            senders: BTreeMap::new(),
            outbox: Outbox::default(),
            coalescer: Coalescer::default(),
            opened: Vec::new(),
            counters: Counters::default(),
            filter: None,
            too_big: TooBig::default(),
            admitted: BTreeSet::new(),
            waiting: Waiting::default(),
            answers: VecDeque::new(),
            reports: Reports::default(),
            passed_on: 0,
            urgent: false,
        }
    }

    /// Another one that knows the same and has done nothing yet.
    pub(crate) fn fork(&self) -> Self {
        Self {
            mtu: self.mtu,
            allowed_ips: self.allowed_ips.clone(),
            links: self.links.clone(),
            admitted: self.admitted.clone(),
            receivers: self.receivers.clone(),
            senders: self.senders.clone(),
            coalescer: self.coalescer.fork(),
            filter: self.filter.clone(),
            ..Self::new(self.own.clone())
        }
    }

    /// Heeds what the device says, and sends what waited for it.
    pub fn handle_update(&mut self, update: Update, now: Instant) {
        let keyed = if let Update::Link(peer, Some(link)) = &update {
            Some(*peer).filter(|_| link.has_keys())
        } else if let Update::Succeed(_, peer) = update {
            Some(peer)
        } else {
            None
        };
        self.apply(update);
        if let Some(peer) = keyed.filter(|peer| self.waiting.waits_for(peer)) {
            self.send_waiting(&peer, now);
            // They have been over since, or it is the new key of a peer that there are none with yet.
            if self.waiting.waits_for(&peer) {
                self.ask_for_keys(peer, now);
            }
        }
    }

    /// Heeds what the device says, and leaves what waited for it to [`Forwarder::send_waiting`]: for the device, whose own forwarder this is.
    pub(crate) fn apply(&mut self, update: Update) {
        match update {
            Update::Mtu(mtu) => self.mtu = mtu,
            Update::Own(own) => self.own = own,
            Update::Allow(prefix, peer) => drop(self.allow(prefix, peer)),
            Update::Disallow(prefix, peer) => drop(self.allowed_ips.remove(prefix, peer)),
            Update::Link(peer, link) => self.set_link(peer, link),
            Update::Admit(peer, true) => drop(self.admitted.insert(peer)),
            Update::Admit(peer, false) => {
                self.admitted.remove(&peer);
                self.counters.unanswered += self.waiting.clear(&peer);
            }
            Update::GiveUp(peer) => self.counters.unanswered += self.waiting.clear(&peer),
            Update::Succeed(old, new) => {
                self.outbox.hand_over(old, new);
                if self.admitted.contains(&new) {
                    self.waiting.hand_over(&old, new);
                } else {
                    self.counters.unanswered += self.waiting.clear(&old);
                }
            }
            Update::Filter(filter) => self.filter = filter,
        }
    }

    /// Takes a packet from this host, or many at once, as the kernel's header says.
    pub fn handle_packet(&mut self, header: &VnetHeader, packet: &[u8], now: Instant) {
        let Some((peer, segments)) = self.route(header, packet, now) else { return };
        // Another thread may have opened just now what lets a session seal.
        if self.waiting.waits_for(&peer) {
            self.send_waiting(&peer, now);
            if self.waiting.waits_for(&peer) {
                return self.hold(peer, segments, now);
            }
        }
        self.forward(peer, segments, now);
    }

    /// Takes datagrams of one sender from the network: one behind the other, each `segment` bytes long but for the last, which may be
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
        let refused = for_each_batch(datagrams, segment, |datagrams, range, message| match message {
            MessageType::Data => self.open(arrival, datagrams, range, segment, now),
            MessageType::Initiation | MessageType::Response | MessageType::CookieReply => {
                self.report_message(arrival.from, datagrams.get(range).unwrap_or_default());
            }
        });
        self.counters.refused += refused;
        self.flush(datagrams, deliver);
    }

    /// The next datagrams to send. [`Forwarder::recycle`] takes the buffer back.
    ///
    /// Packets are sealed here: the more there are for one peer by now, the less each costs.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        loop {
            let mut transmit = self.outbox.pop()?;
            let sealed = match transmit.unsealed.take() {
                Some(by) => self.seal(&mut transmit, by),
                None => true,
            };
            if sealed {
                return Some(transmit);
            }
            self.outbox.recycle(transmit);
        }
    }

    /// Takes the buffer of what was sent.
    pub fn recycle(&mut self, transmit: Transmit) {
        self.outbox.recycle(transmit);
    }

    /// How many bytes [`Forwarder::poll_transmit`] has to give.
    pub const fn transmit_bytes(&self) -> usize {
        self.outbox.bytes()
    }

    /// The next packet that this host is to hear from the forwarder itself.
    pub fn poll_answer(&mut self) -> Option<Vec<u8>> {
        self.answers.pop_front()
    }

    /// Whether the device should hear of something at once. Anything else may wait for a moment that is short beside WireGuard's timers.
    pub const fn is_urgent(&self) -> bool {
        self.urgent
    }

    /// What the device is to be told: nothing, where nothing has happened.
    pub fn take_reports(&mut self) -> Vec<Report> {
        (self.passed_on, self.urgent) = (0, false);
        let dropped = std::mem::take(&mut self.counters);
        if dropped != Counters::default() {
            self.reports.push(Report::Dropped(dropped));
        }
        self.reports.take()
    }

    /// Exchanges an empty list for what the device, whose own this forwarder is, has yet to hear.
    pub(crate) fn swap_reports(&mut self, reports: &mut Vec<Report>) {
        (self.passed_on, self.urgent) = (0, false);
        self.reports.swap(reports);
    }

    pub(crate) const fn set_udp_segments(&mut self, takes: bool) {
        self.coalescer.set_udp(takes);
    }

    /// Gives a prefix to a peer, and says whose it was.
    pub(crate) fn allow(&mut self, prefix: Cidr, peer: WireGuardKey) -> Option<WireGuardKey> {
        self.allowed_ips.insert(prefix, peer)
    }

    pub(crate) fn link(&self, peer: &WireGuardKey) -> Option<&Link> {
        self.links.get(peer)
    }

    pub(crate) fn set_link(&mut self, peer: WireGuardKey, link: Option<Link>) {
        let index = |receiving: &Receiving| receiving.key.index();
        let kept: Vec<u32> = link.iter().flat_map(|link| &link.receiving).map(index).collect();
        for former in self.links.get(&peer).iter().flat_map(|link| &link.receiving).map(index) {
            if !kept.contains(&former)
                && self.receivers.get(&former).is_some_and(|receiver| receiver.peer == peer)
            {
                self.receivers.remove(&former);
            }
        }
        for receiving in link.iter().flat_map(|link| &link.receiving) {
            let receiver = self.receivers.entry(index(receiving));
            let new = || Receiver { receiving: receiving.clone(), peer, heard: false };
            let receiver = receiver.or_insert_with(new);
            if receiver.peer != peer || !Arc::ptr_eq(&receiver.receiving.key, &receiving.key) {
                *receiver = new();
            }
        }
        for sending in link.iter().flat_map(|link| &link.sending) {
            self.senders.entry(sending.key.receiver()).or_default().push(peer);
        }
        let former = match link {
            Some(link) => self.links.insert(peer, link),
            None => self.links.remove(&peer),
        };
        for sending in former.iter().flat_map(|link| &link.sending) {
            let index = sending.key.receiver();
            let Some(peers) = self.senders.get_mut(&index) else { continue };
            peers.iter().position(|known| *known == peer).map(|at| peers.swap_remove(at));
            if peers.is_empty() {
                self.senders.remove(&index);
            }
        }
    }

    /// Whether a packet of this host is a message of one of its sessions on its way to the peer: a route leads back into the interface, and
    /// what is sent once would be sent for ever. The kernel's WireGuard takes no such route either.
    fn is_own_datagram(&mut self, packet: &[u8]) -> bool {
        let Some((to, payload)) = udp(packet) else { return false };
        let index = message::receiver(payload).filter(|_| MessageType::of(payload) == Ok(MessageType::Data));
        let peers = index.and_then(|index| self.senders.get(&index)).into_iter().flatten();
        peers.into_iter().any(|peer| {
            let sending = self.links.get_mut(peer).into_iter().flat_map(|link| &mut link.sending);
            let mut named = sending.filter(|sending| Some(sending.key.receiver()) == index);
            named.any(|sending| sending.to.get().is_some_and(|at| (at.remote.ip(), at.remote.port()) == to))
        })
    }

    /// Which peer a packet of this host goes to, if it may go at all.
    fn route<'a>(
        &mut self,
        header: &VnetHeader,
        packet: &'a [u8],
        now: Instant,
    ) -> Option<(WireGuardKey, Segments<'a>)> {
        let destination = addresses(packet).map(|found| found.destination);
        let Some(peer) = destination.and_then(|address| self.allowed_ips.lookup(address)) else {
            self.counters.no_peer += 1;
            return None;
        };
        let Ok(segments) = Segments::of(header, packet) else {
            self.counters.malformed += 1;
            return None;
        };
        if self.filter.as_ref().is_some_and(|filter| !filter.passes(Direction::Out, packet)) {
            self.counters.filtered += 1;
            return None;
        }
        if self.is_own_datagram(packet) {
            self.counters.looped += 1;
            return None;
        }
        if let Some(mtu) = self.links.get(&peer).and_then(|link| link.path_mtu)
            && segments.next_length().is_some_and(|length| length > mtu.into())
        {
            self.counters.too_big += 1;
            self.answers.extend(self.too_big.answer(packet, mtu, now));
            return None;
        }
        Some((peer, segments))
    }

    fn forward(&mut self, peer: WireGuardKey, segments: Segments<'_>, now: Instant) {
        if let Err(segments) = self.send(&peer, segments, now) {
            self.hold(peer, segments, now);
        }
    }

    /// Keeps packets until there are keys, and asks for some.
    fn hold(&mut self, peer: WireGuardKey, mut segments: Segments<'_>, now: Instant) {
        if !self.admitted.contains(&peer) {
            self.counters.not_admitted += 1;
            return;
        }
        // Those that follow may be heard of later: a handshake is tried for so long after the last of them.
        self.urgent |= !self.waiting.waits_for(&peer);
        self.reports.push(Report::Wanted { peer, at: now });
        while let Some(length) = segments.next_length() {
            let mut packet = Vec::with_capacity(length);
            segments.append_next(&mut packet);
            self.counters.crowded_out += self.waiting.push(peer, packet);
        }
    }

    /// Has the device look for keys at once.
    fn ask_for_keys(&mut self, peer: WireGuardKey, at: Instant) {
        self.urgent = true;
        self.reports.push(Report::Wanted { peer, at });
    }

    /// Whether there is what it takes to send packets to a peer.
    pub(crate) fn may_send(&mut self, peer: &WireGuardKey, now: Instant) -> bool {
        self.links.get_mut(peer).is_some_and(|link| link::way(&mut link.sending, now).is_some())
    }

    /// Sends what waited for a peer, where there are keys by now. Where a prefix is another peer's by now, it goes there.
    pub(crate) fn send_waiting(&mut self, peer: &WireGuardKey, now: Instant) {
        while self.may_send(peer, now)
            && let Some(packet) = self.waiting.pop(peer)
        {
            if let Some((peer, segments)) = self.route(&VnetHeader::default(), &packet, now) {
                self.forward(peer, segments, now);
            }
        }
    }

    /// Puts packets into the outbox. Padding goes up to the MTU of the interface, and connections are told what fits into the path.
    ///
    /// # Errors
    /// The packets, where there are no keys for them.
    fn send<'a>(
        &mut self,
        peer: &WireGuardKey,
        mut segments: Segments<'a>,
        now: Instant,
    ) -> Result<(), Segments<'a>> {
        let Some(link) = self.links.get_mut(peer) else { return Err(segments) };
        let fits = link.mtu(self.mtu);
        let Some((_, to)) = link::way(&mut link.sending, now) else { return Err(segments) };
        // Nothing that is cut up is a SYN.
        let is_whole = segments.is_whole();
        while let Some(length) = segments.next_length() {
            let by = Unsealed { peer: *peer, at: now, bytes: length as u64 };
            let sealed = padded(length, self.mtu) + OVERHEAD;
            if sealed > MAX_DATAGRAM {
                self.counters.too_big += 1;
                break;
            }
            self.outbox.append(to, by, sealed, |payload| {
                let from = payload.len();
                segments.append_next(payload);
                if let Some(packet) = payload.get_mut(from..).filter(|_| is_whole) {
                    mss::clamp(packet, fits);
                }
            });
        }
        Ok(())
    }

    /// Opens data messages that all name one session, in `range` of the datagrams. What is in them is delivered by [`Forwarder::flush`].
    pub(crate) fn open(
        &mut self,
        arrival: Arrival,
        datagrams: &mut [u8],
        range: Range<usize>,
        segment: usize,
        now: Instant,
    ) {
        let count = range.len().div_ceil(segment.max(1));
        if self.try_open(arrival, datagrams, range, segment.max(1), now).is_none() {
            self.counters.refused += count as u64;
        }
    }

    /// Delivers what was opened in these datagrams.
    pub(crate) fn flush(&mut self, datagrams: &mut [u8], deliver: impl FnMut(Coalesced<'_>)) {
        self.coalescer.flush(datagrams, deliver);
    }

    fn report_message(&mut self, from: Endpoint, message: &[u8]) {
        if self.has_room() {
            self.reports.push(Report::Message(from, message.to_vec()));
        } else {
            self.counters.refused += 1;
        }
    }

    /// Whether another message may wait for the next report.
    const fn has_room(&mut self) -> bool {
        let has_room = self.passed_on < MAX_PASSED_ON;
        self.passed_on += has_room as usize;
        self.urgent |= has_room;
        has_room
    }

    /// `None` where all are refused.
    fn try_open(
        &mut self,
        arrival: Arrival,
        datagrams: &mut [u8],
        range: Range<usize>,
        segment: usize,
        now: Instant,
    ) -> Option<()> {
        let messages = datagrams.get_mut(range.clone())?;
        let index = message::receiver(messages)?;
        let receiver = self.receivers.get_mut(&index)?;
        let peer = receiver.peer;
        let link = self.links.get(&peer)?;
        let mut batch = Batch::new();
        for message in messages.chunks_mut(segment) {
            batch.try_push(Message::incoming(message).ok()?).ok()?;
        }
        let opened = receiver.receiving.key.open(&mut batch, now);
        self.opened.clear();
        self.opened.extend(batch.iter().map(|message| message.packet().map(<[u8]>::len)));
        drop(batch);
        let heard = opened.packets + opened.keepalives > 0;
        if heard {
            let bytes: usize = self.opened.iter().flatten().map(|text| text + OVERHEAD).sum();
            link.transfer.messages.receive(bytes as u64);
            receiver.receiving.from.set(arrival.from);
            // The device may wait for it.
            self.urgent |= link.sending.is_empty() || !std::mem::replace(&mut receiver.heard, true);
            let (packets, keepalives) = (opened.packets > 0, opened.keepalives > 0);
            self.reports.push(Report::Received { index, packets, keepalives, at: now });
        }
        let fits = link.mtu(self.mtu);
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
            if !known && self.allowed_ips.lookup(found.source) != Some(peer) {
                self.counters.spoofed += 1;
                continue;
            }
            if !known && !self.own.contains(found.destination) {
                self.counters.not_for_us += 1;
                continue;
            }
            admitted = Some(found);
            if let Some(filter) = &self.filter
                && let Some(packet) = datagrams.get(start..start + length)
                && !filter.passes(Direction::In, packet)
            {
                self.counters.filtered += 1;
            } else {
                if let Some(packet) = datagrams.get_mut(start..start + length) {
                    if arrival.ecn != Ecn::NotCapable && !ecn::decapsulate(packet, arrival.ecn) {
                        self.counters.congested += 1;
                        continue;
                    }
                    mss::clamp(packet, fits);
                }
                link.transfer.packets.receive(length as u64);
                self.coalescer.push(datagrams, start..start + length);
            }
        }
        Some(())
    }

    /// Seals what is about to be sent. Whether it could.
    fn seal(&mut self, transmit: &mut Transmit, Unsealed { peer, at, bytes }: Unsealed) -> bool {
        let sealed = self.links.get_mut(&peer).and_then(|Link { sending, transfer, .. }| {
            let (Sending { tunnel, key, .. }, _) = link::way(sending, at)?;
            let mut batch = Batch::new();
            for datagram in transmit.payload.chunks_mut(transmit.segment) {
                // With its padding, of the MTU that there was.
                let packet = datagram.len().checked_sub(OVERHEAD)?;
                batch.try_push(Message::outgoing(datagram, packet, packet)?).ok()?;
            }
            key.reserve(batch.len() as u64, at).ok()?.seal(&mut batch);
            drop(batch);
            transfer.packets.send(bytes);
            transfer.messages.send(transmit.payload.len() as u64);
            Some(*tunnel)
        });
        match sealed {
            Some(tunnel) => self.reports.push(Report::Sent { peer, tunnel, at }),
            None => {
                self.counters.no_key += transmit.payload.len().div_ceil(transmit.segment) as u64;
                self.urgent = true;
                self.reports.push(Report::Unsealed { peer, at });
            }
        }
        sealed.is_some()
    }
}

impl Own {
    /// Whether packets for an address are taken.
    fn contains(&self, address: std::net::IpAddr) -> bool {
        match self {
            Self::Everything => true,
            Self::Prefixes(prefixes) => prefixes.lookup(address).is_some(),
        }
    }
}

/// Goes through datagrams by batches: each is one handshake message, or data messages of one session. Says how many were neither.
pub(crate) fn for_each_batch(
    datagrams: &mut [u8],
    segment: usize,
    mut take: impl FnMut(&mut [u8], Range<usize>, MessageType),
) -> u64 {
    let (segment, mut at, mut refused) = (segment.max(1), 0, 0);
    while let Some(rest) = datagrams.get(at..).filter(|rest| !rest.is_empty()) {
        let batch = batch(rest, segment);
        match rest.get(..batch.min(segment)).map(MessageType::of) {
            Some(Ok(message)) => take(datagrams, at..at + batch, message),
            Some(Err(_)) | None => refused += batch.div_ceil(segment) as u64,
        }
        at += batch.max(1);
    }
    refused
}

/// How many bytes of the datagrams, from the beginning, are one handshake message, or data messages of one session: no more than a [`Batch`].
fn batch(datagrams: &[u8], segment: usize) -> usize {
    let first = datagrams.chunks(segment).next().unwrap_or_default();
    let session = |datagram: &[u8]| {
        let data = MessageType::of(datagram).is_ok_and(|message| message == MessageType::Data);
        if data { message::receiver(datagram) } else { None }
    };
    let Some(index) = session(first) else { return first.len() };
    let same = datagrams.chunks(segment).take_while(|datagram| session(datagram) == Some(index));
    same.take(MAX_SEGMENTS).map(<[u8]>::len).sum()
}
