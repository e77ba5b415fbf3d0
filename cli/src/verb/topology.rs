//! `carrick topology`.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    time::SystemTime,
};

use anyhow::Result;
use carrick_types::{NodeId, UnixTime};
use carrick_wire::{
    api::{self, Link, LinkPath, Node, NodeState},
    hello::Trust,
};
use clap::{Args, ValueEnum};
use comfy_table::Cell;

use super::nodes::nodes_text;
use crate::{
    human::{bytes, relative, rtt},
    output::{OutputAs, Paint, Tone, print, print_json, state_cell, table},
    remote::Remote,
    runtime,
};

/// Show nodes and the tunnels between them
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  carrick topology -o dot | dot -Tsvg > mesh.svg")]
pub(crate) struct Topology {
    #[command(flatten)]
    output: OutputAs<Format>,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Format {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
    /// For Graphviz
    Dot,
}

impl Topology {
    pub(super) fn run(self) -> Result<()> {
        let api = self.remote.api()?;
        let topology: api::Topology = runtime::call(async { Ok(api.get("/v1/topology").await?) })?;
        match self.output.format {
            Format::Table => print(&tables(&topology, SystemTime::now().into(), Paint::on_stdout())),
            Format::Json => print_json(&topology),
            Format::Dot => print(&dot(&topology)),
        }
    }
}

/// The links as tunnels, each of which has two ends and a link from each that reported it.
pub(super) fn tunnels(links: &[Link]) -> BTreeMap<(NodeId, NodeId), Vec<&Link>> {
    let mut tunnels = BTreeMap::<_, Vec<_>>::new();
    for link in links {
        tunnels.entry((link.from.min(link.to), link.from.max(link.to))).or_default().push(link);
    }
    tunnels
}

/// Whether a tunnel goes through a relay, as either end sees it.
pub(super) fn is_relayed(ends: &[&Link]) -> bool {
    ends.iter().any(|link| link.path == LinkPath::Relay)
}

/// A table of nodes and one of links.
fn tables(topology: &api::Topology, now: UnixTime, paint: Paint) -> String {
    let nodes = nodes_text(&topology.nodes, now, paint);
    if topology.links.is_empty() {
        return format!("{nodes}\nno tunnel is up: nodes make one when there is a packet for it\n");
    }
    format!("{nodes}\n{}", links_table(topology, now, paint))
}

fn links_table(topology: &api::Topology, now: UnixTime, paint: Paint) -> String {
    let names: HashMap<NodeId, &Node> = topology.nodes.iter().map(|node| (node.id, node)).collect();
    let name = |id: NodeId| names.get(&id).map_or_else(|| id.to_string(), |node| node.name.to_string());
    let rows = topology.links.iter().map(|link| {
        [
            Cell::new(name(link.from)),
            Cell::new(name(link.to)),
            match link.path {
                LinkPath::Direct => state_cell("direct", Tone::Good),
                LinkPath::Relay => state_cell("relay", Tone::Fair),
            },
            Cell::new(link.endpoint),
            Cell::new(rtt(link.rtt_ms)),
            Cell::new(link.last_handshake.map_or_else(|| "-".to_owned(), |time| relative(time, now))),
            Cell::new(bytes(link.rx_bytes)),
            Cell::new(bytes(link.tx_bytes)),
        ]
    });
    table(["FROM", "TO", "PATH", "ENDPOINT", "RTT", "HANDSHAKE", "RECEIVED", "SENT"], rows, paint)
}

/// A graph in the DOT language: a box for each cluster, an edge for each tunnel. Revoked nodes are no part of it. Names are
/// DNS labels and ids base32, so nothing needs an escape.
fn dot(topology: &api::Topology) -> String {
    let members = || topology.nodes.iter().filter(|node| node.state != NodeState::Revoked);
    let mut text = String::from("graph carrick {\n  node [shape=box, style=rounded];\n");
    for cluster in &topology.clusters {
        let _ = writeln!(text, "  subgraph \"cluster_{0}\" {{\n    label=\"{0}\";", cluster.name);
        for node in members().filter(|node| node.cluster == cluster.name) {
            let style = if node.online { "" } else { ", style=\"rounded,dashed\"" };
            let colour = if node.state == NodeState::Suspended { ", color=red, fontcolor=red" } else { "" };
            let _ = writeln!(text, "    \"{}\" [label=\"{}\"{style}{colour}];", node.id, label(node));
        }
        text.push_str("  }\n");
    }
    let drawn = |id| members().any(|node| node.id == id);
    for ((from, to), ends) in tunnels(&topology.links) {
        if drawn(from) && drawn(to) {
            let style = if is_relayed(&ends) { ", style=dashed" } else { "" };
            let measured = ends.iter().find_map(|link| link.rtt_ms).map(|value| rtt(Some(value)));
            let _ = writeln!(
                text,
                "  \"{from}\" -- \"{to}\" [label=\"{}\"{style}];",
                measured.unwrap_or_default()
            );
        }
    }
    text.push_str("}\n");
    text
}

/// The name, and below it the prefixes and what there is to know of the node.
fn label(node: &Node) -> String {
    let suspended = (node.state == NodeState::Suspended).then(|| "suspended".to_owned());
    let blind = (node.trust == Trust::Coordinator).then(|| "trusts the coordinator".to_owned());
    let lines = node.prefixes.iter().map(ToString::to_string).chain(suspended).chain(blind);
    lines.fold(node.name.to_string(), |label, line| format!("{label}\\n{line}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn the_topology_is_a_table_of_nodes_and_one_of_links() {
        let text = tables(&fixture::topology(), fixture::NOW, Paint::Plain);
        let (nodes, links) = text.split_once("\n\n").unwrap();
        assert_eq!(nodes.lines().count(), 5);
        assert_eq!(
            links,
            "\
FROM    TO      PATH    ENDPOINT             RTT      HANDSHAKE  RECEIVED  SENT
east-1  west-1  direct  [2001:db8::1]:51820  0.42 ms  10s ago    1.5 KiB   10 B
west-1  east-1  direct  192.0.2.1:51820      -        -          10 B      1.5 KiB
east-1  east-2  relay   192.0.2.200:3478     17.3 ms  2m ago     0 B       0 B
"
        );
    }

    #[test]
    fn a_mesh_without_tunnels_says_so() {
        let topology = api::Topology { links: Vec::new(), ..fixture::topology() };
        assert!(tables(&topology, fixture::NOW, Paint::Plain).contains("no tunnel is up"));
    }

    #[test]
    fn the_graph_has_an_edge_for_each_tunnel_marks_who_is_suspended_or_blind_and_has_no_revoked_node() {
        let mut topology = fixture::topology();
        topology.nodes[3].trust = Trust::Coordinator;
        assert_eq!(
            dot(&topology),
            r#"graph carrick {
  node [shape=box, style=rounded];
  subgraph "cluster_east" {
    label="east";
    "aaaaaaaaaaaaaaaaaaaaaaaaai" [label="east-1\n10.1.0.0/24\nfd00:1::/64"];
    "aaaaaaaaaaaaaaaaaaaaaaaaam" [label="east-2\nsuspended", style="rounded,dashed", color=red, fontcolor=red];
  }
  subgraph "cluster_west" {
    label="west";
    "aaaaaaaaaaaaaaaaaaaaaaaaaq" [label="west-1\n10.2.0.0/24\ntrusts the coordinator"];
  }
  "aaaaaaaaaaaaaaaaaaaaaaaaai" -- "aaaaaaaaaaaaaaaaaaaaaaaaam" [label="17.3 ms", style=dashed];
  "aaaaaaaaaaaaaaaaaaaaaaaaai" -- "aaaaaaaaaaaaaaaaaaaaaaaaaq" [label="0.42 ms"];
}
"#
        );
    }
}
