//! The keys of this node: the one that handshakes are made with, and for a while the one before.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use boringtun::{
    noise::{
        Packet, TunnResult, errors::WireGuardError, handshake::parse_handshake_anon,
        rate_limiter::RateLimiter,
    },
    x25519,
};
use carrick_types::{WireGuardKey, WireGuardSecret};

use crate::tunnel::MessageType;

/// For so long after a rotation messages for the former key are taken: WireGuard's reject-after-time (whitepaper, section 6.1), as
/// long as a session lives that was made just before.
pub(crate) const FORMER_KEY_LIFE: Duration = Duration::from_secs(180);

/// Handshake messages a second, for each key, above which peers must prove their address with a cookie. Each is counted twice:
/// when it arrives, and by the tunnel it belongs to.
const HANDSHAKES_PER_SECOND: u64 = 2 * 100;

/// WireGuard's reject-after-messages: no counter from here on is taken (whitepaper, section 6.1).
const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);

/// What a message claims to be, after the cheap checks.
#[derive(Debug)]
pub(crate) enum Claim {
    /// A peer wants a session with one of the keys of this node.
    Initiation { own: WireGuardKey, peer: WireGuardKey },
    /// It is for the tunnel with this slot.
    Slot(u32),
    /// Nothing before the sender proves its address: this cookie reply goes to it.
    Challenge(Vec<u8>),
    /// It is for nobody here.
    Refused,
}

/// One key, with the load of handshakes that are made with it.
pub(crate) struct OwnKey {
    pub(crate) secret: WireGuardSecret,
    pub(crate) public: WireGuardKey,
    pub(crate) limiter: Arc<RateLimiter>,
}

impl OwnKey {
    fn new(secret: WireGuardSecret) -> Self {
        let public = secret.public();
        let limiter = RateLimiter::new(&(*public.as_bytes()).into(), HANDSHAKES_PER_SECOND);
        Self { secret, public, limiter: Arc::new(limiter) }
    }

    /// The claim of a handshake message; `None` where it is for another key.
    fn claim(&self, from: SocketAddr, datagram: &[u8]) -> Option<Claim> {
        // Its count is per second, also while there is no tunnel whose timers would reset it.
        self.limiter.reset_count();
        let mut cookie = [0; 64];
        Some(match self.limiter.verify_packet(Some(from.ip()), datagram, &mut cookie) {
            Ok(Packet::HandshakeInit(initiation)) => {
                let secret = x25519::StaticSecret::from(*self.secret.expose());
                let public = x25519::PublicKey::from(*self.public.as_bytes());
                parse_handshake_anon(&secret, &public, &initiation)
                    .ok()
                    .and_then(|half| WireGuardKey::from_bytes(half.peer_static_public).ok())
                    .map_or(Claim::Refused, |peer| Claim::Initiation { own: self.public, peer })
            }
            Ok(Packet::HandshakeResponse(response)) => Claim::Slot(response.receiver_idx >> 8),
            Ok(Packet::PacketCookieReply(_) | Packet::PacketData(_)) => Claim::Refused,
            Err(TunnResult::WriteToNetwork(reply)) => Claim::Challenge(reply.to_vec()),
            Err(TunnResult::Err(WireGuardError::InvalidMac)) => return None,
            Err(_) => Claim::Refused,
        })
    }
}

/// The keys that messages are taken for.
pub(crate) struct OwnKeys {
    pub(crate) current: OwnKey,
    former: Option<(OwnKey, Instant)>,
}

impl OwnKeys {
    pub(crate) fn new(secret: WireGuardSecret) -> Self {
        Self { current: OwnKey::new(secret), former: None }
    }

    /// Makes another key the current one. The one before the current one is gone.
    pub(crate) fn rotate(&mut self, secret: WireGuardSecret, now: Instant) {
        let former = std::mem::replace(&mut self.current, OwnKey::new(secret));
        self.former = Some((former, now + FORMER_KEY_LIFE));
    }

    /// The former key, and until when it is taken.
    pub(crate) fn former(&self) -> Option<(&OwnKey, Instant)> {
        self.former.as_ref().map(|(key, until)| (key, *until))
    }

    /// Forgets the former key when its time is over.
    pub(crate) fn expire(&mut self, now: Instant) {
        self.former.take_if(|(_, until)| *until <= now);
    }

    /// What a message claims to be, after the checks that cost little: its counter, its MAC, and under load its cookie.
    pub(crate) fn claim(&self, from: SocketAddr, message: MessageType, datagram: &[u8]) -> Claim {
        match message {
            MessageType::Data if counter(datagram).is_none_or(|counter| counter >= REJECT_AFTER_MESSAGES) => {
                Claim::Refused
            }
            MessageType::Data | MessageType::CookieReply => {
                receiver(datagram).map_or(Claim::Refused, |receiver| Claim::Slot(receiver >> 8))
            }
            MessageType::Initiation | MessageType::Response => {
                let mut keys = [Some(&self.current), self.former().map(|(key, _)| key)].into_iter().flatten();
                keys.find_map(|key| key.claim(from, datagram)).unwrap_or(Claim::Refused)
            }
        }
    }
}

/// The receiver index of a data message or a cookie reply.
fn receiver(datagram: &[u8]) -> Option<u32> {
    datagram.get(4..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

/// The counter of a data message.
fn counter(datagram: &[u8]) -> Option<u64> {
    datagram.get(8..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}
