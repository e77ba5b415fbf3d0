//! From the call that revokes a node to the last datagram that each of its peers gets of it, and that it gets of each of them.
//!
//! Every peer sends to the node and the node sends to every peer, all the time. Whoever is revoked joins again, with new keys, and
//! the next round revokes another. Two scenes: everybody hears the coordinator; and, with leases of one second, the revoked node and
//! half of its peers do not hear it any more, so that nothing but their own clocks ends what they do.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use carrick_lab::{
    Lab, eventually,
    mesh::{Mesh, Node},
    traffic::Beacon,
};
use carrick_types::LeaseProfile;
use serde::Serialize;

use crate::{machine::Machine, note, operator::Operator, spread::Spread, table::aligned};

/// The pace of each stream of datagrams.
const EVERY: Duration = Duration::from_millis(10);
/// A stream in which nothing has arrived for so long has ended: longer than a strict lease.
const QUIET: Duration = Duration::from_millis(2500);
/// How long anything here may take that is not measured.
const PATIENCE: Duration = Duration::from_secs(60);
/// Gateways that nobody answers at, in the coordinator's subnets: what is routed there is lost.
const NOWHERE: [&str; 2] = ["203.0.113.250", "2001:db8:ff::250"];

/// What was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    machine: Machine,
    nodes: usize,
    rounds: usize,
    every_ms: f64,
    scenes: Vec<Scene>,
}

/// What was measured in one scene. All in milliseconds from the call.
#[derive(Debug, Serialize)]
struct Scene {
    name: &'static str,
    lease: LeaseProfile,
    /// When the coordinator had answered the call.
    answered_ms: Spread,
    /// The last datagram of each stream, of those peers that hear the coordinator.
    hearing_ms: Spread,
    /// The same of those that do not.
    cut_off_ms: Option<Spread>,
    /// By peer, then by direction.
    peers: BTreeMap<String, Peer>,
}

#[derive(Debug, Serialize)]
struct Peer {
    /// The last datagram that the peer got of the node.
    to_peer_ms: Spread,
    /// The last datagram that the node got of the peer.
    from_peer_ms: Spread,
}

/// The last datagram of one stream.
struct Last {
    peer: String,
    to_peer: bool,
    cut_off: bool,
    ms: f64,
}

/// Who hears the coordinator when a node is revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hearing {
    All,
    /// Neither the node, nor every other one of its peers.
    Half,
}

/// Measures both scenes, with so many revocations each.
pub(crate) fn measure(carrick: &Path, nodes: u8, rounds: usize) -> Result<Figures> {
    ensure!(rounds > 0, "nothing is measured in no rounds");
    let mut lab = Lab::new()?;
    let east = nodes / 2;
    let mut mesh = Mesh::build(&mut lab, carrick, &[("east", east), ("west", nodes - east)])?;
    mesh.start()?;
    let operator = Operator::of(&mesh)?;
    let mut scenes = Vec::new();
    for (name, lease, hearing) in [
        ("everybody hears the coordinator", LeaseProfile::Available, Hearing::All),
        ("everybody hears the coordinator", LeaseProfile::Strict, Hearing::All),
        ("the node and half of its peers do not", LeaseProfile::Strict, Hearing::Half),
    ] {
        operator.set_lease(lease)?;
        mesh.settle()?;
        let mut scene = Samples::default();
        for round in 0..rounds {
            note(&format!("{name}, {lease:?}: {} of {rounds} …", round + 1));
            scene.round(&mut mesh, &operator, round % usize::from(nodes), hearing)?;
        }
        scenes.push(scene.into_scene(name, lease)?);
    }
    Ok(Figures {
        machine: Machine::this(),
        nodes: mesh.nodes.len(),
        rounds,
        every_ms: EVERY.as_secs_f64() * 1000.0,
        scenes,
    })
}

#[derive(Default)]
struct Samples {
    answered: Vec<f64>,
    lasts: Vec<Last>,
}

impl Samples {
    fn round(&mut self, mesh: &mut Mesh, operator: &Operator, chosen: usize, hearing: Hearing) -> Result<()> {
        let streams = start_streams(mesh, chosen)?;
        let cut_off: Vec<usize> = match hearing {
            Hearing::All => Vec::new(),
            Hearing::Half => (0..mesh.nodes.len()).filter(|index| index.abs_diff(chosen) % 2 == 0).collect(),
        };
        for &index in &cut_off {
            set_deaf(mesh, &mesh.nodes[index], true)?;
        }
        let since = Instant::now();
        operator.revoke(&mesh.nodes[chosen].name)?;
        self.answered.push(millis(since.elapsed()));
        eventually(PATIENCE, "every stream of the revoked node to end", || {
            let last = streams.iter().filter_map(|stream| stream.beacon.last_received()).max();
            (since.elapsed() > QUIET && last?.elapsed() > QUIET).then_some(())
        })?;
        for stream in &streams {
            let last = stream.beacon.last_received().context("a stream never began")?;
            self.lasts.push(Last {
                peer: mesh.nodes[stream.peer].name.clone(),
                to_peer: stream.to_peer,
                cut_off: cut_off.contains(&stream.peer),
                ms: millis(last.saturating_duration_since(since)),
            });
        }
        drop(streams);
        for &index in &cut_off {
            set_deaf(mesh, &mesh.nodes[index], false)?;
        }
        rejoin(mesh, chosen)
    }

    fn into_scene(self, name: &'static str, lease: LeaseProfile) -> Result<Scene> {
        let spread = |which: &dyn Fn(&&Last) -> bool| {
            let samples: Vec<f64> = self.lasts.iter().filter(which).map(|last| last.ms).collect();
            Spread::of(&samples)
        };
        let mut peers = BTreeMap::new();
        for last in &self.lasts {
            let of = |to_peer| {
                spread(&|other| other.peer == last.peer && other.to_peer == to_peer).context("no sample")
            };
            if !peers.contains_key(&last.peer) {
                peers.insert(last.peer.clone(), Peer { to_peer_ms: of(true)?, from_peer_ms: of(false)? });
            }
        }
        Ok(Scene {
            name,
            lease,
            answered_ms: Spread::of(&self.answered).context("no round")?,
            hearing_ms: spread(&|last| !last.cut_off).context("no peer hears the coordinator")?,
            cut_off_ms: spread(&|last| last.cut_off),
            peers,
        })
    }
}

/// One way between a peer and the node that is revoked.
struct Stream {
    peer: usize,
    to_peer: bool,
    beacon: Beacon,
}

/// Starts both ways with every peer, and waits until all of them flow.
fn start_streams(mesh: &Mesh, chosen: usize) -> Result<Vec<Stream>> {
    let node = &mesh.nodes[chosen];
    let mut streams = Vec::new();
    for (peer, other) in mesh.nodes.iter().enumerate().filter(|(peer, _)| *peer != chosen) {
        for (to_peer, from, to) in [(true, node, other), (false, other, node)] {
            let address = SocketAddr::new(to.pod_ips[0], 0);
            let beacon = Beacon::start(&from.pod, &to.pod, address, EVERY, b"revoke")?;
            streams.push(Stream { peer, to_peer, beacon });
        }
    }
    for Stream { beacon, .. } in &streams {
        let sent = beacon.sent();
        let newest = || beacon.arrivals().last().filter(|(number, _)| *number > sent).copied();
        eventually(PATIENCE, "a stream to flow", newest)?;
    }
    Ok(streams)
}

/// Lets what the coordinator sends to a node get lost, or arrive again.
fn set_deaf(mesh: &Mesh, node: &Node, deaf: bool) -> Result<()> {
    for (address, nowhere) in node.underlay.iter().zip(NOWHERE) {
        let destination = format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 });
        let host = &mesh.coordinator_host;
        if deaf {
            host.add_route(&destination, nowhere.parse()?)?;
        } else {
            host.del_route(&destination, nowhere.parse()?)?;
        }
    }
    Ok(())
}

/// The node comes back as a new one.
fn rejoin(mesh: &mut Mesh, index: usize) -> Result<()> {
    if let Some(process) = mesh.nodes[index].process.take() {
        // It has ended by itself, unless it did not hear that it was revoked.
        process.terminate(PATIENCE)?;
    }
    let node = &mesh.nodes[index];
    fs::remove_dir_all(&node.state_dir)
        .with_context(|| format!("cannot empty {}", node.state_dir.display()))?;
    let token = mesh.token(&node.cluster, 1)?;
    mesh.start_node(index, Some(&token))?;
    mesh.wait_for_node(index)?;
    eventually(PATIENCE, "the mesh to be whole again", || mesh.settle().ok())?;
    Ok(())
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

impl Figures {
    /// For people.
    pub(crate) fn to_table(&self) -> String {
        let cell = |ms: f64| format!("{ms:.0} ms");
        let head = |what: &str| vec![what.to_owned(), "p50".to_owned(), "p99".to_owned(), "max".to_owned()];
        let row = |what: String, spread: &Spread| [vec![what], spread.cells(cell).to_vec()].concat();
        let mut text = format!(
            "{}; {} nodes, {} revocations a scene, a datagram every {:.0} ms each way\n",
            self.machine, self.nodes, self.rounds, self.every_ms
        );
        for scene in &self.scenes {
            let name = format!("{}, lease of {} s", scene.name, scene.lease.lease().as_secs());
            let mut rows = vec![head(&name), row("the call is answered".to_owned(), &scene.answered_ms)];
            rows.push(row(format!("last datagram, {} streams", scene.hearing_ms.count), &scene.hearing_ms));
            if let Some(cut_off) = &scene.cut_off_ms {
                rows.push(row(format!("the same, cut off, {} streams", cut_off.count), cut_off));
            }
            for (peer, figures) in &scene.peers {
                rows.push(row(format!("  at {peer}"), &figures.to_peer_ms));
                rows.push(row(format!("  from {peer}"), &figures.from_peer_ms));
            }
            text = format!("{text}\n{}", aligned(&rows));
        }
        text
    }
}
