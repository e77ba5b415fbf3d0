//! A mesh that runs, and who reaches whom in it.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use carrick_lab::{
    Lab,
    mesh::{Mesh, Node},
    traffic::{HttpServer, http_get},
};

use crate::support::{PATIENCE, carrick, wait_for};

const HTTP: u16 = 8080;

/// A mesh with these clusters, in which every node knows every other.
pub(crate) fn running(lab: &mut Lab, clusters: &[(&str, u8)]) -> Mesh {
    let mut mesh = Mesh::build(lab, carrick(), clusters).unwrap();
    mesh.start().unwrap();
    mesh
}

/// Asserts that a pod gets an answer from the pod of another node, over IPv4 and IPv6.
pub(crate) fn assert_reaches(from: &Node, to: &Node) {
    for ip in to.pod_ips {
        let answer = answer(from, to, ip, PATIENCE);
        assert_eq!(answer.as_deref(), Some(to.name.as_str()), "{} asked {ip} of {}", from.name, to.name);
    }
}

/// Asserts that a pod gets no answer from the pod of another node.
pub(crate) fn assert_does_not_reach(from: &Node, to: &Node) {
    for ip in to.pod_ips {
        assert_eq!(
            answer(from, to, ip, Duration::from_millis(500)),
            None,
            "{} asked {ip} of {}",
            from.name,
            to.name
        );
    }
}

/// Waits until a pod gets no answer any more from the pod of another node.
pub(crate) fn assert_is_cut_off(from: &Node, to: &Node) {
    wait_for("no more answers", || {
        answer(from, to, to.pod_ips[0], Duration::from_millis(500)).is_none().then_some(())
    });
    assert_does_not_reach(from, to);
}

fn answer(from: &Node, to: &Node, ip: IpAddr, patience: Duration) -> Option<String> {
    let address = SocketAddr::new(ip, HTTP);
    let _server = HttpServer::start(&to.pod, address, to.name.clone()).unwrap();
    http_get(&from.pod, address, patience).ok()
}
