//! What peers tell each other of the log.

use std::{
    collections::BTreeSet,
    net::{SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use carrick_lab::in_lab;
use serde_json::Value;

use crate::{mesh::running, operator::succeeded, support::wait_for};

/// Where nodes listen for what peers tell of the log, on their overlay addresses.
const GOSSIP: u16 = 51_821;

#[test]
fn a_peer_that_never_stops_telling_of_the_log_keeps_a_node_from_nothing() {
    in_lab(|lab| {
        let mesh = running(lab, &[("east", 1), ("west", 1)]);
        let node = |name: &str| {
            let nodes = mesh.json(&["nodes"]).unwrap();
            nodes.as_array().unwrap().iter().find(|node| node["name"] == name).unwrap().clone()
        };
        let victim = node("east-1");
        let address = SocketAddr::new(victim["overlay_ips"][0].as_str().unwrap().parse().unwrap(), GOSSIP);
        // Of this mesh's log and under the coordinator's key, so that the node has to check the signature, which is wrong.
        let copy: Value =
            serde_json::from_str(&succeeded(mesh.operate(&["log", "export"]).unwrap())).unwrap();
        let note = one_entry_more(copy["checkpoint"].as_str().unwrap());
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let _end = End(&over);
            for _ in 0..2 {
                scope.spawn(|| {
                    mesh.nodes[1].host.within(|| {
                        let socket = UdpSocket::bind(("0.0.0.0", 0)).unwrap();
                        while !over.load(Ordering::Relaxed) {
                            let _ = socket.send_to(note.as_bytes(), address);
                        }
                    });
                });
            }
            let received = || {
                let links = mesh.json(&["topology"]).unwrap()["links"].clone();
                let link =
                    links.as_array().unwrap().iter().find(|link| link["from"] == victim["id"]).cloned();
                link.and_then(|link| link["rx_bytes"].as_u64()).unwrap_or_default()
            };
            let flooded = wait_for("a flood", || Some(received()).filter(|bytes| *bytes > 1_000_000));
            // It goes on telling the coordinator of its tunnels, once a second, which is what it does last.
            let mut reports = BTreeSet::from([flooded]);
            wait_for("five more reports of the node that is told", || {
                reports.insert(received());
                (reports.len() > 5).then_some(())
            });
        });
        assert_eq!(node("east-1")["state"], "active");
    });
}

/// Ends the flood, however the test ends.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A signed head of the log that claims to be of one entry more, and so is not what was signed.
fn one_entry_more(note: &str) -> String {
    let mut lines: Vec<String> = note.lines().map(str::to_owned).collect();
    let size: u64 = lines[1].parse().unwrap();
    lines[1] = (size + 1).to_string();
    lines.join("\n") + "\n"
}
