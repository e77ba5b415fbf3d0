//! The timestamps of handshakes (<https://cr.yp.to/libtai/tai64.html>).

use std::time::Duration;

/// TAI64N's label of 1970-01-01 00:00:10 TAI.
const EPOCH: u64 = (1 << 62) + 10;

/// Nanoseconds are cut to multiples of this (1/60 s), so that a handshake does not tell how a host's clock runs.
const GRAIN: u32 = 1 << 24;

/// A moment as TAI64N: the later, the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tai64N([u8; 12]);

impl Tai64N {
    /// A moment, as the time since the Unix epoch.
    pub fn from_unix(since_epoch: Duration) -> Self {
        let nanoseconds = since_epoch.subsec_nanos() / GRAIN * GRAIN;
        Self::new(EPOCH.saturating_add(since_epoch.as_secs()), nanoseconds)
    }

    /// As it came from a peer. Only the order of its bytes counts.
    pub const fn from_bytes(bytes: [u8; 12]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; 12] {
        &self.0
    }

    /// The least timestamp that is greater.
    #[must_use]
    pub fn successor(self) -> Self {
        let mut bytes = self.0;
        for byte in bytes.iter_mut().rev() {
            *byte = byte.wrapping_add(1);
            if *byte != 0 {
                return Self(bytes);
            }
        }
        self
    }

    fn new(seconds: u64, nanoseconds: u32) -> Self {
        let mut bytes = [0; 12];
        let (whole, fraction) = bytes.split_at_mut(8);
        whole.copy_from_slice(&seconds.to_be_bytes());
        fraction.copy_from_slice(&nanoseconds.to_be_bytes());
        Self(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_epoch_has_the_label_that_libtai_gives_it() {
        let label = [0x40, 0, 0, 0, 0, 0, 0, 0x0a, 0, 0, 0, 0];
        assert_eq!(Tai64N::from_unix(Duration::ZERO).as_bytes(), &label);
    }

    #[test]
    fn later_is_greater_and_the_successor_is_greater_yet() {
        let times = [0, 1, 255, 256, 1 << 31, 1 << 40].map(|s| Tai64N::from_unix(Duration::from_secs(s)));
        assert!(times.is_sorted());
        assert!(times.iter().all(|time| *time < time.successor()));
        assert!(times.windows(2).all(|pair| pair[0].successor() < pair[1]));
        let fraction = |milliseconds| Tai64N::from_unix(Duration::from_millis(milliseconds));
        assert!(fraction(20) > fraction(0) && fraction(20) == fraction(21));
    }

    #[test]
    fn nothing_comes_after_the_last() {
        let last = Tai64N::from_bytes([0xff; 12]);
        assert_eq!(last.successor(), last);
    }
}
