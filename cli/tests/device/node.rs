//! A node's own interface, as `wg` sees it.

use std::path::Path;

use carrick_lab::{in_lab, mesh::Mesh, traffic::ping};

use crate::wireguard::{ATTEMPT, own_run, run, socket, try_run};

#[test]
fn wg_shows_a_node_and_changes_nothing_of_it() {
    in_lab(|lab| {
        let mut mesh =
            Mesh::build(lab, Path::new(env!("CARGO_BIN_EXE_carrick")), &[("east", 1), ("west", 1)]).unwrap();
        own_run();
        mesh.start().unwrap();
        let node = &mesh.nodes[0];
        ping(&node.pod, mesh.nodes[1].pod_ips[0], ATTEMPT).unwrap();
        assert!(socket("carrick0").exists());
        // Both nodes have an interface of this name; the socket is that of whichever was first.
        let shown = run(&node.host, "wg", &["show", "carrick0", "dump"]);
        let fields: Vec<Vec<&str>> = shown.lines().map(|line| line.split('\t').collect()).collect();
        let [own, peer] = &fields[..] else { panic!("{shown}") };
        assert_eq!(own[..2], ["(none)", "(none)"], "no key is given out");
        let overlay = mesh.json(&["topology"]).unwrap();
        let of_peer = overlay["nodes"].as_array().unwrap().iter().find(|node| node["public_key"] == peer[0]);
        let prefix = of_peer.unwrap()["prefixes"][0].as_str().unwrap();
        assert!(peer[3].split(',').any(|allowed| allowed == prefix), "{shown}");
        assert_eq!(peer[1], "(none)", "there is no preshared key");
        assert_ne!(peer[4], "0", "there was a handshake");
        let refused = try_run(&node.host, "wg", &["set", "carrick0", "peer", peer[0], "remove"]);
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && said.contains("Operation not permitted"), "{said}");
        ping(&node.pod, mesh.nodes[1].pod_ips[0], ATTEMPT).unwrap();
    });
}
