//! The WireGuard protocol (whitepaper, <https://www.wireguard.com/papers/wireguard.pdf>) as a state machine.
//!
//! Pure: time, randomness, receiver indices and datagrams come in as arguments, datagrams and events go out through `poll_*`.
//! Start at [`Tunnel`], which is one key of this host with one key of a peer. Around it:
//!
//! - [`message`] parses what comes from the network. Nothing else in here sees bytes that were not parsed.
//! - [`CookieChecker`] refuses junk for the price of one MAC, and under load whoever has not proven its address.
//! - [`Identity`] says whose a handshake initiation is, so that the caller finds the tunnel.
//! - [`SendKey`] and [`ReceiveKey`] are the halves of a session. They are shared by `Arc` and work without the tunnel: a thread that
//!   moves packets reports to the tunnel once a batch what it did.
//!
//! Sockets, allowed IPs and the table of receiver indices are the caller's.

pub mod message;

mod aead;
mod cookie;
#[cfg(test)]
mod dropped;
mod identity;
mod macs;
mod noise;
mod primitives;
mod replay;
mod session;
mod sessions;
mod tai64n;
mod timers;
mod tunnel;

use std::time::Instant;

use zeroize::{Zeroize, ZeroizeOnDrop};

pub use aead::{Cipher, HEADER, Message, OVERHEAD, TAG, padded};
pub use cookie::{Admission, CookieChecker, Load};
pub use identity::{Identified, Identity};
pub use replay::{REPLAY_WINDOW, ReplayWindow};
pub use session::{
    Nonces, Opened, REJECT_AFTER_MESSAGES, REKEY_AFTER_MESSAGES, ReceiveKey, Role, SendKey, Spent,
};
pub use tai64n::Tai64N;
pub use timers::{
    KEEPALIVE_TIMEOUT, MAX_JITTER, REJECT_AFTER_TIME, REKEY_AFTER_TIME, REKEY_ATTEMPT_TIME, REKEY_TIMEOUT,
    Timer,
};
pub use tunnel::{Config, Event, Traffic, Transmit, Tunnel};

/// Where randomness comes from: the system's generator, or a test's seed.
pub trait Random {
    /// Fills a buffer with bytes that nobody can guess.
    fn fill(&mut self, buffer: &mut [u8]);
}

impl<F: FnMut(&mut [u8])> Random for F {
    fn fill(&mut self, buffer: &mut [u8]) {
        self(buffer);
    }
}

/// Where receiver indices come from.
///
/// An index must not be given again before [`Event::Released`] has given it back. It may say more than which tunnel: a shard, say.
pub trait Indices {
    /// An index that nothing on this host has.
    fn take(&mut self) -> u32;
}

impl<F: FnMut() -> u32> Indices for F {
    fn take(&mut self) -> u32 {
        self()
    }
}

/// What a step takes from outside.
pub struct Context<'a> {
    /// The monotonic clock.
    pub now: Instant,
    /// The wall clock: it stamps handshakes, and nothing else depends on it.
    pub wall: Tai64N,
    /// Randomness for ephemeral keys and jitter.
    pub random: &'a mut dyn Random,
    /// Indices for handshakes and the sessions that they become.
    pub indices: &'a mut dyn Indices,
}

/// The secret that two peers share beside their keys. All zero where they share none.
#[derive(Clone, Default, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct PresharedKey([u8; 32]);

impl PresharedKey {
    /// Takes 32 bytes as agreed.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, to be stored where only their owner reads.
    pub const fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

/// Why a message was refused. Whatever it was, nothing has changed but what the variant says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Its length, type or reserved bytes are no message's.
    #[error("no WireGuard message")]
    Malformed,
    /// Its first MAC is not for the key of this host.
    #[error("the first MAC is not for this key")]
    Mac,
    /// It was not made by whoever it claims to be from, or not for this host.
    #[error("not authentic")]
    Forged,
    /// A public key in it is of low order.
    #[error("a point of low order")]
    LowOrder,
    /// Its timestamp or its counter has been seen, or is too old to tell.
    #[error("a replay")]
    Replayed,
    /// Another initiation of this peer was taken a moment before.
    #[error("initiations come too fast")]
    TooFast,
    /// It answers nothing that was sent, or nothing that is still waited for.
    #[error("an answer to nothing")]
    Unsolicited,
    /// It is for a session that is over, or has not begun.
    #[error("no such session")]
    NoSession,
}
