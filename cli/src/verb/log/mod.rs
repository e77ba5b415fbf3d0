//! `carrick log`: what was decided about the mesh, shown, copied and verified.

mod copy;
mod operator;
mod show;
mod verify;

use anyhow::Result;
use clap::{Args, Subcommand};

/// Show and verify the log of everything that was decided about the mesh
#[derive(Debug, Args)]
#[command(after_help = "\
To verify the log on a host without a network, or to keep what it said:
  carrick log export -o mesh.log
  carrick log verify --file mesh.log --operator KEY   on any host")]
pub(crate) struct Log {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Show(show::Show),
    Export(copy::Export),
    Verify(verify::Verify),
}

impl Log {
    pub(super) fn run(self) -> Result<()> {
        match self.action {
            Action::Show(action) => action.run(),
            Action::Export(action) => action.run(),
            Action::Verify(action) => action.run(),
        }
    }
}
