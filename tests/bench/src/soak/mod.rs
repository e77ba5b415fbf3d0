//! A mesh of two clusters with two nodes each under traffic, while keys are renewed and the coordinator goes away and comes back.
//!
//! Each of the six pairs of nodes carries one pattern of traffic and nothing else, so that no pattern keeps another one's tunnel
//! awake. See [`start_traffic`] for them. Start at [`run`].

mod conversation;
mod handshakes;
mod outcome;

use std::{
    path::Path,
    sync::{Arc, Barrier},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use carrick_lab::{
    Lab, Process, Signal, eventually,
    mesh::{Mesh, Node},
    traffic::{Beacon, ping},
};

pub(crate) use self::outcome::Outcome;
use self::{
    conversation::{Conversation, Pace},
    handshakes::Handshakes,
    outcome::{Datagrams, Talk},
};
use crate::{machine::Machine, note};

/// How long the nodes may take to be back, after the coordinator is.
const RETURN: Duration = Duration::from_secs(30);
/// How long the coordinator stays away.
const OUTAGE: Duration = Duration::from_secs(10);
/// When the memory at the start is read: when everything has been used once.
const WARM: Duration = Duration::from_secs(10);
/// How often the topology is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How long the last datagrams may take.
const LAST_DATAGRAMS: Duration = Duration::from_secs(2);

const BEACON_PORT: u16 = 7777;
const BEACON_EVERY: Duration = Duration::from_millis(10);
const BEACON_MARKER: &[u8] = b"soak";

const EAST_1: usize = 0;
const EAST_2: usize = 1;
const WEST_1: usize = 2;
const WEST_2: usize = 3;

/// Runs the mesh under traffic for `minutes`.
pub(crate) fn run(carrick: &Path, minutes: u64) -> Result<Outcome> {
    ensure!(minutes > 0, "a soak takes at least a minute");
    let length = Duration::from_secs(minutes * 60);
    let mut lab = Lab::new()?;
    let mut mesh = Mesh::build(&mut lab, carrick, &[("east", 2), ("west", 2)])?;
    mesh.start()?;
    let started = Instant::now();
    let traffic = start_traffic(&mesh)?;
    let mut handshakes = Handshakes::default();
    let mut memory_at_start = None;
    let mut events = events(length).into_iter().peekable();
    while started.elapsed() < length {
        if let Some((_, event)) = events.next_if(|&(at, _)| started.elapsed() >= at) {
            note(&format!("{:4} s: {event:?} the coordinator", started.elapsed().as_secs()));
            event.happen(&mut mesh)?;
        }
        if memory_at_start.is_none() && started.elapsed() >= WARM {
            memory_at_start = Some(memory(&mesh)?);
        }
        if let Ok(topology) = mesh.json(&["topology"]) {
            handshakes.look(&topology);
        }
        thread::sleep(LOOK);
    }
    let all_back = eventually(RETURN, "every node to be online", || all_online(&mesh)).is_ok();
    let (talks, datagrams) = traffic.stop();
    Ok(Outcome {
        machine: Machine::this(),
        minutes,
        talks,
        datagrams,
        handshakes: handshakes.by_link(),
        all_back,
        memory_at_start: memory_at_start.context("the soak was too short to read the memory")?,
        memory_at_end: memory(&mesh)?,
    })
}

/// What happens to the coordinator.
#[derive(Debug, Clone, Copy)]
enum Event {
    Kill,
    Terminate,
    Restart,
}

/// Two outages, each followed by a restart, a third and two thirds of the way.
fn events(length: Duration) -> [(Duration, Event); 4] {
    let (first, second) = (length / 3, length * 2 / 3);
    [
        (first, Event::Kill),
        (first + OUTAGE, Event::Restart),
        (second, Event::Terminate),
        (second + OUTAGE, Event::Restart),
    ]
}

impl Event {
    fn happen(self, mesh: &mut Mesh) -> Result<()> {
        match (self, mesh.coordinator.take()) {
            (Self::Kill, Some(coordinator)) => coordinator.signal(Signal::SIGKILL)?,
            (Self::Terminate, Some(coordinator)) => {
                let status = coordinator.terminate(RETURN)?;
                ensure!(status.success(), "the coordinator did not end well: {status}");
            }
            (Self::Restart, _) | (_, None) => mesh.start_coordinator(&[])?,
        }
        Ok(())
    }
}

fn all_online(mesh: &Mesh) -> Option<()> {
    let topology = mesh.json(&["topology"]).ok()?;
    let nodes = topology["nodes"].as_array()?;
    (nodes.len() == mesh.nodes.len() && nodes.iter().all(|node| node["online"] == true)).then_some(())
}

/// Resident memory in bytes of every process, the coordinator's first.
fn memory(mesh: &Mesh) -> Result<Vec<(String, u64)>> {
    let nodes = mesh.nodes.iter().filter_map(|node| Some((node.name.as_str(), node.process.as_ref()?)));
    let coordinator = mesh.coordinator.iter().map(|process| ("coordinator", process));
    let read = |(name, process): (&str, &Process)| Ok((name.to_owned(), process.rss_bytes()?));
    coordinator.chain(nodes).map(read).collect()
}

/// Everything that is under way.
struct Traffic {
    talks: Vec<(String, Conversation)>,
    beacons: Vec<(String, Beacon)>,
}

/// One pattern for each pair of nodes. Where both ends begin, they begin at the same moment, so that their handshakes cross; their
/// rekeys then are at the same moment, too.
fn start_traffic(mesh: &Mesh) -> Result<Traffic> {
    let busy: &[Pace] = &[Pace::every(Duration::from_millis(2))];
    let now_and_then: &[Pace] = &[Pace::every(Duration::from_secs(3))];
    let mostly_idle: &[Pace] = &[Pace::every(Duration::from_secs(40))];
    // Beyond the life of a session, 180 s.
    let silent: &[Pace] = &[Pace::every(Duration::from_secs(190)), Pace::every(Duration::from_secs(95))];
    let patterns = [
        (EAST_1, WEST_1, 0, "busy", busy),
        (EAST_1, WEST_1, 1, "busy", busy),
        (EAST_1, WEST_2, 0, "every 3 s, both ends", now_and_then),
        (WEST_2, EAST_1, 1, "every 3 s, both ends", now_and_then),
        (EAST_2, WEST_1, 0, "every 40 s", mostly_idle),
        (EAST_2, WEST_1, 1, "every 40 s", mostly_idle),
        (WEST_1, WEST_2, 0, "190 s of silence, both ends", silent),
        (WEST_2, WEST_1, 1, "190 s of silence, both ends", silent),
    ];
    let together = Arc::new(Barrier::new(patterns.len()));
    let mut talks = Vec::new();
    for (port, (from, to, family, what, paces)) in (6000..).zip(patterns) {
        let (from, to) = (&mesh.nodes[from], &mesh.nodes[to]);
        let address = (to.pod_ips[family], port).into();
        let talk = Conversation::start(&from.pod, &to.pod, address, paces.to_vec(), together.clone())?;
        talks.push((describe(what, from, to, family), talk));
    }

    let one_way = |what: &str, from: usize, to: usize, family: usize| -> Result<(String, Beacon)> {
        let (from, to) = (&mesh.nodes[from], &mesh.nodes[to]);
        let address = (to.pod_ips[family], BEACON_PORT).into();
        let beacon = Beacon::start(&from.pod, &to.pod, address, BEACON_EVERY, BEACON_MARKER)?;
        Ok((describe(what, from, to, family), beacon))
    };
    let first = one_way("datagrams, from the initiator", EAST_2, WEST_2, 0)?;
    ping(&mesh.nodes[EAST_1].pod, mesh.nodes[EAST_2].pod_ips[0], RETURN).context("no answer within east")?;
    let second = one_way("datagrams, from the responder", EAST_2, EAST_1, 1)?;
    Ok(Traffic { talks, beacons: vec![first, second] })
}

fn describe(what: &str, from: &Node, to: &Node, family: usize) -> String {
    format!("{} to {}, IPv{}, {what}", from.name, to.name, if family == 0 { 4 } else { 6 })
}

impl Traffic {
    fn stop(self) -> (Vec<Talk>, Vec<Datagrams>) {
        let talks = self.talks.into_iter().map(|(name, talk)| Talk::of(name, talk.stop())).collect();
        let datagrams = |(name, beacon): (String, Beacon)| {
            let sent = beacon.sent();
            let arrived = || {
                (beacon.arrivals().iter().filter(|(number, _)| *number < sent).count() as u64 == sent)
                    .then_some(())
            };
            // Those that are missing after this are lost, and counted.
            let _ = eventually(LAST_DATAGRAMS, "the last datagrams", arrived);
            Datagrams::of(name, sent, &beacon.arrivals())
        };
        (talks, self.beacons.into_iter().map(datagrams).collect())
    }
}
