//! `carrick bundle`: the operator's policy bundle, from the one in force over a draft to the next one.

mod change;
mod draft;
mod edit;
mod in_force;
mod learn;
mod publish;
mod show;
mod sign;

use anyhow::Result;
use clap::{Args, Subcommand};

pub(crate) use self::in_force::InForce;
pub(super) use self::publish::{Signer, confirm};

/// Show, edit, sign and push the operator's policy bundle: which evidence admits to which cluster
#[derive(Debug, Args)]
#[command(after_help = "\
Where the coordinator or this host has the operator's key, `carrick bundle edit` does it all. Where the key is elsewhere:
  carrick bundle show -o draft > draft.json     then edit the draft
  carrick bundle push -f draft.json --dry-run   what would change, and who would be suspended
  carrick bundle sign -f draft.json -o signed.json --key-file operator.key   on the host with the key
  carrick bundle push -f signed.json")]
pub(crate) struct Bundle {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Show(show::Show),
    Edit(edit::Edit),
    Learn(learn::Learn),
    Sign(sign::Sign),
    Push(publish::Push),
}

impl Bundle {
    pub(super) fn run(self) -> Result<()> {
        match self.action {
            Action::Show(action) => action.run(),
            Action::Edit(action) => action.run(),
            Action::Learn(action) => action.run(),
            Action::Sign(action) => action.run(),
            Action::Push(action) => action.run(),
        }
    }
}
