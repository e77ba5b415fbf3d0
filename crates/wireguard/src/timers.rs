//! When something is due (whitepaper, section 6).

use std::time::{Duration, Instant};

/// After so long whoever began a session asks for a new one when it sends.
pub const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);

/// For so long a session is used.
pub const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);

/// For so long a handshake is tried.
pub const REKEY_ATTEMPT_TIME: Duration = Duration::from_secs(90);

/// No initiation follows a handshake message sooner, and one that is not answered is followed after so long.
pub const REKEY_TIMEOUT: Duration = Duration::from_secs(5);

/// Whoever has received packets sends something after so long.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Retries come later by up to so much, so that two peers that began at the same moment do not go on doing so.
pub const MAX_JITTER: Duration = Duration::from_millis(333);

/// Whoever began a session asks for a new one when it receives after so long, lest the session ends between two packets.
pub(crate) const REKEY_ON_RECEIVE_AFTER: Duration =
    REJECT_AFTER_TIME.saturating_sub(KEEPALIVE_TIMEOUT).saturating_sub(REKEY_TIMEOUT);

/// Whoever has sent a packet and received nothing asks for a new session after so long.
pub(crate) const SILENCE: Duration = KEEPALIVE_TIMEOUT.saturating_add(REKEY_TIMEOUT);

/// After so long without a new session nothing is left of the old ones, and the tunnel is over.
pub(crate) const EXPIRY: Duration = REJECT_AFTER_TIME.saturating_mul(3);

/// What a timeout is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// A handshake is to be begun, tried again or given up.
    Handshake,
    /// The peer is to hear that its packets arrive.
    Keepalive,
    /// The peer has been silent for too long, though something was sent to it.
    Silence,
    /// A keepalive is due whatever else was sent.
    PersistentKeepalive,
    /// A session is too old.
    Session,
    /// The tunnel has had no new session for too long.
    Expiry,
}

/// The timers of a tunnel; those that do not run are `None`.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    /// When an initiation that was not answered is sent again.
    pub(crate) retry: Option<Instant>,
    /// When it is given up.
    pub(crate) attempt_ends: Option<Instant>,
    /// When an initiation that was asked for too early is sent.
    pub(crate) postponed: Option<Instant>,
    pub(crate) keepalive: Option<Instant>,
    /// Another packet came while a keepalive was due already.
    pub(crate) another_keepalive: bool,
    pub(crate) silence: Option<Instant>,
    pub(crate) persistent: Option<Instant>,
    pub(crate) expiry: Option<Instant>,
}

impl Timers {
    /// The next of the timers, and which it is. `session` is when the oldest session ends.
    pub(crate) fn next(&self, session: Option<Instant>) -> Option<(Instant, Timer)> {
        let timers = [
            (self.retry, Timer::Handshake),
            (self.postponed, Timer::Handshake),
            (self.keepalive, Timer::Keepalive),
            (self.silence, Timer::Silence),
            (self.persistent, Timer::PersistentKeepalive),
            (session, Timer::Session),
            (self.expiry, Timer::Expiry),
        ];
        timers.into_iter().filter_map(|(due, timer)| Some((due?, timer))).min()
    }
}

/// Whether a timer is due. It runs no more then.
pub(crate) fn fires(timer: &mut Option<Instant>, now: Instant) -> bool {
    timer.take_if(|due| *due <= now).is_some()
}
