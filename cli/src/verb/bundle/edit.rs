//! `carrick bundle edit`.

use std::{
    env, fs,
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use carrick_attest::Bundle;
use clap::Args;

use super::{
    InForce,
    draft::{self, Stored},
    publish::{Consent, ELSEWHERE, Offer, Signer, confirm, publish, rehearse},
};
use crate::{
    operator_key::KeyArgs,
    output::{Output, note, one_line},
    remote::Remote,
    runtime,
};

/// Edit the policy bundle, sign it, and put it into force
///
/// Opens the next version in $VISUAL or $EDITOR. Shows what changes and which nodes would be suspended, and asks before anything is
/// changed. Signs with the operator's key of this host, or lets the coordinator sign where it holds the key.
#[derive(Debug, Args)]
pub(super) struct Edit {
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    key: KeyArgs,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    remote: Remote,
}

impl Edit {
    pub(super) fn run(self) -> Result<()> {
        let api = self.remote.api()?;
        let before = runtime::call(InForce::of(&api))?;
        // Whether it can be signed, and put, is known before anybody writes anything.
        self.consent.check()?;
        let signer = Signer::choose(&before, &self.key, ELSEWHERE)?;
        let first = draft::to_text(&before.draft(SystemTime::now().into()))?;
        let directory = nix::unistd::mkdtemp(&env::temp_dir().join("carrick-bundle-XXXXXX"))
            .context("cannot make a directory for the draft")?;
        let file = directory.join(format!("bundle-{}.json", before.bundle.version + 1));
        fs::write(&file, &first).with_context(|| format!("cannot write {}", file.display()))?;
        let done = edit(&file, &first).and_then(|draft| {
            let offer = Offer::Draft(Box::new(draft), signer);
            let effect = rehearse(&api, &before, &offer)?;
            publish(&api, offer, effect, self.consent)
        });
        match done {
            Ok(effect) => {
                remove(&directory);
                self.output.print(&effect, |effect| effect.text())
            }
            Err(error) if fs::read_to_string(&file).is_ok_and(|text| text == first) || !file.exists() => {
                remove(&directory);
                Err(error)
            }
            Err(error) => Err(anyhow!("{}; the draft is kept in {}", one_line(&error), file.display())),
        }
    }
}

/// Lets a person edit until it is a bundle that makes sense.
fn edit(file: &Path, first: &str) -> Result<Bundle> {
    loop {
        open_editor(file)?;
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        ensure!(text != first, "nothing was changed");
        let read = draft::parse(&text).and_then(|stored| match stored {
            Stored::Draft(draft) => {
                draft.check()?;
                Ok(*draft)
            }
            Stored::Signed(_) => {
                Err(anyhow!("it is signed already: `carrick bundle push` puts it into force"))
            }
        });
        match read {
            Ok(draft) => return Ok(draft),
            Err(error) if io::stdin().is_terminal() && io::stderr().is_terminal() => {
                note(&one_line(&error));
                if !confirm("Edit it again?")? {
                    return Err(error);
                }
            }
            Err(error) => return Err(error),
        }
    }
}

fn open_editor(file: &Path) -> Result<()> {
    let named = |name| env::var(name).ok().filter(|value| !value.trim().is_empty());
    let editor = named("VISUAL").or_else(|| named("EDITOR")).unwrap_or_else(|| "vi".to_owned());
    // As git does it: the variable may hold arguments too.
    let status = Command::new("sh").arg("-c").arg(format!("{editor} \"$@\"")).arg(&editor).arg(file).status();
    let status = status.context("cannot run a shell")?;
    ensure!(status.success(), "{editor} ended with {status}: set $EDITOR to an editor that is there");
    Ok(())
}

fn remove(directory: &PathBuf) {
    // It holds no secret, and the system tidies up after a while.
    let _ = fs::remove_dir_all(directory);
}
