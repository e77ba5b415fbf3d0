//! One tunnel: the protocol's state machine with its place in the device, and what is known of its link.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use carrick_types::WireGuardKey;
use carrick_wireguard::{
    Config, Event, Identified, PresharedKey, REKEY_TIMEOUT, ReceiveKey, Refused, SendKey, Tai64N, Timer,
    Traffic, Transmit,
    message::{CookieReply, INITIATION, MessageType, Response},
};

use crate::{endpoint::Endpoint, outside::Surroundings, own_keys::OwnKey, place::Place};

/// After so long the first initiation to a peer is repeated, then after twice as long each time. Only the last one is answered in
/// time on a path that is slower than this, until the pauses are as long as the path.
const FIRST_REPEAT: Duration = Duration::from_millis(250);

/// The tunnel is over: no handshake succeeded for too long, or it was idle for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Expired;

/// A handshake message that a tunnel takes.
pub(crate) enum Handshake<'a> {
    /// An initiation of its peer.
    Initiation(Box<Identified>),
    /// Any other with one of its indices.
    Message(&'a [u8]),
}

/// A tunnel between one key of this node and one key of a peer.
pub(crate) struct Tunnel {
    engine: Box<carrick_wireguard::Tunnel>,
    /// The upper 24 bits of the receiver indices that this tunnel hands out.
    pub(crate) slot: u32,
    /// The lower 8 bits of the next one, unless that is in use. A tunnel has few at a time.
    next_index: u8,
    /// The key of this node.
    pub(crate) own: WireGuardKey,
    /// The key of the peer.
    pub(crate) peer: WireGuardKey,
    /// Where authenticated messages of the peer last came from, and what they were sent to.
    pub(crate) place: Arc<Place>,
    /// When the last handshake completed.
    pub(crate) last_handshake: Option<Instant>,
    /// How long the last handshake's answer took.
    pub(crate) rtt: Option<Duration>,
    /// The key to send with, as of when the tunnel was last touched.
    pub(crate) sending: Option<Arc<SendKey>>,
    /// Whether keys are others than when the flag was last taken.
    changed: bool,
    /// Whether the next tick begins a handshake, unless the peer is heard of before.
    looking: bool,
    /// When the first initiation to a peer that was never heard of is repeated, and how long was waited for that. The peer may have been
    /// told of this node a moment later than this node of the peer; a first packet need not wait [`REKEY_TIMEOUT`] for that.
    first_contact: Option<(Instant, Duration)>,
    /// Whether there was a first initiation.
    contacted: bool,
    /// Whether a handshake was tried for too long since the flag was last taken.
    gave_up: bool,
    expired: bool,
}

impl Tunnel {
    /// `endpoint` is where the peer was last heard of in another tunnel, `heard` when its last initiation was made.
    pub(crate) fn new(
        own: &OwnKey,
        peer: WireGuardKey,
        slot: u32,
        endpoint: Option<Endpoint>,
        heard: Option<Tai64N>,
    ) -> Self {
        let config = Config { heard, ..Config::default() };
        Self {
            engine: Box::new(carrick_wireguard::Tunnel::new(own.identity.clone(), peer, config)),
            slot,
            next_index: 0,
            own: own.public,
            peer,
            place: Arc::new(Place::new(endpoint)),
            last_handshake: None,
            rtt: None,
            sending: None,
            changed: false,
            looking: false,
            first_contact: None,
            contacted: false,
            gave_up: false,
            expired: false,
        }
    }

    /// Whether packets can be sealed.
    pub(crate) const fn has_keys(&self) -> bool {
        self.sending.is_some()
    }

    /// The keys that packets are sealed with, in the order in which they are preferred: the first one may wait for its session's first message.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &Arc<SendKey>> {
        self.engine.unconfirmed().into_iter().chain(&self.sending)
    }

    /// The keys that messages are opened with.
    pub(crate) fn receiving(&self) -> impl Iterator<Item = &Arc<ReceiveKey>> {
        self.engine.receiving()
    }

    /// Whether keys have changed since the last call.
    pub(crate) const fn take_changed(&mut self) -> bool {
        std::mem::replace(&mut self.changed, false)
    }

    /// Whether a handshake was tried for too long since the last call.
    pub(crate) const fn take_gave_up(&mut self) -> bool {
        std::mem::replace(&mut self.gave_up, false)
    }

    /// Where the peer is.
    pub(crate) fn endpoint(&self) -> Option<Endpoint> {
        self.place.get()
    }

    /// Whether the peer may be sending packets through this tunnel, or about to.
    pub(crate) fn has_session(&self) -> bool {
        self.receiving().next().is_some()
    }

    /// When the last initiation that was taken was made.
    pub(crate) const fn heard(&self) -> Option<Tai64N> {
        self.engine.heard()
    }

    /// Begins a handshake at the next tick, since the peer is likely elsewhere by now. Without it, only seconds of silence
    /// would tell. Data goes where the peer was last heard of until it answers.
    pub(crate) const fn look_for_peer(&mut self) {
        self.looking = true;
    }

    /// Asks for a handshake, unless one of either side is under way.
    pub(crate) fn initiate(&mut self, now: Instant) {
        self.engine.initiate(now);
        if self.endpoint().is_none() && !self.contacted {
            self.contacted = true;
            self.first_contact = Some((now + FIRST_REPEAT, FIRST_REPEAT));
        }
    }

    /// Whether the first initiation is to be repeated now.
    fn repeats_first_contact(&mut self, now: Instant) -> bool {
        let Some((_, waited)) = self.first_contact.take_if(|(due, _)| *due <= now) else { return false };
        let longer = waited * 2;
        self.first_contact = (longer < REKEY_TIMEOUT).then(|| (now + longer, longer));
        true
    }

    /// Takes a handshake message, and says how many of its bytes were the peer's beyond doubt.
    pub(crate) fn shake_hands(
        &mut self,
        from: Endpoint,
        handshake: Handshake<'_>,
        surroundings: &mut Surroundings,
        now: Instant,
    ) -> Result<usize, Refused> {
        let length = match handshake {
            Handshake::Initiation(identified) => {
                let (slot, next_index, used) = (self.slot, &mut self.next_index, used(&self.engine));
                let mut indices = || index(slot, next_index, &used);
                surroundings
                    .with(now, &mut indices, |context| self.engine.handle_initiation(*identified, context))?;
                INITIATION
            }
            Handshake::Message(datagram) => match MessageType::of(datagram)? {
                MessageType::Initiation | MessageType::Data => return Err(Refused::Malformed),
                MessageType::Response => {
                    self.engine.handle_response(&Response::parse(datagram)?, now)?;
                    datagram.len()
                }
                // It says nothing about where the peer is.
                MessageType::CookieReply => {
                    self.engine.handle_cookie_reply(&CookieReply::parse(datagram)?, now)?;
                    return Ok(0);
                }
            },
        };
        self.place.set(from);
        self.handle_heard(now);
        Ok(length)
    }

    /// Packets were sealed in a session of this tunnel, which may have yet to hear that the peer has it.
    pub(crate) fn handle_sent(&mut self, now: Instant) {
        self.engine.handle_sent(Traffic::Packet, now);
        self.refresh(now);
    }

    /// Authentic messages came that named an index of this tunnel: some with packets, or some without, or both.
    pub(crate) fn handle_received(&mut self, index: u32, [packets, keepalives]: [bool; 2], now: Instant) {
        if keepalives {
            self.engine.handle_received(index, Traffic::Keepalive, now);
        }
        if packets {
            self.engine.handle_received(index, Traffic::Packet, now);
        }
        self.handle_heard(now);
    }

    /// The next datagram that is not a packet.
    pub(crate) fn poll_transmit(
        &mut self,
        surroundings: &mut Surroundings,
        now: Instant,
    ) -> Option<Transmit> {
        let (slot, next_index, used) = (self.slot, &mut self.next_index, used(&self.engine));
        let engine = &mut self.engine;
        surroundings
            .with(now, &mut || index(slot, next_index, &used), |context| engine.poll_transmit(context))
    }

    /// Shares a secret with the peer from the next handshake on.
    pub(crate) fn set_preshared_key(&mut self, key: PresharedKey) {
        self.engine.set_preshared_key(key);
    }

    /// Keeps the tunnel open in middleboxes, from `first` on.
    pub(crate) fn set_persistent_keepalive(&mut self, interval: Option<Duration>, first: Instant) {
        self.engine.set_persistent_keepalive(interval, first);
    }

    /// Runs the timers. To be called a few times a second. `wanted` says that packets wait for this tunnel.
    pub(crate) fn tick(&mut self, wanted: bool, now: Instant) -> Result<(), Expired> {
        if let Some((_, timer)) = self.engine.poll_timeout().filter(|(due, _)| *due <= now) {
            // The peer does not answer: where this host speaks from may be why.
            if timer == Timer::Silence || (timer == Timer::Handshake && self.engine.is_initiating()) {
                self.place.forget_source(|_| true);
            }
            self.engine.handle_timeout(now);
        }
        self.take_events(now);
        // One that was made for an initiation that it refused has nothing to wait for.
        self.expired |= self.engine.is_at_rest();
        if std::mem::take(&mut self.looking) || (wanted && self.repeats_first_contact(now)) {
            self.engine.look(now);
        }
        if self.expired { Err(Expired) } else { Ok(()) }
    }

    /// Looks whether there are still keys to send with.
    pub(crate) fn refresh(&mut self, now: Instant) {
        let sending = self.engine.sending(now);
        let same = match (&self.sending, sending) {
            (Some(ours), Some(theirs)) => Arc::ptr_eq(ours, theirs),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if !same {
            self.sending = sending.cloned();
            self.changed = true;
        }
    }

    /// Something authentic came.
    fn handle_heard(&mut self, now: Instant) {
        self.looking = false;
        self.first_contact = None;
        self.take_events(now);
    }

    fn take_events(&mut self, now: Instant) {
        self.refresh(now);
        while let Some(event) = self.engine.poll_event() {
            match event {
                Event::Established { rtt, .. } => {
                    self.rtt = Some(rtt);
                    self.last_handshake = Some(now);
                }
                Event::GaveUp => {
                    self.gave_up = true;
                    self.expired |= !self.has_session();
                }
                Event::Expired => self.expired = true,
                Event::Opening(_) | Event::Sending(_) | Event::Released(_) => self.changed = true,
            }
        }
    }
}

/// The next of the tunnel's indices that is not in use.
fn index(slot: u32, next: &mut u8, used: &[u64; 4]) -> u32 {
    loop {
        let number = *next;
        *next = next.wrapping_add(1);
        let (word, bit) = place(number);
        if used.get(word).is_none_or(|used| used & bit == 0) {
            return slot << 8 | u32::from(number);
        }
    }
}

/// Which of the numbers of a tunnel are in use: a bit for each.
fn used(engine: &carrick_wireguard::Tunnel) -> [u64; 4] {
    let mut used = [0; 4];
    for index in engine.indices() {
        let (word, bit) = place(index as u8);
        if let Some(used) = used.get_mut(word) {
            *used |= bit;
        }
    }
    used
}

/// Where the bit of a number is.
const fn place(number: u8) -> (usize, u64) {
    (number as usize / 64, 1 << (number % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_that_is_in_use_is_not_given_again() {
        let mut next = 250;
        let mut used = [0; 4];
        used[0] = 0b101;
        used[3] = 1 << 63;
        let given: Vec<_> = (0..8).map(|_| index(7, &mut next, &used) - (7 << 8)).collect();
        assert_eq!(given, [250, 251, 252, 253, 254, 1, 3, 4]);
    }
}
