//! From the start of `carrick node` on a host that never was a member to the first datagram that a peer gets of it.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use carrick_lab::{Certified, Lab, Swtpm, eventually, mesh::Mesh, traffic::Beacon};
use clap::ValueEnum;
use serde::Serialize;

use crate::{machine::Machine, note, operator::Operator, spread::Spread, table::aligned};

/// The pace of the datagrams of which the first that arrives counts: they are sent from before the node starts.
const EVERY: Duration = Duration::from_millis(2);
/// How long a node may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The node that joins, and the peer.
const NODE: usize = 0;
const PEER: usize = 1;

/// What the node shows of itself.
#[derive(Debug, Clone, Copy, Default, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Shown {
    /// A join token
    #[default]
    Token,
    /// A join token, and a TPM 2.0: swtpm, an RSA endorsement key and an ECC attestation key
    Tpm,
}

/// What was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    machine: Machine,
    shown: Shown,
    first_datagram_ms: Spread,
    /// One a round, in their order.
    each_ms: Vec<f64>,
}

/// Lets one node after the other join.
pub(crate) fn measure(carrick: &Path, shown: Shown, rounds: usize) -> Result<Figures> {
    ensure!(rounds > 0, "nothing is measured in no rounds");
    let mut lab = Lab::new()?;
    let mut mesh = Mesh::build(&mut lab, carrick, &[("east", 1), ("west", 1)])?;
    mesh.start_coordinator(&[])?;
    let operator = Operator::of(&mesh)?;
    let token = mesh.token("west", 1)?;
    mesh.start_node(PEER, Some(&token))?;
    mesh.settle()?;
    // It runs for as long as it is held.
    let (_tpm, arguments) = match shown {
        Shown::Token => (None, Vec::new()),
        Shown::Tpm => {
            let tpm = Swtpm::make(&mesh.directory().join("tpm"), Certified::Rsa)?;
            operator.ask_for_tpms("east".parse()?, tpm.roots()?)?;
            let arguments = vec!["--tpm".to_owned(), tpm.tcti()];
            (Some(tpm), arguments)
        }
    };
    let mut each_ms = Vec::new();
    for round in 0..rounds {
        let elapsed = join(&mut mesh, &arguments)?;
        note(&format!("{} of {rounds}: {:.0} ms", round + 1, elapsed.as_secs_f64() * 1000.0));
        each_ms.push(elapsed.as_secs_f64() * 1000.0);
        leave(&mut mesh, &operator)?;
    }
    let first_datagram_ms = Spread::of(&each_ms).context("no round")?;
    Ok(Figures { machine: Machine::this(), shown, first_datagram_ms, each_ms })
}

/// Starts the node with some more arguments.
fn join(mesh: &mut Mesh, arguments: &[String]) -> Result<Duration> {
    let token = mesh.token("east", 1)?;
    let mut command = mesh.node_command(NODE, Some(&token))?;
    command.args(arguments);
    let (node, peer) = (&mesh.nodes[NODE], &mesh.nodes[PEER]);
    let address = SocketAddr::new(peer.pod_ips[0], 0);
    let beacon = Beacon::start(&node.pod, &peer.pod, address, EVERY, b"join")?;
    let since = Instant::now();
    let process = node.host.spawn(&node.name, command)?;
    let first = eventually(PATIENCE, "the first datagram at the peer", || beacon.arrivals().first().copied());
    let (_, at) = first.with_context(|| process.output())?;
    mesh.nodes[NODE].process = Some(process);
    Ok(at.saturating_duration_since(since))
}

/// The node goes, so that another one can come in its place.
fn leave(mesh: &mut Mesh, operator: &Operator) -> Result<()> {
    if let Some(process) = mesh.nodes[NODE].process.take() {
        process.terminate(PATIENCE)?;
    }
    let node = &mesh.nodes[NODE];
    operator.revoke(&node.name)?;
    fs::remove_dir_all(&node.state_dir)
        .with_context(|| format!("cannot empty {}", node.state_dir.display()))?;
    Ok(mesh.settle()?)
}

impl Figures {
    /// For people.
    pub(crate) fn to_table(&self) -> String {
        let name = format!("start to first datagram, {} joins, {:?}", self.each_ms.len(), self.shown);
        let head = [name.as_str(), "p50", "p99", "max"].map(str::to_owned).to_vec();
        let cells = self.first_datagram_ms.cells(|ms| format!("{ms:.0} ms")).to_vec();
        format!("{}\n\n{}", self.machine, aligned(&[head, [vec![String::new()], cells].concat()]))
    }
}
