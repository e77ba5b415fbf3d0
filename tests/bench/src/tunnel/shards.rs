//! What a second shard brings: one device that sends four flows, and whose other end costs next to nothing.
//!
//! With both ends of a tunnel and the load on two cores, one shard at each end fills them, and two can win nothing. So there is one device here.
//! This program shakes hands as its peers, one for each flow at the end of a cable of its own, and then has no ears any more: the kernel
//! at the other end drops what comes as frames for somebody else, before it looks into them. Sessions last longer than the measurement.

use std::{
    fmt::Write as _,
    fs, iter,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use carrick_lab::{Host, Lab, Process};

use super::{
    bed::{self, Bed},
    case::{Measured, peer_secret},
    contender::Program,
    flows::{Flows, PAYLOAD},
    initiators::Initiators,
};

/// So many flows, each to a peer of its own.
const FLOWS: u32 = 4;

/// The device sends for 180 s after a handshake.
const LONGEST: Duration = Duration::from_secs(120);

const WARM_UP: Duration = Duration::from_millis(700);

/// The device's address in the tunnel; those of its peers follow.
const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// The cables' addresses, of which each has two.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 0);

const PORT: u16 = 51820;

/// Nobody has this one.
const NOBODY: &str = "02:00:5e:00:53:01";

/// So many datagrams show whose a flow is.
const PROBES: u32 = 10;

/// Between two of them a shard goes to sleep.
const PROBE_PAUSE: Duration = Duration::from_millis(2);

/// So many ports are tried for a flow: at each, it is of the wanted one of two shards half of the time.
const PORTS: usize = 64;

pub(super) fn measure(lab: &mut Lab, bed: &Bed, duration: Duration) -> Result<Measured> {
    ensure!(duration <= LONGEST, "no session lasts so long: {} s at most", LONGEST.as_secs());
    let program = bed.program().context("a cable has no shards")?;
    let one = Sender::new(lab, program, 1)?.measure(duration)?;
    let two = Sender::new(lab, program, 2)?.measure(duration)?;
    Ok(vec![
        ("one, Gbit/s", one.gigabits),
        ("one, CPU s per GB, device", one.cpu),
        ("two, Gbit/s", two.gigabits),
        ("two, CPU s per GB, device", two.cpu),
        ("two for one", two.gigabits / one.gigabits),
    ])
}

/// What a device sent.
struct Sent {
    gigabits: f64,
    /// Seconds for each GB.
    cpu: f64,
}

/// A device with sessions of which it will only send.
struct Sender {
    host: Host,
    device: Process,
    shards: u8,
}

impl Sender {
    fn new(lab: &mut Lab, program: &Program, shards: u8) -> Result<Self> {
        let program = Program { shards: Some(shards), ..program.clone() };
        let number = lab.hosts().len();
        let (host, other) = (lab.host(&format!("sender-{number}"))?, lab.host(&format!("peers-{number}"))?);
        for flow in 0..FLOWS {
            let [near, far] = cable(flow).map(|address| format!("{address}/31"));
            lab.wire(&host, &port(flow), &[&near], &other, &port(flow), &[&far])?;
        }
        let interface = program.interface(0);
        let device = bed::start(&program, &host, &interface)?;
        let (secret, public) = bed::key(&host)?;
        let own = format!("[Interface]\nPrivateKey = {secret}\nListenPort = {PORT}\n");
        bed::configure(&host, &interface, &(own + &peers()?))?;
        bed::run(&host, "ip", &["address", "add", &format!("{INSIDE}/24"), "dev", &interface])?;
        bed::run(&host, "ip", &["link", "set", &interface, "mtu", bed::MTU, "up"])?;
        for flow in 0..FLOWS {
            let [near, far] = cable(flow);
            let socket = other.udp_bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))?;
            let peer = iter::once((peer_secret(flow), far));
            let mut initiator =
                Initiators::new(socket, SocketAddrV4::new(near, PORT), public.parse()?, peer)?;
            let tally = initiator.round()?;
            ensure!(tally.completed == tally.sent, "no handshake with the device");
            let far = far.to_string();
            let neighbour =
                ["neigh", "replace", &far, "lladdr", NOBODY, "dev", &port(flow), "nud", "permanent"];
            bed::run(&host, "ip", &neighbour)?;
        }
        Ok(Self { host, device, shards })
    }

    fn measure(self, duration: Duration) -> Result<Sent> {
        let flows = Flows::start(&self.host, self.flows()?)?;
        thread::sleep(WARM_UP);
        let (begin, before, cpu) = (Instant::now(), flows.sent(), self.device.cpu_seconds()?);
        thread::sleep(duration);
        let (seconds, after, cpu) =
            (begin.elapsed().as_secs_f64(), flows.sent(), self.device.cpu_seconds()? - cpu);
        flows.stop()?;
        self.device.terminate(bed::PATIENCE)?;
        ensure!(after > before, "the device sent nothing");
        let bytes = (after - before) as f64 * PAYLOAD as f64;
        Ok(Sent { gigabits: bytes * 8.0 / seconds / 1e9, cpu: cpu / (bytes / 1e9) })
    }

    /// A socket for each flow, and its cable. Each shard has as many of them: which queue of the interface a flow is put into is up to
    /// the kernel and to the flow's ports, so that those are chosen which make it so.
    fn flows(&self) -> Result<Vec<(UdpSocket, String)>> {
        let of = |flow: u32| {
            let wanted = flow as usize % usize::from(self.shards);
            let candidates = iter::repeat_with(|| self.flow(flow)).take(PORTS);
            for socket in candidates {
                let socket = socket?;
                if self.shards == 1 || self.shard_of(&socket)? == Some(wanted) {
                    return Ok((socket, port(flow)));
                }
            }
            anyhow::bail!("none of {PORTS} flows comes to shard {wanted}")
        };
        (0..FLOWS).map(of).collect()
    }

    fn flow(&self, flow: u32) -> Result<UdpSocket> {
        let socket = self.host.udp_bind(SocketAddr::from((INSIDE, 0)))?;
        socket.connect((inside(flow), 9))?;
        Ok(socket)
    }

    /// Which shard takes what is sent here: the one that goes to sleep after it each time.
    fn shard_of(&self, socket: &UdpSocket) -> Result<Option<usize>> {
        let before = self.sleeps()?;
        for _ in 0..PROBES {
            socket.send(&[0; 64])?;
            thread::sleep(PROBE_PAUSE);
        }
        let more = self.sleeps()?.into_iter().zip(before).map(|(after, before)| after.saturating_sub(before));
        Ok(clearly_most(&more.collect::<Vec<_>>()))
    }

    /// How often each shard has gone to sleep so far.
    fn sleeps(&self) -> Result<Vec<u64>> {
        let mut sleeps = Vec::new();
        for task in fs::read_dir(format!("/proc/{}/task", self.device.pid()))? {
            let directory = task?.path();
            let name = fs::read_to_string(directory.join("comm"))?;
            if let Some(shard) = name.trim().strip_prefix("shard-") {
                let status = fs::read_to_string(directory.join("status"))?;
                let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
                let count = count.context("the kernel does not count switches")?.trim().parse()?;
                sleeps.push((shard.parse::<usize>()?, count));
            }
        }
        sleeps.sort_unstable();
        ensure!(sleeps.len() == usize::from(self.shards), "the device has {} shards", sleeps.len());
        Ok(sleeps.into_iter().map(|(_, count)| count).collect())
    }
}

/// The position of what is at least twice as much as any other.
fn clearly_most(counts: &[u64]) -> Option<usize> {
    let (most, count) = counts.iter().enumerate().max_by_key(|(_, count)| **count)?;
    let is_clear = counts.iter().enumerate().all(|(other, less)| other == most || less * 2 <= *count);
    (is_clear && *count > 0).then_some(most)
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
fn peers() -> Result<String> {
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
    fn a_flow_is_of_the_shard_that_wakes_for_it() {
        assert_eq!(clearly_most(&[2, 10]), Some(1));
        assert_eq!(clearly_most(&[10, 5]), Some(0));
        assert_eq!(clearly_most(&[10, 6]), None);
        assert_eq!(clearly_most(&[0, 0]), None);
    }

    #[test]
    fn cables_have_addresses_and_networks_of_their_own() {
        let ends: Vec<u32> = (0..FLOWS).flat_map(cable).map(Ipv4Addr::to_bits).collect();
        assert!(ends.windows(2).all(|pair| pair[1] == pair[0] + 1));
        assert!(ends.chunks(2).all(|pair| pair[0] >> 1 == pair[1] >> 1));
    }
}
