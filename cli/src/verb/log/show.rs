//! `carrick log show`.

use std::time::SystemTime;

use anyhow::{Context as _, Result};
use carrick_attest::token::Capability;
use carrick_types::UnixTime;
use carrick_wire::log::{Decision, Entry};
use clap::Args;
use comfy_table::Cell;
use serde::Serialize;

use super::copy::entries;
use crate::{
    human::{count, relative},
    output::{Output, Paint, list, printable, table},
    remote::Remote,
    runtime,
};

/// Show the log's entries
#[derive(Debug, Args)]
pub(super) struct Show {
    /// The position of the first one
    #[arg(long, value_name = "N", default_value_t = 0)]
    from: u64,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    remote: Remote,
}

/// An entry with its place in the log.
#[derive(Debug, Serialize)]
struct Placed {
    position: u64,
    #[serde(flatten)]
    entry: Entry,
}

impl Show {
    pub(super) fn run(self) -> Result<()> {
        let api = self.remote.api()?;
        let texts = runtime::call(entries(&api, self.from, None))?;
        let placed = texts.iter().enumerate().map(|(index, text)| {
            let position = self.from.saturating_add(index as u64);
            let entry = serde_json::from_str(text)
                .with_context(|| format!("entry {position} is of a newer carrick: upgrade"))?;
            Ok(Placed { position, entry })
        });
        let placed = placed.collect::<Result<Vec<_>>>()?;
        self.output
            .print(&placed, |placed| entries_table(placed, SystemTime::now().into(), Paint::on_stdout()))
    }
}

fn entries_table(placed: &[Placed], now: UnixTime, paint: Paint) -> String {
    let rows = placed.iter().map(|Placed { position, entry }| {
        let (what, whom, detail) = describe(&entry.decision);
        [
            Cell::new(position),
            Cell::new(relative(entry.at, now)),
            Cell::new(what),
            Cell::new(whom),
            Cell::new(detail),
        ]
    });
    table(["ENTRY", "WHEN", "WHAT", "WHICH", "DETAIL"], rows, paint)
}

/// What was decided, about whom, and the rest.
fn describe(decision: &Decision) -> (&'static str, String, String) {
    match decision {
        Decision::BundlePublished { version, operator, .. } => {
            ("policy bundle published", format!("version {version}"), format!("by {operator}"))
        }
        Decision::TokenCreated { capability } => {
            match serde_json::from_str::<Capability>(capability.text()) {
                Ok(Capability { token, cluster, uses, expires_at, .. }) => (
                    "token created",
                    token.to_string(),
                    format!("{cluster}, {}, until {expires_at}", count(uses.into(), "use")),
                ),
                Err(_) => ("token created", String::new(), "not understood".to_owned()),
            }
        }
        Decision::TokenRevoked { token } => ("token revoked", token.to_string(), String::new()),
        Decision::Granted { grant, token } => {
            let what = if token.is_some() { "node joined" } else { "key granted" };
            let evidence = grant.statements.iter().map(|statement| statement.kind.as_str());
            let evidence = evidence.filter(|kind| *kind != "identity").collect::<Vec<_>>().join("+");
            (
                what,
                grant.name.to_string(),
                format!("{}, {}, by {evidence}", grant.cluster, list(&grant.allowed_ips)),
            )
        }
        Decision::Suspended { node, reason } => ("node suspended", node.to_string(), printable(reason)),
        Decision::Resumed { node } => ("node resumed", node.to_string(), String::new()),
        Decision::NodeRevoked { node, reason } => {
            ("node revoked", node.to_string(), printable(reason.as_deref().unwrap_or_default()))
        }
    }
}
