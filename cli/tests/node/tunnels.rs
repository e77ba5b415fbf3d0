//! Tunnels: when they are made, over what, and what is told of them.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant, SystemTime},
};

use carrick_lab::{
    in_lab,
    mesh::{Mesh, Node},
};
use carrick_types::UnixTime;
use serde_json::Value;

use crate::{
    mesh::{assert_reaches, running},
    support::{PATIENCE, carrick, node_of, traffic::Traffic, wait_for},
};

#[test]
fn a_tunnel_is_made_when_there_is_a_packet_for_it() {
    in_lab(|lab| {
        let mesh = running(lab, &[("east", 2), ("west", 2)]);
        let wire = mesh.nodes.iter().map(|node| node.host.capture("eth0").unwrap()).collect::<Vec<_>>();
        assert_eq!(pairs(&mesh), Vec::<[String; 2]>::new());
        assert_reaches(&mesh.nodes[0], &mesh.nodes[3]);
        let expected = [["east-1", "west-2"], ["west-2", "east-1"]];
        wait_for("the tunnel in the topology", || (pairs(&mesh) == expected).then_some(()));
        for (capture, silent) in wire.iter().zip([false, true, true, false]) {
            let messages = capture.packets().iter().filter(|packet| packet.is_wireguard()).count();
            assert_eq!(messages == 0, silent, "{messages} messages");
        }
    });
}

#[test]
fn a_node_reports_handshake_bytes_and_round_trip_time() {
    in_lab(|lab| {
        let mesh = running(lab, &[("east", 1), ("west", 1)]);
        let start = UnixTime::from(SystemTime::now());
        let traffic = Traffic::between(&mesh.nodes[0], &mesh.nodes[1]);
        traffic.assert_goes_on_for(Duration::from_secs(1));
        drop(traffic);
        let links = wait_for("both ends to agree on what they carried", || {
            let links = mesh.json(&["topology"]).ok()?["links"].as_array()?.clone();
            let [a, b] = links.as_slice() else { return None };
            let agree = a["rx_bytes"] == b["tx_bytes"] && a["tx_bytes"] == b["rx_bytes"];
            (agree && a["rx_bytes"].as_u64()? > 1000 && b["rx_bytes"].as_u64()? > 1000).then_some(links)
        });
        for (link, to) in links.iter().zip([1, 0]) {
            let rtt = link["rtt_ms"].as_f64().unwrap();
            assert!((0.0..5000.0).contains(&rtt) && rtt > 0.0, "{rtt} ms");
            let handshake: UnixTime = link["last_handshake"].as_str().unwrap().parse().unwrap();
            let now = UnixTime::from(SystemTime::now());
            // Handshakes are told in whole seconds.
            assert!(start.as_millis() <= handshake.as_millis() + 1000 && handshake <= now, "{handshake}");
            let endpoint: SocketAddr = link["endpoint"].as_str().unwrap().parse().unwrap();
            let ends: Vec<IpAddr> = mesh.nodes.iter().flat_map(|node| node.underlay).collect();
            assert!(ends.contains(&endpoint.ip()), "{endpoint}, link {to}");
        }
    });
}

#[test]
fn a_node_with_ipv4_alone_is_reached() {
    in_lab(|lab| reached_over(lab, 0));
}

#[test]
fn a_node_with_ipv6_alone_is_reached() {
    in_lab(|lab| reached_over(lab, 1));
}

/// Takes one family from a node before it joins; the tunnel uses the other, and carries both.
fn reached_over(lab: &mut carrick_lab::Lab, family: usize) {
    let mut mesh = Mesh::build(lab, carrick(), &[("east", 1), ("west", 1)]).unwrap();
    let gone = address(&mesh.nodes[0], 1 - family);
    mesh.nodes[0].host.del_address("eth0", &gone).unwrap();
    mesh.start().unwrap();
    assert_reaches(&mesh.nodes[0], &mesh.nodes[1]);
    assert_reaches(&mesh.nodes[1], &mesh.nodes[0]);
    let endpoint = wait_for("the tunnel in the topology", || endpoint_of(&mesh, "west-1", "east-1"));
    assert_eq!(endpoint.ip(), mesh.nodes[0].underlay[family]);
}

#[test]
fn a_node_whose_address_changes_is_reached_at_the_new_one() {
    in_lab(|lab| {
        let mesh = running(lab, &[("east", 1), ("west", 1)]);
        assert_reaches(&mesh.nodes[1], &mesh.nodes[0]);
        let (moved, since) = (&mesh.nodes[0], Instant::now());
        for family in [0, 1] {
            moved.host.del_address("eth0", &address(moved, family)).unwrap();
        }
        moved.host.add_address("eth0", "192.0.2.77/24").unwrap();
        moved.host.add_address("eth0", "2001:db8:1::77/64").unwrap();
        // The kernel dropped the IPv4 routes with the last address of the interface.
        moved.host.add_route("0.0.0.0/0", "192.0.2.1".parse().unwrap()).unwrap();

        // The moved node has nothing to say, so that nobody learns of its address from what it sends.
        assert_reaches(&mesh.nodes[1], &mesh.nodes[0]);
        assert!(since.elapsed() < PATIENCE, "it took {:?}", since.elapsed());
        let endpoint = wait_for("the new address in the topology", || {
            endpoint_of(&mesh, "west-1", "east-1").filter(|endpoint| endpoint.ip() != moved.underlay[0])
        });
        let new: [IpAddr; 2] = ["192.0.2.77".parse().unwrap(), "2001:db8:1::77".parse().unwrap()];
        assert!(new.contains(&endpoint.ip()), "{endpoint}");
    });
}

/// The names at the ends of every link.
fn pairs(mesh: &Mesh) -> Vec<[String; 2]> {
    let topology = mesh.json(&["topology"]).unwrap();
    let name = |id: &Value| {
        let nodes = topology["nodes"].as_array().unwrap();
        nodes.iter().find(|node| node["id"] == *id).unwrap()["name"].as_str().unwrap().to_owned()
    };
    let links = topology["links"].as_array().unwrap();
    let mut pairs: Vec<_> = links.iter().map(|link| [name(&link["from"]), name(&link["to"])]).collect();
    pairs.sort();
    pairs
}

/// Where a node sends what is for a peer.
fn endpoint_of(mesh: &Mesh, from: &str, to: &str) -> Option<SocketAddr> {
    let (from, to) = (node_of(mesh, from)["id"].clone(), node_of(mesh, to)["id"].clone());
    let topology = mesh.json(&["topology"]).ok()?;
    let link = topology["links"].as_array()?.iter().find(|link| link["from"] == from && link["to"] == to)?;
    link["endpoint"].as_str()?.parse().ok()
}

fn address(node: &Node, family: usize) -> String {
    format!("{}/{}", node.underlay[family], [24, 64][family])
}
