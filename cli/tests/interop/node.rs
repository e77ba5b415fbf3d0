//! A `carrick node` and `wireguard-go`, configured with `wg`, are peers of each other like any two WireGuard devices.
//!
//! The coordinator knows two nodes. One of them ends, and `wireguard-go` takes its place: on the same host, with its key, its port
//! and its addresses.

use std::{
    env, fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use carrick_lab::{
    Capture, Host, Lab, Process, eventually, in_lab,
    mesh::{Mesh, Node},
    traffic::{HttpServer, http_get, ping, stream},
};
use nix::mount::{MsFlags, mount};
use serde_json::Value;

/// How long a handshake and what follows it may take, lost first attempts included.
const PATIENCE: Duration = Duration::from_secs(40);
/// One attempt.
const ATTEMPT: Duration = Duration::from_secs(1);

const WIREGUARD_PORT: u16 = 51820;
const HTTP: u16 = 8080;
const STREAM: u16 = 5201;

/// WireGuard's device on the host that `wireguard-go` takes over.
const INTERFACE: &str = "wg0";

/// The MTU of WireGuard's device.
const MTU: &str = "1420";

#[test]
fn carrick_initiates_to_wireguard_go_over_ipv4() {
    in_lab(|lab| {
        let pair = Pair::new(lab, Family::V4);
        let wire = pair.capture();
        let _wireguard_go = pair.start_wireguard_go(Endpoint::Unknown);
        pair.ping_from_carrick();
        pair.assert_initiated_by(&wire, &pair.mesh.nodes[CARRICK]);
        pair.assert_every_kind_of_traffic();
        pair.assert_outside_is(&wire, Family::V4);
    });
}

#[test]
fn carrick_initiates_to_wireguard_go_over_ipv6() {
    in_lab(|lab| {
        let pair = Pair::new(lab, Family::V6);
        let wire = pair.capture();
        let _wireguard_go = pair.start_wireguard_go(Endpoint::Unknown);
        pair.ping_from_carrick();
        pair.assert_initiated_by(&wire, &pair.mesh.nodes[CARRICK]);
        pair.assert_every_kind_of_traffic();
        pair.assert_outside_is(&wire, Family::V6);
    });
}

#[test]
fn wireguard_go_initiates_to_carrick_over_ipv4() {
    in_lab(|lab| {
        let pair = Pair::new(lab, Family::V4);
        let wire = pair.capture();
        let _wireguard_go = pair.start_wireguard_go(Endpoint::Known);
        pair.ping_from_wireguard_go();
        pair.assert_initiated_by(&wire, &pair.mesh.nodes[WIREGUARD_GO]);
        pair.assert_every_kind_of_traffic();
        pair.assert_outside_is(&wire, Family::V4);
    });
}

#[test]
fn wireguard_go_initiates_to_carrick_over_ipv6() {
    in_lab(|lab| {
        let pair = Pair::new(lab, Family::V6);
        let wire = pair.capture();
        let _wireguard_go = pair.start_wireguard_go(Endpoint::Known);
        pair.ping_from_wireguard_go();
        pair.assert_initiated_by(&wire, &pair.mesh.nodes[WIREGUARD_GO]);
        pair.assert_every_kind_of_traffic();
        pair.assert_outside_is(&wire, Family::V6);
    });
}

#[test]
fn a_wireguard_go_that_restarts_gets_new_keys_from_carrick_at_once() {
    in_lab(|lab| {
        let pair = Pair::new(lab, Family::V4);
        let first = pair.start_wireguard_go(Endpoint::Known);
        pair.ping_from_wireguard_go();
        first.kill().unwrap();
        let _wireguard_go = pair.start_wireguard_go(Endpoint::Known);
        pair.ping_from_wireguard_go();
        pair.assert_every_kind_of_traffic();
    });
}

#[test]
fn carrick_notices_that_wireguard_go_has_forgotten_its_keys_and_makes_new_ones() {
    in_lab(|lab| {
        let pair = Pair::new(lab, Family::V4);
        let first = pair.start_wireguard_go(Endpoint::Known);
        pair.ping_from_wireguard_go();
        first.kill().unwrap();
        let wire = pair.capture();
        let _wireguard_go = pair.start_wireguard_go(Endpoint::Unknown);
        // WireGuard takes 15 s without an answer (KEEPALIVE_TIMEOUT + REKEY_TIMEOUT) as a reason for a handshake.
        pair.ping_from_carrick();
        pair.assert_initiated_by(&wire, &pair.mesh.nodes[CARRICK]);
        pair.assert_every_kind_of_traffic();
    });
}

/// The index of the node that stays.
const CARRICK: usize = 0;
/// The index of the node whose place `wireguard-go` takes.
const WIREGUARD_GO: usize = 1;

/// The IP version outside the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    const fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// Which of two addresses, IPv4 first.
    const fn pick(self, addresses: [IpAddr; 2]) -> IpAddr {
        match self {
            Self::V4 => addresses[0],
            Self::V6 => addresses[1],
        }
    }
}

/// Whether `wireguard-go` is told where its peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Endpoint {
    Known,
    Unknown,
}

/// A running node on the one host, and on the other what `wireguard-go` needs to take a node's place.
struct Pair {
    mesh: Mesh,
    outside: Family,
    /// Of the running node, from the topology.
    carrick: Peer,
    /// Of the node that ended.
    wireguard_go: Peer,
    _servers: Vec<HttpServer>,
}

/// What the topology says of a node.
struct Peer {
    public_key: String,
    overlay_ips: Vec<IpAddr>,
    prefixes: Vec<String>,
}

impl Pair {
    /// Both hosts speak only `outside` to each other.
    fn new(lab: &mut Lab, outside: Family) -> Self {
        let mut mesh =
            Mesh::build(lab, Path::new(env!("CARGO_BIN_EXE_carrick")), &[("east", 1), ("west", 1)]).unwrap();
        mesh.start_coordinator(&[]).unwrap();
        for index in [CARRICK, WIREGUARD_GO] {
            start_node(&mut mesh, index);
        }
        let [carrick, wireguard_go] = [CARRICK, WIREGUARD_GO].map(|index| known_peer(&mesh, index));
        let leaver = mesh.nodes[WIREGUARD_GO].process.take().unwrap();
        assert!(leaver.terminate(PATIENCE).unwrap().success(), "{}", leaver.output());
        cut_other_family(&mesh.nodes[WIREGUARD_GO], outside);
        // `wireguard-go` is found by a socket in /run, which this test has for itself.
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        let servers = mesh.nodes.iter().flat_map(serve).collect();
        Self { mesh, outside, carrick, wireguard_go, _servers: servers }
    }

    fn host(&self) -> &Host {
        &self.mesh.nodes[WIREGUARD_GO].host
    }

    fn capture(&self) -> Capture {
        self.host().capture("eth0").unwrap()
    }

    fn start_wireguard_go(&self, endpoint: Endpoint) -> Process {
        let mut command = Command::new(wireguard_go());
        command.args(["-f", INTERFACE]).env("LOG_LEVEL", "verbose");
        let process = self.host().spawn("wireguard-go", command).unwrap();
        process.wait_for_line("UAPI listener started", PATIENCE).unwrap();
        let key = self.mesh.nodes[WIREGUARD_GO].state_dir.join("wireguard.key");
        let port = WIREGUARD_PORT.to_string();
        run(
            self.host(),
            "wg",
            &["set", INTERFACE, "listen-port", &port, "private-key", key.to_str().unwrap()],
        );
        run(
            self.host(),
            "wg",
            &["set", INTERFACE, "peer", &self.carrick.public_key, "allowed-ips", &self.allowed_ips()],
        );
        if endpoint == Endpoint::Known {
            let peer = self.outside.pick(self.mesh.nodes[CARRICK].underlay);
            let peer = SocketAddr::new(peer, WIREGUARD_PORT).to_string();
            run(self.host(), "wg", &["set", INTERFACE, "peer", &self.carrick.public_key, "endpoint", &peer]);
        }
        for address in &self.wireguard_go.overlay_ips {
            run(self.host(), "ip", &["address", "add", &address.to_string(), "dev", INTERFACE]);
        }
        run(self.host(), "ip", &["link", "set", INTERFACE, "mtu", MTU, "up"]);
        for prefix in self.allowed_ips().split(',') {
            run(self.host(), "ip", &["route", "add", prefix, "dev", INTERFACE]);
        }
        process
    }

    /// What belongs to the running node, as `wg` reads it.
    fn allowed_ips(&self) -> String {
        let overlay = self.carrick.overlay_ips.iter().map(ToString::to_string);
        overlay.chain(self.carrick.prefixes.iter().cloned()).collect::<Vec<_>>().join(",")
    }

    fn ping_from_carrick(&self) {
        self.eventually_ping(CARRICK, self.wireguard_go.overlay_ips[0]);
    }

    fn ping_from_wireguard_go(&self) {
        self.eventually_ping(WIREGUARD_GO, self.carrick.overlay_ips[0]);
    }

    fn eventually_ping(&self, from: usize, to: IpAddr) {
        let from = &self.mesh.nodes[from];
        let what = format!("an answer of {to} to {}", from.name);
        eventually(PATIENCE, &what, || ping(&from.host, to, ATTEMPT).ok()).unwrap();
    }

    /// HTTP, a TCP stream and pings between the pods, both ways and for both families inside.
    fn assert_every_kind_of_traffic(&self) {
        for (from, to) in [(CARRICK, WIREGUARD_GO), (WIREGUARD_GO, CARRICK)] {
            let (from, to) = (&self.mesh.nodes[from], &self.mesh.nodes[to]);
            for ip in to.pod_ips {
                let answer = http_get(&from.pod, SocketAddr::new(ip, HTTP), PATIENCE).unwrap();
                assert_eq!(answer, body(to));
                ping(&from.pod, ip, ATTEMPT).unwrap();
                let sent =
                    stream(&from.pod, &to.pod, SocketAddr::new(ip, STREAM), Duration::from_millis(200));
                assert!(sent.unwrap().bytes > 1 << 20, "a stream to {ip} of the pod on {} is stuck", to.name);
            }
        }
    }

    fn assert_initiated_by(&self, wire: &Capture, node: &Node) {
        let packets = wire.packets();
        let first =
            packets.iter().filter_map(|packet| packet.udp()).find(|(.., payload)| is_initiation(payload));
        let (source, ..) = first.expect("a handshake initiation on the wire");
        assert!(
            node.underlay.contains(&source.ip()),
            "the first initiation is from {source}, not {}",
            node.name
        );
    }

    fn assert_outside_is(&self, wire: &Capture, family: Family) {
        let packets = wire.packets();
        let data = packets.iter().filter_map(|packet| packet.udp()).filter(|(.., payload)| is_data(payload));
        let families: Vec<Family> = data.map(|(source, ..)| Family::of(source.ip())).collect();
        assert!(families.len() > 100, "{} data messages on the wire", families.len());
        assert!(families.iter().all(|&seen| seen == family), "all data messages are {family:?}");
    }
}

fn start_node(mesh: &mut Mesh, index: usize) {
    let token = mesh.token(&mesh.nodes[index].cluster, 1).unwrap();
    let mut command = mesh.node_command(index, Some(&token)).unwrap();
    command.args(["--listen-port", &WIREGUARD_PORT.to_string()]);
    let node = &mut mesh.nodes[index];
    node.process = Some(node.host.spawn(&node.name, command).unwrap());
    mesh.wait_for_node(index).unwrap();
}

/// A node, once the coordinator knows where it is.
fn known_peer(mesh: &Mesh, index: usize) -> Peer {
    let node = &mesh.nodes[index];
    eventually(PATIENCE, &format!("the endpoints of {} in the topology", node.name), || {
        let topology = mesh.json(&["topology"]).ok()?;
        let found = topology["nodes"].as_array()?.iter().find(|found| found["name"] == node.name.as_str())?;
        let endpoints: Vec<SocketAddr> =
            texts(&found["endpoints"]).iter().filter_map(|e| e.parse().ok()).collect();
        let known = |&ip: &IpAddr| endpoints.contains(&SocketAddr::new(ip, WIREGUARD_PORT));
        node.underlay.iter().all(known).then(|| Peer {
            public_key: found["public_key"].as_str().unwrap().to_owned(),
            overlay_ips: texts(&found["overlay_ips"]).iter().map(|ip| ip.parse().unwrap()).collect(),
            prefixes: texts(&found["prefixes"]),
        })
    })
    .unwrap()
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

fn cut_other_family(node: &Node, keep: Family) {
    let cut = match keep {
        Family::V4 => format!("{}/64", node.underlay[1]),
        Family::V6 => format!("{}/24", node.underlay[0]),
    };
    node.host.del_address("eth0", &cut).unwrap();
}

fn serve(node: &Node) -> Vec<HttpServer> {
    let start = |ip| HttpServer::start(&node.pod, SocketAddr::new(ip, HTTP), body(node)).unwrap();
    node.pod_ips.map(start).into()
}

/// Longer than a packet.
fn body(node: &Node) -> String {
    format!("from the pod on {} ", node.name).repeat(1000)
}

fn is_initiation(payload: &[u8]) -> bool {
    payload.len() == 148 && payload.starts_with(&[1, 0, 0, 0])
}

fn is_data(payload: &[u8]) -> bool {
    payload.starts_with(&[4, 0, 0, 0])
}

fn run(host: &Host, program: &str, arguments: &[&str]) {
    let program = find(program, if program == "wg" { "wireguard-tools" } else { "iproute2" });
    let output = host.command(&program).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} {}: {errors}", program.display(), arguments.join(" "));
}

fn wireguard_go() -> PathBuf {
    env::var_os("CARRICK_WIREGUARD_GO").map_or_else(|| find("wireguard-go", "wireguard-go"), PathBuf::from)
}

/// A program in PATH, or where administrators' programs are.
fn find(program: &str, package: &str) -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let found = directories.map(|directory| directory.join(program)).find(|candidate| is_file(candidate));
    found.unwrap_or_else(|| panic!("{program} is missing: apt-get install {package}"))
}

fn is_file(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file())
}
