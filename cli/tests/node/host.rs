//! What a node does to the host that it runs on.

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use carrick_lab::{NetworkState, in_lab, mesh::Mesh};

use crate::{
    mesh::{assert_reaches, running},
    support::{PATIENCE, carrick, error_of, wait_for},
};

const EAST: usize = 0;
const WEST: usize = 1;

#[test]
fn a_node_that_is_asked_to_end_leaves_nothing_behind() {
    in_lab(|lab| {
        let mut mesh = Mesh::build(lab, carrick(), &[("east", 1), ("west", 1)]).unwrap();
        let before = mesh.nodes[EAST].host.network_state().unwrap();
        mesh.start().unwrap();
        assert_reaches(&mesh.nodes[EAST], &mesh.nodes[WEST]);
        let during = mesh.nodes[EAST].host.network_state().unwrap();
        assert_eq!(rules(&during), [1, 1], "{during}");

        let process = mesh.nodes[EAST].process.take().unwrap();
        assert!(process.terminate(PATIENCE).unwrap().success(), "{}", process.output());
        assert_eq!(before.diff(&mesh.nodes[EAST].host.network_state().unwrap()), "");
        let keys_and_state =
            ["identity.key", "lock", "node.json", "trust.json", "wireguard.key"].map(str::to_owned);
        assert_eq!(files(&mesh.nodes[EAST].state_dir), keys_and_state.into());
    });
}

#[test]
fn what_a_killed_node_left_is_cleared_by_the_next_start() {
    in_lab(|lab| {
        let mut mesh = Mesh::build(lab, carrick(), &[("east", 1), ("west", 1)]).unwrap();
        let before = mesh.nodes[EAST].host.network_state().unwrap();
        mesh.start().unwrap();
        mesh.nodes[EAST].process.take().unwrap().kill().unwrap();
        let killed = mesh.nodes[EAST].host.network_state().unwrap();
        assert_eq!(rules(&killed), [1, 1], "nobody could take the rules back: {killed}");
        assert!(!killed.lines().any(|line| line.contains("carrick0")), "{killed}");

        mesh.start_node(EAST, None).unwrap();
        mesh.settle().unwrap();
        assert_eq!(rules(&mesh.nodes[EAST].host.network_state().unwrap()), [1, 1]);
        assert_reaches(&mesh.nodes[WEST], &mesh.nodes[EAST]);
        mesh.nodes[EAST].process.take().unwrap().terminate(PATIENCE).unwrap();
        assert_eq!(before.diff(&mesh.nodes[EAST].host.network_state().unwrap()), "");
    });
}

#[test]
fn what_somebody_else_takes_from_the_interface_is_put_back() {
    in_lab(|lab| {
        let mesh = running(lab, &[("east", 1), ("west", 1)]);
        let (east, west) = (&mesh.nodes[EAST], &mesh.nodes[WEST]);
        assert_reaches(east, west);
        let whole = of_the_agent(&east.host.network_state().unwrap());
        // Down and up again: the kernel forgets the routes, and the IPv6 address.
        east.host.set_down("carrick0").unwrap();
        wait_for("the routes to be gone", || {
            (of_the_agent(&east.host.network_state().unwrap()) != whole).then_some(())
        });
        east.host.set_up("carrick0").unwrap();
        wait_for("everything to be back", || {
            (of_the_agent(&east.host.network_state().unwrap()) == whole).then_some(())
        });
        assert_reaches(east, west);
    });
}

#[test]
fn a_second_agent_on_a_host_is_refused_and_takes_nothing_from_the_first() {
    in_lab(|lab| {
        let mesh = running(lab, &[("east", 1), ("west", 1)]);
        let east = &mesh.nodes[EAST];
        let before = east.host.network_state().unwrap();
        let token = mesh.token("east", 1).unwrap();
        let file = mesh.directory().join("second.token");
        fs::write(&file, token).unwrap();
        let mut command = Command::new(carrick());
        command.args(["node", "--name", "second", "--interface", "carrick1", "--listen-port", "0"]);
        command.arg("--state-dir").arg(mesh.directory().join("second")).arg("--token-file").arg(file);
        let second = east.host.spawn("second agent", command).unwrap();
        assert!(error_of(&second).contains("another carrick node runs on this host"), "{}", second.output());
        assert_eq!(before.diff(&east.host.network_state().unwrap()), "");
        assert_reaches(east, &mesh.nodes[WEST]);
    });
}

#[test]
fn keys_are_for_their_owner_only() {
    in_lab(|lab| {
        let mesh = running(lab, &[("east", 1)]);
        let state_dir = &mesh.nodes[EAST].state_dir;
        assert_eq!(mode(state_dir), 0o700);
        assert_eq!(mode(&mesh.data_dir()), 0o700);
        for directory in [state_dir, &mesh.data_dir()] {
            let files = files(directory);
            assert!(files.iter().any(|name| name.ends_with(".key")), "{files:?}");
            for name in files {
                assert_eq!(mode(&directory.join(&name)), 0o600, "{name} in {}", directory.display());
            }
        }
    });
}

#[test]
fn an_idle_mesh_takes_little_memory() {
    const MIB: u64 = 1 << 20;
    in_lab(|lab| {
        let mesh = running(lab, &[("east", 2), ("west", 2)]);
        let coordinator = mesh.coordinator.as_ref().unwrap().rss_bytes().unwrap();
        assert!(coordinator < 60 * MIB, "the coordinator of four nodes takes {} KiB", coordinator >> 10);
        for node in &mesh.nodes {
            let agent = node.process.as_ref().unwrap().rss_bytes().unwrap();
            assert!(agent < 30 * MIB, "the agent of {} takes {} KiB", node.name, agent >> 10);
        }
    });
}

/// The lines that an agent's interface and table make.
fn of_the_agent(state: &NetworkState) -> BTreeSet<String> {
    state
        .lines()
        .filter(|line| line.contains("carrick0") && !line.contains("fe80"))
        .map(str::to_owned)
        .collect()
}

/// How many rules of the agent's there are, for IPv4 and for IPv6.
fn rules(state: &NetworkState) -> [usize; 2] {
    ["rule inet ", "rule inet6 "].map(|start| {
        state.lines().filter(|line| line.starts_with(start) && line.contains("table 51780")).count()
    })
}

fn files(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}
