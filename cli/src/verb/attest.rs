//! `carrick attest`.

use std::time::SystemTime;

use anyhow::{Result, anyhow};
use carrick_client::{Api, ApiError};
use carrick_types::NodeName;
use carrick_wire::api::{Node, Refusal};
use clap::Args;
use serde::Serialize;

use super::nodes::{evidence_text, refusals_of};
use crate::{
    output::{Format, Output, Paint, print, print_json},
    remote::Remote,
    runtime,
};

/// Ask a node for new evidence, and appraise it now
///
/// Prints each claim with its verdict. Ends with exit code 1 where the evidence is refused, and the node is suspended then. So is a node
/// that shows none within a minute, also when it goes away meanwhile.
#[derive(Debug, Args)]
pub(crate) struct Attest {
    /// Its name or id
    node: NodeName,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    remote: Remote,
}

/// What an appraisal found: of an accepted node the node, of a refused one the refusal.
#[derive(Debug, Serialize)]
struct Outcome {
    accepted: bool,
    node: Node,
    refusal: Option<Refusal>,
}

impl Attest {
    pub(super) fn run(self) -> Result<()> {
        let api = self.remote.api()?;
        let (outcome, error) = runtime::call(attest(&api, &self.node))?;
        if let Some(outcome) = outcome {
            match self.output.format {
                Format::Json => print_json(&outcome)?,
                Format::Table => print(&outcome.text(SystemTime::now().into(), Paint::on_stdout()))?,
            }
        }
        error.map_or(Ok(()), Err)
    }
}

/// The outcome, and the error with which the verb ends.
async fn attest(api: &Api, node: &NodeName) -> Result<(Option<Outcome>, Option<anyhow::Error>)> {
    let before = newest(api, node).await?;
    match api.post::<_, Node>(&format!("/v1/nodes/{node}/attest"), &()).await {
        Ok(node) => Ok((Some(Outcome { accepted: true, node, refusal: None }), None)),
        Err(ApiError::Refused(problem)) if problem.status == 409 => {
            // A node that was suspended already stays so, and only the record of refusals grows.
            let (found, refusal) = newest(api, node).await?;
            let refusal = refusal.filter(|refusal| before.1.as_ref() != Some(refusal));
            let error = match &refusal {
                Some(refusal) => anyhow!("the evidence of {} is refused: {}", found.name, refusal.detail),
                None => anyhow!(problem.detail),
            };
            let outcome =
                refusal.map(|refusal| Outcome { accepted: false, node: found, refusal: Some(refusal) });
            Ok((outcome, Some(error)))
        }
        Err(error) => Err(error.into()),
    }
}

/// The node, and its last refusal.
async fn newest(api: &Api, node: &NodeName) -> Result<(Node, Option<Refusal>)> {
    let node: Node = api.get(&format!("/v1/nodes/{node}")).await?;
    let refusals: Vec<Refusal> = api.get("/v1/refusals").await?;
    let last = refusals_of(&refusals, Some(node.id), node.name.as_str()).next().cloned();
    Ok((node, last))
}

impl Outcome {
    fn text(&self, now: carrick_types::UnixTime, paint: Paint) -> String {
        let evidence = self.refusal.as_ref().map_or(&self.node.evidence, |refusal| &refusal.evidence);
        let verdict = if self.accepted { "accepted" } else { "refused" };
        format!(
            "{} of cluster {}: new evidence is {verdict}\n\n{}",
            self.node.name,
            self.node.cluster,
            evidence_text(evidence, now, paint)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn each_claim_is_shown_with_its_verdict() {
        let mut node = fixture::topology().nodes[0].clone();
        node.evidence = fixture::evidence();
        let outcome = Outcome { accepted: true, node, refusal: None };
        assert_eq!(
            outcome.text(fixture::NOW, Paint::Plain),
            "\
east-1 of cluster east: new evidence is accepted

join-token, 60m ago: accepted
  VERDICT    CLAIM     VALUE  REASON
  accepted   operator  iojj   signed the token
  unchecked  uses      3
"
        );
    }
}
