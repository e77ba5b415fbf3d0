//! Datagrams that nobody should have sent.

use std::{
    cell::Cell,
    fs::File,
    hash::{BuildHasher as _, RandomState},
    io::{self, Seek as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use carrick_lab::{Capture, Host, in_lab_for};

use crate::{
    bystanders::{Bystanders, EAST, NEWCOMER, WEST, build},
    support::{PATIENCE, node_of, wait_for},
};

/// The longest datagram that UDP over IPv4 carries.
const LONGEST: usize = 65_507;

/// So many are sent before the traffic is looked at.
const BURST: usize = 256;

/// What a socket holds of one sender without losing anything, in bytes; Linux gives 208 KiB, and counts the longest datagrams
/// twice.
const HALF_A_BUFFER: usize = 60 << 10;

/// More than one test's worth of datagrams.
const LIMIT: Duration = Duration::from_secs(240);

#[test]
fn junk_of_every_length_at_a_node_disturbs_nothing() {
    in_lab_for(LIMIT, |lab| {
        let net = Bystanders::start(lab);
        let attacker = Attacker::of(&net, &net.mesh.nodes[EAST].host, wireguard_of(&net, "east-1"));
        let session = session_of(&net, &attacker);
        for length in 0..=LONGEST {
            // Of no type, of each type in turn, and as data of the very session that is up.
            let junk = &attacker.noise[..length];
            attacker.send(&net, junk);
            attacker.send(&net, &with_head(junk, &[u8::try_from(length % 6).unwrap(), 0, 0, 0]));
            attacker.send(&net, &with_head(junk, &session));
        }
        attacker.assert_was_heard();
        assert_still_between_the_two(&net);
        net.assert_unharmed();
    });
}

#[test]
fn truncated_and_replayed_datagrams_at_a_node_disturb_nothing() {
    in_lab_for(LIMIT, |lab| {
        let mut mesh = build(lab);
        mesh.start_coordinator(&[]).unwrap();
        let (net, wire) = Bystanders::join_watched(mesh);
        let attacker = Attacker::of(&net, &net.mesh.nodes[EAST].host, wireguard_of(&net, "east-1"));
        let real = handshake_and_data(&wire, &attacker);
        drop(wire);
        for datagram in &real {
            for length in 0..=datagram.len() {
                attacker.send(&net, &datagram[..length]);
            }
            for (at, _) in datagram.iter().enumerate() {
                let mut altered = datagram.clone();
                altered[at] ^= 0x80;
                attacker.send(&net, &altered);
            }
        }
        for _ in 0..20 {
            real.iter().for_each(|datagram| attacker.send(&net, datagram));
        }
        attacker.assert_was_heard();
        assert_still_between_the_two(&net);
        net.assert_unharmed();
    });
}

#[test]
fn junk_of_every_length_at_the_coordinator_disturbs_nothing() {
    in_lab_for(LIMIT, |lab| {
        let mut net = Bystanders::start(lab);
        let stun = SocketAddr::new(net.mesh.coordinator_address().ip(), 3478);
        let attacker = Attacker::of(&net, &net.mesh.coordinator_host, stun);
        let request = [&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42], [7; 12].as_slice()].concat();
        for length in 0..=LONGEST {
            attacker.send(&net, &attacker.noise[..length]);
            attacker.send(&net, &with_head(&attacker.noise[..length], &request));
        }
        attacker.assert_was_heard();
        let mut answer = [0; 64];
        attacker.socket.set_read_timeout(Some(PATIENCE)).unwrap();
        wait_for("an answer to the one request that is good", || {
            attacker.socket.send_to(&request, stun).unwrap();
            let (length, from) = attacker.socket.recv_from(&mut answer).ok()?;
            (from == stun && length == 32 && answer[8..20] == [7; 12]).then_some(())
        });
        net.assert_newcomer_is_welcome();
        net.assert_unharmed();
    });
}

/// Somebody who can send, but has no key.
struct Attacker {
    socket: UdpSocket,
    target: SocketAddr,
    noise: Vec<u8>,
    sent: Cell<usize>,
    /// Bytes since the target had read all.
    unread: Cell<usize>,
    victim: Victim,
}

impl Attacker {
    /// On the newcomer's host. The cables take each datagram in one piece: fragments would crowd the queues of the machine, and
    /// with that whatever else runs on it.
    fn of(net: &Bystanders, victim: &Host, target: SocketAddr) -> Self {
        const LARGEST: u32 = 65_535;
        let cables = [NEWCOMER, EAST].map(|node| &net.mesh.nodes[node].link);
        for cable in cables.into_iter().chain([&net.mesh.coordinator_link]) {
            cable.set_mtu(LARGEST).unwrap();
        }
        let socket = net.newcomer().host.udp_bind((Ipv4Addr::UNSPECIFIED, 0).into()).unwrap();
        let random = RandomState::new();
        let noise = (0..LONGEST / 8 + 1).flat_map(|at| random.hash_one(at).to_le_bytes()).collect();
        let victim = Victim::new(victim, target.port());
        Self { socket, target, noise, sent: 0.into(), unread: 0.into(), victim }
    }

    /// Sends, no faster than the target reads, and waits from time to time until the bystanders have heard of each other.
    fn send(&self, net: &Bystanders, datagram: &[u8]) {
        self.socket.send_to(datagram, self.target).unwrap();
        self.sent.set(self.sent.get() + 1);
        // A datagram takes more room than its bytes.
        self.unread.set(self.unread.get() + datagram.len() + 1024);
        if self.unread.get() > HALF_A_BUFFER {
            let start = Instant::now();
            while !self.victim.has_read_all() {
                assert!(start.elapsed() < PATIENCE, "{} is not read any more", self.target);
                thread::yield_now();
            }
            self.unread.set(0);
        }
        if self.sent.get().is_multiple_of(BURST) {
            net.traffic.assert_goes_on();
        }
    }

    /// Asserts that what was sent was read; the kernel may lose some of it when the machine is busy.
    fn assert_was_heard(&self) {
        let (heard, sent) = (self.victim.heard(), self.sent.get());
        assert!(heard > sent - sent / 10, "{heard} of {sent} datagrams");
    }
}

/// The socket that is sent to, as its kernel sees it. The files tell of the host in which they were opened.
struct Victim {
    sockets: File,
    counts: File,
    port: String,
}

impl Victim {
    fn new(host: &Host, port: u16) -> Self {
        let open = |name: &str| host.within(|| File::open(format!("/proc/thread-self/net/{name}")).unwrap());
        Self { sockets: open("udp"), counts: open("snmp"), port: format!(":{port:04X}") }
    }

    /// Whether nothing waits in the socket (proc_pid_net(5), rx_queue).
    fn has_read_all(&self) -> bool {
        let sockets = again(&self.sockets);
        let fields = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let mut listening = fields.filter(|fields| fields[1].ends_with(&self.port));
        listening.all(|fields| fields[4].ends_with(":00000000"))
    }

    /// How many datagrams were read over IPv4 (RFC 4113, udpInDatagrams).
    fn heard(&self) -> usize {
        let counts = again(&self.counts);
        let line = counts.lines().filter(|line| line.starts_with("Udp: ")).nth(1).unwrap();
        line.split(' ').nth(1).unwrap().parse().unwrap()
    }
}

/// The whole file as it is now.
fn again(mut file: &File) -> String {
    file.rewind().unwrap();
    io::read_to_string(file).unwrap()
}

/// Where a node's tunnels end, for somebody with IPv4.
fn wireguard_of(net: &Bystanders, name: &str) -> SocketAddr {
    let node = node_of(&net.mesh, name);
    let endpoints = node["endpoints"].as_array().unwrap().iter();
    let mut endpoints = endpoints.map(|endpoint| endpoint.as_str().unwrap().parse::<SocketAddr>().unwrap());
    endpoints.find(SocketAddr::is_ipv4).unwrap()
}

/// The first bytes of data in the session between the two: type and receiver index.
fn session_of(net: &Bystanders, attacker: &Attacker) -> Vec<u8> {
    let wire = net.mesh.nodes[EAST].host.capture("eth0").unwrap();
    let data =
        wait_for("data on the wire", || to_target(&wire, attacker).into_iter().find(|data| data[0] == 4));
    data[..8].to_vec()
}

/// A handshake message and some data that really were sent to the node.
fn handshake_and_data(wire: &Capture, attacker: &Attacker) -> Vec<Vec<u8>> {
    let mut real = to_target(wire, attacker);
    let (handshakes, data) =
        (real.iter().filter(|data| data[0] < 3), real.iter().filter(|data| data[0] == 4));
    assert!(handshakes.count() > 0 && data.count() > 3, "{} datagrams", real.len());
    real.truncate(6);
    real
}

/// What the other bystander sent to the node.
fn to_target(wire: &Capture, attacker: &Attacker) -> Vec<Vec<u8>> {
    let packets = wire.packets();
    let datagrams = packets.iter().filter_map(|packet| packet.udp());
    datagrams
        .filter(|(_, to, _)| to.port() == attacker.target.port())
        .map(|(_, _, data)| data.to_vec())
        .collect()
}

/// The bytes, which begin with others as far as they are long enough.
fn with_head(bytes: &[u8], head: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.iter_mut().zip(head).for_each(|(byte, head)| *byte = *head);
    bytes
}

/// Asserts that neither node took the attacker for the other: their tunnel ends where it did.
fn assert_still_between_the_two(net: &Bystanders) {
    let ends: Vec<IpAddr> = [EAST, WEST].iter().flat_map(|&node| net.mesh.nodes[node].underlay).collect();
    let links = wait_for("both ends of the tunnel in the topology", || {
        let topology = net.mesh.json(&["topology"]).ok()?;
        Some(topology["links"].as_array()?.clone()).filter(|links| links.len() == 2)
    });
    for link in &links {
        let endpoint: SocketAddr = link["endpoint"].as_str().unwrap().parse().unwrap();
        assert!(ends.contains(&endpoint.ip()), "{endpoint}");
    }
}
