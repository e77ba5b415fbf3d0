//! Who is a member, and who no longer.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use carrick_lab::{Signal, in_lab};

use crate::{
    mesh::{assert_does_not_reach, assert_reaches, running},
    support::{PATIENCE, error_of, node_of, traffic::Traffic, wait_for},
};

const EAST: usize = 0;
const WEST: usize = 1;

#[test]
fn a_node_restarts_without_a_token_as_the_member_that_it_was() {
    in_lab(|lab| {
        let mut mesh = running(lab, &[("east", 1), ("west", 1)]);
        let before = node_of(&mesh, "east-1");
        let old = mesh.nodes[EAST].process.take().unwrap();
        assert!(old.terminate(PATIENCE).unwrap().success(), "{}", old.output());

        // It knows from its state directory alone who it is, and what it speaks for.
        let mut command = mesh.command();
        command.arg("node").arg("--state-dir").arg(&mesh.nodes[EAST].state_dir);
        let process = mesh.nodes[EAST].host.spawn("east-1", command).unwrap();
        mesh.nodes[EAST].process = Some(process);
        mesh.settle().unwrap();
        let after = node_of(&mesh, "east-1");
        for field in ["id", "name", "cluster", "overlay_ips", "public_key", "prefixes", "joined_at"] {
            assert_eq!(before[field], after[field], "{field}");
        }
        assert_reaches(&mesh.nodes[WEST], &mesh.nodes[EAST]);
        assert_reaches(&mesh.nodes[EAST], &mesh.nodes[WEST]);
    });
}

#[test]
fn a_revoked_node_is_cut_off_ends_and_cannot_come_back_with_its_keys() {
    in_lab(|lab| {
        let mut mesh = running(lab, &[("east", 2), ("west", 1)]);
        let traffic = Traffic::between(&mesh.nodes[EAST], &mesh.nodes[2]);
        let others = Traffic::between(&mesh.nodes[1], &mesh.nodes[2]);
        let since = Instant::now();
        let revoked = mesh.operate(&["revoke", "east-1", "--reason", "a test"]).unwrap();
        assert!(revoked.status.success(), "{revoked:?}");
        let last = traffic.last();
        assert!(
            last < since + Duration::from_secs(1),
            "the last datagram came {:?} after the command",
            last - since
        );
        let process = mesh.nodes[EAST].process.take().unwrap();
        let error = error_of(&process);
        assert!(error.contains("this node was revoked"), "{error}");
        assert_does_not_reach(&mesh.nodes[2], &mesh.nodes[EAST]);

        // Neither as the member that it was, nor with a token.
        let fresh = mesh.token("east", 1).unwrap();
        for token in [None, Some(fresh.as_str())] {
            mesh.start_node(EAST, token).unwrap();
            let error = error_of(&mesh.nodes[EAST].process.take().unwrap());
            assert!(error.contains("this node was revoked: join with an empty state directory"), "{error}");
        }
        // As somebody new, with the very token that did not help the old one.
        fs::remove_dir_all(&mesh.nodes[EAST].state_dir).unwrap();
        mesh.start_node(EAST, Some(&fresh)).unwrap();
        mesh.settle().unwrap();
        assert_reaches(&mesh.nodes[2], &mesh.nodes[EAST]);
        others.assert_unbroken();
    });
}

#[test]
fn a_node_that_was_stopped_when_it_was_revoked_learns_of_it_when_it_starts() {
    in_lab(|lab| {
        let mut mesh = running(lab, &[("east", 1)]);
        mesh.nodes[EAST].process.take().unwrap().signal(Signal::SIGKILL).unwrap();
        let revoked = mesh.operate(&["revoke", "east-1"]).unwrap();
        assert!(revoked.status.success(), "{revoked:?}");
        mesh.start_node(EAST, None).unwrap();
        let error = error_of(mesh.nodes[EAST].process.as_ref().unwrap());
        assert!(error.contains("this node was revoked"), "{error}");
        let state = mesh.nodes[EAST].host.network_state().unwrap();
        assert!(
            !state.lines().any(|line| line.contains("carrick0") || line.contains("table 51780")),
            "{state}"
        );
    });
}

#[test]
fn join_without_systemd_runs_the_node_in_the_foreground() {
    in_lab(|lab| {
        let mut mesh = running(lab, &[("east", 1), ("west", 1)]);
        mesh.nodes[WEST].process.take().unwrap().terminate(PATIENCE).unwrap();
        let revoked = mesh.operate(&["revoke", "west-1"]).unwrap();
        assert!(revoked.status.success(), "{revoked:?}");
        fs::remove_dir_all(&mesh.nodes[WEST].state_dir).unwrap();

        let token = mesh.token("west", 1).unwrap();
        let node = &mesh.nodes[WEST];
        let mut command: Command = mesh.command();
        command.args(["join", &token, "--host", "--name", "west-1"]).arg("--state-dir").arg(&node.state_dir);
        for prefix in &node.prefixes {
            command.args(["--prefix", prefix]);
        }
        let process = node.host.spawn("west-1", command).unwrap();
        process.wait_for_line("runs in the foreground", PATIENCE).unwrap();
        mesh.nodes[WEST].process = Some(process);
        mesh.settle().unwrap();
        assert_reaches(&mesh.nodes[EAST], &mesh.nodes[WEST]);
        wait_for("the tunnel in the topology", || {
            let links = mesh.json(&["topology"]).ok()?["links"].as_array()?.len();
            (links == 2).then_some(())
        });
    });
}
