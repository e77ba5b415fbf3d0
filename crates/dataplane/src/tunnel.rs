//! One tunnel: the protocol's state machine with its place in the device, and what is known of its link.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use carrick_types::WireGuardKey;
use carrick_wireguard::{
    Config, Event, Identified, Message, OVERHEAD, PresharedKey, REKEY_TIMEOUT, Refused, Tai64N, Transmit,
    message::{self, CookieReply, INITIATION, MessageType, Response},
};

use crate::{outside::Surroundings, own_keys::OwnKey};

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
    /// The lower 8 bits of the next one. A tunnel has few at a time, so that none is in use when they begin anew.
    next_index: u8,
    /// The key of this node.
    pub(crate) own: WireGuardKey,
    /// The key of the peer.
    pub(crate) peer: WireGuardKey,
    /// Where authenticated messages of the peer last came from.
    pub(crate) endpoint: Option<SocketAddr>,
    /// When the last handshake completed.
    pub(crate) last_handshake: Option<Instant>,
    /// How long the last handshake's answer took.
    pub(crate) rtt: Option<Duration>,
    /// Bytes of authentic messages received, of whatever kind, without the headers of UDP and IP.
    pub(crate) rx_wire: u64,
    /// Bytes of messages sent, likewise.
    pub(crate) tx_wire: u64,
    /// Whether there were keys to send with when the tunnel was last touched.
    has_keys: bool,
    /// Whether the next tick begins a handshake, unless the peer is heard of before.
    looking: bool,
    /// When the first initiation to a peer that was never heard of is repeated, and how long was waited for that. The peer may have been
    /// told of this node a moment later than this node of the peer; a first packet need not wait [`REKEY_TIMEOUT`] for that.
    first_contact: Option<(Instant, Duration)>,
    /// Whether there was a first initiation.
    contacted: bool,
    expired: bool,
}

impl Tunnel {
    /// `endpoint` is where the peer was last heard of in another tunnel, `heard` when its last initiation was made.
    pub(crate) fn new(
        own: &OwnKey,
        peer: WireGuardKey,
        slot: u32,
        endpoint: Option<SocketAddr>,
        heard: Option<Tai64N>,
    ) -> Self {
        let config = Config { heard, ..Config::default() };
        Self {
            engine: Box::new(carrick_wireguard::Tunnel::new(own.identity.clone(), peer, config)),
            slot,
            next_index: 0,
            own: own.public,
            peer,
            endpoint,
            last_handshake: None,
            rtt: None,
            rx_wire: 0,
            tx_wire: 0,
            has_keys: false,
            looking: false,
            first_contact: None,
            contacted: false,
            expired: false,
        }
    }

    /// Whether packets can be sealed.
    pub(crate) const fn has_keys(&self) -> bool {
        self.has_keys
    }

    /// Whether the peer may be sending packets through this tunnel, or about to.
    pub(crate) fn has_session(&self) -> bool {
        self.engine.receiving().next().is_some()
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

    /// Seals datagrams in place, one behind the other, each `segment` bytes long but for the last, which may be shorter: header, packet
    /// with its padding, and room for the tag. Whether it could; where not, none of them may be sent.
    pub(crate) fn seal(&mut self, datagrams: &mut [u8], segment: usize, mtu: usize, now: Instant) -> bool {
        let batch: Option<Vec<_>> = datagrams
            .chunks_mut(segment)
            .map(|datagram| {
                let packet = datagram.len().checked_sub(OVERHEAD)?;
                Message::outgoing(datagram, packet, mtu)
            })
            .collect();
        self.has_keys = batch.is_some_and(|mut batch| self.engine.seal(&mut batch, now).is_ok());
        if self.has_keys {
            self.tx_wire += datagrams.len() as u64;
        }
        self.has_keys
    }

    /// Asks for a handshake, unless one of either side is under way.
    pub(crate) fn initiate(&mut self, now: Instant) {
        self.engine.initiate(now);
        if self.endpoint.is_none() && !self.contacted {
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

    /// Takes a handshake message.
    pub(crate) fn shake_hands(
        &mut self,
        from: SocketAddr,
        handshake: Handshake<'_>,
        surroundings: &mut Surroundings,
        now: Instant,
    ) -> Result<(), Refused> {
        let length = match handshake {
            Handshake::Initiation(identified) => {
                let (slot, next_index) = (self.slot, &mut self.next_index);
                let mut indices = || index(slot, next_index);
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
                    return self.engine.handle_cookie_reply(&CookieReply::parse(datagram)?, now);
                }
            },
        };
        self.rx_wire += length as u64;
        self.heard_from(from, now);
        Ok(())
    }

    /// Opens data messages in place, which all name one session of this tunnel, and notes for each how long its text is, padding
    /// included, or `None` where it is refused. The text lies behind the header.
    pub(crate) fn open(
        &mut self,
        from: SocketAddr,
        datagrams: &mut [u8],
        segment: usize,
        texts: &mut Vec<Option<usize>>,
        now: Instant,
    ) -> Result<(), Refused> {
        let index = message::receiver(datagrams).ok_or(Refused::Malformed)?;
        let mut batch =
            datagrams.chunks_mut(segment).map(Message::incoming).collect::<Result<Vec<_>, _>>()?;
        let opened = self.engine.open(index, &mut batch, now)?;
        let opened_texts = batch.iter().map(|message| message.packet().map(<[u8]>::len));
        let (rx_wire, count) =
            (&mut self.rx_wire, |text: &Option<usize>| text.map_or(0, |text| text + OVERHEAD));
        texts.extend(opened_texts.inspect(|text| *rx_wire += count(text) as u64));
        if opened.packets + opened.keepalives > 0 {
            self.heard_from(from, now);
        }
        Ok(())
    }

    /// The next datagram that is not a packet.
    pub(crate) fn poll_transmit(
        &mut self,
        surroundings: &mut Surroundings,
        now: Instant,
    ) -> Option<Transmit> {
        let (slot, next_index) = (self.slot, &mut self.next_index);
        let engine = &mut self.engine;
        let transmit = surroundings
            .with(now, &mut || index(slot, next_index), |context| engine.poll_transmit(context))?;
        if self.endpoint.is_some() {
            self.tx_wire += transmit.datagram().len() as u64;
        }
        Some(transmit)
    }

    /// Shares a secret with the peer from the next handshake on.
    pub(crate) fn set_preshared_key(&mut self, key: PresharedKey) {
        self.engine.set_preshared_key(key);
    }

    /// Keeps the tunnel open in middleboxes, beginning now.
    pub(crate) fn set_persistent_keepalive(&mut self, interval: Option<Duration>, now: Instant) {
        self.engine.set_persistent_keepalive(interval, now);
    }

    /// Runs the timers. To be called a few times a second. `wanted` says that packets wait for this tunnel.
    pub(crate) fn tick(&mut self, wanted: bool, now: Instant) -> Result<(), Expired> {
        if self.engine.poll_timeout().is_some_and(|(due, _)| due <= now) {
            self.engine.handle_timeout(now);
        }
        self.take_events(now);
        // One that was made for an initiation that it refused has nothing to wait for.
        self.expired |= self.engine.poll_timeout().is_none();
        if std::mem::take(&mut self.looking) || (wanted && self.repeats_first_contact(now)) {
            self.engine.look(now);
        }
        if self.expired { Err(Expired) } else { Ok(()) }
    }

    /// Whether there are still keys to send with.
    pub(crate) fn refresh(&mut self, now: Instant) {
        self.has_keys = self.engine.sending(now).is_some();
    }

    /// Something authentic came.
    fn heard_from(&mut self, from: SocketAddr, now: Instant) {
        self.endpoint = Some(from);
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
                Event::GaveUp => self.expired |= !self.has_session(),
                Event::Expired => self.expired = true,
                // The engine has the keys, and knows its indices.
                Event::Opening(_) | Event::Sending(_) | Event::Released(_) => {}
            }
        }
    }
}

fn index(slot: u32, next: &mut u8) -> u32 {
    let index = slot << 8 | u32::from(*next);
    *next = next.wrapping_add(1);
    index
}
