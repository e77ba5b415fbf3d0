//! Measures Carrick on this machine, in network namespaces, and prints the figures next to those of the path without it.
//!
//! `tunnel` measures; `soak` looks for what breaks with time. Both run the real `carrick` in a [`carrick_lab::mesh::Mesh`].

mod binary;
mod machine;
mod soak;
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
    /// Throughput, CPU, round trips and memory, next to the untunnelled path
    Tunnel(Tunnel),
    /// Connections under traffic for minutes, across rekeys and coordinator restarts; fails if one breaks or stalls
    Soak(Soak),
}

#[derive(Debug, Args)]
struct Tunnel {
    /// How long each stream is, in seconds
    #[arg(long, default_value_t = 10)]
    secs: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
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

fn main() -> Result<()> {
    let bench = Bench::parse();
    match bench.carrick {
        Some(carrick) if sandbox::inside() => run(bench.what, &carrick),
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

fn run(what: What, carrick: &Path) -> Result<()> {
    if cfg!(debug_assertions) {
        note("a debug build: its figures say nothing; use cargo run --release");
    }
    match what {
        What::Tunnel(options) => {
            let figures = tunnel::measure(carrick, options.secs)?;
            print(&figures, options.json, tunnel::Figures::to_table)
        }
        What::Soak(options) => {
            let outcome = soak::run(carrick, options.minutes)?;
            print(&outcome, options.json, soak::Outcome::to_table)?;
            outcome.verdict()
        }
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
