//! The keys of this node: the one that handshakes are made with, and for a while the one before.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use carrick_types::{WireGuardKey, WireGuardSecret};
use carrick_wireguard::{
    Admission, CookieChecker, Identified, Identity, Load, Refused,
    message::{self, COOKIE_REPLY, Initiation, MessageType},
};

use crate::{outside::Surroundings, rate::RateLimiter};

/// For so long after a rotation messages for the former key are taken: WireGuard's reject-after-time (whitepaper, section 6.1), as
/// long as a session lives that was made just before.
pub(crate) const FORMER_KEY_LIFE: Duration = Duration::from_secs(180);

/// Handshake messages a second, for each key, above which peers must prove their address with a cookie: a tenth of what a core answers.
pub(crate) const HANDSHAKES_PER_SECOND: u32 = 500;

/// What a message claims to be, after the cheap checks.
pub(crate) enum Claim {
    /// A peer wants a session with one of the keys of this node.
    Initiation(Box<Identified>),
    /// It is for the tunnel with this slot.
    Slot(u32),
    /// It answers an initiation of the tunnel with this slot, under this key of this node.
    Response(u32, WireGuardKey),
    /// Nothing before the sender proves its address: this cookie reply goes to it.
    Challenge([u8; COOKIE_REPLY]),
    /// It is for nobody here.
    Refused(Refused),
}

/// One key, with the load of handshakes that are made with it.
pub(crate) struct OwnKey {
    pub(crate) identity: Arc<Identity>,
    pub(crate) public: WireGuardKey,
    checker: CookieChecker,
    /// How many handshake messages came in the second that began then.
    handshakes: (u32, Option<Instant>),
    /// How many of them each sender may have while there are too many.
    limiter: RateLimiter,
}

impl OwnKey {
    fn new(secret: &WireGuardSecret) -> Self {
        let identity = Identity::new(secret);
        let public = *identity.public();
        Self {
            identity: Arc::new(identity),
            public,
            checker: CookieChecker::new(&public),
            handshakes: (0, None),
            limiter: RateLimiter::default(),
        }
    }

    /// The claim of a handshake message.
    fn claim(
        &mut self,
        from: SocketAddr,
        message: MessageType,
        datagram: &[u8],
        surroundings: &mut Surroundings,
        now: Instant,
    ) -> Result<Claim, Refused> {
        self.checker.check_mac1(datagram)?;
        self.count(now);
        let load = self.load();
        let mut random = |buffer: &mut [u8]| surroundings.random(buffer);
        if let Admission::Challenge(reply) = self.checker.check(from, datagram, load, now, &mut random)? {
            return Ok(Claim::Challenge(reply));
        }
        if message == MessageType::Initiation {
            if !self.allows(from.ip(), now) {
                return Err(Refused::TooFast);
            }
            Initiation::parse(datagram)
                .and_then(|initiation| self.identity.identify(initiation))
                .map(|identified| Claim::Initiation(Box::new(identified)))
        } else {
            let slot = message::receiver(datagram).map(|index| index >> 8);
            slot.map(|slot| Claim::Response(slot, self.public)).ok_or(Refused::Malformed)
        }
    }

    /// Whether one more handshake with this sender may cost something: always, unless there are too many.
    fn allows(&mut self, sender: IpAddr, now: Instant) -> bool {
        self.load() == Load::Light || self.limiter.allows(sender, now)
    }

    /// Counts a handshake message.
    fn count(&mut self, now: Instant) {
        let (count, since) = &mut self.handshakes;
        if since.is_none_or(|since| now.saturating_duration_since(since) >= Duration::from_secs(1)) {
            (*count, *since) = (0, Some(now));
            self.limiter.expire(now);
        }
        *count = count.saturating_add(1);
    }

    const fn load(&self) -> Load {
        if self.handshakes.0 > HANDSHAKES_PER_SECOND { Load::Heavy } else { Load::Light }
    }
}

/// The keys that messages are taken for.
pub(crate) struct OwnKeys {
    pub(crate) current: OwnKey,
    former: Option<(OwnKey, Instant)>,
}

impl OwnKeys {
    pub(crate) fn new(secret: &WireGuardSecret) -> Self {
        Self { current: OwnKey::new(secret), former: None }
    }

    /// Makes another key the current one. The one before the current one is gone.
    pub(crate) fn rotate(&mut self, secret: &WireGuardSecret, now: Instant) {
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

    /// Whether a response of this sender may be looked into, in a handshake under this key: what is under way in clear names the tunnel, and
    /// a forgery costs as much as a response.
    pub(crate) fn allow_response(&mut self, own: &WireGuardKey, sender: IpAddr, now: Instant) -> bool {
        let former = self.former.as_mut().map(|(key, _)| key);
        let mut keys = [Some(&mut self.current), former].into_iter().flatten();
        keys.find(|key| key.public == *own).is_some_and(|key| key.allows(sender, now))
    }

    /// What a message claims to be, after the checks that cost little: its MAC, and under load its cookie.
    pub(crate) fn claim(
        &mut self,
        from: SocketAddr,
        message: MessageType,
        datagram: &[u8],
        surroundings: &mut Surroundings,
        now: Instant,
    ) -> Claim {
        match message {
            MessageType::Data | MessageType::CookieReply => message::receiver(datagram)
                .map_or(Claim::Refused(Refused::Malformed), |index| Claim::Slot(index >> 8)),
            MessageType::Initiation | MessageType::Response => {
                let former = self.former.as_mut().map(|(key, _)| key);
                for key in [Some(&mut self.current), former].into_iter().flatten() {
                    match key.claim(from, message, datagram, surroundings, now) {
                        Ok(claim) => return claim,
                        // It may be for the other key.
                        Err(Refused::Mac) => {}
                        Err(refused) => return Claim::Refused(refused),
                    }
                }
                Claim::Refused(Refused::Mac)
            }
        }
    }
}
