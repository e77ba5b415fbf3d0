//! `carrick status`.

use std::fmt::Write as _;

use anyhow::Result;
use carrick_client::CoordinatorUrl;
use carrick_types::{MeshId, Revision};
use carrick_wire::api::{Cluster, NodeState, Topology};
use clap::Args;
use serde::Serialize;

use super::topology::{is_relayed, tunnels};
use crate::{human::count, output::Output, remote::Remote, runtime};

/// Show whether the mesh is well: coordinator, clusters, nodes, tunnels
#[derive(Debug, Args)]
pub(crate) struct Status {
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    remote: Remote,
}

impl Status {
    pub(super) fn run(self) -> Result<()> {
        let api = self.remote.api()?;
        let topology: Topology = runtime::call(async { Ok(api.get("/v1/topology").await?) })?;
        self.output.print(&Summary::of(topology, api.url()), Summary::text)
    }
}

/// A topology in numbers.
#[derive(Debug, Serialize)]
struct Summary {
    coordinator: String,
    mesh: MeshId,
    revision: Revision,
    clusters: Vec<Cluster>,
    nodes: NodeCounts,
    tunnels: TunnelCounts,
}

#[derive(Debug, Default, Serialize)]
struct NodeCounts {
    online: usize,
    offline: usize,
    suspended: usize,
    revoked: usize,
}

#[derive(Debug, Default, Serialize)]
struct TunnelCounts {
    direct: usize,
    relay: usize,
}

impl Summary {
    fn of(topology: Topology, coordinator: &CoordinatorUrl) -> Self {
        let mut nodes = NodeCounts::default();
        for node in &topology.nodes {
            *match node.state {
                NodeState::Active if node.online => &mut nodes.online,
                NodeState::Active => &mut nodes.offline,
                NodeState::Suspended => &mut nodes.suspended,
                NodeState::Revoked => &mut nodes.revoked,
            } += 1;
        }
        let tunnels = tunnels(&topology.links);
        let relay = tunnels.values().filter(|ends| is_relayed(ends)).count();
        let tunnels = TunnelCounts { direct: tunnels.len() - relay, relay };
        let Topology { mesh, revision, clusters, .. } = topology;
        Self { coordinator: coordinator.to_string(), mesh, revision, clusters, nodes, tunnels }
    }

    fn text(&self) -> String {
        let clusters: Vec<_> = self
            .clusters
            .iter()
            .map(|cluster| format!("{} ({})", cluster.name, count(cluster.nodes, "node")))
            .collect();
        let nodes = non_zero(&[
            (self.nodes.online, "online"),
            (self.nodes.offline, "offline"),
            (self.nodes.suspended, "suspended"),
            (self.nodes.revoked, "revoked"),
        ]);
        let tunnels = non_zero(&[(self.tunnels.direct, "direct"), (self.tunnels.relay, "relayed")]);
        let mut text = String::new();
        for (key, value) in [
            ("Coordinator", format!("{}, reachable", self.coordinator)),
            ("Mesh", format!("{}, revision {}", self.mesh, self.revision)),
            ("Clusters", if clusters.is_empty() { "none".to_owned() } else { clusters.join(", ") }),
            ("Nodes", nodes),
            ("Tunnels", tunnels),
        ] {
            let _ = writeln!(text, "{key:<13}{value}");
        }
        text
    }
}

/// What there is of each: `3 online, 1 revoked`.
fn non_zero(counts: &[(usize, &str)]) -> String {
    let parts: Vec<_> = counts
        .iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, what)| format!("{number} {what}"))
        .collect();
    if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    fn summary(topology: Topology) -> Summary {
        Summary::of(topology, &"https://c.example".parse().unwrap())
    }

    #[test]
    fn the_status_is_five_lines() {
        assert_eq!(
            summary(fixture::topology()).text(),
            "\
Coordinator  https://c.example:8443, reachable
Mesh         mmmmmmmmmmmmmmmmmmmmmmmmme, revision 42
Clusters     east (2 nodes), west (1 node)
Nodes        2 online, 1 suspended, 1 revoked
Tunnels      1 direct, 1 relayed
"
        );
    }

    #[test]
    fn an_empty_mesh_says_none() {
        let empty = Topology { clusters: vec![], nodes: vec![], links: vec![], ..fixture::topology() };
        let text = summary(empty).text();
        assert!(text.ends_with("Clusters     none\nNodes        none\nTunnels      none\n"), "{text}");
    }
}
