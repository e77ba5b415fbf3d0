//! One node: what it is, and why it is what it is.

use std::fmt::Write as _;

use anyhow::{Result, bail};
use carrick_client::{Api, ApiError};
use carrick_types::{LeaseProfile, NodeId, NodeName, UnixTime};
use carrick_wire::{
    api::{Evidence, Node, Refusal},
    hello::Trust,
};
use comfy_table::Cell;
use serde::Serialize;

use super::{state, verdict};
use crate::{
    human::relative,
    output::{Paint, list, printable, state_cell, table},
};

/// How many refusals are shown.
const REFUSALS: usize = 5;

/// A node with its last refusals, or a name that was refused and never became one.
#[derive(Debug, Serialize)]
pub(super) struct Detail {
    node: Option<Node>,
    /// The last first.
    refusals: Vec<Refusal>,
}

impl Detail {
    pub(super) async fn of(api: &Api, name: &NodeName) -> Result<Self> {
        let node: Option<Node> = match api.get(&format!("/v1/nodes/{name}")).await {
            Ok(node) => Some(node),
            Err(ApiError::Refused(problem)) if problem.status == 404 => None,
            Err(error) => return Err(error.into()),
        };
        let all: Vec<Refusal> = api.get("/v1/refusals").await?;
        let (id, called) = match &node {
            Some(node) => (Some(node.id), node.name.as_str()),
            None => (name.as_str().parse().ok(), name.as_str()),
        };
        let refusals: Vec<Refusal> = refusals_of(&all, id, called).take(REFUSALS).cloned().collect();
        if node.is_none() && refusals.is_empty() {
            bail!("there is no node {name}, and none of that name was refused: `carrick nodes` lists them");
        }
        Ok(Self { node, refusals })
    }

    pub(super) fn text(&self, now: UnixTime, paint: Paint) -> String {
        let mut text = self.node.as_ref().map(|node| node_text(node, now, paint)).unwrap_or_default();
        for (index, refusal) in self.refusals.iter().enumerate() {
            if !text.is_empty() {
                text.push('\n');
            }
            let _ = writeln!(
                text,
                "Refused {} as {} of cluster {}: {}",
                relative(refusal.at, now),
                refusal.name,
                refusal.cluster,
                printable(&refusal.detail)
            );
            // What the last one lacked is what there is to mend.
            if index == 0 {
                text.push_str(&evidence_text(&refusal.evidence, now, paint));
            }
        }
        text
    }
}

/// The refusals of a node, or of whoever called itself so.
pub(in crate::verb) fn refusals_of<'a>(
    refusals: &'a [Refusal],
    id: Option<NodeId>,
    name: &'a str,
) -> impl Iterator<Item = &'a Refusal> {
    let is_it = move |refusal: &&Refusal| {
        id.is_some_and(|id| refusal.node == Some(id)) || refusal.name.as_str() == name
    };
    refusals.iter().filter(is_it)
}

/// Each piece of evidence with its claims.
pub(in crate::verb) fn evidence_text(evidence: &[Evidence], now: UnixTime, paint: Paint) -> String {
    let mut text = String::new();
    for (index, evidence) in evidence.iter().enumerate() {
        let gap = if index == 0 { "" } else { "\n" };
        let (decision, _) = verdict(evidence.decision);
        let _ =
            writeln!(text, "{gap}{}, {}: {decision}", evidence.kind, relative(evidence.appraised_at, now));
        let rows = evidence.claims.iter().map(|claim| {
            let (word, tone) = verdict(claim.verdict);
            let [name, value, reason] =
                [&claim.name, &claim.value, &claim.reason].map(|text| Cell::new(printable(text)));
            [state_cell(word, tone), name, value, reason]
        });
        for line in table(["VERDICT", "CLAIM", "VALUE", "REASON"], rows, paint).lines() {
            let _ = writeln!(text, "  {line}");
        }
    }
    text
}

fn node_text(node: &Node, now: UnixTime, paint: Paint) -> String {
    let lapses =
        node.lease_expires.map_or_else(String::new, |time| format!(", lapses {}", relative(time, now)));
    let lease = match node.lease {
        LeaseProfile::Available => "available",
        LeaseProfile::Strict => "strict",
    };
    let trust = match node.trust {
        Trust::Evidence => "checks the evidence of its peers itself",
        Trust::Coordinator => "takes the coordinator's word for the evidence of its peers",
    };
    let revoked = node.revoked.as_ref().map(|revocation| {
        let reason =
            revocation.reason.as_deref().map_or_else(String::new, |why| format!(": {}", printable(why)));
        format!("{}{reason}", relative(revocation.at, now))
    });
    let mut text = String::new();
    for (key, value) in [
        ("Name", Some(node.name.to_string())),
        ("Id", Some(node.id.to_string())),
        ("Cluster", Some(node.cluster.to_string())),
        ("State", Some(state(node).0.to_owned())),
        ("Suspended", node.suspended.as_deref().map(printable)),
        ("Revoked", revoked),
        ("Lease", Some(format!("{lease}{lapses}"))),
        ("Trust", Some(trust.to_owned())),
        ("Key", Some(node.public_key.to_string())),
        ("Overlay", Some(list(&node.overlay_ips))),
        ("Prefixes", Some(list(&node.prefixes))),
        ("Endpoints", Some(list(&node.endpoints))),
        ("Joined", Some(relative(node.joined_at, now))),
        ("Version", Some(printable(&node.version))),
    ] {
        if let Some(value) = value {
            let _ = writeln!(text, "{key:<11}{value}");
        }
    }
    text.push('\n');
    text.push_str(&evidence_text(&node.evidence, now, paint));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{self, NOW};

    #[test]
    fn a_node_is_a_page_with_every_claim_and_its_last_refusals() {
        let mut node = fixture::topology().nodes[1].clone();
        node.evidence = fixture::evidence();
        let detail = Detail { node: Some(node), refusals: fixture::refusals() };
        assert_eq!(
            detail.text(NOW, Paint::Plain),
            "\
Name       east-2
Id         aaaaaaaaaaaaaaaaaaaaaaaaam
Cluster    east
State      suspended
Suspended  cluster east takes tpm
Lease      available
Trust      checks the evidence of its peers itself
Key        CAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAg=
Overlay    100.64.0.3
Prefixes   -
Endpoints  -
Joined     5m ago
Version    0.1.0

join-token, 60m ago: accepted
  VERDICT    CLAIM     VALUE  REASON
  accepted   operator  iojj   signed the token
  unchecked  uses      3

Refused 60s ago as east-2 of cluster east: evidence tpm: pcr 7 is 00, expected: one of the reference values
tpm, 60s ago: refused
  VERDICT  CLAIM  VALUE  REASON
  refused  pcr 7  00     one of the reference values

Refused 10m ago as east-2 of cluster east: the join token is used up
"
        );
    }

    #[test]
    fn a_name_that_never_became_a_node_is_told_by_its_refusals() {
        let detail = Detail { node: None, refusals: fixture::refusals() };
        assert!(detail.text(NOW, Paint::Plain).starts_with("Refused 60s ago as east-2"));
    }

    #[test]
    fn refusals_are_found_by_id_and_by_name() {
        let refusals = fixture::refusals();
        assert_eq!(refusals_of(&refusals, None, "east-2").count(), 2);
        let id = refusals[0].node;
        assert_eq!(refusals_of(&refusals, id, "another").count(), 1);
        assert_eq!(refusals_of(&refusals, None, "another").count(), 0);
    }

    #[test]
    fn a_node_cannot_steer_the_terminal_of_an_operator() {
        let mut evidence = fixture::evidence();
        evidence[0].claims[0].value = "1.0\u{1b}[2J\u{7}\nx".to_owned();
        let text = evidence_text(&evidence, NOW, Paint::Plain);
        assert!(text.contains("1.0[2J x") && !text.contains('\u{1b}'), "{text:?}");
    }
}
