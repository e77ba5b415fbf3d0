//! Handshakes, as the topology shows them: each link's latest, looked at again and again.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;

/// Times of handshakes are whole seconds that may waver by one.
const APART: Duration = Duration::from_secs(2);

/// Every handshake that was seen, by link.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    links: BTreeMap<String, Vec<String>>,
}

impl Handshakes {
    /// Takes note of what a topology shows.
    pub(super) fn look(&mut self, topology: &Value) {
        let name = |id: &Value| {
            let node = topology["nodes"].as_array()?.iter().find(|node| node["id"] == *id)?;
            node["name"].as_str()
        };
        for link in topology["links"].as_array().into_iter().flatten() {
            let ends = name(&link["from"]).zip(name(&link["to"]));
            let (Some((from, to)), Some(at)) = (ends, link["last_handshake"].as_str()) else { continue };
            // Both ends tell of the same handshakes.
            if from < to {
                let seen = self.links.entry(format!("{from} {to}")).or_default();
                if seen.last().is_none_or(|last| is_later(last, at)) {
                    seen.push(at.to_owned());
                }
            }
        }
    }

    /// How many were seen on each link.
    pub(super) fn by_link(self) -> BTreeMap<String, usize> {
        self.links.into_iter().map(|(link, seen)| (link, seen.len())).collect()
    }
}

/// Whether one time of a day is later than another, by more than they waver. Around midnight every one counts.
fn is_later(last: &str, at: &str) -> bool {
    let seconds = |text: &str| {
        let time = text.split_once('T')?.1.get(..8)?;
        time.split(':').try_fold(0_u64, |sum, part| Some(sum * 60 + part.parse::<u64>().ok()?))
    };
    match (seconds(last), seconds(at)) {
        (Some(last), Some(at)) => at.abs_diff(last) >= APART.as_secs(),
        _ => last != at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_wavers_is_one_handshake() {
        assert!(!is_later("2026-01-01T10:59:59Z", "2026-01-01T11:00:00Z"));
        assert!(is_later("2026-01-01T10:59:59Z", "2026-01-01T11:01:59Z"));
    }
}
