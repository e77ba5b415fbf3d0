//! Carrick as an end: what a device does around a tunnel, and no more.

use std::{
    collections::{BTreeSet, VecDeque},
    net::SocketAddr,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use carrick_types::WireGuardKey;
use carrick_wireguard::{
    Admission, Config, Context, CookieChecker, Event, HEADER, Identity, Load, Message, OVERHEAD,
    REJECT_AFTER_TIME, Refused, Role, Tai64N, Tunnel,
    message::{CookieReply, Initiation, MessageType, Response, receiver},
};

use super::{Dice, End, PUBLIC, secret};

/// Sessions, and the initiation that is under way.
const MAX_INDICES: usize = 6;

/// Packets that wait for a session.
const MAX_WAITING: usize = 256;

/// The identities that the ends of every world share.
static IDENTITIES: LazyLock<[Arc<Identity>; 2]> =
    LazyLock::new(|| [0, 1].map(|me| Arc::new(Identity::new(&secret(me)))));

pub(crate) struct Carrick {
    identity: Arc<Identity>,
    checker: CookieChecker,
    pub(crate) tunnel: Tunnel,
    pub(crate) load: Load,
    origin: Instant,
    /// What the wall clock showed in the beginning.
    pub(crate) wall: Duration,
    dice: Dice,
    /// The indices that are not given back.
    pub(crate) indices: BTreeSet<u32>,
    /// Where the peer was last heard of.
    pub(crate) endpoint: Option<SocketAddr>,
    waiting: VecDeque<Vec<u8>>,
    pub(crate) transmits: Vec<Vec<u8>>,
    pub(crate) delivered: Vec<Vec<u8>>,
    /// What each handshake that came to a session said.
    pub(crate) established: Vec<(Role, Duration)>,
    pub(crate) gave_up: usize,
    pub(crate) expired: usize,
}

impl Carrick {
    pub(crate) fn new(me: usize, config: Config, seed: u64) -> Self {
        Self::with_peer(me, PUBLIC[1 - me], config, seed)
    }

    #[expect(clippy::disallowed_methods, reason = "an `Instant` to count from; no test depends on which")]
    pub(crate) fn with_peer(me: usize, peer: WireGuardKey, config: Config, seed: u64) -> Self {
        let identity = IDENTITIES[me].clone();
        Self {
            checker: CookieChecker::new(identity.public()),
            tunnel: Tunnel::new(identity.clone(), peer, config),
            identity,
            load: Load::Light,
            origin: Instant::now(),
            wall: Duration::from_secs(1_800_000_000),
            dice: Dice(seed ^ me as u64),
            indices: BTreeSet::new(),
            endpoint: None,
            waiting: VecDeque::new(),
            transmits: Vec::new(),
            delivered: Vec::new(),
            established: Vec::new(),
            gave_up: 0,
            expired: 0,
        }
    }

    pub(crate) fn at(&self, now: Duration) -> Instant {
        self.origin + now
    }

    /// Does something with the tunnel that takes a context.
    pub(crate) fn with<R>(
        &mut self,
        now: Duration,
        step: impl FnOnce(&mut Tunnel, &mut Context<'_>) -> R,
    ) -> R {
        let mut indices = self.dice.clone();
        let dice = &mut self.dice;
        let taken = &mut self.indices;
        let mut context = Context {
            now: self.origin + now,
            wall: Tai64N::from_unix(self.wall + now),
            random: &mut |buffer: &mut [u8]| dice.fill(buffer),
            indices: &mut || loop {
                let index = indices.roll() as u32;
                if taken.insert(index) {
                    break index;
                }
            },
        };
        step(&mut self.tunnel, &mut context)
    }

    /// What becomes of a datagram. `Ok` where the peer is where it came from.
    pub(crate) fn take(&mut self, from: SocketAddr, datagram: &[u8], now: Duration) -> Result<(), Refused> {
        let at = self.at(now);
        let message = MessageType::of(datagram)?;
        if let MessageType::Initiation | MessageType::Response = message {
            let (checker, dice) = (&mut self.checker, &mut self.dice);
            let mut random = |buffer: &mut [u8]| dice.fill(buffer);
            if let Admission::Challenge(reply) = checker.check(from, datagram, self.load, at, &mut random)? {
                self.transmits.push(reply.to_vec());
                return Err(Refused::Mac);
            }
        }
        match message {
            MessageType::Initiation => {
                let identified = self.identity.identify(Initiation::parse(datagram)?)?;
                self.with(now, |tunnel, context| tunnel.handle_initiation(identified, context))?;
            }
            MessageType::Response => self.tunnel.handle_response(&Response::parse(datagram)?, at)?,
            MessageType::CookieReply => {
                self.tunnel.handle_cookie_reply(&CookieReply::parse(datagram)?, at)?;
                return Ok(());
            }
            MessageType::Data => {
                let index = receiver(datagram).ok_or(Refused::Malformed)?;
                let mut copy = datagram.to_vec();
                let mut batch = [Message::incoming(&mut copy)?];
                self.tunnel.open(index, &mut batch, at)?;
                let packet = batch[0].packet().ok_or(Refused::Forged)?;
                if packet.first() == Some(&0x45) {
                    self.delivered.push(packet[..28].to_vec());
                }
            }
        }
        self.endpoint = Some(from);
        Ok(())
    }

    /// Drains events and transmits.
    pub(crate) fn settle(&mut self, now: Duration) {
        while let Some(event) = self.tunnel.poll_event() {
            match event {
                Event::Opening(key) => assert!(self.indices.contains(&key.index())),
                Event::Sending(key) => assert_eq!(key.check(self.at(now)), Ok(())),
                Event::Established { role, rtt } => self.established.push((role, rtt)),
                Event::Released(index) => assert!(self.indices.remove(&index), "released twice"),
                Event::GaveUp => {
                    self.gave_up += 1;
                    self.waiting.clear();
                }
                Event::Expired => self.expired += 1,
            }
        }
        while self.tunnel.sending(self.at(now)).is_some()
            && let Some(packet) = self.waiting.pop_front()
        {
            self.seal(&packet, now);
        }
        while let Some(transmit) = self.with(now, Tunnel::poll_transmit) {
            self.transmits.push(transmit.datagram().to_vec());
        }
        while let Some(event) = self.tunnel.poll_event() {
            match event {
                Event::Released(index) => assert!(self.indices.remove(&index), "released twice"),
                Event::Opening(_)
                | Event::Sending(_)
                | Event::Established { .. }
                | Event::GaveUp
                | Event::Expired => panic!("no session comes of sending"),
            }
        }
    }

    fn seal(&mut self, packet: &[u8], now: Duration) -> bool {
        let mut buffer = vec![0; packet.len().next_multiple_of(16) + OVERHEAD];
        buffer[HEADER..][..packet.len()].copy_from_slice(packet);
        let at = self.at(now);
        let mut batch = [Message::outgoing(&mut buffer, packet.len(), 1420).unwrap()];
        let sealed = self.tunnel.seal(&mut batch, at).is_ok();
        if sealed {
            self.transmits.push(buffer);
        }
        sealed
    }
}

impl End for Carrick {
    fn send(&mut self, packet: &[u8], now: Duration) {
        if !self.waiting.is_empty() || !self.seal(packet, now) {
            self.waiting.push_back(packet.to_vec());
            if self.waiting.len() > MAX_WAITING {
                self.waiting.pop_front();
            }
            self.tunnel.initiate(self.at(now));
        }
        self.settle(now);
    }

    fn receive(&mut self, from: SocketAddr, datagram: &[u8], now: Duration) {
        // Whoever refuses says so by doing nothing.
        let _refused = self.take(from, datagram, now);
        self.settle(now);
    }

    fn tick(&mut self, now: Duration) {
        let at = self.at(now);
        if self.tunnel.poll_timeout().is_some_and(|(due, _)| due <= at) {
            self.tunnel.handle_timeout(at);
            assert!(self.tunnel.poll_timeout().is_none_or(|(due, _)| at < due), "a timer runs once");
        }
        self.settle(now);
    }

    fn due(&self) -> Option<Duration> {
        self.tunnel.poll_timeout().map(|(due, _)| due.saturating_duration_since(self.origin))
    }

    fn transmits(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.transmits)
    }

    fn delivered(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.delivered)
    }

    fn set_load(&mut self, heavy: bool) {
        self.load = if heavy { Load::Heavy } else { Load::Light };
    }

    fn is_loaded(&self) -> bool {
        self.load == Load::Heavy
    }

    fn skip(&mut self, messages: u64, now: Duration) {
        let at = self.at(now);
        if let Some(key) = self.tunnel.sending(at) {
            key.reserve(messages, at).unwrap();
        }
    }

    fn lifetime(&self) -> Option<Duration> {
        Some(REJECT_AFTER_TIME)
    }

    fn check(&self) -> Result<(), String> {
        let live = self.tunnel.receiving().count() + usize::from(self.tunnel.is_initiating());
        if live != self.indices.len() || live > MAX_INDICES {
            return Err(format!("{live} sessions and handshakes, {} indices", self.indices.len()));
        }
        Ok(())
    }
}
