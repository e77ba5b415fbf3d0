//! How measurements are spread.

use serde::Serialize;

/// Percentiles by nearest rank: each is something that was measured. The unit is that of the field which holds it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) count: usize,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// `None` of nothing.
    pub(crate) fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let max = *sorted.last()?;
        let rank = |of_hundred: usize| sorted[(sorted.len() * of_hundred).div_ceil(100).max(1) - 1];
        Some(Self { count: sorted.len(), p50: rank(50), p99: rank(99), max })
    }

    /// The cells of a table: p50, p99, max.
    pub(crate) fn cells(&self, cell: impl Fn(f64) -> String) -> [String; 3] {
        [cell(self.p50), cell(self.p99), cell(self.max)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_among_what_was_measured() {
        let samples: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        let spread = Spread::of(&samples).unwrap();
        assert_eq!(spread, Spread { count: 200, p50: 100.0, p99: 198.0, max: 200.0 });
        assert_eq!(Spread::of(&[7.0]), Some(Spread { count: 1, p50: 7.0, p99: 7.0, max: 7.0 }));
        assert_eq!(Spread::of(&[]), None);
    }
}
