//! A token bucket.

use tokio::time::Instant;

/// Allows so many at once and so many a second after.
#[derive(Debug)]
pub(crate) struct Rate {
    burst: f64,
    per_second: f64,
    left: f64,
    at: Option<Instant>,
}

impl Rate {
    pub(crate) fn new(burst: u32, per_second: f64) -> Self {
        let burst = f64::from(burst);
        Self { burst, per_second, left: burst, at: None }
    }

    /// Whether one more is allowed now; counts it if so.
    pub(crate) fn allows(&mut self, now: Instant) -> bool {
        let passed = self.at.map_or(0.0, |at| now.saturating_duration_since(at).as_secs_f64());
        self.at = Some(now);
        self.left = (self.left + passed * self.per_second).min(self.burst);
        let allowed = self.left >= 1.0;
        if allowed {
            self.left -= 1.0;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_is_allowed_and_then_the_rate() {
        let mut rate = Rate::new(3, 2.0);
        let start = Instant::now();
        assert_eq!((0..5).filter(|_| rate.allows(start)).count(), 3);
        let later = start + Duration::from_secs(1);
        assert_eq!((0..5).filter(|_| rate.allows(later)).count(), 2);
    }
}
