//! `carrick nodes`.

mod detail;

use std::time::SystemTime;

use anyhow::Result;
use carrick_attest::Verdict;
use carrick_types::{NodeName, UnixTime};
use carrick_wire::{
    api::{Node, NodeState},
    hello::Trust,
};
use clap::Args;
use comfy_table::Cell;

pub(super) use self::detail::{evidence_text, refusals_of};
use crate::{
    human::{age, relative},
    output::{Output, Paint, Tone, list, note, state_cell, table},
    remote::Remote,
    runtime,
};

/// List the nodes of the mesh, or show one with every claim of its evidence
#[derive(Debug, Args)]
pub(crate) struct Nodes {
    /// The name or id of one, also of one that was refused and never became a node
    name: Option<NodeName>,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    remote: Remote,
}

impl Nodes {
    pub(super) fn run(self) -> Result<()> {
        let api = self.remote.api()?;
        let now = || SystemTime::now().into();
        if let Some(name) = &self.name {
            let detail = runtime::call(detail::Detail::of(&api, name))?;
            return self.output.print(&detail, |detail| detail.text(now(), Paint::on_stdout()));
        }
        let nodes: Vec<Node> = runtime::call(async { Ok(api.get("/v1/nodes").await?) })?;
        if nodes.is_empty() {
            note("no node has joined yet: make a token with `carrick token create --cluster NAME`");
        }
        self.output.print(&nodes, |nodes| nodes_text(nodes, now(), Paint::on_stdout()))
    }
}

/// A table of nodes, and whom of them to look at.
pub(super) fn nodes_text(nodes: &[Node], now: UnixTime, paint: Paint) -> String {
    format!("{}{}", nodes_table(nodes, now, paint), trust_note(nodes))
}

/// One row for each node.
fn nodes_table(nodes: &[Node], now: UnixTime, paint: Paint) -> String {
    let header =
        ["NAME", "CLUSTER", "STATE", "EVIDENCE", "AGE", "DECISION", "LEASE", "PREFIXES", "ENDPOINTS"];
    let rows = nodes.iter().map(|node| {
        let (state, tone) = state(node);
        [
            Cell::new(&node.name),
            Cell::new(&node.cluster),
            state_cell(state, tone),
            Cell::new(kinds(node)),
            Cell::new(evidence_age(node, now)),
            decision_cell(node),
            Cell::new(node.lease_expires.map_or_else(|| "-".to_owned(), |time| relative(time, now))),
            Cell::new(list(&node.prefixes)),
            Cell::new(endpoints(node)),
        ]
    });
    table(header, rows, paint)
}

/// Which nodes take the coordinator's word for the evidence of their peers; empty where all look themselves.
fn trust_note(nodes: &[Node]) -> String {
    let blind =
        nodes.iter().filter(|node| node.trust == Trust::Coordinator && node.state != NodeState::Revoked);
    let names: Vec<_> = blind.map(|node| node.name.as_str()).collect();
    if names.is_empty() {
        return String::new();
    }
    format!("\nTrust the coordinator, and do not check the evidence of their peers: {}\n", names.join(", "))
}

/// The state in a word: of an active node, whether it has a session.
pub(super) fn state(node: &Node) -> (&'static str, Tone) {
    match node.state {
        NodeState::Active if node.online => ("online", Tone::Good),
        NodeState::Active => ("offline", Tone::Fair),
        NodeState::Suspended => ("suspended", Tone::Bad),
        NodeState::Revoked => ("revoked", Tone::Bad),
    }
}

/// A verdict in a word.
pub(super) const fn verdict(verdict: Verdict) -> (&'static str, Tone) {
    match verdict {
        Verdict::Accepted => ("accepted", Tone::Good),
        Verdict::Refused => ("refused", Tone::Bad),
        Verdict::Unchecked => ("unchecked", Tone::Fair),
    }
}

fn kinds(node: &Node) -> String {
    list(&node.evidence.iter().map(|evidence| evidence.kind).collect::<Vec<_>>())
}

/// How old the oldest is of what grows old; of what does not, where there is nothing else.
fn evidence_age(node: &Node, now: UnixTime) -> String {
    let oldest = |ages: bool| {
        let evidence = node.evidence.iter().filter(|evidence| evidence.kind.ages() == ages);
        evidence.map(|evidence| evidence.appraised_at).min()
    };
    let oldest = oldest(true).or_else(|| oldest(false));
    oldest.map_or_else(|| "-".to_owned(), |time| age(now.saturating_since(time)))
}

/// Refused where any of it is.
fn decision_cell(node: &Node) -> Cell {
    let decisions = || node.evidence.iter().map(|evidence| evidence.decision);
    match decisions().find(|decision| *decision == Verdict::Refused).or_else(|| decisions().next()) {
        None => Cell::new("-"),
        Some(decision) => {
            let (word, tone) = verdict(decision);
            state_cell(word, tone)
        }
    }
}

/// The first endpoint, and how many more there are.
fn endpoints(node: &Node) -> String {
    match node.endpoints.as_slice() {
        [] => "-".to_owned(),
        [only] => only.to_string(),
        [first, more @ ..] => format!("{first} +{}", more.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn nodes_are_a_table() {
        let text = nodes_table(&fixture::topology().nodes, fixture::NOW, Paint::Plain);
        assert_eq!(
            text,
            "\
NAME    CLUSTER  STATE      EVIDENCE    AGE  DECISION  LEASE   PREFIXES                 ENDPOINTS
east-1  east     online     join-token  60m  accepted  in 28s  10.1.0.0/24,fd00:1::/64  192.0.2.1:51820 +1
east-2  east     suspended  join-token  5m   refused   -       -                        -
east-0  east     revoked    -           -    -         -       10.1.9.0/24              192.0.2.9:51820
west-1  west     online     -           -    -         -       10.2.0.0/24              [2001:db8::1]:51820
"
        );
        assert!(text.lines().all(|line| line.len() <= 120), "it is read at 120 columns");
    }

    #[test]
    fn whoever_takes_the_coordinators_word_is_named() {
        let mut nodes = fixture::topology().nodes;
        assert_eq!(trust_note(&nodes), "");
        nodes[1].trust = Trust::Coordinator;
        nodes[2].trust = Trust::Coordinator;
        assert!(
            nodes_text(&nodes, fixture::NOW, Paint::Plain).ends_with("of their peers: east-2\n"),
            "a revoked node trusts nobody any more"
        );
    }
}
