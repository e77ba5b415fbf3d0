//! Two pods in two clusters, and two pods on a path of the same shape without a tunnel, one after the other.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use carrick_lab::{
    Host, Lab, Process, eventually,
    mesh::Mesh,
    traffic::{Stream, ping, stream},
};
use serde::Serialize;

use crate::{machine::Machine, note, table::aligned};

const STREAM_PORT: u16 = 5201;
/// Pings for each round-trip figure of a path without load.
const PINGS: usize = 1000;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    machine: Machine,
    seconds: u64,
    untunnelled: PathFigures,
    tunnel: PathFigures,
    ratios: Ratios,
    memory: Memory,
}

/// One way from pod to pod.
#[derive(Debug, Serialize)]
struct PathFigures {
    /// Of one TCP stream.
    gbit_s: f64,
    /// CPU time of both agents, for 10^9 bytes of the stream; none where there are no agents.
    cpu_s_per_gb: Option<f64>,
    idle: RoundTrips,
    /// While the stream runs.
    loaded: RoundTrips,
}

/// Of ICMP echoes, in microseconds.
#[derive(Debug, Serialize)]
struct RoundTrips {
    count: usize,
    lost: usize,
    p50_us: f64,
    p99_us: f64,
}

/// The tunnel's figure for one of the untunnelled path.
#[derive(Debug, Serialize)]
struct Ratios {
    throughput: f64,
    idle_rtt_p50: f64,
    loaded_rtt_p50: f64,
}

/// Resident memory (`VmRSS`), in MiB; of agents, the largest.
#[derive(Debug, Serialize)]
struct Memory {
    nodes: usize,
    agent_idle: f64,
    agent_after: f64,
    coordinator: f64,
}

/// A way from pod to pod.
struct Way<'a> {
    from: &'a Host,
    to: &'a Host,
    address: IpAddr,
    agents: Vec<&'a Process>,
}

/// Measures both paths, with streams of `seconds`.
pub(crate) fn measure(carrick: &Path, seconds: u64) -> Result<Figures> {
    ensure!(seconds > 0, "a stream takes at least a second");
    let mut lab = Lab::new()?;
    let mut mesh = Mesh::build(&mut lab, carrick, &[("east", 2), ("west", 2)])?;
    let [plain_from, plain_to] = plain_pods(&mut lab, &mesh)?;
    mesh.start()?;
    let agent_idle = largest_agent(&mesh)?;

    note("untunnelled path …");
    let plain = Way { from: &plain_from, to: &plain_to, address: PLAIN_TO.parse()?, agents: Vec::new() };
    let untunnelled = plain.measure(seconds)?;
    note("tunnel …");
    let (from, to) = (&mesh.nodes[0], &mesh.nodes[mesh.nodes.len() - 1]);
    let agents = [from, to].iter().filter_map(|node| node.process.as_ref()).collect();
    let way = Way { from: &from.pod, to: &to.pod, address: to.pod_ips[0], agents };
    let tunnel = way.measure(seconds)?;

    let coordinator = mesh.coordinator.as_ref().context("the coordinator was started")?;
    Ok(Figures {
        machine: Machine::this(),
        seconds,
        ratios: Ratios {
            throughput: tunnel.gbit_s / untunnelled.gbit_s,
            idle_rtt_p50: tunnel.idle.p50_us / untunnelled.idle.p50_us,
            loaded_rtt_p50: tunnel.loaded.p50_us / untunnelled.loaded.p50_us,
        },
        untunnelled,
        tunnel,
        memory: Memory {
            nodes: mesh.nodes.len(),
            agent_idle,
            agent_after: largest_agent(&mesh)?,
            coordinator: mib(coordinator.rss_bytes()?),
        },
    })
}

/// The address of the pod at the far end of the path without a tunnel.
const PLAIN_TO: &str = "10.9.2.10";

/// A pod on a host beside each cluster's nodes, reached by plain routes: pod, host, router, host, pod, as in the mesh.
fn plain_pods(lab: &mut Lab, mesh: &Mesh) -> Result<[Host; 2]> {
    let mut pod = |cluster: usize, address: &str, prefix: &str, pod_address: &str| -> Result<Host> {
        let host = lab.host(&format!("plain-{cluster}"))?;
        lab.attach(&host, &mesh.switches[cluster], "eth0", &[&format!("{address}/24")])?;
        mesh.internet.add_route(prefix, address.parse()?)?;
        Ok(lab.pod(&host, &format!("pod-plain-{cluster}"), &[&format!("{pod_address}/24")])?)
    };
    Ok([
        pod(0, "192.0.2.200", "10.9.1.0/24", "10.9.1.10")?,
        pod(1, "198.51.100.200", "10.9.2.0/24", PLAIN_TO)?,
    ])
}

impl Way<'_> {
    fn measure(&self, seconds: u64) -> Result<PathFigures> {
        eventually(PATIENCE, "a first answer", || {
            ping(self.from, self.address, Duration::from_secs(1)).ok()
        })?;
        let idle = self.ping_until(|count| count == PINGS)?;
        let before = self.cpu_seconds()?;
        let (sent, loaded) = self.stream_with_pings(Duration::from_secs(seconds))?;
        let used = self.cpu_seconds()? - before;
        ensure!(sent.bytes > 0, "not a byte arrived");
        let per_gb = used / (sent.bytes as f64 / 1e9);
        Ok(PathFigures {
            gbit_s: sent.bits_per_second() / 1e9,
            cpu_s_per_gb: (!self.agents.is_empty()).then_some(per_gb),
            idle,
            loaded,
        })
    }

    fn stream_with_pings(&self, duration: Duration) -> Result<(Stream, RoundTrips)> {
        let address = SocketAddr::new(self.address, STREAM_PORT);
        thread::scope(|scope| {
            let sender = scope.spawn(|| stream(self.from, self.to, address, duration));
            // The first moments belong to the stream's slow start.
            thread::sleep(duration / 10);
            let begin = Instant::now();
            let loaded = self.ping_until(|_| sender.is_finished() || begin.elapsed() > duration * 4 / 5)?;
            let sent = sender.join().map_err(|_| anyhow::anyhow!("the stream panicked"))??;
            Ok((sent, loaded))
        })
    }

    fn ping_until(&self, enough: impl Fn(usize) -> bool) -> Result<RoundTrips> {
        let (mut trips, mut lost) = (Vec::new(), 0);
        while !enough(trips.len() + lost) {
            match ping(self.from, self.address, Duration::from_secs(1)) {
                Ok(trip) => trips.push(trip.as_secs_f64() * 1e6),
                Err(_) => lost += 1,
            }
        }
        ensure!(!trips.is_empty(), "no answer to any ping");
        trips.sort_by(f64::total_cmp);
        let percentile = |of_hundred: usize| trips[(trips.len() - 1) * of_hundred / 100];
        Ok(RoundTrips { count: trips.len(), lost, p50_us: percentile(50), p99_us: percentile(99) })
    }

    fn cpu_seconds(&self) -> Result<f64> {
        self.agents.iter().map(|agent| Ok(agent.cpu_seconds()?)).sum()
    }
}

fn largest_agent(mesh: &Mesh) -> Result<f64> {
    let mut largest = 0;
    for process in mesh.nodes.iter().filter_map(|node| node.process.as_ref()) {
        largest = largest.max(process.rss_bytes()?);
    }
    Ok(mib(largest))
}

pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

impl Figures {
    /// For people.
    pub(crate) fn to_table(&self) -> String {
        let (plain, tunnel, ratios) = (&self.untunnelled, &self.tunnel, &self.ratios);
        let cpu =
            |path: &PathFigures| path.cpu_s_per_gb.map_or_else(|| "-".to_owned(), |cpu| format!("{cpu:.1}"));
        let trips = |trips: &RoundTrips| format!("{:.0} / {:.0} µs", trips.p50_us, trips.p99_us);
        let lost = |trips: &RoundTrips| format!("{} of {}", trips.lost, trips.count + trips.lost);
        let rows = [
            ["", "untunnelled", "tunnel", "ratio"].map(str::to_owned),
            [
                "throughput, one TCP stream".to_owned(),
                format!("{:.2} Gbit/s", plain.gbit_s),
                format!("{:.2} Gbit/s", tunnel.gbit_s),
                format!("{:.3}", ratios.throughput),
            ],
            ["CPU s per GB, both agents".to_owned(), cpu(plain), cpu(tunnel), "-".to_owned()],
            [
                "round trip, idle, p50 / p99".to_owned(),
                trips(&plain.idle),
                trips(&tunnel.idle),
                format!("{:.1}", ratios.idle_rtt_p50),
            ],
            [
                "round trip, loaded, p50 / p99".to_owned(),
                trips(&plain.loaded),
                trips(&tunnel.loaded),
                format!("{:.1}", ratios.loaded_rtt_p50),
            ],
            ["pings lost, loaded".to_owned(), lost(&plain.loaded), lost(&tunnel.loaded), "-".to_owned()],
        ];
        let memory = &self.memory;
        format!(
            "{}; streams of {} s\n\n{}\nresident memory: agent {:.1} MiB idle, {:.1} MiB after; coordinator with {} \
             nodes {:.1} MiB",
            self.machine,
            self.seconds,
            aligned(&rows.map(Vec::from)),
            memory.agent_idle,
            memory.agent_after,
            memory.nodes,
            memory.coordinator,
        )
    }
}
