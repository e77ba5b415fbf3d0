//! What the demo tells: each step as it ends, then the figures.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;

use crate::output;

/// The steps so far, and the figures that they brought.
#[derive(Debug)]
pub(super) struct Report {
    started: Instant,
    steps: Vec<Step>,
    /// From the start of the demo to the first answer from the other cluster.
    pub(super) first_answer: Option<Duration>,
    /// One TCP stream between two pods, bit/s.
    pub(super) throughput: Option<f64>,
    /// From the operator's command to the last datagram that was delivered.
    pub(super) revoke: Option<Duration>,
}

#[derive(Debug, Clone, Serialize)]
struct Step {
    name: &'static str,
    ok: bool,
    ms: f64,
}

/// The outcome, for programs.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    ok: bool,
    first_answer_ms: Option<f64>,
    throughput_gbit_s: Option<f64>,
    revoke_ms: Option<f64>,
    steps: Vec<Step>,
}

impl Report {
    pub(super) fn new() -> Self {
        Self {
            started: Instant::now(),
            steps: Vec::new(),
            first_answer: None,
            throughput: None,
            revoke: None,
        }
    }

    /// How long the demo has run.
    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Runs a step, which answers what it saw, and tells how it went.
    pub(super) fn step(
        &mut self,
        name: &'static str,
        step: impl FnOnce(&mut Self) -> Result<String>,
    ) -> Result<()> {
        let since = Instant::now();
        let outcome = step(self);
        let ms = millis(since.elapsed());
        self.steps.push(Step { name, ok: outcome.is_ok(), ms });
        match &outcome {
            Ok(seen) => output::note(&format!("  ok     {ms:>7.0} ms  {name}: {seen}")),
            Err(error) => output::note(&format!("  FAILED {ms:>7.0} ms  {name}: {error:#}")),
        }
        outcome.map(drop)
    }

    pub(super) fn print_summary(&self) {
        let ms = |value: Option<Duration>| {
            value.map_or("-".to_owned(), |value| format!("{:.1} ms", millis(value)))
        };
        let throughput = self.throughput.map_or("-".to_owned(), |bits| format!("{:.2} Gbit/s", bits / 1e9));
        output::note(&format!(
            "\nfirst answer across clusters: {}   throughput, one stream: {throughput}   revoke to last packet: {}",
            ms(self.first_answer),
            ms(self.revoke)
        ));
    }

    pub(super) fn to_json(&self) -> Outcome {
        let complete = self.first_answer.is_some() && self.throughput.is_some() && self.revoke.is_some();
        Outcome {
            ok: complete && self.steps.iter().all(|step| step.ok),
            first_answer_ms: self.first_answer.map(millis),
            throughput_gbit_s: self.throughput.map(|bits| (bits / 1e6).round() / 1e3),
            revoke_ms: self.revoke.map(millis),
            steps: self.steps.clone(),
        }
    }
}

/// Milliseconds to the hundredth.
fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e5).round() / 1e2
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn the_outcome_is_ok_only_when_every_step_held_and_every_figure_is_there() {
        let mut report = Report::new();
        report.step("one", |_| Ok(String::new())).unwrap();
        assert!(!report.to_json().ok, "no figures");
        (report.first_answer, report.revoke) = (Some(Duration::from_millis(5)), Some(Duration::ZERO));
        report.throughput = Some(1e9);
        assert!(report.to_json().ok);
        report.step("two", |_| bail!("no")).unwrap_err();
        let json = serde_json::to_value(report.to_json()).unwrap();
        assert_eq!(json["ok"], false);
        assert_eq!(json["first_answer_ms"], 5.0);
        assert_eq!(json["steps"][1]["name"], "two");
    }
}
