//! The MACs of handshake messages, from the side that makes them (whitepaper, sections 5.4.4 and 5.4.7).

use std::time::{Duration, Instant};

use carrick_types::WireGuardKey;
use chacha20poly1305::{AeadInPlace, XChaCha20Poly1305};
use zeroize::Zeroizing;

use crate::{
    Refused,
    cookie::{SECRET_LIFE, cookie_cipher, mac1_key},
    message::CookieReply,
    primitives::mac,
};

/// A cookie is used for less long than its maker takes it, by what a message may be on the way.
const COOKIE_LIFE: Duration = SECRET_LIFE.saturating_sub(Duration::from_secs(5));

/// Handshake messages that a cookie reply may answer: an initiation and a response, or a retry of either.
const AWAITING: usize = 2;

/// A handshake message that was sent and that no cookie reply has answered yet.
#[derive(Clone, Copy)]
struct Sent {
    index: u32,
    mac1: [u8; 16],
}

/// Makes the MACs of messages to one peer, with its cookie if it has sent one.
pub(crate) struct Macs {
    mac1_key: [u8; 32],
    cookie_cipher: XChaCha20Poly1305,
    cookie: Option<(Zeroizing<[u8; 16]>, Instant)>,
    /// Newest first.
    sent: [Option<Sent>; AWAITING],
}

impl Macs {
    pub(crate) fn new(peer: &WireGuardKey) -> Self {
        Self {
            mac1_key: mac1_key(peer),
            cookie_cipher: cookie_cipher(peer),
            cookie: None,
            sent: [None; AWAITING],
        }
    }

    /// Fills in the MACs of a handshake message, which are its last 32 bytes. `index` is what it gives as its sender's.
    pub(crate) fn sign<const N: usize>(&mut self, mut message: [u8; N], index: u32, now: Instant) -> [u8; N] {
        self.cookie.take_if(|(_, since)| now.saturating_duration_since(*since) >= COOKIE_LIFE);
        let Some((rest, mac2)) = message.split_last_chunk_mut::<16>() else { return message };
        let Some((before, mac1)) = rest.split_last_chunk_mut::<16>() else { return message };
        *mac1 = mac(&self.mac1_key, &[before]);
        *mac2 = self.cookie.as_ref().map_or([0; 16], |(cookie, _)| mac(&cookie[..], &[before, mac1]));
        let [newest, ..] = self.sent;
        self.sent = [Some(Sent { index, mac1: *mac1 }), newest];
        message
    }

    /// Takes the cookie with which the next message proves its address. Each message gets one at most, so no reply is taken twice.
    pub(crate) fn handle_cookie_reply(&mut self, reply: &CookieReply, now: Instant) -> Result<(), Refused> {
        let waiting =
            |sent: &&mut Option<Sent>| sent.as_ref().is_some_and(|sent| sent.index == reply.receiver);
        let slot = self.sent.iter_mut().find(waiting).ok_or(Refused::Unsolicited)?;
        let sent = (*slot).ok_or(Refused::Unsolicited)?;
        let (sealed, tag) = reply.sealed_cookie.split_at(16);
        let mut cookie = Zeroizing::new([0; 16]);
        cookie.copy_from_slice(sealed);
        self.cookie_cipher
            .decrypt_in_place_detached(&reply.nonce.into(), &sent.mac1, &mut cookie[..], tag.into())
            .map_err(|_| Refused::Forged)?;
        *slot = None;
        self.cookie = Some((cookie, now));
        Ok(())
    }
}
