//! What evidence costs those who appraise it: the coordinator, and every peer again. One thread, no network, no disk.
//!
//! A new kind of evidence is one more of [`cases::all`].

mod cases;
mod paper;
mod peer;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

use self::cases::Case;
use crate::{machine::Machine, note, spread::Spread, table::aligned};

/// Peers in the mesh that a node is told of.
const PEERS: u16 = 1000;
/// How often the whole netmap is taken.
const NETMAPS: usize = 10;

/// What was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    machine: Machine,
    appraisals: Vec<Kind>,
    peers: u16,
    /// A delta with one new peer, from its bytes to a key that may enter the device, while the mesh grows from one to [`PEERS`].
    delta_ms: Spread,
    /// The same of the last tenth of them alone.
    last_deltas_ms: Spread,
    /// A whole netmap, from its bytes on.
    netmap_ms: Spread,
}

/// Appraisals of one set of evidence.
#[derive(Debug, Serialize)]
struct Kind {
    evidence: String,
    per_second: f64,
    each_us: Spread,
}

/// Measures each case for some seconds, and then a peer.
pub(crate) fn measure(seconds: u64) -> Result<Figures> {
    ensure!(seconds > 0, "nothing is measured in no time");
    let mut appraisals = Vec::new();
    for case in cases::all() {
        note(&format!("{} …", case.name));
        appraisals.push(measure_case(&case, Duration::from_secs(seconds))?);
    }
    note("a peer …");
    let deltas = peer::deltas(PEERS)?;
    let last = deltas.get(deltas.len() - deltas.len() / 10..).context("no deltas")?;
    Ok(Figures {
        machine: Machine::this(),
        appraisals,
        peers: PEERS,
        delta_ms: Spread::of(&deltas).context("no deltas")?,
        last_deltas_ms: Spread::of(last).context("no deltas")?,
        netmap_ms: Spread::of(&peer::netmaps(PEERS, NETMAPS)?).context("no netmaps")?,
    })
}

fn measure_case(case: &Case, length: Duration) -> Result<Kind> {
    let mut each = Vec::new();
    let since = Instant::now();
    while since.elapsed() < length {
        let one = Instant::now();
        let accepted = (case.appraise)();
        each.push(one.elapsed().as_secs_f64() * 1e6);
        ensure!(accepted, "{} is refused", case.name);
    }
    let busy: f64 = each.iter().sum();
    let each_us = Spread::of(&each).context("no appraisal")?;
    Ok(Kind { evidence: case.name.clone(), per_second: each.len() as f64 / busy * 1e6, each_us })
}

impl Figures {
    /// For people.
    pub(crate) fn to_table(&self) -> String {
        let head = |cells: &[&str]| cells.iter().map(|&cell| cell.to_owned()).collect::<Vec<_>>();
        let mut appraisals = vec![head(&["appraisals on one core", "a second", "p50", "p99", "max"])];
        for kind in &self.appraisals {
            let cells = kind.each_us.cells(|us| format!("{us:.0} µs"));
            appraisals.push(
                [vec![kind.evidence.clone(), format!("{:.0}", kind.per_second)], cells.to_vec()].concat(),
            );
        }
        let row = |what: String, spread: &Spread| {
            [vec![what], spread.cells(|ms| format!("{ms:.2} ms")).to_vec()].concat()
        };
        let peers = [
            head(&["a peer, from bytes to belief", "p50", "p99", "max"]),
            row(format!("a delta with one new peer, 1 to {}", self.peers), &self.delta_ms),
            row("the last tenth of them".to_owned(), &self.last_deltas_ms),
            row(format!("a netmap of {} peers", self.peers), &self.netmap_ms),
        ];
        format!("{}\n\n{}\n{}", self.machine, aligned(&appraisals), aligned(&peers))
    }
}
