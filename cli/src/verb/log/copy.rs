//! `carrick log export`, and the copy of a log that it makes: all that it takes to verify the log later, and elsewhere.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use carrick_attest::SignedBundle;
use carrick_client::Api;
use carrick_wire::{
    api::{AppraisalPolicy, LogCheckpoint, LogPage},
    log::{Decision, Entry, SignedCheckpoint},
};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::{human::count, output::note, remote::Remote, runtime, scratch};

/// The longest copy that is read.
const MAX_FILE: u64 = 4 * 1024 * 1024 * 1024;

/// Write a copy of the log that `carrick log verify --file` verifies without a network
///
/// JSON: the head that the coordinator signed, every entry, and every policy bundle that was ever in force.
#[derive(Debug, Args)]
pub(super) struct Export {
    /// Where to write it [default: stdout]
    #[arg(short = 'o', long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    remote: Remote,
}

/// A log, as far as its signed head goes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LogCopy {
    /// A C2SP signed checkpoint.
    pub(super) checkpoint: String,
    /// Every policy bundle of which an entry says that it came into force, and the one that is in force.
    pub(super) bundles: Vec<SignedBundle>,
    /// The text of each entry, byte by byte as it is in the tree.
    pub(super) entries: Vec<String>,
}

impl Export {
    pub(super) fn run(self) -> Result<()> {
        let api = self.remote.api()?;
        let copy = runtime::call(LogCopy::fetch(&api))?;
        let mut text = serde_json::to_string(&copy)?;
        text.push('\n');
        scratch::write(self.out.as_deref(), &text)?;
        note(&format!(
            "{} copied: `carrick log verify --file FILE` verifies them",
            count(copy.entries.len() as u64, "decision")
        ));
        Ok(())
    }
}

impl LogCopy {
    /// Asks the coordinator.
    pub(super) async fn fetch(api: &Api) -> Result<Self> {
        let policy: AppraisalPolicy = api.get("/v1/appraisal-policy").await?;
        let LogCheckpoint { note: checkpoint, key } = api.get("/v1/log/checkpoint").await?;
        let signed: SignedCheckpoint = checkpoint.parse()?;
        let head = signed.verify(&signed.origin(), &key)?;
        let entries = entries(api, 0, Some(head.size)).await?;
        let mut bundles: Vec<SignedBundle> = Vec::new();
        for text in &entries {
            if let Some(Decision::BundlePublished { version, .. }) =
                Entry::from_text(text).map(|entry| entry.decision)
            {
                bundles.push(api.get(&format!("/v1/log/bundles/{version}")).await?);
            }
        }
        // One that is in force and not in the log is found out by whoever verifies.
        if bundles.iter().all(|bundle| bundle.bundle != policy.signed.bundle) {
            bundles.push(policy.signed);
        }
        Ok(Self { checkpoint, bundles, entries })
    }

    /// Reads what [`Export`] wrote.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let read = || -> Result<String> {
            let mut text = String::new();
            File::open(path)?.take(MAX_FILE + 1).read_to_string(&mut text)?;
            ensure!(text.len() as u64 <= MAX_FILE, "it is longer than 4 GiB");
            Ok(text)
        };
        let text = read().with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| {
            format!("{} is no copy of a log: `carrick log export` makes one", path.display())
        })
    }
}

/// The entries from `start` on, to the end of the log or up to `size`.
pub(super) async fn entries(api: &Api, start: u64, size: Option<u64>) -> Result<Vec<String>> {
    let mut texts: Vec<String> = Vec::new();
    loop {
        let next = start.saturating_add(texts.len() as u64);
        if size.is_some_and(|size| next >= size) {
            break;
        }
        let page: LogPage = api.get(&format!("/v1/log/entries?start={next}")).await?;
        let left = size.map_or(usize::MAX, |size| usize::try_from(size - next).unwrap_or(usize::MAX));
        let count = page.entries.len();
        texts.extend(page.entries.into_iter().take(left));
        if count == 0 {
            break;
        }
    }
    Ok(texts)
}
