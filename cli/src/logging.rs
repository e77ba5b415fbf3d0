//! The log: stderr, filtered by `CARRICK_LOG`.

use std::{
    env,
    io::{self, IsTerminal as _},
};

use anyhow::{Context as _, Result};
use tracing_subscriber::EnvFilter;

use crate::output::Paint;

const VARIABLE: &str = "CARRICK_LOG";

/// Starts the log, with the filter that holds where the variable says nothing. Call once.
pub(crate) fn start(filter: &str) -> Result<()> {
    let directives = env::var(VARIABLE).ok().filter(|text| !text.is_empty());
    let filter = EnvFilter::try_new(directives.as_deref().unwrap_or(filter)).with_context(|| {
        format!("{VARIABLE} is not a log filter: write it as debug or info,carrick_node=trace")
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(Paint::on(io::stderr().is_terminal()) == Paint::Colour)
        .init();
    Ok(())
}
