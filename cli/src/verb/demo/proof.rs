//! What the demo proves, step by step. Each step fails unless it saw what it claims.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use carrick_lab::{
    Capture, Lab, Packet, eventually,
    mesh::Mesh,
    traffic::{Beacon, HttpServer, http_get, ping, stream},
};
use serde_json::Value;

use super::{Interrupt, report::Report};

/// The port of each pod's web server.
const HTTP: u16 = 8080;
const STREAM: u16 = 5201;
const BEACON: u16 = 7777;

/// A text that is in what pods send, and must never be on the wire.
const MARKER: &str = "carrick-demo-plaintext-marker";

/// How long one request may take, a handshake included.
const PATIENCE: Duration = Duration::from_secs(5);

/// Silence after which a node counts as cut off. The beacon comes every millisecond.
const SILENCE: Duration = Duration::from_millis(500);

const CLUSTERS: &[(&str, u8)] = &[("east", 2), ("west", 2)];

/// Runs every step. The mesh that it builds stays in `slot`, also when a step fails.
pub(super) fn run(
    report: &mut Report,
    lab: &mut Lab,
    carrick: &Path,
    slot: &mut Option<Mesh>,
    start_coordinator: impl FnOnce(&mut Mesh) -> Result<()>,
    interrupt: &Interrupt,
) -> Result<()> {
    let mut servers = Vec::new();
    report.step("lab", |_| {
        let mesh = slot.insert(Mesh::build(lab, carrick, CLUSTERS)?);
        servers = serve(mesh)?;
        Ok("a router, two clusters of two nodes, a pod on each, and a host for the coordinator".to_owned())
    })?;
    let mesh = slot.as_mut().context("the lab was just built")?;
    interrupt.check()?;
    report.step("coordinator", |_| {
        start_coordinator(mesh)?;
        Ok("up, with a certificate and keys that it made itself".to_owned())
    })?;
    interrupt.check()?;
    report.step("join", |_| join(mesh))?;
    interrupt.check()?;
    let wire = mesh.nodes.iter().map(|node| node.host.capture_for("eth0", &[MARKER.as_bytes()]));
    let wire = wire.collect::<Result<Vec<_>, _>>()?;
    report.step("first answer", |report| first_answer(mesh, report))?;
    report.step("every pod reaches every pod", |_| all_pods(mesh))?;
    report.step("every node reaches every node", |_| all_nodes(mesh))?;
    interrupt.check()?;
    report.step("nothing but WireGuard on the wire", |_| only_wireguard(mesh, wire))?;
    interrupt.check()?;
    report.step("throughput", |report| throughput(mesh, report))?;
    interrupt.check()?;
    report.step("revoke", |report| revoke(mesh, report))?;
    report.step("the others go on", |_| others_go_on(mesh))?;
    report.step("the log tells it", |_| log(mesh))?;
    report.step("topology", |_| topology(mesh))?;
    drop(servers);
    Ok(())
}

/// A web server in each pod, for both families, which tells the pod's name.
fn serve(mesh: &Mesh) -> Result<Vec<HttpServer>> {
    let addresses = mesh.nodes.iter().flat_map(|node| node.pod_ips.map(|ip| (node, ip)));
    let start = |(node, ip): (&carrick_lab::mesh::Node, IpAddr)| {
        HttpServer::start(&node.pod, SocketAddr::new(ip, HTTP), body(&node.name)).map_err(Into::into)
    };
    addresses.map(start).collect()
}

fn body(node: &str) -> String {
    format!("{MARKER} from the pod on {node}")
}

fn join(mesh: &mut Mesh) -> Result<String> {
    mesh.start_nodes()?;
    Ok(format!("{} nodes joined with one token for each cluster", mesh.nodes.len()))
}

fn first_answer(mesh: &Mesh, report: &mut Report) -> Result<String> {
    let (from, to) = (&mesh.nodes[0], &mesh.nodes[mesh.nodes.len() - 1]);
    let address = SocketAddr::new(to.pod_ips[0], HTTP);
    let get = || http_get(&from.pod, address, Duration::from_secs(1)).ok();
    let answer = eventually(PATIENCE, "an answer from the other cluster", get)?;
    ensure!(answer == body(&to.name), "the answer was {answer:?}");
    let elapsed = report.elapsed();
    report.first_answer = Some(elapsed);
    Ok(format!(
        "the pod on {} asked the pod on {}, {:.2} s after the start",
        from.name,
        to.name,
        elapsed.as_secs_f64()
    ))
}

fn all_pods(mesh: &Mesh) -> Result<String> {
    let mut count = 0;
    for from in &mesh.nodes {
        for to in mesh.nodes.iter().filter(|to| to.name != from.name) {
            for ip in to.pod_ips {
                let answer = http_get(&from.pod, SocketAddr::new(ip, HTTP), PATIENCE)
                    .with_context(|| format!("from the pod on {} to the pod on {}", from.name, to.name))?;
                ensure!(answer == body(&to.name), "the pod on {} answered {answer:?}", to.name);
                count += 1;
            }
        }
    }
    Ok(format!("{count} of {count} requests answered, IPv4 and IPv6"))
}

fn all_nodes(mesh: &Mesh) -> Result<String> {
    let topology = mesh.json(&["topology"])?;
    let nodes = topology["nodes"].as_array().context("the topology has no nodes")?;
    let mut slowest = Duration::ZERO;
    for from in &mesh.nodes {
        for to in nodes.iter().filter(|to| to["name"] != from.name.as_str()) {
            for ip in to["overlay_ips"].as_array().into_iter().flatten() {
                let ip: IpAddr = ip.as_str().context("an overlay address is text")?.parse()?;
                let trip = ping(&from.host, ip, PATIENCE)
                    .with_context(|| format!("from {} to {} ({ip})", from.name, to["name"]))?;
                slowest = slowest.max(trip);
            }
        }
    }
    Ok(format!(
        "overlay addresses, IPv4 and IPv6; the slowest ping took {:.1} ms",
        slowest.as_secs_f64() * 1e3
    ))
}

/// What is seen on the cables of the nodes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    wireguard: usize,
    /// To or from the coordinator: TLS and STUN.
    coordinator: usize,
    /// ARP, neighbour discovery, multicast: no payload of anybody's.
    link: usize,
    other: Vec<String>,
}

impl Seen {
    fn count(&mut self, packet: &Packet, nodes: &BTreeSet<IpAddr>, coordinator: &BTreeSet<IpAddr>) {
        let Some(ip) = packet.ip() else {
            self.link += 1;
            return;
        };
        let (source, destination) = (ip.source, ip.destination);
        let neighbour_discovery =
            ip.protocol == 58 && ip.payload.first().is_some_and(|kind| (133..=137).contains(kind));
        if destination.is_multicast() || neighbour_discovery {
            self.link += 1;
        } else if coordinator.contains(&source) || coordinator.contains(&destination) {
            self.coordinator += 1;
        } else if nodes.contains(&source) && nodes.contains(&destination) && packet.is_wireguard() {
            self.wireguard += 1;
        } else {
            self.other.push(format!("{source} to {destination}, protocol {}", ip.protocol));
        }
    }
}

fn only_wireguard(mesh: &Mesh, wire: Vec<Capture>) -> Result<String> {
    let (from, to) = (&mesh.nodes[0], &mesh.nodes[mesh.nodes.len() - 1]);
    let inside = from.host.capture_for(&format!("veth-pod-{}", from.name), &[MARKER.as_bytes()])?;
    http_get(&from.pod, SocketAddr::new(to.pod_ips[0], HTTP), PATIENCE)?;
    eventually(PATIENCE, "the marker between node and pod, where it is not sealed", || {
        inside.contains(MARKER.as_bytes()).ok().filter(|seen| *seen)
    })?;

    let nodes = mesh.nodes.iter().flat_map(|node| node.underlay).collect();
    let coordinator = ["203.0.113.10".parse()?, "2001:db8:ff::10".parse()?].into();
    let mut seen = Seen::default();
    for mut capture in wire {
        capture.stop();
        ensure!(!capture.contains(MARKER.as_bytes())?, "the plaintext marker was on the wire");
        capture.packets().iter().for_each(|packet| seen.count(packet, &nodes, &coordinator));
    }
    if let Some(first) = seen.other.first() {
        bail!("{} packets that are not WireGuard, the first from {first}", seen.other.len());
    }
    ensure!(seen.wireguard > 0, "no WireGuard on the wire at all");
    Ok(format!(
        "{} WireGuard messages, {} packets to and from the coordinator, {} of ARP and the like, 0 others; \
         the marker was seen inside and never outside",
        seen.wireguard, seen.coordinator, seen.link
    ))
}

fn throughput(mesh: &Mesh, report: &mut Report) -> Result<String> {
    let (from, to) = (&mesh.nodes[0], &mesh.nodes[mesh.nodes.len() - 1]);
    let sent = stream(&from.pod, &to.pod, SocketAddr::new(to.pod_ips[0], STREAM), Duration::from_secs(2))?;
    let bits = sent.bits_per_second();
    ensure!(bits > 0.0, "not a byte arrived");
    report.throughput = Some(bits);
    Ok(format!("{:.2} Gbit/s, one TCP stream from pod to pod for 2 s", bits / 1e9))
}

/// The node that is cut off.
const REVOKED: usize = 1;

fn revoke(mesh: &Mesh, report: &mut Report) -> Result<String> {
    let (from, to) = (&mesh.nodes[REVOKED], &mesh.nodes[mesh.nodes.len() - 1]);
    let address = SocketAddr::new(to.pod_ips[0], BEACON);
    let beacon = Beacon::start(&from.pod, &to.pod, address, Duration::from_millis(1), MARKER.as_bytes())?;
    eventually(PATIENCE, "datagrams of the node that will be revoked", || {
        (beacon.received() > 100).then_some(())
    })?;
    let commanded = Instant::now();
    let output = mesh.operate(&["revoke", &from.name, "--reason", "demo"])?;
    ensure!(output.status.success(), "carrick revoke: {}", String::from_utf8_lossy(&output.stderr).trim());
    eventually(PATIENCE, "silence of the revoked node", || {
        beacon.last_received().filter(|last| last.elapsed() > SILENCE)
    })?;
    let last = beacon.last_received().context("datagrams had arrived")?;
    let sent = beacon.sent();
    eventually(PATIENCE, "the revoked node's pod to go on sending", || (beacon.sent() > sent).then_some(()))?;
    let delay = last.saturating_duration_since(commanded);
    report.revoke = Some(delay);

    let agent = from.process.as_ref().context("the node was started")?;
    let status = agent.wait(PATIENCE).context("the revoked node's agent should have ended")?;
    ensure!(!status.success(), "the revoked node's agent ended as if nothing had happened");
    let again = from.host.spawn(&from.name, mesh.node_command(REVOKED, None)?)?;
    ensure!(!again.wait(PATIENCE)?.success(), "the revoked node came back with the same keys");
    Ok(format!(
        "{} was silent {:.1} ms after the command, and cannot come back",
        from.name,
        delay.as_secs_f64() * 1e3
    ))
}

fn others_go_on(mesh: &Mesh) -> Result<String> {
    let revoked = &mesh.nodes[REVOKED];
    let others: Vec<_> = mesh.nodes.iter().filter(|node| node.name != revoked.name).collect();
    for from in &others {
        for to in others.iter().filter(|to| to.name != from.name) {
            http_get(&from.pod, SocketAddr::new(to.pod_ips[0], HTTP), PATIENCE)
                .with_context(|| format!("from the pod on {} to the pod on {}", from.name, to.name))?;
        }
        let cut_off =
            http_get(&from.pod, SocketAddr::new(revoked.pod_ips[0], HTTP), Duration::from_millis(300));
        ensure!(cut_off.is_err(), "the pod on {} still reaches the pod on {}", from.name, revoked.name);
    }
    Ok(format!("{} pods still reach each other, and none reaches the pod on {}", others.len(), revoked.name))
}

fn log(mesh: &Mesh) -> Result<String> {
    let verified = mesh.json(&["log", "verify"])?;
    let entries = mesh.json(&["log", "show"])?;
    let entries = entries.as_array().context("the log has no entries")?;
    ensure!(
        verified["entries"] == entries.len(),
        "verified {} of {} entries",
        verified["entries"],
        entries.len()
    );
    let count = |kind: &str| entries.iter().filter(|entry| entry["type"] == kind).count();
    let by_token = |entry: &&Value| entry["type"] == "granted" && entry["token"].is_string();
    let (joined, revoked) = (entries.iter().filter(by_token).count(), count("node-revoked"));
    ensure!(
        (joined, revoked) == (mesh.nodes.len(), 1),
        "{joined} joins and {revoked} revocations are logged"
    );
    Ok(format!(
        "{} decisions verified against the signed head, {joined} joins and the revocation among them",
        entries.len()
    ))
}

fn topology(mesh: &Mesh) -> Result<String> {
    let table = mesh.operate(&["topology"])?;
    ensure!(table.status.success(), "carrick topology: {}", String::from_utf8_lossy(&table.stderr).trim());
    let table = String::from_utf8_lossy(&table.stdout).replace('\n', "\n    ");
    Ok(format!("`carrick topology` shows\n\n    {}", table.trim_end()))
}
