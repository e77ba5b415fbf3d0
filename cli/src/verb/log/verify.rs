//! `carrick log verify`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use carrick_attest::{Bytes, Hex};
use carrick_types::{MeshId, OperatorKey, OperatorPin};
use carrick_wire::{
    hello::Head,
    log::{
        Auditor, Bundles, Checkpoint, Origin, SignedCheckpoint,
        tree::{Tree, leaf_hash},
    },
};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::{copy::LogCopy, operator};
use crate::{
    human::count,
    output::Output,
    remote::{self, Remote},
    runtime,
};

/// Verify the whole log
///
/// Believes the operator's key and nothing else: the policy bundles that it signed name the coordinator's key, and the operators
/// before it. Reads every entry, builds their Merkle tree, compares its head with the one that the coordinator signed, and follows
/// the decisions: no bundle and no token that the operator of that time did not sign, no use too many, no evidence twice, no node
/// back with a revoked key, no address given twice. Remembers the operator and the head, so that the next run finds out if the log
/// was rewritten in between.
#[derive(Debug, Args)]
pub(super) struct Verify {
    /// The operator's public key, base64 [default: the one that was seen at the last run, or else one that this host holds or a node
    /// of it believes]
    #[arg(long, value_name = "KEY")]
    operator: Option<OperatorKey>,
    /// Verify the copy in this file, which `carrick log export` made, and ask no coordinator
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
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
    pub(super) fn run(self) -> Result<()> {
        let copy = match &self.file {
            Some(file) => LogCopy::read(file)?,
            None => {
                let api = self.remote.clone().api()?;
                runtime::call(LogCopy::fetch(&api))?
            }
        };
        let mesh = copy.checkpoint.parse::<SignedCheckpoint>()?.origin().mesh;
        let directory =
            remote::directory("XDG_STATE_HOME", ".local/state").map(|state| state.join("carrick/log"));
        let memory = directory.map(|directory| directory.join(format!("{mesh}.json")));
        let seen = memory.as_deref().map(read_seen).transpose()?.flatten();
        let asked = self.operator.map(|operator| OperatorPin::of(&operator));
        let pin = match asked.or(seen.as_ref().map(|seen| seen.operator)) {
            Some(pin) => pin,
            None => {
                let last = copy.bundles.last().context("there is no policy bundle")?;
                operator::of_this_host(mesh, last, &self.remote)?
            }
        };
        // An old copy says nothing of what was seen since.
        let is_old = |seen: &Seen| self.file.is_some() && (copy.entries.len() as u64) < seen.log.size;
        let old = seen.as_ref().is_some_and(is_old);
        let since = seen.as_ref().filter(|_| !old);
        let (head, operator, policy_version) = check(copy, &pin, since)?;
        if let Some(file) = memory.filter(|_| !old) {
            let log = Head { size: head.size, head: Bytes(head.head) };
            let restart = head.origin.restart;
            write_seen(&file, &Seen { operator: OperatorPin::of(&operator), log, restart })?;
        }
        let verified = Verified {
            mesh,
            entries: head.size,
            head: Hex(head.head).to_string(),
            operator,
            policy_version,
            seen_before: seen.map_or(0, |seen| seen.log.size.min(head.size)),
        };
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
    /// Where the operator had set the log back by then.
    #[serde(default)]
    restart: Option<Head>,
}

impl Seen {
    /// What a log must begin with: what was seen, or where the operator has set the log back since.
    fn begins(&self, restart: Option<Head>) -> Head {
        restart.filter(|_| restart != self.restart).unwrap_or(self.log)
    }
}

/// Whether these are the entries under the signed head, a continuation of what was seen, and can have happened under the operator
/// behind `pin`. Answers the head, today's operator, and the version of the bundle in force.
fn check(
    LogCopy { checkpoint, bundles, entries }: LogCopy,
    pin: &OperatorPin,
    seen: Option<&Seen>,
) -> Result<(Checkpoint, OperatorKey, u64)> {
    let signed: SignedCheckpoint = checkpoint.parse()?;
    let mesh = signed.origin().mesh;
    let bundles = Bundles::open(pin, &mesh, bundles)?;
    let last = bundles.last().context("there is no policy bundle")?;
    let (operator, version) = (last.operator(), last.get().version);
    let head = signed.verify(&Origin::of(last.get()), &last.get().coordinator_key)?;
    let mut tree = Tree::default();
    entries.iter().for_each(|text| tree.push(leaf_hash(text.as_bytes())));
    if tree.head(head.size) != Some(head.head) || tree.size() != head.size {
        bail!("the entries are not those that the coordinator signed: the log was altered");
    }
    if let Some(begins) = seen.map(|seen| seen.begins(head.origin.restart))
        && tree.head(begins.size) != Some(begins.head.0)
    {
        bail!(
            "the log does not begin with the {} entries that were seen before, or that the operator set it back to: it was rewritten",
            begins.size
        );
    }
    let mut auditor = Auditor::new(mesh, bundles);
    for text in &entries {
        auditor.follow(text)?;
    }
    ensure!(
        auditor.bundle() == version,
        "the policy bundle in force has version {version}, the last one in the log {}",
        auditor.bundle()
    );
    Ok((head, operator, version))
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use carrick_attest::{Bundle, Signed, SignedBundle, policy::ClusterPolicy, token::Capability};
    use carrick_types::{CoordinatorSecret, OperatorSecret, TokenId, TokenSeed, UnixTime};
    use carrick_wire::log::{Decision, Entry};

    use super::*;

    fn mesh() -> MeshId {
        MeshId::from_bytes([1; 16])
    }

    fn operator() -> OperatorSecret {
        OperatorSecret::from_bytes([2; 32])
    }

    fn bundle() -> SignedBundle {
        let bundle = Bundle {
            mesh: mesh(),
            version: 1,
            expires_at: UnixTime::from_millis(9),
            coordinator_key: coordinator().public(),
            former_operators: vec![],
            rotate_keys_s: 60,
            log_restart: None,
            default: ClusterPolicy::default(),
            clusters: BTreeMap::new(),
        };
        SignedBundle {
            operator: operator().public(),
            successions: vec![],
            bundle: Signed::seal(&bundle, &operator()),
        }
    }

    fn coordinator() -> CoordinatorSecret {
        CoordinatorSecret::from_bytes([3; 32])
    }

    /// The publication of the bundle, and so many tokens.
    fn texts(count: u8) -> Vec<String> {
        let published = Decision::bundle_published(1, &bundle());
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

    fn seen(texts: &[String]) -> Seen {
        Seen { operator: pin(), log: log_head(texts), restart: None }
    }

    fn log_head(texts: &[String]) -> Head {
        let Checkpoint { size, head, .. } = head(texts);
        Head { size, head: Bytes(head) }
    }

    /// A copy of a log with these entries, under a head that the coordinator signed.
    fn copy(texts: &[String], head: &Checkpoint) -> LogCopy {
        let checkpoint = head.sign(&coordinator()).to_string();
        LogCopy { checkpoint, bundles: vec![bundle()], entries: texts.to_vec() }
    }

    fn pin() -> OperatorPin {
        OperatorPin::of(&operator().public())
    }

    #[test]
    fn a_log_that_grew_is_verified() {
        check(copy(&texts(5), &head(&texts(5))), &pin(), Some(&seen(&texts(3)))).unwrap();
    }

    #[test]
    fn an_altered_a_shortened_and_a_rewritten_log_are_told_apart_from_a_true_one() {
        let mut altered = texts(5);
        altered[1] = altered[1].replace("\\\"uses\\\":1", "\\\"uses\\\":2");
        assert_ne!(altered, texts(5));
        let refused = |texts: &[String], signed: Checkpoint, seen: Option<Seen>| {
            check(copy(texts, &signed), &pin(), seen.as_ref()).unwrap_err().to_string()
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
        let older = texts(2)[..0].to_vec();
        assert!(refused(&older, head(&older), None).contains("version 1, the last one in the log 0"));
    }

    #[test]
    fn a_log_that_the_operator_set_back_begins_where_the_operator_says() {
        // The end of what was seen was lost with a disk; what follows is another history.
        let (lost, kept) = (seen(&texts(5)), texts(2));
        let restart = log_head(&kept);
        let set_back = |restart: Option<Head>| {
            let mut second: Bundle = serde_json::from_str(bundle().bundle.text()).unwrap();
            (second.version, second.log_restart) = (2, restart);
            let sealed = Signed::seal(&second, &operator());
            let second = SignedBundle { operator: operator().public(), successions: vec![], bundle: sealed };
            let published = Decision::bundle_published(2, &second);
            let entry = Entry { at: UnixTime::from_millis(0), decision: published }.to_text();
            let entries = [kept.clone(), vec![entry]].concat();
            let mut head = head(&entries);
            head.origin.restart = restart;
            let checkpoint = head.sign(&coordinator()).to_string();
            LogCopy { checkpoint, bundles: vec![bundle(), second], entries }
        };
        let why = |copy, seen: &Seen| check(copy, &pin(), Some(seen)).unwrap_err().to_string();
        assert!(why(set_back(None), &lost).contains("rewritten"), "without a word of the operator");
        let (head, ..) = check(set_back(Some(restart)), &pin(), Some(&lost)).unwrap();
        let elsewhere = Head { head: Bytes([9; 32]), ..restart };
        assert!(why(set_back(Some(elsewhere)), &lost).contains("set it back to"));
        // Once only.
        let since = Seen { restart: head.origin.restart, ..lost };
        assert!(why(set_back(Some(restart)), &since).contains("rewritten"));
    }

    #[test]
    fn a_copy_of_another_operators_mesh_is_not_believed() {
        let stranger = OperatorPin::of(&OperatorSecret::from_bytes([7; 32]).public());
        let error = check(copy(&texts(1), &head(&texts(1))), &stranger, None).unwrap_err().to_string();
        assert!(error.contains("who is not this mesh's operator"), "{error}");
    }
}
