//! `carrick nodes`.

use std::time::SystemTime;

use anyhow::Result;
use carrick_types::UnixTime;
use carrick_wire::api::{Node, NodeState};
use clap::Args;
use comfy_table::Cell;

use crate::{
    human::relative,
    output::{Output, Paint, Tone, list, note, state_cell, table},
    remote::Remote,
    runtime,
};

/// List the nodes of the mesh
#[derive(Debug, Args)]
pub(crate) struct Nodes {
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    remote: Remote,
}

impl Nodes {
    pub(super) fn run(self) -> Result<()> {
        let api = self.remote.api()?;
        let nodes: Vec<Node> = runtime::call(async { Ok(api.get("/v1/nodes").await?) })?;
        if nodes.is_empty() {
            note("no node has joined yet: make a token with `carrick token create --cluster NAME`");
        }
        self.output.print(&nodes, |nodes| nodes_table(nodes, SystemTime::now().into(), Paint::on_stdout()))
    }
}

/// One row for each node.
pub(super) fn nodes_table(nodes: &[Node], now: UnixTime, paint: Paint) -> String {
    let header = ["NAME", "CLUSTER", "STATE", "OVERLAY", "PREFIXES", "ENDPOINTS", "JOINED", "VERSION"];
    let rows = nodes.iter().map(|node| {
        let (state, tone) = state(node);
        [
            Cell::new(&node.name),
            Cell::new(&node.cluster),
            state_cell(state, tone),
            Cell::new(list(&node.overlay_ips)),
            Cell::new(list(&node.prefixes)),
            Cell::new(endpoints(node)),
            Cell::new(relative(node.joined_at, now)),
            Cell::new(plain(&node.version)),
        ]
    });
    table(header, rows, paint)
}

/// The state in a word: of an active node, whether it has a session.
pub(super) fn state(node: &Node) -> (&'static str, Tone) {
    match node.state {
        NodeState::Active if node.online => ("online", Tone::Good),
        NodeState::Active => ("offline", Tone::Fair),
        NodeState::Pending => ("pending", Tone::Fair),
        NodeState::Expired => ("expired", Tone::Bad),
        NodeState::Revoked => ("revoked", Tone::Bad),
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

/// What a node says of itself, without what could steer a terminal.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn nodes_are_a_table() {
        assert_eq!(nodes_table(&fixture::topology().nodes, fixture::NOW, Paint::Plain), "\
NAME    CLUSTER  STATE    OVERLAY               PREFIXES                 ENDPOINTS            JOINED   VERSION
east-1  east     online   100.64.0.2,fd00:c::2  10.1.0.0/24,fd00:1::/64  192.0.2.1:51820 +1   60m ago  0.1.0 (0123456789ab)
east-2  east     offline  100.64.0.3            -                        -                    5m ago   0.1.0
east-0  east     revoked  100.64.0.1            10.1.9.0/24              192.0.2.9:51820      2d ago   0.1.0
west-1  west     online   100.64.0.4            10.2.0.0/24              [2001:db8::1]:51820  12s ago  0.1.0
");
    }

    #[test]
    fn a_node_cannot_steer_the_terminal_of_an_operator() {
        assert_eq!(plain("1.0\u{1b}[2J\u{7}\n"), "1.0[2J");
    }
}
