//! What nodes do while there is no coordinator, and after.

use std::time::Duration;

use carrick_lab::{Capture, in_lab, mesh::Mesh};

use crate::{
    mesh::{assert_reaches, running},
    support::{carrick, traffic::Traffic, wait_for},
};

const EAST: usize = 0;
const WEST: usize = 1;

#[test]
fn traffic_flows_on_while_there_is_no_coordinator_and_nodes_come_back_by_themselves() {
    in_lab(|lab| {
        let mut mesh = running(lab, &[("east", 1), ("west", 1)]);
        let traffic = Traffic::between(&mesh.nodes[EAST], &mesh.nodes[WEST]);
        let revision = mesh.json(&["topology"]).unwrap()["revision"].clone();
        let wire = mesh.nodes[EAST].host.capture("eth0").unwrap();
        mesh.coordinator.take().unwrap().kill().unwrap();
        traffic.assert_goes_on_for(Duration::from_secs(5));

        mesh.start_coordinator(&[]).unwrap();
        mesh.settle().unwrap();
        traffic.assert_unbroken();
        assert_eq!(handshakes(&wire), 0, "the tunnel that was there is the tunnel that is there");
        assert_eq!(mesh.json(&["topology"]).unwrap()["revision"], revision, "nothing has changed");
        for node in &mesh.nodes {
            let process = node.process.as_ref().unwrap();
            assert!(process.output().contains("no session with the coordinator; trying again"));
        }
    });
}

#[test]
fn a_change_made_while_a_node_was_cut_off_reaches_it_as_a_delta() {
    in_lab(|lab| {
        let mut mesh = Mesh::build(lab, carrick(), &[("east", 1), ("west", 2)]).unwrap();
        mesh.start_coordinator(&[]).unwrap();
        for (index, cluster) in [(0, "east"), (1, "west"), (2, "west")] {
            let token = mesh.token(cluster, 1).unwrap();
            let mut command = mesh.node_command(index, Some(&token)).unwrap();
            command.env("CARRICK_LOG", "info,carrick_node=debug");
            let node = &mut mesh.nodes[index];
            node.process = Some(node.host.spawn(&node.name, command).unwrap());
        }
        mesh.settle().unwrap();
        let cut_off = mesh.nodes[EAST].process.as_ref().unwrap();
        let told = |what: &str| cut_off.output().matches(what).count();
        assert_eq!(told("whole netmap"), 1);
        let revision = &mesh.json(&["topology"]).unwrap()["revision"];

        // The coordinator restarts meanwhile, so that the session cannot go on where it stopped.
        mesh.nodes[EAST].link.cut().unwrap();
        mesh.coordinator.take().unwrap().kill().unwrap();
        mesh.start_coordinator(&[]).unwrap();
        let revoked = mesh.operate(&["revoke", "west-2"]).unwrap();
        assert!(revoked.status.success(), "{revoked:?}");
        let cut_off = mesh.nodes[EAST].process.as_ref().unwrap();
        let changes = format!("netmap changes from={revision} ");
        assert!(!cut_off.output().contains(&changes), "it cannot know yet: {}", cut_off.output());
        mesh.nodes[EAST].link.restore().unwrap();

        wait_for("the node to know of it", || {
            let output = cut_off.output();
            output.split_once(&changes)?.1.contains("peers=1").then_some(())
        });
        let output = cut_off.output();
        assert_eq!(output.matches("whole netmap").count(), 1, "{output}");
        assert_reaches(&mesh.nodes[EAST], &mesh.nodes[WEST]);
    });
}

/// The handshake initiations on the wire.
fn handshakes(capture: &Capture) -> usize {
    let payloads = capture.packets();
    payloads
        .iter()
        .filter(|packet| packet.udp().is_some_and(|(_, _, payload)| payload.starts_with(&[1, 0, 0, 0])))
        .count()
}
