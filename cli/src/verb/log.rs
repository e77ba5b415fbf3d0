//! `carrick log`.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context as _, Result, bail, ensure};
use carrick_client::Api;
use carrick_types::{CoordinatorKey, MeshId, UnixTime};
use carrick_wire::{
    api::{LogCheckpoint, LogPage},
    log::{
        Auditor, Checkpoint, Decision, Entry, SignedCheckpoint,
        tree::{Tree, leaf_hash},
    },
};
use clap::{Args, Subcommand};
use comfy_table::Cell;
use serde::{Deserialize, Serialize};

use crate::{
    human::{count, relative},
    output::{Output, Paint, list, table},
    remote::{self, Remote},
    runtime,
};

/// Show and verify the log of everything that was decided about the mesh
#[derive(Debug, Args)]
pub(crate) struct Log {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Show(Show),
    Verify(Verify),
}

impl Log {
    pub(super) fn run(self) -> Result<()> {
        match self.action {
            Action::Show(action) => action.run(),
            Action::Verify(action) => action.run(),
        }
    }
}

/// Show the log's entries
#[derive(Debug, Args)]
struct Show {
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
    fn run(self) -> Result<()> {
        let api = self.remote.api()?;
        let texts = runtime::call(fetch(&api, self.from, None))?;
        let placed = (self.from..).zip(&texts).map(|(position, text)| {
            let entry = serde_json::from_str(text)
                .with_context(|| format!("entry {position} is of a newer carrick: upgrade"))?;
            Ok(Placed { position, entry })
        });
        let placed = placed.collect::<Result<Vec<_>>>()?;
        self.output
            .print(&placed, |placed| entries_table(placed, SystemTime::now().into(), Paint::on_stdout()))
    }
}

/// Verify the whole log
///
/// Reads every entry, builds their Merkle tree, compares its head with the one that the coordinator signed, and follows the
/// decisions: no use of a token too many, no node back with a revoked key, no address given twice. Remembers the key and the
/// head, so that the next run finds out if the log was rewritten in between.
#[derive(Debug, Args)]
struct Verify {
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    remote: Remote,
}

/// What was found to hold.
#[derive(Debug, Serialize)]
struct Verified {
    mesh: MeshId,
    entries: u64,
    head: String,
    key: CoordinatorKey,
    /// How many of the entries a run before this one had seen.
    seen_before: u64,
}

impl Verify {
    fn run(self) -> Result<()> {
        let api = self.remote.api()?;
        let directory =
            remote::directory("XDG_STATE_HOME", ".local/state").map(|state| state.join("carrick/log"));
        let verified = runtime::call(async {
            let checkpoint: LogCheckpoint = api.get("/v1/log/checkpoint").await?;
            let signed: SignedCheckpoint = checkpoint.note.parse()?;
            let file = directory.as_ref().map(|directory| directory.join(format!("{}.json", signed.mesh())));
            let seen = file.as_deref().map(read_seen).transpose()?.flatten();
            let head = check_head(&signed, &checkpoint, seen.as_ref())?;
            let texts = fetch(&api, 0, Some(head.size)).await?;
            let seen_head = seen
                .map(|seen| seen.note.parse::<SignedCheckpoint>()?.verify(head.mesh, &seen.key))
                .transpose()?;
            check_entries(&texts, &head, seen_head.as_ref())?;
            if let Some(file) = &file {
                write_seen(file, &checkpoint)?;
            }
            Ok(Verified {
                mesh: head.mesh,
                entries: head.size,
                head: hex(&head.head),
                key: checkpoint.key,
                seen_before: seen_head.map_or(0, |seen| seen.size),
            })
        })?;
        self.output.print(&verified, |Verified { entries, head, seen_before, .. }| {
            format!(
                "{} verified, {seen_before} of them seen before; the head is {head}\n",
                count(*entries, "decision")
            )
        })
    }
}

/// What a run before this one saw.
#[derive(Debug, Serialize, Deserialize)]
struct Seen {
    key: CoordinatorKey,
    note: String,
}

/// The checkpoint, signed by its key, which is the one that was seen before where one was.
fn check_head(signed: &SignedCheckpoint, now: &LogCheckpoint, seen: Option<&Seen>) -> Result<Checkpoint> {
    if let Some(seen) = seen {
        ensure!(
            seen.key == now.key,
            "the coordinator signs with another key than before ({} then, {} now): somebody replaced it",
            seen.key,
            now.key
        );
    }
    Ok(signed.verify(signed.mesh(), &now.key)?)
}

/// Whether these are the entries under `head`, a continuation of what was seen, and can have happened.
fn check_entries(texts: &[String], head: &Checkpoint, seen: Option<&Checkpoint>) -> Result<()> {
    let mut tree = Tree::default();
    texts.iter().for_each(|text| tree.push(leaf_hash(text.as_bytes())));
    if tree.head(head.size) != Some(head.head) || tree.size() != head.size {
        bail!("the entries are not those that the coordinator signed: the log was altered");
    }
    if let Some(seen) = seen
        && tree.head(seen.size) != Some(seen.head)
    {
        bail!(
            "the log does not begin with the {} entries that were seen before: it was rewritten",
            seen.size
        );
    }
    let mut auditor = Auditor::default();
    for text in texts {
        auditor.follow(text)?;
    }
    Ok(())
}

/// The entries from `start` on, to the end of the log or up to `size`.
async fn fetch(api: &Api, start: u64, size: Option<u64>) -> Result<Vec<String>> {
    let mut texts: Vec<String> = Vec::new();
    loop {
        let next = start + texts.len() as u64;
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

fn read_seen(file: &Path) -> Result<Option<Seen>> {
    match fs::read(file) {
        Ok(json) => {
            let seen = serde_json::from_slice(&json);
            seen.map(Some).with_context(|| format!("{} is damaged: remove it to begin anew", file.display()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
    }
}

fn write_seen(file: &PathBuf, checkpoint: &LogCheckpoint) -> Result<()> {
    let seen = Seen { key: checkpoint.key, note: checkpoint.note.clone() };
    let draft = file.with_extension("new");
    let write = || {
        fs::create_dir_all(file.parent().unwrap_or(Path::new(".")))?;
        fs::write(&draft, serde_json::to_vec(&seen)?)?;
        fs::rename(&draft, file)
    };
    write().with_context(|| format!("cannot write {}", file.display()))
}

fn hex(hash: &[u8]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
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
        Decision::TokenCreated { token, cluster, uses, expires_at } => (
            "token created",
            token.to_string(),
            format!("{cluster}, {}, until {expires_at}", count((*uses).into(), "use")),
        ),
        Decision::TokenRevoked { token } => ("token revoked", token.to_string(), String::new()),
        Decision::NodeJoined { name, cluster, allowed_ips, token, .. } => {
            ("node joined", name.to_string(), format!("{cluster}, {}, with token {token}", list(allowed_ips)))
        }
        Decision::PrefixesChanged { node, allowed_ips } => {
            ("prefixes changed", node.to_string(), list(allowed_ips))
        }
        Decision::NodeRevoked { node, reason } => {
            // What an operator typed elsewhere is printed without control characters.
            let reason =
                reason.iter().flat_map(|reason| reason.chars()).filter(|c| !c.is_control()).collect();
            ("node revoked", node.to_string(), reason)
        }
    }
}

#[cfg(test)]
mod tests {
    use carrick_types::{ClusterName, CoordinatorSecret, TokenId};

    use super::*;

    fn mesh() -> MeshId {
        MeshId::from_bytes([1; 16])
    }

    fn texts(count: u8) -> Vec<String> {
        let cluster: ClusterName = "east".parse().unwrap();
        let entry = |n: u8| {
            let (token, expires_at) = (TokenId::from_bytes([n; 10]), UnixTime::from_millis(9));
            let decision = Decision::TokenCreated { token, cluster: cluster.clone(), uses: 1, expires_at };
            Entry { at: UnixTime::from_millis(n.into()), decision }.to_text()
        };
        (0..count).map(entry).collect()
    }

    fn head(texts: &[String]) -> Checkpoint {
        let mut tree = Tree::default();
        texts.iter().for_each(|text| tree.push(leaf_hash(text.as_bytes())));
        Checkpoint { mesh: mesh(), size: tree.size(), head: tree.head(tree.size()).unwrap() }
    }

    fn signed(n: u8) -> LogCheckpoint {
        let key = CoordinatorSecret::from_bytes([n; 32]);
        LogCheckpoint { note: head(&texts(2)).sign(&key).to_string(), key: key.public() }
    }

    #[test]
    fn a_log_that_grew_is_verified() {
        check_entries(&texts(5), &head(&texts(5)), Some(&head(&texts(3)))).unwrap();
    }

    #[test]
    fn an_altered_a_shortened_and_a_rewritten_log_are_told_apart_from_a_true_one() {
        let mut altered = texts(5);
        altered[1] = altered[1].replace("\"uses\":1", "\"uses\":2");
        let refused = |texts: &[String], signed: Checkpoint, seen: Option<Checkpoint>| {
            check_entries(texts, &signed, seen.as_ref()).unwrap_err().to_string()
        };
        assert!(refused(&altered, head(&texts(5)), None).contains("altered"));
        assert!(refused(&texts(4), head(&texts(5)), None).contains("altered"));
        assert!(refused(&altered, head(&altered), Some(head(&texts(3)))).contains("rewritten"));
        let twice = [texts(2), texts(1)].concat();
        assert!(refused(&twice, head(&twice), None).contains("made twice"));
    }

    #[test]
    fn another_key_than_before_is_refused() {
        let (then, now) = (signed(1), signed(2));
        let seen = Seen { key: then.key, note: then.note };
        let error = check_head(&now.note.parse().unwrap(), &now, Some(&seen)).unwrap_err();
        assert!(error.to_string().contains("another key than before"));
        check_head(&now.note.parse().unwrap(), &now, None).unwrap();
        let forged = LogCheckpoint { key: seen.key, ..now };
        check_head(&forged.note.parse().unwrap(), &forged, Some(&seen)).unwrap_err();
    }
}
