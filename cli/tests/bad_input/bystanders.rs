//! Two nodes that must notice nothing, and a newcomer that is up to no good.

use std::collections::BTreeSet;

use carrick_lab::{
    Capture, Lab, Process,
    mesh::{Mesh, Node},
};

use crate::support::{carrick, error_of, node_of, traffic::Traffic};

/// Nodes in the mesh.
pub(crate) const EAST: usize = 0;
/// The host that has no node yet.
pub(crate) const NEWCOMER: usize = 1;
pub(crate) const WEST: usize = 2;

/// A mesh of two nodes that exchange traffic, with a third host that is no member yet.
pub(crate) struct Bystanders {
    pub(crate) mesh: Mesh,
    pub(crate) traffic: Traffic,
    tokens: BTreeSet<String>,
    nodes: BTreeSet<String>,
}

impl Bystanders {
    pub(crate) fn start(lab: &mut Lab) -> Self {
        let mut mesh = build(lab);
        mesh.start_coordinator(&[]).unwrap();
        Self::join(mesh)
    }

    /// Starts the two nodes of a mesh whose coordinator runs.
    pub(crate) fn join(mesh: Mesh) -> Self {
        Self::join_watched(mesh).0
    }

    /// Starts the two nodes of a mesh whose coordinator runs, with everything that they say on the wire.
    pub(crate) fn join_watched(mut mesh: Mesh) -> (Self, Capture) {
        for (index, cluster) in [(EAST, "east"), (WEST, "west")] {
            let token = mesh.token(cluster, 1).unwrap();
            mesh.start_node(index, Some(&token)).unwrap();
        }
        mesh.settle().unwrap();
        let wire = mesh.nodes[EAST].host.capture("eth0").unwrap();
        let traffic = Traffic::between(&mesh.nodes[EAST], &mesh.nodes[WEST]);
        let (tokens, nodes) = (ids(&mesh, &["token", "list"]), ids(&mesh, &["nodes"]));
        (Self { mesh, traffic, tokens, nodes }, wire)
    }

    pub(crate) fn newcomer(&self) -> &Node {
        &self.mesh.nodes[NEWCOMER]
    }

    /// Starts the newcomer's node.
    pub(crate) fn start_newcomer(&self, token: Option<&str>, arguments: &[&str]) -> Process {
        let mut command = self.mesh.node_command(NEWCOMER, token).unwrap();
        command.args(arguments);
        self.newcomer().host.spawn("newcomer", command).unwrap()
    }

    /// Starts the newcomer's node, and gives the error with which it ends. Its host is as it was then.
    pub(crate) fn refused(&self, token: Option<&str>, arguments: &[&str]) -> String {
        let before = self.newcomer().host.network_state().unwrap();
        let error = error_of(&self.start_newcomer(token, arguments));
        assert_eq!(before.diff(&self.newcomer().host.network_state().unwrap()), "", "after {error}");
        error
    }

    /// Asserts that no traffic was lost, that both nodes are members with a session, and that the coordinator still knows
    /// everything it knew.
    pub(crate) fn assert_unharmed(&self) {
        self.traffic.assert_unbroken();
        self.mesh.settle().unwrap();
        for name in ["east-1", "west-1"] {
            assert_eq!(node_of(&self.mesh, name)["online"], true, "{name}");
        }
        for (verb, before) in [(["token", "list"].as_slice(), &self.tokens), (&["nodes"], &self.nodes)] {
            let now = ids(&self.mesh, verb);
            assert!(now.is_superset(before), "{verb:?}: {now:?} lacks some of {before:?}");
        }
        let coordinator = self.mesh.coordinator.as_ref().unwrap();
        assert_eq!(coordinator.try_wait().unwrap(), None, "{}", coordinator.output());
    }

    /// Asserts that the newcomer is let in as soon as it does everything right.
    pub(crate) fn assert_newcomer_is_welcome(&mut self) {
        let token = self.mesh.token("east", 1).unwrap();
        self.mesh.start_node(NEWCOMER, Some(&token)).unwrap();
        self.mesh.settle().unwrap();
    }
}

/// The ids of what a verb lists.
pub(crate) fn ids(mesh: &Mesh, verb: &[&str]) -> BTreeSet<String> {
    let listed = mesh.json(verb).unwrap();
    listed.as_array().unwrap().iter().map(|entry| entry["id"].as_str().unwrap().to_owned()).collect()
}

/// The hosts of the mesh, on which nothing runs yet.
pub(crate) fn build(lab: &mut Lab) -> Mesh {
    Mesh::build(lab, carrick(), &[("east", 2), ("west", 1)]).unwrap()
}
