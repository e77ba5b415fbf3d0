//! A tunnel: its handshakes, its timers, and which session sends.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use carrick_types::WireGuardKey;

use crate::{
    Context, Identified, Identity, Message, Opened, PresharedKey, REKEY_AFTER_MESSAGES, REKEY_AFTER_TIME,
    REKEY_ATTEMPT_TIME, REKEY_TIMEOUT, ReceiveKey, Refused, Role, SendKey, Spent, Tai64N, Timer,
    macs::Macs,
    message::{CookieReply, INITIATION, KEEPALIVE, MessageType, RESPONSE, Response},
    noise::{self, Initiated, Keys},
    primitives::Secret,
    session::Confirmed,
    sessions::{Session, Sessions},
    timers::{EXPIRY, KEEPALIVE_TIMEOUT, MAX_JITTER, REKEY_ON_RECEIVE_AFTER, SILENCE, Timers, fires},
};

/// Initiations of one peer are taken with at least so much between them.
const INITIATION_INTERVAL: Duration = Duration::from_millis(20);

/// What may be different from tunnel to tunnel.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// The secret that the two peers share beside their keys.
    pub preshared_key: PresharedKey,
    /// How long the tunnel is silent before a keepalive keeps it open in middleboxes. `None`: for ever.
    pub persistent_keepalive: Option<Duration>,
    /// The timestamp of the last initiation that was taken from this peer ([`Tunnel::heard`]), by this tunnel's predecessor: no older
    /// one is taken.
    pub heard: Option<Tai64N>,
}

/// What went through a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    /// A packet.
    Packet,
    /// Nothing: the peer is there.
    Keepalive,
}

/// Something that the caller is to know.
#[derive(Clone)]
pub enum Event {
    /// Messages that name this key's index are opened with it from here on.
    Opening(Arc<ReceiveKey>),
    /// Packets are sealed with this key from here on.
    Sending(Arc<SendKey>),
    /// A handshake has ended in a session, and the peer has shown that it has it too.
    Established {
        /// Which side this host was.
        role: Role,
        /// Between this host's last handshake message and the peer's answer.
        rtt: Duration,
    },
    /// Nothing has this index any more. What comes for it is for nobody.
    Released(u32),
    /// The peer did not answer for [`REKEY_ATTEMPT_TIME`]. Nothing more is tried until something is to be sent.
    GaveUp,
    /// There has been no new session for so long that nothing is left of the tunnel.
    Expired,
}

/// A datagram to send to the peer.
#[derive(Clone)]
pub struct Transmit {
    message: MessageType,
    bytes: [u8; INITIATION],
}

impl Transmit {
    fn new(message: MessageType, datagram: &[u8]) -> Self {
        let mut bytes = [0; INITIATION];
        for (to, byte) in bytes.iter_mut().zip(datagram) {
            *to = *byte;
        }
        Self { message, bytes }
    }

    /// What it is. An initiation may go to every place where the peer may be, anything else to where it was last heard of.
    pub const fn message_type(&self) -> MessageType {
        self.message
    }

    /// The whole datagram.
    pub fn datagram(&self) -> &[u8] {
        let length = match self.message {
            MessageType::Initiation => INITIATION,
            MessageType::Response => RESPONSE,
            MessageType::CookieReply => crate::message::COOKIE_REPLY,
            MessageType::Data => KEEPALIVE,
        };
        self.bytes.get(..length).unwrap_or_default()
    }
}

/// The initiation that waits for its answer.
struct Pending {
    initiated: Initiated,
    sent: Instant,
}

/// A tunnel between one key of this host and one key of a peer. One mutation, then drain [`Tunnel::poll_transmit`] and
/// [`Tunnel::poll_event`], then wait.
///
/// Handshake messages come in by `handle_*`. `Ok` from one of them says that the peer was where the message came from, except for a
/// cookie reply, which says nothing about that. Data messages are sealed and opened with the keys that the events hand out, here
/// ([`Tunnel::seal`], [`Tunnel::open`]) or elsewhere; elsewhere [`Tunnel::handle_sent`] and [`Tunnel::handle_received`] are to be told.
///
/// The clock may leap forward, and does nothing worse than make timers due. Where it goes back, it stands still in here.
pub struct Tunnel {
    identity: Arc<Identity>,
    peer: WireGuardKey,
    config: Config,
    /// The agreement of the two static keys.
    shared: Secret,
    macs: Macs,
    /// The timestamp of the last initiation of ours: the next is greater, whatever the wall clock says.
    stamped: Option<Tai64N>,
    pending: Option<Pending>,
    sessions: Sessions,
    timers: Timers,
    /// The latest moment that is known of.
    latest: Option<Instant>,
    /// When an initiation was last taken.
    taken: Option<Instant>,
    /// When a data message was last received, and when one with a packet.
    received: Option<Instant>,
    received_packet: Option<Instant>,
    /// When a handshake message was last sent.
    shook_hands: Option<Instant>,
    /// Added to timers of retries.
    jitter: Duration,
    /// Whether the current session has asked for its successor when it received something.
    asked_on_receive: bool,
    /// The response to send, if any.
    response: Option<[u8; RESPONSE]>,
    initiation_due: bool,
    keepalive_due: bool,
    events: VecDeque<Event>,
}

impl Tunnel {
    /// A tunnel that does nothing yet.
    pub fn new(identity: Arc<Identity>, peer: WireGuardKey, config: Config) -> Self {
        let shared = identity.agree(peer.as_bytes()).expect("a WireGuardKey is no point of low order");
        Self {
            identity,
            peer,
            config,
            shared,
            macs: Macs::new(&peer),
            stamped: None,
            pending: None,
            sessions: Sessions::default(),
            timers: Timers::default(),
            latest: None,
            taken: None,
            received: None,
            received_packet: None,
            shook_hands: None,
            jitter: Duration::ZERO,
            asked_on_receive: false,
            response: None,
            initiation_due: false,
            keepalive_due: false,
            events: VecDeque::new(),
        }
    }

    /// The peer's key.
    pub const fn peer(&self) -> &WireGuardKey {
        &self.peer
    }

    /// The timestamp of the last initiation that was taken. Kept beyond the tunnel ([`Config::heard`]), it makes replays useless even
    /// after a restart.
    pub const fn heard(&self) -> Option<Tai64N> {
        self.config.heard
    }

    /// Shares another secret with the peer. Handshakes that are not through yet are made with it; sessions go on.
    pub fn set_preshared_key(&mut self, key: PresharedKey) {
        self.config.preshared_key = key;
    }

    /// Sends a keepalive whenever nothing else was sent or received for so long, and a first one then.
    pub fn set_persistent_keepalive(&mut self, interval: Option<Duration>, first: Instant) {
        self.config.persistent_keepalive = interval;
        self.timers.persistent = interval.map(|_| first);
    }

    /// Asks for a handshake: something is to be sent, or the peer is likely elsewhere. The first initiation goes at once, or 5 seconds
    /// after the last handshake message; others follow until the peer answers, for 90 seconds after the last call.
    pub fn initiate(&mut self, now: Instant) {
        let now = self.advance(now);
        self.timers.attempt_ends = Some(now + REKEY_ATTEMPT_TIME);
        if self.timers.retry.is_some() || self.initiation_due {
            return;
        }
        match self.shook_hands.map(|last| last + REKEY_TIMEOUT).filter(|due| now < *due) {
            Some(due) => self.timers.postponed = Some(due),
            None => self.initiation_due = true,
        }
    }

    /// Asks for a handshake at once, whatever was sent before: the peer is likely elsewhere. How often is the caller's affair.
    pub fn look(&mut self, now: Instant) {
        let now = self.advance(now);
        self.timers.attempt_ends = Some(now + REKEY_ATTEMPT_TIME);
        self.initiation_due = true;
    }

    /// Takes an initiation of this peer. `Ok` makes [`Tunnel::poll_transmit`] give the response.
    ///
    /// # Errors
    /// [`Refused`] where it is not the peer's, or a replay.
    pub fn handle_initiation(
        &mut self,
        identified: Identified,
        context: &mut Context<'_>,
    ) -> Result<(), Refused> {
        let now = self.advance(context.now);
        let Identified { responder, initiator, initiation, mut transcript } = identified;
        if responder != *self.identity.public() || initiator != self.peer {
            return Err(Refused::Forged);
        }
        let timestamp = noise::timestamp(&mut transcript, &self.shared, &initiation)?;
        if self.config.heard.is_some_and(|heard| timestamp <= heard) {
            return Err(Refused::Replayed);
        }
        if self.taken.is_some_and(|last| now < last + INITIATION_INTERVAL) {
            return Err(Refused::TooFast);
        }
        let index = context.indices.take();
        let preshared = &self.config.preshared_key;
        let responded = noise::respond(transcript, &initiation, &initiator, preshared, index, context.random);
        let (keys, response) = responded.inspect_err(|_| self.events.push_back(Event::Released(index)))?;
        self.config.heard = Some(timestamp);
        self.taken = Some(now);
        self.response = Some(self.macs.sign(response.encode(), index, now));
        // A session that the peer was seen to use, of which this tunnel has yet to hear, does not make room for this one.
        let in_use = self.sessions.next().filter(|next| next.send.is_confirmed());
        if let Some((in_use, answered)) = in_use.map(|next| (next.receive.index(), next.receive.born()))
            && self.sessions.confirm(in_use, &mut self.events)
        {
            self.established(Role::Responder, now.saturating_duration_since(answered));
        }
        let session = self.session(keys, index, initiation.sender, Role::Responder, now);
        self.sessions.begin_as_responder(session, &mut self.events);
        self.draw_jitter(context);
        self.shook_hands = Some(now);
        // Ours waits for as long as the peer may need to answer this one; the handshake that the peer completes is as good.
        if self.initiation_due {
            self.initiation_due = false;
            self.timers.postponed = Some(now + REKEY_TIMEOUT);
        }
        self.timers.silence = None;
        self.sent(now);
        Ok(())
    }

    /// Takes a response. `Ok` makes [`Tunnel::poll_transmit`] give a keepalive, so that the peer sees that the session has begun, unless
    /// something else is sealed before.
    ///
    /// # Errors
    /// [`Refused`] where it answers no initiation of this tunnel, or is not the peer's.
    pub fn handle_response(&mut self, response: &Response, now: Instant) -> Result<(), Refused> {
        let now = self.advance(now);
        let named = |pending: &&Pending| pending.initiated.index == response.receiver;
        let pending = self.pending.as_ref().filter(named).ok_or(Refused::Unsolicited)?;
        let keys = noise::finish(&pending.initiated, &self.identity, &self.config.preshared_key, response)?;
        let rtt = now.saturating_duration_since(pending.sent);
        let index = pending.initiated.index;
        self.pending = None;
        self.timers.retry = None;
        let session = self.session(keys, index, response.sender, Role::Initiator, now);
        self.sessions.begin_as_initiator(session, &mut self.events);
        self.established(Role::Initiator, rtt);
        self.timers.silence = None;
        self.traversed(now);
        self.keepalive_due = true;
        Ok(())
    }

    /// Takes a cookie reply: the next handshake message proves where it comes from. Nothing is sent for it, and the peer is not
    /// thereby where it came from.
    ///
    /// # Errors
    /// [`Refused`] where it answers no handshake message of this tunnel, is not the peer's, or came before.
    pub fn handle_cookie_reply(&mut self, reply: &CookieReply, now: Instant) -> Result<(), Refused> {
        let now = self.advance(now);
        self.macs.handle_cookie_reply(reply, now)
    }

    /// Seals messages under the current session, all or none, and notes that they are sent.
    ///
    /// # Errors
    /// [`Spent`] where there is no session to send with: [`Tunnel::initiate`].
    pub fn seal(&mut self, messages: &mut [Message<'_>], now: Instant) -> Result<(), Spent> {
        let now = self.advance(now);
        let key = &self.sessions.current().ok_or(Spent::Closed)?.send;
        key.reserve(messages.len() as u64, now)?.seal(messages);
        let packets = messages.iter().any(|message| message.len() > KEEPALIVE);
        self.handle_sent(if packets { Traffic::Packet } else { Traffic::Keepalive }, now);
        Ok(())
    }

    /// Opens messages that name one session, and notes that they were received. [`Message::packet`] says which are authentic and new.
    ///
    /// # Errors
    /// [`Refused::NoSession`] where this tunnel has no such session.
    pub fn open(
        &mut self,
        index: u32,
        messages: &mut [Message<'_>],
        now: Instant,
    ) -> Result<Opened, Refused> {
        let now = self.advance(now);
        let opened = self.sessions.find(index).ok_or(Refused::NoSession)?.receive.open(messages, now);
        if opened.keepalives > 0 {
            self.handle_received(index, Traffic::Keepalive, now);
        }
        if opened.packets > 0 {
            self.handle_received(index, Traffic::Packet, now);
        }
        Ok(opened)
    }

    /// Something was sealed in a session elsewhere, at a moment that may lie before what was told last: what was received since is not
    /// answered by it, and may be its answer. One call is enough for a batch; a packet counts for more than keepalives.
    pub fn handle_sent(&mut self, traffic: Traffic, at: Instant) {
        let now = self.advance(at);
        self.sent(now);
        let since = |received: Option<Instant>| received.filter(|received| at < *received);
        self.timers.keepalive = since(self.received_packet).map(|received| received + KEEPALIVE_TIMEOUT);
        let is_answered = since(self.received).is_some();
        if traffic == Traffic::Packet && !is_answered {
            self.timers.silence.get_or_insert(now + SILENCE + self.jitter);
        }
        let Some(Session { send, .. }) = self.sessions.current() else { return };
        let old = send.role() == Role::Initiator && now >= send.born() + REKEY_AFTER_TIME;
        if old || send.sent() >= REKEY_AFTER_MESSAGES {
            self.rekey(now);
        }
    }

    /// Something authentic and new was opened elsewhere, with the key of this index. One call is enough for a batch; a packet counts
    /// for more than keepalives.
    pub fn handle_received(&mut self, index: u32, traffic: Traffic, at: Instant) {
        let now = self.advance(at);
        let Some(session) = self.sessions.find(index) else { return };
        let answered = session.receive.born();
        if self.sessions.confirm(index, &mut self.events) {
            self.established(Role::Responder, now.saturating_duration_since(answered));
        }
        self.received = self.received.max(Some(at));
        self.timers.silence = None;
        self.traversed(now);
        if traffic == Traffic::Packet {
            self.received_packet = self.received_packet.max(Some(at));
            self.timers.another_keepalive |= self.timers.keepalive.is_some();
            self.timers.keepalive.get_or_insert(now + KEEPALIVE_TIMEOUT);
        }
        let Some(Session { send, .. }) = self.sessions.current() else { return };
        let ends_soon = send.role() == Role::Initiator && now >= send.born() + REKEY_ON_RECEIVE_AFTER;
        if ends_soon && !self.asked_on_receive {
            self.asked_on_receive = true;
            self.rekey(now);
        }
    }

    /// Runs the timers that are due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let now = self.advance(now);
        self.sessions.expire(now, &mut self.events);
        let attempt_goes_on = self.timers.attempt_ends.is_some_and(|ends| now < ends);
        if fires(&mut self.timers.retry, now) {
            self.retry(now);
        }
        if fires(&mut self.timers.postponed, now) {
            self.initiate(now);
        }
        if fires(&mut self.timers.keepalive, now) {
            self.keepalive_due = true;
            if std::mem::take(&mut self.timers.another_keepalive) {
                self.timers.keepalive = Some(now + KEEPALIVE_TIMEOUT);
            }
        }
        if fires(&mut self.timers.silence, now) {
            self.initiate(now);
        }
        if fires(&mut self.timers.persistent, now) {
            if self.sending(now).is_some() {
                self.keepalive_due = true;
            } else {
                self.initiate(now);
            }
            self.timers.persistent = self.config.persistent_keepalive.map(|interval| now + interval);
        }
        if fires(&mut self.timers.expiry, now) {
            self.sessions.clear(&mut self.events);
            // A handshake that was under way has its own end.
            if !attempt_goes_on {
                self.forget_pending();
                self.timers = Timers { persistent: self.timers.persistent, ..Timers::default() };
                self.initiation_due = false;
                self.events.push_back(Event::Expired);
            }
        }
    }

    /// The next datagram for the peer.
    pub fn poll_transmit(&mut self, context: &mut Context<'_>) -> Option<Transmit> {
        let now = self.advance(context.now);
        if let Some(response) = self.response.take() {
            return Some(Transmit::new(MessageType::Response, &response));
        }
        if std::mem::take(&mut self.keepalive_due)
            && let Some(transmit) = self.keepalive(now)
        {
            return Some(transmit);
        }
        if std::mem::take(&mut self.initiation_due) {
            return self.initiation(now, context);
        }
        None
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Tunnel::handle_timeout`] wants to be called, and what for.
    pub fn poll_timeout(&self) -> Option<(Instant, Timer)> {
        self.timers.next(self.sessions.next_expiry())
    }

    /// Whether there is nothing to wait for, and nothing to send.
    pub fn is_at_rest(&self) -> bool {
        let has_something = self.response.is_some() || self.initiation_due || self.keepalive_due;
        !has_something && self.poll_timeout().is_none()
    }

    /// The key that packets are sealed with, if there is one that may be used.
    pub fn sending(&self, now: Instant) -> Option<&Arc<SendKey>> {
        self.sessions.current().map(|session| &session.send).filter(|key| key.check(now).is_ok())
    }

    /// The key of a session that this host has answered. It seals nothing before a message has come for the session, and from then on
    /// everything: it is the key to send with when [`Tunnel::handle_received`] has been told.
    pub fn unconfirmed(&self) -> Option<&Arc<SendKey>> {
        self.sessions.next().map(|session| &session.send)
    }

    /// The keys that messages are opened with.
    pub fn receiving(&self) -> impl Iterator<Item = &Arc<ReceiveKey>> {
        self.sessions.iter().map(|session| &session.receive)
    }

    /// The indices of this tunnel that are in use.
    pub fn indices(&self) -> impl Iterator<Item = u32> {
        let pending = self.pending.as_ref().map(|pending| pending.initiated.index);
        self.receiving().map(|key| key.index()).chain(pending)
    }

    /// Whether an initiation of this host waits for its answer.
    pub const fn is_initiating(&self) -> bool {
        self.pending.is_some()
    }

    fn advance(&mut self, now: Instant) -> Instant {
        let latest = self.latest.map_or(now, |latest| latest.max(now));
        self.latest = Some(latest);
        latest
    }

    fn session(&mut self, keys: Keys, index: u32, receiver: u32, role: Role, now: Instant) -> Session {
        self.timers.expiry = Some(now + EXPIRY);
        let confirmed = Confirmed::new(role);
        Session {
            send: Arc::new(SendKey::new(keys.send, receiver, role, now, confirmed.clone())),
            receive: Arc::new(ReceiveKey::new(keys.receive, index, role, now, confirmed)),
        }
    }

    /// Both sides have a session.
    fn established(&mut self, role: Role, rtt: Duration) {
        self.asked_on_receive = false;
        self.initiation_due = false;
        self.timers.postponed = None;
        // An initiation that is still under way may be answered, but needs no retry.
        self.timers.attempt_ends = None;
        self.events.push_back(Event::Established { role, rtt });
    }

    /// Asks for a successor of the current session, unless it was asked for already: what is sent meanwhile is no reason to try longer.
    fn rekey(&mut self, now: Instant) {
        let asked = self.timers.retry.is_some() && self.timers.attempt_ends.is_some();
        if !asked && self.timers.postponed.is_none() && !self.initiation_due {
            self.initiate(now);
        }
    }

    /// The initiation that waits was not answered in time.
    fn retry(&mut self, now: Instant) {
        match self.timers.attempt_ends {
            Some(end) if now < end => self.initiation_due = true,
            Some(_) => {
                self.forget_pending();
                self.timers.attempt_ends = None;
                self.timers.keepalive = None;
                self.events.push_back(Event::GaveUp);
            }
            None => self.forget_pending(),
        }
    }

    fn forget_pending(&mut self) {
        if let Some(pending) = self.pending.take() {
            self.events.push_back(Event::Released(pending.initiated.index));
        }
    }

    fn initiation(&mut self, now: Instant, context: &mut Context<'_>) -> Option<Transmit> {
        self.forget_pending();
        let index = context.indices.take();
        let after_last = self.stamped.map_or(context.wall, |last| last.successor());
        let timestamp = context.wall.max(after_last);
        let initiated =
            noise::initiate(&self.identity, &self.peer, &self.shared, index, timestamp, context.random);
        let Ok((initiated, message)) = initiated else {
            self.events.push_back(Event::Released(index));
            return None;
        };
        self.stamped = Some(timestamp);
        self.pending = Some(Pending { initiated, sent: now });
        self.draw_jitter(context);
        self.shook_hands = Some(now);
        self.timers.postponed = None;
        self.timers.retry = Some(now + REKEY_TIMEOUT + self.jitter);
        self.sent(now);
        let message = self.macs.sign(message.encode(), index, now);
        Some(Transmit::new(MessageType::Initiation, &message))
    }

    fn keepalive(&mut self, now: Instant) -> Option<Transmit> {
        let mut datagram = [0; KEEPALIVE];
        let mut batch = [Message::outgoing(&mut datagram, 0, 0)?];
        self.seal(&mut batch, now).ok()?;
        Some(Transmit::new(MessageType::Data, &datagram))
    }

    fn draw_jitter(&mut self, context: &mut Context<'_>) {
        let mut bytes = [0; 4];
        context.random.fill(&mut bytes);
        self.jitter = MAX_JITTER.mul_f64(f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX));
    }

    /// Something authentic goes to the peer.
    fn sent(&mut self, now: Instant) {
        self.keepalive_due = false;
        self.timers.keepalive = None;
        self.timers.another_keepalive = false;
        self.traversed(now);
    }

    /// Something authentic goes either way.
    fn traversed(&mut self, now: Instant) {
        self.timers.persistent = self.config.persistent_keepalive.map(|interval| now + interval);
    }
}
