//! A device that seals four flows for four peers, which are at hand and cost next to nothing.
//!
//! This program shakes hands as its peers, each at the end of a cable of its own, and then nobody has ears there any more: the kernel at the
//! other end drops what comes as frames for somebody else, before it looks into them. So the device seals and sends, and opens nothing.

use std::{
    fmt::Write as _,
    iter,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    process, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use carrick_lab::{Host, Lab, Process};

use super::{
    bed,
    case::peer_secret,
    contender::Program,
    cpu,
    flows::{self, Flow, Flows},
    initiators::Initiators,
};

/// So many flows, each to a peer of its own.
const FLOWS: u32 = 4;

/// What is in each datagram, in bytes. With its headers that is a multiple of 16, which is not padded.
const PAYLOAD: usize = 1_380;

/// What a datagram is once it is sealed: with the headers of IPv4 and UDP, and with WireGuard's header and tag.
const MESSAGE: u64 = PAYLOAD as u64 + 28 + 32;

/// The longest measurement: a device sends for 180 s after a handshake.
pub(super) const LONGEST: Duration = Duration::from_secs(120);

const WARM_UP: Duration = Duration::from_millis(700);

/// So often other ports are tried, where a shard has no flow: one time in eight two shards have not.
const DRAWS: usize = 20;

/// A shard that has taken less than this share of what another one has has no flow.
const IDLE: f64 = 0.2;

/// So often a handshake is tried, a second each.
const HANDSHAKES: usize = 10;

/// The device's address in the tunnel; those of its peers follow.
const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// The cables' addresses, of which each has two.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 0);

const PORT: u16 = 51820;

/// Nobody has this one.
const NOBODY: &str = "02:00:5e:00:53:01";

/// What a device has sent, and what that took.
#[derive(Debug)]
pub(super) struct Sent {
    /// Of what is in the datagrams.
    pub(super) gigabits: f64,
    /// CPU time of the device, in seconds for each GB.
    pub(super) cpu: f64,
    /// What each shard took, in cores.
    pub(super) shards: Vec<f64>,
    /// What the load took, in cores.
    pub(super) load: f64,
    /// And what neither the device nor the load did.
    pub(super) others: f64,
}

impl Sent {
    fn between(before: &Look, after: &Look) -> Result<Self> {
        let seconds = (after.at - before.at).as_secs_f64();
        let bytes = (after.datagrams - before.datagrams) as f64 * PAYLOAD as f64;
        ensure!(bytes > 0.0, "the device sent nothing");
        let (device, load) = (after.device - before.device, (after.load - before.load) / seconds);
        let shards =
            after.shards.iter().zip(&before.shards).map(|(after, before)| (after - before) / seconds);
        Ok(Self {
            gigabits: bytes * 8.0 / seconds / 1e9,
            cpu: device / (bytes / 1e9),
            shards: shards.collect(),
            load,
            others: (after.machine.since(before.machine) - device / seconds - load).max(0.0),
        })
    }
}

/// What there is to see at one moment: counts, and CPU time in seconds.
struct Look {
    at: Instant,
    datagrams: u64,
    device: f64,
    shards: Vec<f64>,
    load: f64,
    machine: cpu::Machine,
}

/// A device, and its peers.
pub(super) struct Sender {
    host: Host,
    device: Process,
    shards: u8,
    peers: Vec<Initiators>,
}

impl Sender {
    /// A device with so many shards, which has no sessions yet.
    pub(super) fn new(lab: &mut Lab, program: &Program, shards: u8) -> Result<Self> {
        let program = Program { shards: Some(shards), ..program.clone() };
        let number = lab.hosts().len();
        let (host, far) = (lab.host(&format!("sender-{number}"))?, lab.host(&format!("peers-{number}"))?);
        for flow in 0..FLOWS {
            let [one, other] = cable(flow).map(|address| format!("{address}/31"));
            lab.wire(&host, &port(flow), &[&one], &far, &port(flow), &[&other])?;
        }
        let interface = program.interface(0);
        let device = bed::start(&program, &host, &interface)?;
        let (secret, public) = bed::key(&host)?;
        let own = format!("[Interface]\nPrivateKey = {secret}\nListenPort = {PORT}\n");
        bed::configure(&host, &interface, &(own + &configuration()?))?;
        bed::run(&host, "ip", &["address", "add", &format!("{INSIDE}/24"), "dev", &interface])?;
        bed::run(&host, "ip", &["link", "set", &interface, "mtu", bed::MTU, "up"])?;
        let peer = |flow: u32| {
            let [near, address] = cable(flow);
            let socket = far.udp_bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))?;
            let peer = iter::once((peer_secret(flow), address));
            Initiators::new(socket, SocketAddrV4::new(near, PORT), public.parse()?, peer)
        };
        let peers = (0..FLOWS).map(peer).collect::<Result<_>>()?;
        Ok(Self { host, device, shards, peers })
    }

    /// What it sends, as fast as it can, for so long.
    pub(super) fn measure(&mut self, duration: Duration) -> Result<Sent> {
        ensure!(duration <= LONGEST, "no session lasts so long: {} s at most", LONGEST.as_secs());
        self.shake_hands()?;
        let flows = self.load()?;
        let before = self.look(&flows)?;
        thread::sleep(duration);
        let after = self.look(&flows)?;
        flows.stop()?;
        Sent::between(&before, &after)
    }

    fn look(&self, flows: &Flows) -> Result<Look> {
        Ok(Look {
            at: Instant::now(),
            datagrams: flows.left(),
            device: self.device.cpu_seconds()?,
            shards: self.cpu_of_shards()?,
            load: cpu_of_load()?,
            machine: cpu::Machine::look()?,
        })
    }

    /// Leaves its name to the next one.
    pub(super) fn terminate(self) -> Result<()> {
        self.device.terminate(bed::PATIENCE)?;
        Ok(())
    }

    /// New sessions with all peers, which are deaf from then on.
    fn shake_hands(&mut self) -> Result<()> {
        for (flow, peer) in (0..).zip(&mut self.peers) {
            let [_, far] = cable(flow).map(|address| address.to_string());
            let port = port(flow);
            // Where there was a measurement before. It is found out anew who is there.
            let _ = bed::run(&self.host, "ip", &["neigh", "del", &far, "dev", &port]);
            let completes = |peer: &mut Initiators| peer.round().is_ok_and(|tally| tally.completed > 0);
            ensure!((0..HANDSHAKES).any(|_| completes(peer)), "no handshake with the device");
            let nobody = ["neigh", "replace", &far, "lladdr", NOBODY, "dev", &port, "nud", "permanent"];
            bed::run(&self.host, "ip", &nobody)?;
        }
        Ok(())
    }

    /// Flows of which each shard has one at least. Which queue of the interface a flow is put into, the kernel decides by the flow's ports.
    fn load(&self) -> Result<Flows> {
        for _ in 0..DRAWS {
            let flows = (0..FLOWS).map(|flow| Flow::new(self.socket(flow)?, PAYLOAD, port(flow), MESSAGE));
            let before = self.cpu_of_shards()?;
            let flows = Flows::start(&self.host, flows.collect::<Result<_>>()?)?;
            thread::sleep(WARM_UP);
            let used: Vec<f64> =
                self.cpu_of_shards()?.into_iter().zip(before).map(|(after, before)| after - before).collect();
            if all_work(&used) {
                return Ok(flows);
            }
            flows.stop()?;
        }
        anyhow::bail!("a shard has no flow, whichever ports these have")
    }

    fn socket(&self, flow: u32) -> Result<UdpSocket> {
        let socket = self.host.udp_bind(SocketAddr::from((INSIDE, 0)))?;
        socket.connect((inside(flow), 9))?;
        Ok(socket)
    }

    /// The CPU time of each shard so far, in seconds.
    fn cpu_of_shards(&self) -> Result<Vec<f64>> {
        let threads = cpu::of_threads(self.device.pid())?;
        let of = |shard: u8| threads.get(&format!("shard-{shard}")).copied();
        (0..self.shards)
            .map(|shard| of(shard).with_context(|| format!("there is no shard {shard}")))
            .collect()
    }
}

/// The CPU time of the load so far, in seconds.
fn cpu_of_load() -> Result<f64> {
    let threads = cpu::of_threads(process::id())?;
    threads.get(flows::THREAD).copied().context("there is no load")
}

fn all_work(used: &[f64]) -> bool {
    let most = used.iter().copied().fold(0.0, f64::max);
    used.iter().all(|used| *used > most * IDLE)
}

/// The interface at either end of a flow's cable.
fn port(flow: u32) -> String {
    format!("eth{flow}")
}

/// The addresses at the ends of a flow's cable, the device's first.
fn cable(flow: u32) -> [Ipv4Addr; 2] {
    [0, 1].map(|end| Ipv4Addr::from_bits(OUTSIDE.to_bits() + 2 * flow + end))
}

/// Where a flow goes.
fn inside(flow: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(INSIDE.to_bits() + 1 + flow)
}

/// The peers, as the device is configured with them: where they are it learns from their handshakes.
fn configuration() -> Result<String> {
    let mut configuration = String::new();
    for flow in 0..FLOWS {
        let key = peer_secret(flow).public();
        writeln!(configuration, "[Peer]\nPublicKey = {key}\nAllowedIPs = {}/32", inside(flow))?;
    }
    Ok(configuration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_without_a_flow_shows() {
        assert!(all_work(&[0.6]) && all_work(&[0.6, 0.4]));
        assert!(!all_work(&[0.6, 0.01]) && !all_work(&[0.0, 0.6]) && !all_work(&[0.0, 0.0]));
    }

    #[test]
    fn cables_have_addresses_and_networks_of_their_own() {
        let ends: Vec<u32> = (0..FLOWS).flat_map(cable).map(Ipv4Addr::to_bits).collect();
        assert!(ends.windows(2).all(|pair| pair[1] == pair[0] + 1));
        assert!(ends.chunks(2).all(|pair| pair[0] >> 1 == pair[1] >> 1));
    }

    #[test]
    fn no_datagram_is_padded() {
        assert_eq!((PAYLOAD + 28) % 16, 0);
    }
}
