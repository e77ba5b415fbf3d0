//! What a device takes from outside beside packets, datagrams and the monotonic clock.

use std::time::{Duration, Instant};

use carrick_wireguard::{Context, Tai64N};

/// Randomness and the wall clock.
pub trait Outside: Send {
    /// Fills a buffer with bytes that nobody can guess.
    fn random(&mut self, buffer: &mut [u8]);

    /// The time since the Unix epoch. It stamps handshakes: a peer takes none that is stamped before one that it has taken, also
    /// before a restart.
    fn wall_clock(&mut self) -> Duration;
}

/// The outside of one device.
pub(crate) struct Surroundings {
    outside: Box<dyn Outside>,
    /// The last stamp. The next is later, whatever the wall clock says and whichever tunnel it is for.
    stamped: Tai64N,
}

impl Surroundings {
    pub(crate) fn new(outside: impl Outside + 'static) -> Self {
        Self { outside: Box::new(outside), stamped: Tai64N::from_unix(Duration::ZERO) }
    }

    pub(crate) fn random(&mut self, buffer: &mut [u8]) {
        self.outside.random(buffer);
    }

    /// Does what takes a context. `indices` gives receiver indices.
    pub(crate) fn with<R>(
        &mut self,
        now: Instant,
        indices: &mut dyn FnMut() -> u32,
        step: impl FnOnce(&mut Context<'_>) -> R,
    ) -> R {
        self.stamped = Tai64N::from_unix(self.outside.wall_clock()).max(self.stamped.successor());
        let (outside, mut indices) = (&mut self.outside, indices);
        let mut random = |buffer: &mut [u8]| outside.random(buffer);
        step(&mut Context { now, wall: self.stamped, random: &mut random, indices: &mut indices })
    }
}
