//! What a soak found, and whether that is good enough.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use serde::Serialize;

use super::conversation::Story;
use crate::{machine::Machine, table::aligned, tunnel::mib};

/// No message, and no pause between datagrams, may take longer.
const LONGEST_STALL: Duration = Duration::from_secs(2);
/// No agent may grow by more, in MiB.
const MOST_GROWTH: f64 = 10.0;
/// WireGuard's rekey-after-time.
const REKEY: Duration = Duration::from_secs(120);

/// What a soak found.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
    pub(super) machine: Machine,
    pub(super) minutes: u64,
    pub(super) talks: Vec<Talk>,
    pub(super) datagrams: Vec<Datagrams>,
    /// How many were seen on each link.
    pub(super) handshakes: BTreeMap<String, usize>,
    /// Whether every node had a session with the coordinator at the end.
    pub(super) all_back: bool,
    /// Resident memory by process, in bytes.
    pub(super) memory_at_start: Vec<(String, u64)>,
    pub(super) memory_at_end: Vec<(String, u64)>,
}

/// A connection.
#[derive(Debug, Serialize)]
pub(super) struct Talk {
    name: String,
    messages: u64,
    longest_ms: f64,
    /// When the longest was sent, in seconds from the start.
    longest_at_s: f64,
    lost: Option<String>,
}

/// Datagrams one way.
#[derive(Debug, Serialize)]
pub(super) struct Datagrams {
    name: String,
    sent: u64,
    lost: u64,
    longest_gap_ms: f64,
}

impl Talk {
    pub(super) fn of(name: String, story: Story) -> Self {
        let Story { messages, longest: (longest, at), lost } = story;
        Self { name, messages, longest_ms: millis(longest), longest_at_s: at.as_secs_f64(), lost }
    }
}

impl Datagrams {
    /// `arrivals`: number and time of each, maybe of some that were sent later.
    pub(super) fn of(name: String, sent: u64, arrivals: &[(u64, Instant)]) -> Self {
        let arrived = arrivals.iter().filter(|(number, _)| *number < sent).count() as u64;
        let gaps = arrivals.windows(2).map(|pair| pair[1].1.saturating_duration_since(pair[0].1));
        let longest_gap_ms = millis(gaps.max().unwrap_or_default());
        Self { name, sent, lost: sent.saturating_sub(arrived), longest_gap_ms }
    }
}

impl Outcome {
    /// Fails where something is worse than it may be.
    pub(crate) fn verdict(&self) -> Result<()> {
        let faults = self.faults();
        if !faults.is_empty() {
            bail!("the soak found: {}", faults.join("; "));
        }
        Ok(())
    }

    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for talk in &self.talks {
            if let Some(reason) = &talk.lost {
                faults.push(format!("{}: lost ({reason})", talk.name));
            }
            if talk.longest_ms > millis(LONGEST_STALL) {
                faults.push(format!("{}: {:.1} s for one message", talk.name, talk.longest_ms / 1e3));
            }
        }
        for datagrams in &self.datagrams {
            if datagrams.longest_gap_ms > millis(LONGEST_STALL) {
                faults.push(format!("{}: a gap of {:.1} s", datagrams.name, datagrams.longest_gap_ms / 1e3));
            }
        }
        for (name, growth) in self.growth() {
            if name != "coordinator" && growth > MOST_GROWTH {
                faults.push(format!("{name} grew by {growth:.1} MiB"));
            }
        }
        // A link that is never silent has one handshake at first, and another one at each rekey.
        let most = self.handshakes.values().max().copied().unwrap_or(0);
        let expected = 1 + usize::try_from(self.minutes * 60 / REKEY.as_secs()).unwrap_or(usize::MAX);
        if most < expected {
            faults.push(format!("{most} handshakes on the busiest link, not {expected}"));
        }
        if !self.all_back {
            faults.push("not every node has a session with the coordinator again".to_owned());
        }
        faults
    }

    /// By process, in MiB.
    fn growth(&self) -> impl Iterator<Item = (&str, f64)> {
        let of = |memory: &[(String, u64)], name: &str| {
            memory.iter().find(|(other, _)| other == name).map_or(0.0, |&(_, bytes)| mib(bytes))
        };
        self.memory_at_end
            .iter()
            .map(move |(name, end)| (name.as_str(), mib(*end) - of(&self.memory_at_start, name)))
    }

    /// For people.
    pub(crate) fn to_table(&self) -> String {
        let mut rows = vec![["connection", "messages", "longest", "at", "lost"].map(str::to_owned).to_vec()];
        rows.extend(self.talks.iter().map(|talk| {
            vec![
                talk.name.clone(),
                talk.messages.to_string(),
                format!("{:.1} ms", talk.longest_ms),
                format!("{:.0} s", talk.longest_at_s),
                talk.lost.clone().unwrap_or_else(|| "no".to_owned()),
            ]
        }));
        let mut text = format!("{}; {} minutes\n\n{}\n", self.machine, self.minutes, aligned(&rows));
        let mut rows = vec![["one way", "sent", "lost", "longest gap"].map(str::to_owned).to_vec()];
        rows.extend(self.datagrams.iter().map(|datagrams| {
            vec![
                datagrams.name.clone(),
                datagrams.sent.to_string(),
                datagrams.lost.to_string(),
                format!("{:.1} ms", datagrams.longest_gap_ms),
            ]
        }));
        text += &format!("{}\n", aligned(&rows));
        let mut rows = vec![["link", "handshakes seen"].map(str::to_owned).to_vec()];
        rows.extend(self.handshakes.iter().map(|(link, count)| vec![link.clone(), count.to_string()]));
        text += &format!("{}\n", aligned(&rows));
        let mut rows = vec![["process", "resident, end", "growth"].map(str::to_owned).to_vec()];
        rows.extend(self.memory_at_end.iter().zip(self.growth()).map(|((name, bytes), (_, growth))| {
            vec![name.clone(), format!("{:.1} MiB", mib(*bytes)), format!("{growth:+.1} MiB")]
        }));
        text + &aligned(&rows)
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
