//! Two ends on a simulated network, with simulated clocks.

#![allow(dead_code, unused_imports, reason = "no test uses all of it")]
#![allow(clippy::unwrap_used, reason = "in a test it is the assertion that the value is there")]

pub(crate) mod boring;
pub(crate) mod carrick;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::LazyLock,
    time::Duration,
};

use carrick_types::{WireGuardKey, WireGuardSecret};

pub(crate) use self::{boring::Boring, carrick::Carrick};

/// One end of a tunnel. Time is what has passed since the beginning.
pub(crate) trait End {
    /// A packet from this host.
    fn send(&mut self, packet: &[u8], now: Duration);
    /// A datagram from the network.
    fn receive(&mut self, from: SocketAddr, datagram: &[u8], now: Duration);
    /// Runs the timers that are due.
    fn tick(&mut self, now: Duration);
    /// When [`End::tick`] has something to do, if ever.
    fn due(&self) -> Option<Duration>;
    /// The datagrams to send.
    fn transmits(&mut self) -> Vec<Vec<u8>>;
    /// The packets that came.
    fn delivered(&mut self) -> Vec<Vec<u8>>;
    /// Whether it is from now on under load.
    fn set_load(&mut self, _heavy: bool) {}
    /// Whether it is under load, and answers only whoever has a cookie.
    fn is_loaded(&self) -> bool {
        false
    }
    /// So many messages are sealed of which nobody ever sees anything.
    fn skip(&mut self, _messages: u64, _now: Duration) {}
    /// How long after it was sealed a message is too old to be opened here, if the end looks at that message by message.
    fn lifetime(&self) -> Option<Duration> {
        None
    }
    /// Fails where the end has kept more than it may.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

/// What the network does to a datagram.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weather {
    /// How many of 256 are lost.
    pub(crate) loss: u8,
    /// How many of 256 come twice.
    pub(crate) copies: u8,
    /// How long they are on the way, in milliseconds: at least, and by how much more at most.
    pub(crate) latency: u64,
    pub(crate) spread: u64,
}

/// For so long a cookie is good (whitepaper, section 5.4.7).
const COOKIE_LIFE: Duration = Duration::from_secs(120);

pub(crate) const FAIR: Weather = Weather { loss: 0, copies: 0, latency: 5, spread: 0 };

/// Sebastiano Vigna's splitmix64: any generator would do.
#[derive(Debug, Clone)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.roll() % limit.max(1)
    }

    pub(crate) fn fill(&mut self, buffer: &mut [u8]) {
        for byte in buffer {
            *byte = self.roll().to_le_bytes()[0];
        }
    }
}

/// What was once sent.
struct Datagram {
    to: usize,
    /// What the clock of whom it is for showed then.
    sent: Duration,
    bytes: Vec<u8>,
    /// Whether it is an initiation that was answered.
    answered: bool,
}

pub(crate) struct World<A, B> {
    pub(crate) a: A,
    pub(crate) b: B,
    pub(crate) now: Duration,
    /// What the clock of an end shows beside.
    pub(crate) ahead: [Duration; 2],
    pub(crate) weather: Weather,
    pub(crate) dice: Dice,
    /// The datagrams that were sent, whether they came or not.
    history: Vec<Datagram>,
    /// Those of them that are of a handshake.
    handshakes: Vec<usize>,
    /// The datagrams on the way, by arrival.
    on_the_way: BTreeMap<(Duration, u64), usize>,
    copies: u64,
    /// When the timers of each end are due.
    due: [Option<Duration>; 2],
    /// When each end has last sent a cookie, by its own clock.
    cookies: [Option<Duration>; 2],
    /// By sending end: the sessions' indices, and the counters that come next.
    counters: [Vec<(u32, u64)>; 2],
    /// How many packets each end has sent.
    sent: [u32; 2],
    /// The packets that came out at each end.
    pub(crate) received: [BTreeSet<u32>; 2],
    /// What went over the network: when, from which end, and of which type.
    pub(crate) log: Vec<(Duration, usize, u8)>,
}

impl<A: End, B: End> World<A, B> {
    pub(crate) fn new(a: A, b: B, seed: u64) -> Self {
        Self {
            a,
            b,
            now: Duration::ZERO,
            ahead: [Duration::ZERO; 2],
            weather: FAIR,
            dice: Dice(seed),
            history: Vec::new(),
            handshakes: Vec::new(),
            on_the_way: BTreeMap::new(),
            copies: 0,
            due: [None; 2],
            cookies: [None; 2],
            counters: [Vec::new(), Vec::new()],
            sent: [0; 2],
            received: [BTreeSet::new(), BTreeSet::new()],
            log: Vec::new(),
        }
    }

    pub(crate) fn end(&mut self, end: usize) -> &mut dyn End {
        if end == 0 { &mut self.a } else { &mut self.b }
    }

    /// A packet from an end to the other. Returns its number.
    pub(crate) fn send(&mut self, from: usize) -> Result<u32, String> {
        let number = self.sent[from];
        self.sent[from] += 1;
        let now = self.clock(from);
        self.end(from).send(&packet(from, number), now);
        self.settle(from, None)?;
        Ok(number)
    }

    /// Time passes from event to event: datagrams arrive, timers are due.
    pub(crate) fn pass(&mut self, time: Duration) -> Result<(), String> {
        let until = self.now + time;
        (0..2).for_each(|end| self.look_when_due(end));
        while self.now < until {
            let arrival = self.on_the_way.keys().next().map(|(at, _)| *at);
            let next = self.due.into_iter().chain([arrival]).flatten().min();
            self.advance(next.map_or(until, |next| next.clamp(self.now, until)));
            self.tick()?;
            self.arrive()?;
        }
        Ok(())
    }

    /// Time passes at once. What has arrived meanwhile is taken when the timers have run, or before.
    pub(crate) fn leap(&mut self, time: Duration) -> Result<(), String> {
        self.advance(self.now + time);
        if self.dice.below(2) == 0 {
            self.arrive()?;
        }
        (0..2).for_each(|end| self.look_when_due(end));
        self.tick()?;
        self.arrive()
    }

    /// Somebody has kept what was sent, and sends some of it once more: anything, a handshake message, or something recent of either.
    pub(crate) fn replay(&mut self, datagrams: u64) {
        for _ in 0..datagrams {
            let arrival = self.now + Duration::from_millis(self.dice.below(20));
            let handshake = self.dice.below(2) == 0;
            let length = if handshake { self.handshakes.len() } else { self.history.len() };
            let among = [5, length as u64][self.dice.below(2) as usize];
            let old = self.dice.below(among) as usize;
            let Some(at) = length.checked_sub(1 + old) else { continue };
            self.put_on_the_way(if handshake { self.handshakes[at] } else { at }, arrival);
        }
    }

    pub(crate) fn clock(&self, end: usize) -> Duration {
        self.now + self.ahead[end]
    }

    /// How many messages of a type an end has sent.
    pub(crate) fn count(&self, from: usize, message: u8) -> usize {
        self.log.iter().filter(|(_, end, kind)| (*end, *kind) == (from, message)).count()
    }

    fn advance(&mut self, to: Duration) {
        mock_instant::MockClock::advance(to - self.now);
        self.now = to;
    }

    fn look_when_due(&mut self, end: usize) {
        let due = self.end(end).due();
        self.due[end] = due.map(|due| due.saturating_sub(self.ahead[end]));
    }

    /// Runs the timers that are due.
    fn tick(&mut self) -> Result<(), String> {
        for end in [0, 1] {
            if self.due[end].is_some_and(|due| due <= self.now) {
                let now = self.clock(end);
                self.end(end).tick(now);
                self.settle(end, None)?;
            }
        }
        Ok(())
    }

    /// Whatever has arrived is taken.
    fn arrive(&mut self) -> Result<(), String> {
        while let Some(entry) = self.on_the_way.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let which = entry.remove();
            let to = self.history[which].to;
            let now = self.clock(to);
            let datagram = &self.history[which].bytes;
            let end: &mut dyn End = if to == 0 { &mut self.a } else { &mut self.b };
            end.receive(address(1 - to), datagram, now);
            self.settle(to, Some(which))?;
        }
        Ok(())
    }

    /// Takes what an end gives, after it was given a datagram or something else has happened.
    fn settle(&mut self, end: usize, cause: Option<usize>) -> Result<(), String> {
        for datagram in self.end(end).transmits() {
            self.look_at(end, &datagram, cause)?;
            self.transmit(end, datagram);
        }
        for delivered in self.end(end).delivered() {
            let number = number(&delivered, 1 - end).ok_or("a packet that nobody sent")?;
            if number >= self.sent[1 - end] {
                return Err(format!("packet {number} was not sent yet"));
            }
            if !self.received[end].insert(number) {
                return Err(format!("packet {number} came twice at {end}"));
            }
            let lifetime = self.end(end).lifetime();
            let age = cause.map(|which| self.clock(end) - self.history[which].sent);
            if lifetime.is_some() && age >= lifetime {
                return Err(format!("packet {number} came at {end} though its session is over"));
            }
        }
        self.look_when_due(end);
        self.end(end).check()
    }

    /// Fails where an end sends what it must not.
    fn look_at(&mut self, from: usize, datagram: &[u8], cause: Option<usize>) -> Result<(), String> {
        let field = |at: usize| datagram[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        match datagram[0] {
            1 | 2 => {
                // The index is that of a new session, even where it was that of an old one.
                self.counters[1 - from].retain(|(index, _)| *index != field(4));
                if datagram[0] == 2 {
                    self.look_at_answer(from, cause.ok_or("a response to nothing")?)?;
                }
            }
            3 => self.cookies[from] = Some(self.clock(from)),
            _ => {
                let counter = u64::from_le_bytes(*datagram[8..].first_chunk().unwrap());
                let counters = &mut self.counters[from];
                match counters.iter_mut().find(|(index, _)| *index == field(4)) {
                    Some((_, next)) if counter < *next => {
                        return Err(format!("{from} seals twice with counter {counter}"));
                    }
                    Some((_, next)) => *next = counter + 1,
                    None => counters.push((field(4), counter + 1)),
                }
            }
        }
        Ok(())
    }

    /// Fails where an end answers an initiation that it must not.
    fn look_at_answer(&mut self, from: usize, initiation: usize) -> Result<(), String> {
        let is_loaded = self.end(from).is_loaded();
        let cookie = self.cookies[from].filter(|at| self.clock(from) < *at + COOKIE_LIFE);
        let initiation = &mut self.history[initiation];
        if is_loaded && (cookie.is_none() || initiation.bytes.ends_with(&[0; 16])) {
            return Err(format!("{from} is under load and answers without a cookie"));
        }
        if std::mem::replace(&mut initiation.answered, true) {
            return Err(format!("{from} answers an initiation twice"));
        }
        Ok(())
    }

    /// Whatever the weather makes of a datagram.
    fn transmit(&mut self, from: usize, bytes: Vec<u8>) {
        let which = self.history.len();
        self.log.push((self.now, from, bytes[0]));
        if bytes[0] != 4 {
            self.handshakes.push(which);
        }
        self.history.push(Datagram { to: 1 - from, sent: self.clock(1 - from), bytes, answered: false });
        let lost = self.dice.below(256) < u64::from(self.weather.loss);
        let twice = self.dice.below(256) < u64::from(self.weather.copies);
        for _ in 0..1 + usize::from(twice) - usize::from(lost) {
            let time = self.weather.latency + self.dice.below(self.weather.spread + 1);
            self.put_on_the_way(which, self.now + Duration::from_millis(time));
        }
    }

    fn put_on_the_way(&mut self, which: usize, arrival: Duration) {
        self.copies += 1;
        self.on_the_way.insert((arrival, self.copies), which);
    }
}

pub(crate) fn secret(of: usize) -> WireGuardSecret {
    WireGuardSecret::from_bytes([u8::try_from(of).unwrap() + 1; 32])
}

/// The public halves of the ends' secrets, which the ends of every world share.
pub(crate) static PUBLIC: LazyLock<[WireGuardKey; 2]> =
    LazyLock::new(|| [0, 1].map(|end| secret(end).public()));

pub(crate) fn address(of: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, u8::try_from(of).unwrap()], 51820))
}

/// An IPv4 packet that ends in its number.
fn packet(from: usize, number: u32) -> [u8; 28] {
    let mut packet = [0; 28];
    packet[0] = 0x45;
    packet[3] = 28;
    packet[12..16].copy_from_slice(&[10, 0, u8::try_from(from).unwrap(), 1]);
    packet[16..20].copy_from_slice(&[10, 0, 1, 1]);
    packet[24..].copy_from_slice(&number.to_be_bytes());
    packet
}

/// The number of a packet, where it is one of ours in every byte.
fn number(delivered: &[u8], from: usize) -> Option<u32> {
    let number = u32::from_be_bytes(*delivered.get(24..)?.first_chunk()?);
    (delivered == packet(from, number)).then_some(number)
}
