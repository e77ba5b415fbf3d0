//! The packet path: a few threads that move packets and wait for nothing else.
//!
//! Each shard has some queues of the TUN interface and a socket of each family. The first one has the device, too: it shakes hands, keeps
//! time and does what the control side asks. The others have a forwarder each, which it keeps up to date ([`further`]). Which shard a
//! packet from this host comes to is the kernel's choice, flow by flow; which one a datagram comes to, the index in it says ([`group`]).

mod deadline;
mod drops;
mod first;
mod further;
mod group;
mod path;
mod queues;
mod report;
#[cfg(test)]
mod testing;
mod wake;

use std::{
    collections::BTreeSet,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use carrick_dataplane::{Device, Endpoint, LinkState, Outside};
use carrick_types::{Cidr, WireGuardSecret};
use nix::errno::Errno;
use tokio::sync::{mpsc, oneshot};

pub(crate) use group::SocketGroup;

use crate::{
    plan::Change,
    priority,
    routes::Outgoing,
    shard::{deadline::Deadline, first::First, further::Further, path::Path, report::Reporter, wake::Wake},
    stun,
    tun::Tun,
    uapi,
    udp::UdpSockets,
};

/// The most shards that there are of any use: one for each queue of the interface.
pub const MAX_SHARDS: usize = crate::tun::QUEUES;

/// Commands that may wait.
const COMMANDS: usize = 64;

/// The system's randomness and its wall clock.
struct System;

impl Outside for System {
    fn random(&mut self, buffer: &mut [u8]) {
        getrandom::fill(buffer).expect("the kernel has randomness since it has booted");
    }

    fn wall_clock(&mut self) -> Duration {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
    }
}

/// What the control side asks of the packet path.
#[derive(Debug)]
pub(crate) enum Command {
    /// Set what this node speaks for.
    SetOwn(Vec<Cidr>),
    /// Forget peers, and add or change others.
    ChangePeers(Change),
    /// Whatever is not revised by then, some lease has lapsed in the meantime: nothing passes until the next command of this kind.
    /// `None`: no lease will lapse by itself.
    ReviseBy(Option<Instant>),
    /// Use this key from now on, without losing a packet.
    Rotate(WireGuardSecret),
    /// Tell the state of every tunnel.
    Links(oneshot::Sender<Vec<LinkState>>),
    /// Make the device what an administrator wants.
    Configure(uapi::Set, oneshot::Sender<Result<(), Errno>>),
    /// Tell an administrator of the device.
    Describe(uapi::Question, oneshot::Sender<uapi::About>),
    /// The interface of a device was brought up, or taken down.
    SetUp(bool),
    /// The interface has another MTU.
    SetMtu(u16),
    /// Tell where datagrams go from a certain address.
    Outgoing(oneshot::Sender<Outgoing>),
    /// Send to these places from wherever the routing table says.
    ForgetSources(BTreeSet<Endpoint>),
    /// Ask a STUN server where datagrams come from.
    Stun { server: SocketAddr, transaction: stun::Transaction },
    /// End.
    Stop,
}

/// A way to the packet path, for as many as need one.
#[derive(Debug, Clone)]
pub(crate) struct Commands {
    commands: SyncSender<Command>,
    wake: Wake,
}

/// The control side's handle on the packet path.
#[derive(Debug)]
pub(crate) struct Shards {
    commands: Commands,
    thread: Option<JoinHandle<()>>,
    /// The addresses that STUN servers saw.
    pub(crate) observed: mpsc::Receiver<SocketAddr>,
}

/// The packet path has ended.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the packet path has ended")]
pub(crate) struct Ended;

impl Commands {
    /// Hands a command over. Waits only while [`COMMANDS`] others are waiting.
    pub(crate) async fn send(&self, command: Command) -> Result<(), Ended> {
        let mut command = command;
        loop {
            match self.commands.try_send(command) {
                Ok(()) => break,
                Err(TrySendError::Disconnected(_)) => return Err(Ended),
                Err(TrySendError::Full(back)) => command = back,
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.wake.call();
        Ok(())
    }
}

impl Shards {
    /// Starts the threads for a node of a mesh. The receiver is told why when they end by themselves.
    pub(crate) fn start(
        secret: &WireGuardSecret,
        mtu: u16,
        tun: Tun,
        sockets: UdpSockets,
        shards: usize,
    ) -> io::Result<(Self, oneshot::Receiver<io::Error>)> {
        Self::run(Device::new(secret, System), mtu, tun, SocketGroup::new(sockets, shards)?)
    }

    /// Starts the threads for a device without a mesh, whose interface is down as far as is known. These sockets show how many shards there
    /// can be, and are closed until it is up.
    pub(crate) fn start_stand_alone(
        mtu: u16,
        tun: Tun,
        sockets: UdpSockets,
        shards: usize,
    ) -> io::Result<(Self, oneshot::Receiver<io::Error>)> {
        let group = SocketGroup::new(sockets, shards)?.closed(0, 0);
        Self::run(Device::stand_alone(System), mtu, tun, group)
    }

    fn run(
        mut device: Device,
        mtu: u16,
        tun: Tun,
        group: SocketGroup,
    ) -> io::Result<(Self, oneshot::Receiver<io::Error>)> {
        let (commands, receiver) = sync_channel(COMMANDS);
        let (fail, failure) = oneshot::channel();
        let (observe, observed) = mpsc::channel(8);
        device.set_mtu(mtu);
        device.set_udp_segments(tun.takes_udp_segments());
        let (tun, deadline, wake) = (Arc::new(tun), Arc::new(Deadline::default()), Wake::new()?);
        let shards = group.shards();
        let path = |shard: usize, wake: &Wake| {
            let queues = (shard..tun.queues()).step_by(shards);
            Path::new(tun.clone(), queues, group.of(shard), wake.clone())
        };
        let first_path = path(0, &wake)?;
        let (words, listener) = report::reports();
        let mut others = Vec::new();
        for shard in 1..shards {
            let own_wake = Wake::new()?;
            let path = path(shard, &own_wake)?;
            let reporter = Reporter::new(words.clone(), wake.clone());
            others.push(Further::start(shard, device.fork(), path, own_wake, deadline.clone(), reporter)?);
        }
        let mut first = First::new(device, first_path, group, receiver, observe, deadline, others, listener);
        let run = move || {
            if let Err(error) = first.run() {
                // The other side may be gone already.
                let _ = fail.send(error);
            }
        };
        let thread = spawn(0, run)?;
        Ok((Self { commands: Commands { commands, wake }, thread: Some(thread), observed }, failure))
    }

    /// Another way to the packet path.
    pub(crate) fn commands(&self) -> Commands {
        self.commands.clone()
    }

    /// See [`Commands::send`].
    pub(crate) async fn command(&self, command: Command) -> Result<(), Ended> {
        self.commands.send(command).await
    }

    /// The state of every tunnel.
    pub(crate) async fn links(&self) -> Result<Vec<LinkState>, Ended> {
        let (answer, links) = oneshot::channel();
        self.command(Command::Links(answer)).await?;
        links.await.map_err(|_| Ended)
    }

    /// Ends the threads; the interface is gone when this returns.
    pub(crate) async fn stop(mut self) {
        // Where the first one ends already, so do the others.
        let _ = self.command(Command::Stop).await;
        if let Some(thread) = self.thread.take() {
            let _ = tokio::task::spawn_blocking(|| thread.join()).await;
        }
    }
}

fn spawn(shard: usize, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    let run = || {
        priority::raise();
        run();
    };
    thread::Builder::new().name(format!("shard-{shard}")).spawn(run)
}
