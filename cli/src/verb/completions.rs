//! `carrick completions`.

use anyhow::{Context as _, Result};
use clap::{Args, CommandFactory as _};
use clap_complete::{Shell, generate};

use crate::{Cli, output};

/// Print completions for a shell
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  carrick completions bash > /etc/bash_completion.d/carrick
  carrick completions zsh > ~/.zfunc/_carrick
  carrick completions fish > ~/.config/fish/completions/carrick.fish")]
pub(crate) struct Completions {
    /// Which shell
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self) -> Result<()> {
        let mut script = Vec::new();
        generate(self.shell, &mut Cli::command(), "carrick", &mut script);
        output::print(&String::from_utf8(script).context("completions are text")?)
    }
}
