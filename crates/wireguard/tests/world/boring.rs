//! boringtun as an end.

use std::{net::SocketAddr, time::Duration};

use boringtun::noise::{Tunn, TunnResult, rate_limiter::RateLimiter};

use super::{End, PUBLIC, secret};

/// How often it is to look at its timers, of which it does not say when they are due. Its own device does so, too.
const TICK: Duration = Duration::from_millis(250);

pub(crate) struct Boring {
    tunn: Tunn,
    due: Duration,
    transmits: Vec<Vec<u8>>,
    delivered: Vec<Vec<u8>>,
}

impl Boring {
    /// `handshakes`: how many handshake messages it takes before it is under load, for ever.
    pub(crate) fn new(me: usize, preshared: Option<[u8; 32]>, handshakes: u64) -> Self {
        let own = boringtun::x25519::StaticSecret::from(*secret(me).expose());
        let [public, peer] =
            [me, 1 - me].map(|end| boringtun::x25519::PublicKey::from(*PUBLIC[end].as_bytes()));
        let limiter = std::sync::Arc::new(RateLimiter::new(&public, handshakes));
        let tunn = Tunn::new(own, peer, preshared, None, 7, Some(limiter));
        Self { tunn, due: Duration::ZERO, transmits: Vec::new(), delivered: Vec::new() }
    }

    /// Takes what the engine gives. Whether it has a datagram to send.
    fn step(&mut self, with: impl for<'a> FnOnce(&mut Tunn, &'a mut [u8]) -> TunnResult<'a>) -> bool {
        let mut buffer = [0; 256];
        match with(&mut self.tunn, &mut buffer) {
            TunnResult::WriteToNetwork(datagram) => {
                self.transmits.push(datagram.to_vec());
                return true;
            }
            TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                self.delivered.push(packet.to_vec());
            }
            TunnResult::Done | TunnResult::Err(_) => {}
        }
        false
    }
}

impl End for Boring {
    fn send(&mut self, packet: &[u8], _now: Duration) {
        self.step(|tunn, buffer| tunn.encapsulate(packet, buffer));
    }

    fn receive(&mut self, from: SocketAddr, datagram: &[u8], _now: Duration) {
        let mut more = self.step(|tunn, buffer| tunn.decapsulate(Some(from.ip()), datagram, buffer));
        while more {
            more = self.step(|tunn, buffer| tunn.decapsulate(None, &[], buffer));
        }
    }

    fn tick(&mut self, now: Duration) {
        if self.due <= now {
            self.due = now + TICK;
            self.step(Tunn::update_timers);
        }
    }

    fn due(&self) -> Option<Duration> {
        Some(self.due)
    }

    fn transmits(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.transmits)
    }

    fn delivered(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.delivered)
    }
}
