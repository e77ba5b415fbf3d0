//! Measures Carrick on this machine, in network namespaces, and prints the figures next to those of the path without it.
//!
//! `tunnel`, `revoke` and `join` measure; `soak` looks for what breaks with time. They run the real `carrick` in a
//! [`carrick_lab::mesh::Mesh`]. `appraise` measures without a network.

mod appraise;
mod binary;
mod join;
mod machine;
mod operator;
mod revoke;
mod soak;
mod spread;
mod table;
mod tunnel;

use std::{
    ffi::OsString,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context as _, Result};
use carrick_lab::sandbox;
use clap::{Args, Parser, Subcommand};
use serde::Serialize;

/// Measure Carrick on this machine
#[derive(Debug, Parser)]
struct Bench {
    #[command(subcommand)]
    what: What,
    /// The `carrick` to run
    #[arg(long, hide = true, global = true)]
    carrick: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// `carrick device` beside other WireGuard devices: throughput, CPU, round trips, memory and handshakes
    Tunnel(tunnel::Options),
    /// Connections under traffic for minutes, across rekeys and coordinator restarts; fails if one breaks or stalls
    Soak(Soak),
    /// From the revocation of a node to the last packet at, and from, each of its peers
    Revoke(Revoke),
    /// From the start of a node to the first packet that a peer gets of it
    Join(Join),
    /// Appraisals of evidence, and a peer's verification of grants, on one core
    Appraise(Appraise),
}

#[derive(Debug, Args)]
struct Soak {
    /// How long, in minutes
    #[arg(long, default_value_t = 5)]
    minutes: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Revoke {
    /// How many nodes the mesh has, in two clusters
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u8).range(4..=200))]
    nodes: u8,
    /// How many nodes are revoked, one after the other, in each scene
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Join {
    /// How many nodes join, one after the other
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// What the node shows of itself
    #[arg(long, value_enum, default_value_t)]
    evidence: join::Shown,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Appraise {
    /// How long each kind of evidence is appraised, in seconds
    #[arg(long, default_value_t = 2)]
    secs: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn main() -> Result<()> {
    let bench = Bench::parse();
    match (bench.what, bench.carrick) {
        (What::Appraise(options), _) => {
            warn_of_debug_build();
            let figures = appraise::measure(options.secs)?;
            print(&figures, options.json, appraise::Figures::to_table)
        }
        (what, Some(carrick)) if sandbox::inside() => run(what, &carrick),
        _ => enter(),
    }
}

/// Runs this program again in the sandbox, with the same arguments.
fn enter() -> Result<()> {
    sandbox::preflight()?;
    let carrick = binary::find()?;
    let given = std::env::args_os().skip(1);
    let arguments: Vec<OsString> = given.chain(["--carrick".into(), carrick.into()]).collect();
    let status = sandbox::reexec(Path::new("/proc/self/exe"), &arguments, &[], &[])?;
    process::exit(status.code().unwrap_or(1));
}

fn warn_of_debug_build() {
    if cfg!(debug_assertions) {
        note("a debug build: its figures say nothing; use cargo run --release");
    }
}

fn run(what: What, carrick: &Path) -> Result<()> {
    warn_of_debug_build();
    match what {
        What::Tunnel(options) => {
            let figures = tunnel::measure(carrick.to_owned(), &options)?;
            print(&figures, options.json, tunnel::Figures::to_table)
        }
        What::Soak(options) => {
            let outcome = soak::run(carrick, options.minutes)?;
            print(&outcome, options.json, soak::Outcome::to_table)?;
            outcome.verdict()
        }
        What::Revoke(options) => {
            let figures = revoke::measure(carrick, options.nodes, options.rounds)?;
            print(&figures, options.json, revoke::Figures::to_table)
        }
        What::Join(options) => {
            let figures = join::measure(carrick, options.evidence, options.rounds)?;
            print(&figures, options.json, join::Figures::to_table)
        }
        What::Appraise(_) => anyhow::bail!("appraise needs no sandbox"),
    }
}

fn print<T: Serialize>(figures: &T, json: bool, table: impl Fn(&T) -> String) -> Result<()> {
    let text = if json { serde_json::to_string_pretty(figures)? } else { table(figures) };
    writeln!(io::stdout(), "{text}").context("cannot print the figures")
}

/// Tells people what is going on.
fn note(text: &str) {
    eprintln!("{text}");
}
