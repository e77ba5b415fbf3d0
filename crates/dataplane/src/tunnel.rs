//! One tunnel: boringtun's `Tunn`, with its return values sorted and its round-trip times measured.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use boringtun::noise::{Tunn, TunnResult, errors::WireGuardError};
use carrick_types::WireGuardKey;

use crate::own_keys::OwnKey;

/// WireGuard's rekey-timeout (whitepaper, section 6.1): how long a handshake has before the next attempt.
const REKEY_TIMEOUT: Duration = Duration::from_secs(5);

/// After so long the first initiation to a peer is repeated, then after twice as long each time. The engine takes the answers to its last two
/// initiations, so that a path may be slower than this.
const FIRST_REPEAT: Duration = Duration::from_millis(250);

/// The type of a WireGuard message (its first byte).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MessageType {
    Initiation,
    Response,
    CookieReply,
    Data,
}

impl MessageType {
    /// What a datagram claims to be: the type with its three reserved zero bytes, and a length that such a message can have.
    pub(crate) fn of(datagram: &[u8]) -> Option<Self> {
        match (datagram.first_chunk::<4>()?, datagram.len()) {
            ([1, 0, 0, 0], 148) => Some(Self::Initiation),
            ([2, 0, 0, 0], 92) => Some(Self::Response),
            ([3, 0, 0, 0], 64) => Some(Self::CookieReply),
            ([4, 0, 0, 0], 32..) => Some(Self::Data),
            _ => None,
        }
    }
}

/// What a step of a tunnel asks for.
#[derive(Debug)]
pub(crate) enum Step<'a> {
    Nothing,
    /// Send this to the peer.
    Send(&'a [u8]),
    /// A packet came out of the tunnel.
    Packet(&'a [u8]),
}

/// The tunnel is over: no handshake succeeded for too long, or it was idle for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Expired;

/// A tunnel between one key of this node and one key of a peer.
///
/// The engine never gets a packet to keep: it would take 256 of them, of any size.
pub(crate) struct Tunnel {
    engine: Box<Tunn>,
    /// The upper 24 bits of the receiver indices that this tunnel hands out.
    pub(crate) slot: u32,
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
    /// Whether there are keys to send with. The engine loses them only when its timers run.
    has_keys: bool,
    /// A handshake message of ours that waits for its answer.
    awaiting: Option<(MessageType, Instant)>,
    /// When an initiation of the peer was answered that the peer has not completed yet, while there are no keys to send with.
    ///
    /// Until then no initiation is made: the engine would forget one of ours that the peer may be answering. Two peers that both
    /// do so, and begin at the same moment, never come to keys.
    answered: Option<Instant>,
    /// Whether the next tick begins a handshake, unless the peer is heard of before.
    looking: bool,
    /// When the first initiation to a peer that was never heard of is repeated, and how long was waited for that. The peer may have been
    /// told of this node a moment later than this node of the peer; a first packet need not wait [`REKEY_TIMEOUT`] for that.
    first_contact: Option<(Instant, Duration)>,
}

impl Tunnel {
    /// `endpoint` is where the peer was last heard of in another tunnel.
    pub(crate) fn new(own: &OwnKey, peer: WireGuardKey, slot: u32, endpoint: Option<SocketAddr>) -> Self {
        let (secret, key) = ((*own.secret.expose()).into(), (*peer.as_bytes()).into());
        Self {
            engine: Box::new(Tunn::new(secret, key, None, None, slot, Some(own.limiter.clone()))),
            slot,
            own: own.public,
            peer,
            endpoint,
            last_handshake: None,
            rtt: None,
            has_keys: false,
            awaiting: None,
            answered: None,
            looking: false,
            first_contact: None,
        }
    }

    /// Whether packets can be sealed.
    pub(crate) const fn has_keys(&self) -> bool {
        self.has_keys
    }

    /// Whether the peer may be sending packets through this tunnel, or about to.
    pub(crate) const fn has_session(&self) -> bool {
        self.has_keys || self.answered.is_some()
    }

    /// Begins a handshake at the next tick, since the peer is likely elsewhere by now. Without it, only seconds of silence
    /// would tell. Data goes where the peer was last heard of until it answers.
    pub(crate) fn look_for_peer(&mut self) {
        self.looking = true;
    }

    /// Seals a packet. To be called only where there are keys.
    pub(crate) fn seal<'a>(&mut self, packet: &[u8], buffer: &'a mut [u8], now: Instant) -> Step<'a> {
        let result = self.engine.encapsulate(packet, buffer);
        self.sent(result, now).unwrap_or(Step::Nothing)
    }

    /// Asks for a handshake, unless one of either side is under way.
    pub(crate) fn initiate<'a>(&mut self, buffer: &'a mut [u8], now: Instant) -> Step<'a> {
        if self.answered.is_some() {
            return Step::Nothing;
        }
        let result = self.engine.format_handshake_initiation(buffer, false);
        if matches!(result, TunnResult::WriteToNetwork(_)) && self.endpoint.is_none() {
            self.first_contact = Some((now + FIRST_REPEAT, FIRST_REPEAT));
        }
        self.sent(result, now).unwrap_or(Step::Nothing)
    }

    /// Whether the first initiation is to be repeated now.
    fn repeats_first_contact(&mut self, now: Instant) -> bool {
        let Some((_, waited)) = self.first_contact.take_if(|(due, _)| *due <= now) else { return false };
        let longer = waited * 2;
        self.first_contact = (longer < REKEY_TIMEOUT).then(|| (now + longer, longer));
        true
    }

    /// Takes a datagram whose receiver index or static key names this tunnel. `None` where it is not authentic.
    pub(crate) fn open<'a>(
        &mut self,
        from: SocketAddr,
        message: MessageType,
        datagram: &[u8],
        buffer: &'a mut [u8],
        now: Instant,
    ) -> Option<Step<'a>> {
        let step = match self.engine.decapsulate(Some(from.ip()), datagram, buffer) {
            TunnResult::Done => Step::Nothing,
            TunnResult::Err(error) => {
                tracing::trace!(%from, ?message, ?error, "datagram refused");
                return None;
            }
            TunnResult::WriteToNetwork(answer) => Step::Send(answer),
            TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                Step::Packet(packet)
            }
        };
        let answer = match &step {
            Step::Send(answer) => MessageType::of(answer),
            Step::Nothing | Step::Packet(_) => None,
        };
        // Neither a cookie reply that came nor one that goes says that the peer is where the datagram came from.
        let authentic = message != MessageType::CookieReply && answer != Some(MessageType::CookieReply);
        if authentic {
            self.endpoint = Some(from);
            self.looking = false;
            self.first_contact = None;
            self.received(message, now);
            self.has_keys = message != MessageType::Initiation || self.engine_has_keys();
            self.answered = (!self.has_keys).then_some(now);
        }
        Some(step)
    }

    /// The next keepalive that the engine made while it had no keys.
    pub(crate) fn flush<'a>(&mut self, buffer: &'a mut [u8], now: Instant) -> Step<'a> {
        if !self.has_keys {
            return Step::Nothing;
        }
        let result = self.engine.decapsulate(None, &[], buffer);
        self.sent(result, now).unwrap_or(Step::Nothing)
    }

    /// Runs the timers. To be called a few times a second. `wanted` says that packets wait for this tunnel.
    pub(crate) fn tick<'a>(
        &mut self,
        wanted: bool,
        buffer: &'a mut [u8],
        now: Instant,
    ) -> Result<Step<'a>, Expired> {
        let patience_ends = |since: Instant| now.saturating_duration_since(since) >= REKEY_TIMEOUT;
        let given_up = self.answered.take_if(|since| patience_ends(*since)).is_some();
        let result = if given_up && wanted {
            self.engine.format_handshake_initiation(buffer, false)
        } else if self.answered.is_none()
            && (std::mem::take(&mut self.looking) || (wanted && self.repeats_first_contact(now)))
        {
            self.engine.format_handshake_initiation(buffer, true)
        } else {
            self.engine.update_timers(buffer)
        };
        let step = self.sent(result, now);
        self.has_keys = self.engine_has_keys();
        step
    }

    fn engine_has_keys(&self) -> bool {
        self.engine.time_since_last_handshake().is_some()
    }

    fn sent<'a>(&mut self, result: TunnResult<'a>, now: Instant) -> Result<Step<'a>, Expired> {
        match result {
            TunnResult::WriteToNetwork(message) => {
                if MessageType::of(message) == Some(MessageType::Initiation) {
                    self.awaiting = Some((MessageType::Response, now));
                }
                Ok(Step::Send(message))
            }
            TunnResult::Err(WireGuardError::ConnectionExpired) => Err(Expired),
            TunnResult::Done
            | TunnResult::Err(_)
            | TunnResult::WriteToTunnelV4(..)
            | TunnResult::WriteToTunnelV6(..) => Ok(Step::Nothing),
        }
    }

    /// An initiator's handshake completes with the response, a responder's with the first data: both see one round trip.
    fn received(&mut self, message: MessageType, now: Instant) {
        if message == MessageType::Initiation {
            self.awaiting = Some((MessageType::Data, now));
        }
        if let Some((awaited, since)) = self.awaiting
            && awaited == message
        {
            self.awaiting = None;
            self.rtt = Some(now.saturating_duration_since(since));
            self.last_handshake = Some(now);
        }
    }
}
