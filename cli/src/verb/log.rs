//! `carrick log`.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context as _, Result, bail, ensure};
use carrick_attest::{Bytes, TrustedBundle, token::Capability};
use carrick_client::Api;
use carrick_types::{MeshId, OperatorKey, OperatorPin, UnixTime};
use carrick_wire::{
    api::{AppraisalPolicy, LogCheckpoint, LogPage},
    hello::Head,
    log::{
        Auditor, Checkpoint, Decision, Entry, Origin, SignedCheckpoint,
        tree::{Tree, leaf_hash},
    },
};
use clap::{Args, Subcommand};
use comfy_table::Cell;
use serde::{Deserialize, Serialize};

use crate::{
    human::{count, relative},
    output::{Output, Paint, list, printable, table},
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

/// Verify the whole log
///
/// Believes the operator's key and nothing else: the policy bundle that it signed names the coordinator's key. Reads every entry,
/// builds their Merkle tree, compares its head with the one that the coordinator signed, and follows the decisions: no token that
/// the operator did not sign, no use too many, no evidence twice, no node back with a revoked key, no address given twice.
/// Remembers the operator and the head, so that the next run finds out if the log was rewritten in between.
#[derive(Debug, Args)]
struct Verify {
    /// The operator's public key, base64 [default: the one that was seen at the first run]
    #[arg(long, value_name = "KEY")]
    operator: Option<OperatorKey>,
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
    /// Who is believed.
    operator: OperatorKey,
    /// The version of the policy bundle in force.
    policy_version: u64,
    /// How many of the entries a run before this one had seen.
    seen_before: u64,
}

impl Verify {
    fn run(self) -> Result<()> {
        let asked = self.operator.map(|operator| OperatorPin::of(&operator));
        let api = self.remote.api()?;
        let directory =
            remote::directory("XDG_STATE_HOME", ".local/state").map(|state| state.join("carrick/log"));
        let verified = runtime::call(async {
            let policy: AppraisalPolicy = api.get("/v1/appraisal-policy").await?;
            let checkpoint: LogCheckpoint = api.get("/v1/log/checkpoint").await?;
            let signed: SignedCheckpoint = checkpoint.note.parse()?;
            let mesh = signed.mesh();
            let file = directory.as_ref().map(|directory| directory.join(format!("{mesh}.json")));
            let seen = file.as_deref().map(read_seen).transpose()?.flatten();
            let first = || OperatorPin::of(&policy.signed.operator);
            let pin = asked.or(seen.as_ref().map(|seen| seen.operator)).unwrap_or_else(first);
            let bundle = policy.signed.open(&pin, &mesh).context("the policy bundle is not believed")?;
            let head = signed.verify(&Origin::of(bundle.get()), &bundle.get().coordinator_key)?;
            let texts = fetch(&api, 0, Some(head.size)).await?;
            check_entries(&texts, &head, seen.as_ref().map(|seen| &seen.log), &bundle)?;
            if let Some(file) = &file {
                let operator = OperatorPin::of(&bundle.operator());
                write_seen(file, &Seen { operator, log: Head { size: head.size, head: Bytes(head.head) } })?;
            }
            Ok(Verified {
                mesh,
                entries: head.size,
                head: hex(&head.head),
                operator: bundle.operator(),
                policy_version: bundle.get().version,
                seen_before: seen.map_or(0, |seen| seen.log.size),
            })
        })?;
        self.output.print(&verified, |Verified { entries, head, seen_before, operator, .. }| {
            format!(
                "{} verified, {seen_before} of them seen before; the head is {head}\noperator {operator}\n",
                count(*entries, "decision")
            )
        })
    }
}

/// What a run before this one saw.
#[derive(Debug, Serialize, Deserialize)]
struct Seen {
    operator: OperatorPin,
    log: Head,
}

/// Whether these are the entries under `head`, a continuation of what was seen, and can have happened under these operators.
fn check_entries(
    texts: &[String],
    head: &Checkpoint,
    seen: Option<&Head>,
    bundle: &TrustedBundle,
) -> Result<()> {
    let mut tree = Tree::default();
    texts.iter().for_each(|text| tree.push(leaf_hash(text.as_bytes())));
    if tree.head(head.size) != Some(head.head) || tree.size() != head.size {
        bail!("the entries are not those that the coordinator signed: the log was altered");
    }
    if let Some(seen) = seen
        && tree.head(seen.size) != Some(seen.head.0)
    {
        bail!(
            "the log does not begin with the {} entries that were seen before: it was rewritten",
            seen.size
        );
    }
    let mut auditor = Auditor::new(head.origin.mesh, bundle.operators());
    for text in texts {
        auditor.follow(text)?;
    }
    ensure!(
        auditor.bundle() == bundle.get().version,
        "the policy bundle in force has version {}, the last one in the log {}",
        bundle.get().version,
        auditor.bundle()
    );
    Ok(())
}

/// The entries from `start` on, to the end of the log or up to `size`.
async fn fetch(api: &Api, start: u64, size: Option<u64>) -> Result<Vec<String>> {
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

fn write_seen(file: &PathBuf, seen: &Seen) -> Result<()> {
    let draft = file.with_extension("new");
    let write = || {
        fs::create_dir_all(file.parent().unwrap_or(Path::new(".")))?;
        fs::write(&draft, serde_json::to_vec(seen)?)?;
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use carrick_attest::{Bundle, Signed, SignedBundle, policy::ClusterPolicy};
    use carrick_types::{CoordinatorSecret, OperatorSecret, TokenId, TokenSeed};

    use super::*;

    fn mesh() -> MeshId {
        MeshId::from_bytes([1; 16])
    }

    fn operator() -> OperatorSecret {
        OperatorSecret::from_bytes([2; 32])
    }

    fn bundle() -> TrustedBundle {
        let bundle = Bundle {
            mesh: mesh(),
            version: 1,
            expires_at: UnixTime::from_millis(9),
            coordinator_key: CoordinatorSecret::from_bytes([3; 32]).public(),
            former_operators: vec![],
            rotate_keys_s: 60,
            log_restart: None,
            default: ClusterPolicy::default(),
            clusters: BTreeMap::new(),
        };
        let signed = SignedBundle {
            operator: operator().public(),
            successions: vec![],
            bundle: Signed::seal(&bundle, &operator()),
        };
        signed.open(&OperatorPin::of(&operator().public()), &mesh()).unwrap()
    }

    /// The publication of the bundle, and so many tokens.
    fn texts(count: u8) -> Vec<String> {
        let published =
            Decision::BundlePublished { version: 1, operator: operator().public(), sha256: Bytes([0; 32]) };
        let created = |n: u8| {
            let capability = Capability {
                mesh: mesh(),
                token: TokenId::from_bytes([n; 10]),
                key: TokenSeed::from_bytes([n; 32]).public(),
                cluster: "east".parse().unwrap(),
                uses: 1,
                expires_at: UnixTime::from_millis(9),
                prefixes: None,
            };
            Decision::TokenCreated { capability: Signed::seal(&capability, &operator()) }
        };
        let decisions = std::iter::once(published).chain((0..count).map(created));
        decisions.map(|decision| Entry { at: UnixTime::from_millis(0), decision }.to_text()).collect()
    }

    fn head(texts: &[String]) -> Checkpoint {
        let mut tree = Tree::default();
        texts.iter().for_each(|text| tree.push(leaf_hash(text.as_bytes())));
        Checkpoint {
            origin: Origin { mesh: mesh(), restart: None },
            size: tree.size(),
            head: tree.head(tree.size()).unwrap(),
        }
    }

    fn seen(texts: &[String]) -> Head {
        let Checkpoint { size, head, .. } = head(texts);
        Head { size, head: Bytes(head) }
    }

    #[test]
    fn a_log_that_grew_is_verified() {
        check_entries(&texts(5), &head(&texts(5)), Some(&seen(&texts(3))), &bundle()).unwrap();
    }

    #[test]
    fn an_altered_a_shortened_and_a_rewritten_log_are_told_apart_from_a_true_one() {
        let mut altered = texts(5);
        altered[1] = altered[1].replace("\\\"uses\\\":1", "\\\"uses\\\":2");
        assert_ne!(altered, texts(5));
        let refused = |texts: &[String], signed: Checkpoint, seen: Option<Head>| {
            check_entries(texts, &signed, seen.as_ref(), &bundle()).unwrap_err().to_string()
        };
        assert!(refused(&altered, head(&texts(5)), None).contains("altered"));
        assert!(refused(&texts(4), head(&texts(5)), None).contains("altered"));
        assert!(refused(&altered, head(&altered), Some(seen(&texts(3)))).contains("rewritten"));
        assert!(
            refused(&altered, head(&altered), None).contains("no operator"),
            "signed by the coordinator alone"
        );
        let twice = [texts(2), texts(1)[1..].to_vec()].concat();
        assert!(refused(&twice, head(&twice), None).contains("made twice"));
        let older = texts(2)[1..].to_vec();
        assert!(refused(&older, head(&older), None).contains("version 1, the last one in the log 0"));
    }
}
