//! `carrick bundle push`: shows what a bundle would do, and puts it into force.

use std::{
    fmt::Write as _,
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    path::PathBuf,
};

use anyhow::{Context as _, Result, bail, ensure};
use carrick_attest::{Bundle, SignedBundle};
use carrick_client::Api;
use carrick_types::OperatorPin;
use carrick_wire::api::{AppraisalPolicy, PutAppraisalPolicy, SuspendedNode};
use clap::Args;
use serde::Serialize;

use super::{
    InForce,
    change::changes,
    draft::{self, Stored},
    sign::{sign, warnings},
};
use crate::{
    human::count,
    operator_key::{self, KeyArgs},
    output::{Output, note, printable},
    remote::Remote,
    runtime,
};

const PATH: &str = "/v1/appraisal-policy";

/// What to do with a draft where the key is on another host.
pub(super) const ELSEWHERE: &str = "sign a draft where it is with `carrick bundle sign`";

/// Put a policy bundle into force
///
/// Takes what `carrick bundle sign` wrote; or a draft, where the coordinator or this host has the operator's key. Shows what changes
/// and which nodes would be suspended, and asks before anything is changed.
#[derive(Debug, Args)]
pub(super) struct Push {
    /// The signed bundle, or a draft; `-` reads stdin
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    consent: Consent,
    /// Only show what would change, and who would be suspended
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    key: KeyArgs,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    remote: Remote,
}

/// Whether to ask first.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Consent {
    /// Do not ask before it is put into force
    #[arg(short = 'y', long)]
    yes: bool,
}

impl Consent {
    /// Whether it can be had at all.
    pub(super) fn check(self) -> Result<()> {
        ensure!(
            self.yes || io::stdin().is_terminal() && io::stderr().is_terminal(),
            "nothing was changed: give --yes to put the bundle into force without being asked"
        );
        Ok(())
    }
}

/// A bundle that may be put into force.
#[derive(Debug)]
pub(super) enum Offer {
    Signed(Box<SignedBundle>),
    Draft(Box<Bundle>, Signer),
}

/// Who signs a draft once its operator agreed.
#[derive(Debug, Clone)]
pub(in crate::verb) enum Signer {
    Coordinator,
    Key(KeyArgs),
    /// Nobody: it is only tried.
    Nobody,
}

/// What a bundle does.
#[derive(Debug, Serialize)]
pub(super) struct Effect {
    version: u64,
    /// Whether it is in force now.
    in_force: bool,
    changes: Vec<String>,
    /// What makes sense, and is seldom meant.
    warnings: Vec<String>,
    suspends: Vec<SuspendedNode>,
}

impl Push {
    pub(super) fn run(self) -> Result<()> {
        let stored = draft::read(&self.file)?;
        let api = self.remote.api()?;
        let before = runtime::call(InForce::of(&api))?;
        let offer = match stored {
            Stored::Signed(signed) => Offer::Signed(signed),
            Stored::Draft(draft) if self.dry_run => Offer::Draft(draft, Signer::Nobody),
            Stored::Draft(draft) => Offer::Draft(draft, Signer::choose(&before, &self.key, ELSEWHERE)?),
        };
        let effect = rehearse(&api, &before, &offer)?;
        let effect = if self.dry_run { effect } else { publish(&api, offer, effect, self.consent)? };
        self.output.print(&effect, Effect::text)
    }
}

impl Signer {
    /// The key that was given, the one that is where `carrick operator init` puts it, or the coordinator's. `otherwise` says what to
    /// do where the key is on another host.
    pub(in crate::verb) fn choose(before: &InForce, key: &KeyArgs, otherwise: &str) -> Result<Self> {
        if key.key_file.is_none() && before.answer.operator_key_held {
            return Ok(Self::Coordinator);
        }
        let elsewhere = || {
            format!(
                "the coordinator does not hold the operator's key, {}: give it with --key-file FILE, or {otherwise}",
                before.operator()
            )
        };
        let path = key.path().with_context(elsewhere)?;
        if path.as_os_str() != "-" {
            match operator_key::public_key(&path)? {
                Some(found) if found == before.operator() => {}
                Some(found) if key.key_file.is_some() => bail!(
                    "{} holds {found}, and the operator is {}: give the file with that key",
                    path.display(),
                    before.operator()
                ),
                Some(_) | None => bail!(elsewhere()),
            }
        }
        Ok(Self::Key(key.clone()))
    }
}

/// Asks the coordinator what would happen, and says it.
pub(super) fn rehearse(api: &Api, before: &InForce, offer: &Offer) -> Result<Effect> {
    let (after, put) = match offer {
        Offer::Signed(signed) => {
            let pin = OperatorPin::of(&before.operator());
            let trusted = signed.open(&pin, &before.bundle.mesh).context("the policy bundle is refused")?;
            (trusted.get().clone(), PutAppraisalPolicy { signed: Some((**signed).clone()), draft: None })
        }
        Offer::Draft(draft, _) => {
            (Bundle::clone(draft), PutAppraisalPolicy { signed: None, draft: Some(draft.clone()) })
        }
    };
    let seen = before.bundle.version;
    ensure!(
        after.version > seen,
        "it has version {}, and version {seen} is in force: give it version {}, and sign it again",
        after.version,
        seen + 1
    );
    let answer: AppraisalPolicy =
        runtime::call(async { Ok(api.put(&format!("{PATH}?dry_run=true"), &put).await?) })?;
    Ok(Effect {
        version: after.version,
        in_force: false,
        warnings: warnings(&after),
        changes: changes(&before.bundle, &after),
        suspends: answer.suspends,
    })
}

/// Puts it into force, after its operator agreed.
pub(super) fn publish(api: &Api, offer: Offer, effect: Effect, consent: Consent) -> Result<Effect> {
    if !consent.yes {
        note(effect.text().trim_end());
        consent.check()?;
        ensure!(confirm("Put it into force?")?, "nothing was changed");
    }
    let put = match offer {
        Offer::Signed(signed) => PutAppraisalPolicy { signed: Some(*signed), draft: None },
        Offer::Draft(draft, Signer::Key(key)) => {
            PutAppraisalPolicy { signed: Some(sign(&draft, &key.load()?)), draft: None }
        }
        Offer::Draft(draft, Signer::Coordinator | Signer::Nobody) => {
            PutAppraisalPolicy { signed: None, draft: Some(draft) }
        }
    };
    let answer: AppraisalPolicy = runtime::call(async { Ok(api.put(PATH, &put).await?) })?;
    Ok(Effect { in_force: true, suspends: answer.suspends, ..effect })
}

/// Asks a person a question that takes yes or no.
pub(in crate::verb) fn confirm(question: &str) -> Result<bool> {
    let mut stderr = io::stderr().lock();
    write!(stderr, "{question} [y/N] ").and_then(|()| stderr.flush()).context("cannot ask")?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).context("cannot read the answer")?;
    Ok(["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str()))
}

impl Effect {
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for change in &self.changes {
            let _ = writeln!(text, "  {change}");
        }
        for warning in &self.warnings {
            let _ = writeln!(text, "Warning: {warning}");
        }
        let (who, end) = match self.suspends.len() {
            0 => ("No node".to_owned(), '.'),
            number => (count(number as u64, "node"), ':'),
        };
        let verb = match (self.in_force, self.suspends.len()) {
            (false, _) => "would be suspended",
            (true, 0 | 1) => "is suspended",
            (true, _) => "are suspended",
        };
        let _ = writeln!(text, "{who} {verb}{end}");
        for node in &self.suspends {
            let _ = writeln!(text, "  {} of cluster {}: {}", node.name, node.cluster, printable(&node.why));
        }
        if self.in_force {
            let _ = writeln!(text, "Policy bundle version {} is in force.", self.version);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_bundle_does_is_said_before_and_after() {
        let node = SuspendedNode {
            id: "aaaaaaaaaaaaaaaaaaaaaaaaai".parse().unwrap(),
            name: "east-1".parse().unwrap(),
            cluster: "east".parse().unwrap(),
            why: "cluster east takes tpm".to_owned(),
        };
        let effect = |in_force, suspends| Effect {
            version: 4,
            in_force,
            changes: vec!["version: 3 -> 4".to_owned()],
            warnings: vec![],
            suspends,
        };
        assert_eq!(
            effect(false, vec![node]).text(),
            "  version: 3 -> 4\n1 node would be suspended:\n  east-1 of cluster east: cluster east takes tpm\n"
        );
        assert_eq!(
            effect(true, vec![]).text(),
            "  version: 3 -> 4\nNo node is suspended.\nPolicy bundle version 4 is in force.\n"
        );
    }
}
