//! Two ends on a simulated network, with simulated clocks.

#![allow(dead_code, unused_imports, reason = "no test uses all of it")]
#![allow(clippy::unwrap_used, reason = "in a test it is the assertion that the value is there")]

pub(crate) mod boring;
pub(crate) mod carrick;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use carrick_types::WireGuardSecret;

pub(crate) use self::{boring::Boring, carrick::Carrick};

/// One end of a tunnel. Time is what has passed since the beginning.
pub(crate) trait End {
    /// A packet from this host.
    fn send(&mut self, packet: &[u8], now: Duration);
    /// A datagram from the network.
    fn receive(&mut self, from: SocketAddr, datagram: &[u8], now: Duration);
    /// Runs the timers.
    fn tick(&mut self, now: Duration);
    /// The datagrams to send.
    fn transmits(&mut self) -> Vec<Vec<u8>>;
    /// The packets that came.
    fn delivered(&mut self) -> Vec<Vec<u8>>;
    /// Whether it is from now on under load.
    fn set_load(&mut self, _heavy: bool) {}
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

pub(crate) struct World<A, B> {
    pub(crate) a: A,
    pub(crate) b: B,
    pub(crate) now: Duration,
    /// What the clock of an end shows beside.
    pub(crate) ahead: [Duration; 2],
    pub(crate) weather: Weather,
    pub(crate) dice: Dice,
    /// The datagrams on the way, by arrival: to which end, and what.
    on_the_way: BTreeMap<(Duration, u64), (usize, Vec<u8>)>,
    pub(crate) datagrams: u64,
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
            on_the_way: BTreeMap::new(),
            datagrams: 0,
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
        self.settle(from)?;
        Ok(number)
    }

    /// Time passes in steps of at most 250 ms, and datagrams arrive.
    pub(crate) fn pass(&mut self, time: Duration) -> Result<(), String> {
        let until = self.now + time;
        while self.now < until {
            let next = (self.now + Duration::from_millis(250)).min(until);
            let arrival = self.on_the_way.keys().next().map_or(next, |(at, _)| *at);
            self.leap(arrival.clamp(self.now, next) - self.now)?;
        }
        Ok(())
    }

    /// Time passes at once; what has arrived meanwhile is taken afterwards.
    pub(crate) fn leap(&mut self, time: Duration) -> Result<(), String> {
        self.now += time;
        mock_instant::MockClock::advance(time);
        for end in [0, 1] {
            let now = self.clock(end);
            self.end(end).tick(now);
            self.settle(end)?;
        }
        while let Some(entry) = self.on_the_way.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let (to, datagram) = entry.remove();
            let now = self.clock(to);
            self.end(to).receive(address(1 - to), &datagram, now);
            self.settle(to)?;
        }
        Ok(())
    }

    pub(crate) fn clock(&self, end: usize) -> Duration {
        self.now + self.ahead[end]
    }

    /// How many messages of a type an end has sent.
    pub(crate) fn count(&self, from: usize, message: u8) -> usize {
        self.log.iter().filter(|(_, end, kind)| (*end, *kind) == (from, message)).count()
    }

    /// Takes what an end gives.
    fn settle(&mut self, end: usize) -> Result<(), String> {
        for datagram in self.end(end).transmits() {
            self.log.push((self.now, end, datagram[0]));
            let mut copies = 1;
            if self.dice.below(256) < u64::from(self.weather.loss) {
                copies -= 1;
            }
            if self.dice.below(256) < u64::from(self.weather.copies) {
                copies += 1;
            }
            for _ in 0..copies {
                let time = self.weather.latency + self.dice.below(self.weather.spread + 1);
                let arrival = self.now + Duration::from_millis(time);
                self.datagrams += 1;
                self.on_the_way.insert((arrival, self.datagrams), (1 - end, datagram.clone()));
            }
        }
        for delivered in self.end(end).delivered() {
            let number = number(&delivered, 1 - end).ok_or("a packet that nobody sent")?;
            if number >= self.sent[1 - end] {
                return Err(format!("packet {number} was not sent yet"));
            }
            if !self.received[end].insert(number) {
                return Err(format!("packet {number} came twice at {end}"));
            }
        }
        self.end(end).check()
    }
}

pub(crate) fn secret(of: usize) -> WireGuardSecret {
    WireGuardSecret::from_bytes([u8::try_from(of).unwrap() + 1; 32])
}

pub(crate) fn address(of: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, u8::try_from(of).unwrap()], 51820))
}

/// An IPv4 packet that ends in its number.
fn packet(from: usize, number: u32) -> Vec<u8> {
    let mut packet = vec![0; 28];
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
