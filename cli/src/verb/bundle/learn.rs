//! `carrick bundle learn`.

use std::{path::PathBuf, time::SystemTime};

use anyhow::{Result, bail, ensure};
use carrick_attest::{Bundle, Kind, Statement, learn};
use carrick_types::NodeName;
use carrick_wire::api::{NodeEvidence, NodeState};
use clap::Args;

use super::{InForce, change::changes, draft};
use crate::{output::note, remote::Remote, runtime, scratch};

/// Write the reference values that a node shows today into a draft
///
/// Ask it of a node that you know to be good: what it shows (the measurements of its firmware, kernel and boot) is what its whole
/// cluster will have to show. Roots and issuers are not learnt: whom to believe is yours to say.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  carrick bundle learn east-1 --draft draft.json && carrick bundle push -f draft.json")]
pub(super) struct Learn {
    /// Its name or id
    node: NodeName,
    /// The draft to write into, which begins as the bundle in force where there is none [default: stdout]
    #[arg(long, value_name = "FILE")]
    draft: Option<PathBuf>,
    #[command(flatten)]
    remote: Remote,
}

impl Learn {
    pub(super) fn run(self) -> Result<()> {
        let api = self.remote.api()?;
        let (in_force, evidence) = runtime::call(async {
            let evidence: NodeEvidence = api.get(&format!("/v1/nodes/{}/evidence", self.node)).await?;
            Ok((InForce::of(&api).await?, evidence))
        })?;
        match evidence.state {
            NodeState::Active => {}
            NodeState::Suspended => {
                note(&format!("{} is suspended: this is what it showed before", evidence.name));
            }
            NodeState::Revoked => {
                bail!("{} is revoked: learn from a node that you trust", evidence.name)
            }
        }
        let before = match self.draft.as_deref().filter(|path| path.exists()) {
            Some(path) => draft::read_draft(path)?,
            None => in_force.draft(SystemTime::now().into()),
        };
        ensure!(before.mesh == in_force.bundle.mesh, "the draft is of another mesh, {}", before.mesh);
        let after = learnt(&before, &evidence)?;
        let lines = changes(&before, &after);
        if lines.is_empty() {
            note("the draft has all that the node shows already");
        }
        lines.iter().for_each(|line| note(&format!("  {line}")));
        if let Err(why) = after.check() {
            note(&format!("the draft is not complete yet: {why}"));
        }
        scratch::write(self.draft.as_deref(), &draft::to_text(&after)?)
    }
}

/// The draft with what the node's cluster has to show from now on.
fn learnt(draft: &Bundle, evidence: &NodeEvidence) -> Result<Bundle> {
    let read = evidence.statements.iter().map(|text| Statement::from_text(text));
    let Some(statements) = read.collect::<Option<Vec<Statement>>>() else {
        bail!("the evidence of {} is of a newer carrick: upgrade", evidence.name);
    };
    let kinds: Vec<Kind> = statements.iter().map(|statement| statement.evidence.kind()).collect();
    if !kinds.iter().any(|kind| kind.ages()) {
        let kinds: Vec<&str> =
            kinds.iter().filter(|kind| **kind != Kind::Identity).map(|kind| kind.as_str()).collect();
        bail!(
            "{} shows nothing that could be learnt ({}): start its agent so that it shows more",
            evidence.name,
            if kinds.is_empty() { "no evidence".to_owned() } else { kinds.join(", ") }
        );
    }
    let mut after = draft.clone();
    let mut policy = after.policy(&evidence.cluster).clone();
    learn(&statements, &mut policy);
    if policy != *draft.policy(&evidence.cluster) {
        after.clusters.insert(evidence.cluster.clone(), policy);
    }
    Ok(after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn a_node_that_shows_a_token_teaches_nothing_and_the_error_says_so() {
        let evidence = |statements: Vec<String>| NodeEvidence {
            id: "aaaaaaaaaaaaaaaaaaaaaaaaai".parse().unwrap(),
            name: "east-1".parse().unwrap(),
            cluster: "east".parse().unwrap(),
            state: NodeState::Active,
            statements,
        };
        let draft = fixture::in_force().bundle;
        let error = learnt(&draft, &evidence(vec![])).unwrap_err().to_string();
        assert!(error.contains("shows nothing that could be learnt (no evidence)"), "{error}");
        let error = learnt(&draft, &evidence(vec!["{}".to_owned()])).unwrap_err().to_string();
        assert!(error.contains("newer carrick"), "{error}");
    }
}
