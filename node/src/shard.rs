//! The packet path: one thread that owns the device, the TUN interface and both sockets, and never waits for anything else.
//!
//! Control reaches it through a bounded channel and an eventfd, before the next packet is looked at.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    ops::ControlFlow,
    os::fd::AsFd as _,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use carrick_dataplane::{Device, LinkState, Outside};
use carrick_types::{Cidr, WireGuardSecret};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::{EfdFlags, EventFd},
};
use tokio::sync::{mpsc, oneshot};

use crate::{
    moderation::{Moderation, PAUSE},
    plan::Change,
    priority,
    readiness::{Readiness, Source},
    stun,
    tun::Tun,
    uapi,
    udp::{self, Received, UdpSockets},
};

/// So many reads of one socket, or of the interface, are a turn.
const TURN_READS: usize = 64;

/// So many bytes end a turn. A turn this long takes some 0.1 ms.
const TURN_BYTES: usize = 100_000;

/// So many packets are read from one queue before the next one has its turn.
const PACKETS_AT_ONCE: usize = 16;

/// And so many bytes.
const BYTES_AT_ONCE: usize = 30_000;

/// So many bytes are sent before more packets are looked at.
const SEND_AT_ONCE: usize = 60_000;

/// Room for the longest packet behind its header, and for as many datagrams as the kernel gives at once.
const BUFFER: usize = 65_536 + 64;

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
    /// The interface has another MTU.
    SetMtu(u16),
    /// Ask a STUN server where datagrams come from.
    Stun { server: SocketAddr, transaction: stun::Transaction },
    /// End.
    Stop,
}

/// A way to the packet path, for as many as need one.
#[derive(Debug, Clone)]
pub(crate) struct Commands {
    commands: SyncSender<Command>,
    wake: Arc<EventFd>,
}

/// The control side's handle on the packet path.
#[derive(Debug)]
pub(crate) struct Shard {
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
        // An eventfd that is full wakes as well as one that is not.
        let _ = self.wake.write(1);
        Ok(())
    }
}

impl Shard {
    /// Starts the thread for a node of a mesh. The receiver is told why when the thread ends by itself.
    pub(crate) fn start(
        secret: &WireGuardSecret,
        mtu: u16,
        tun: Tun,
        sockets: UdpSockets,
    ) -> io::Result<(Self, oneshot::Receiver<io::Error>)> {
        Self::run(Device::new(secret, System), mtu, tun, sockets)
    }

    /// Starts the thread for a device without a mesh.
    pub(crate) fn start_stand_alone(
        mtu: u16,
        tun: Tun,
        sockets: UdpSockets,
    ) -> io::Result<(Self, oneshot::Receiver<io::Error>)> {
        Self::run(Device::stand_alone(System), mtu, tun, sockets)
    }

    fn run(
        mut device: Device,
        mtu: u16,
        tun: Tun,
        sockets: UdpSockets,
    ) -> io::Result<(Self, oneshot::Receiver<io::Error>)> {
        let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?);
        let (commands, receiver) = sync_channel(COMMANDS);
        let (fail, failure) = oneshot::channel();
        let (observe, observed) = mpsc::channel(8);
        device.set_mtu(mtu);
        device.set_udp_segments(tun.takes_udp_segments());
        let readiness = Readiness::new(3 + tun.queues().len())?;
        let mut path = PacketPath {
            device,
            tun,
            sockets,
            wake: wake.clone(),
            commands: receiver,
            observe,
            asked: None,
            revise_by: None,
            readiness,
            queues: Vec::new(),
            moderation: Moderation::default(),
            buffer: vec![0; BUFFER].into(),
        };
        let run = move || {
            priority::raise();
            if let Err(error) = path.run() {
                // The other side may be gone already.
                let _ = fail.send(error);
            }
        };
        let thread = thread::Builder::new().name("shard".to_owned()).spawn(run)?;
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

    /// Ends the thread; the interface is gone when this returns.
    pub(crate) async fn stop(mut self) {
        if self.command(Command::Stop).await.is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = tokio::task::spawn_blocking(|| thread.join()).await;
        }
    }
}

struct PacketPath {
    device: Device,
    tun: Tun,
    sockets: UdpSockets,
    wake: Arc<EventFd>,
    commands: Receiver<Command>,
    observe: mpsc::Sender<SocketAddr>,
    /// The STUN request that waits for its answer.
    asked: Option<(SocketAddr, stun::Transaction)>,
    /// See [`Command::ReviseBy`].
    revise_by: Option<Instant>,
    readiness: Readiness,
    /// The queues of the interface that are readable.
    queues: Vec<usize>,
    moderation: Moderation,
    buffer: Box<[u8]>,
}

/// What is readable beside the queues of the interface.
#[derive(Debug, Clone, Copy, Default)]
struct Ready {
    commands: bool,
    v4: bool,
    v6: bool,
}

/// What was read in a turn: of a socket, or of the interface. None may be so long that the others wait for long.
#[derive(Debug, Default)]
struct Turn {
    reads: usize,
    bytes: usize,
}

impl Turn {
    const fn count(&mut self, bytes: usize) {
        self.reads += 1;
        self.bytes += bytes;
    }

    const fn goes_on(&self) -> bool {
        self.reads < TURN_READS && self.bytes < TURN_BYTES
    }
}

/// What was read in the turns of all.
#[derive(Debug, Default)]
struct Turns {
    reads: usize,
    bytes: usize,
    /// One of them had no end of its own.
    more: bool,
}

impl Turns {
    const fn add(&mut self, turn: Turn) {
        self.reads += turn.reads;
        self.bytes += turn.bytes;
        self.more |= !turn.goes_on();
    }
}

impl PacketPath {
    fn run(&mut self) -> io::Result<()> {
        self.readiness.watch(self.wake.as_fd(), Source::Commands)?;
        for (number, queue) in self.tun.queues().enumerate() {
            self.readiness.watch(queue, Source::Queue(number))?;
        }
        self.watch_sockets()?;
        loop {
            let Ready { commands, v4, v6 } = self.wait()?;
            if commands && self.obey()?.is_break() {
                return Ok(());
            }
            if self.is_overdue() {
                continue;
            }
            let begun = Instant::now();
            let mut turns = Turns::default();
            if v4 {
                turns.add(self.receive(|sockets| Some(&sockets.v4)));
            }
            if v6 {
                turns.add(self.receive(|sockets| sockets.v6.as_ref()));
            }
            turns.add(self.read_packets()?);
            while let Some(answer) = self.device.poll_answer() {
                if let Err(error) = self.tun.write_whole(&answer) {
                    tracing::trace!(%error, "answer not delivered");
                }
            }
            self.device.handle_timeout(Instant::now());
            self.send();
            if self.moderation.pauses(begun, turns.reads, turns.bytes, turns.more) {
                thread::sleep(PAUSE);
            }
        }
    }

    fn watch_sockets(&self) -> io::Result<()> {
        self.readiness.watch(&self.sockets.v4, Source::V4)?;
        self.sockets.v6.as_ref().map_or(Ok(()), |v6| self.readiness.watch(v6, Source::V6))
    }

    /// Waits until something is readable or a timer is due. Queues of the interface that are readable are noted.
    fn wait(&mut self) -> io::Result<Ready> {
        let mut ready = Ready::default();
        self.queues.clear();
        if self.is_overdue() {
            let mut descriptors = [PollFd::new(self.wake.as_fd(), PollFlags::POLLIN)];
            return match poll(&mut descriptors, PollTimeout::NONE) {
                Ok(_) => Ok(Ready { commands: true, ..ready }),
                Err(Errno::EINTR) => Ok(ready),
                Err(errno) => Err(errno.into()),
            };
        }
        let due = self.device.poll_timeout().map(|(due, _)| due);
        let timeout = due.map(|due| due.saturating_duration_since(Instant::now()));
        for source in self.readiness.wait(timeout)? {
            match source {
                Source::Commands => ready.commands = true,
                Source::V4 => ready.v4 = true,
                Source::V6 => ready.v6 = true,
                Source::Queue(queue) => self.queues.push(queue),
            }
        }
        Ok(ready)
    }

    /// Whether a lease lapsed and the control side has not said what follows: it hangs, or all of this process stood still. What comes
    /// meanwhile waits in the kernel, and meets whatever holds then.
    fn is_overdue(&self) -> bool {
        self.revise_by.is_some_and(|by| by <= Instant::now())
    }

    fn obey(&mut self) -> io::Result<ControlFlow<()>> {
        let _ = self.wake.read();
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::SetOwn(prefixes) => self.device.set_own(prefixes),
                Command::ReviseBy(by) => self.revise_by = by,
                Command::Rotate(secret) => self.device.rotate(&secret, Instant::now()),
                Command::ChangePeers(Change { removes, replaces, upserts }) => {
                    for (old, new, config) in replaces {
                        self.device.replace_peer(&old, new, config, Instant::now());
                    }
                    removes.iter().for_each(|key| self.device.remove_peer(key));
                    upserts.into_iter().for_each(|(key, config)| self.device.set_peer(key, config));
                }
                Command::Links(answer) => drop(answer.send(self.device.links().collect())),
                Command::Configure(set, answer) => {
                    let outcome = uapi::configure(&mut self.device, &mut self.sockets, set, Instant::now());
                    // They may be others now.
                    self.watch_sockets()?;
                    let _ = answer.send(outcome);
                }
                Command::Describe(question, answer) => {
                    let _ = answer.send(uapi::describe(&self.device, &self.sockets, question));
                }
                Command::SetMtu(mtu) => self.device.set_mtu(mtu),
                Command::Stun { server, transaction } => {
                    self.asked = Some((server, transaction));
                    if let Err(error) = self.sockets.send_to(server, &stun::request(transaction)) {
                        tracing::debug!(%server, %error, "STUN request not sent");
                    }
                }
                Command::Stop => return Ok(ControlFlow::Break(())),
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn receive(&mut self, socket: impl Fn(&UdpSockets) -> Option<&UdpSocket>) -> Turn {
        let mut turn = Turn::default();
        while turn.goes_on() {
            let received = socket(&self.sockets).map(|socket| udp::receive(socket, &mut self.buffer));
            match received {
                Some(Ok(received)) => {
                    turn.count(received.length);
                    self.handle_received(received);
                }
                Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => break,
                // An error that an earlier datagram came back with, such as ICMP's "port unreachable".
                Some(Err(error)) => {
                    turn.count(0);
                    tracing::trace!(%error, "socket error");
                }
                None => break,
            }
            self.send();
        }
        turn
    }

    fn handle_received(&mut self, Received { from, length, segment }: Received) {
        let datagrams = &mut self.buffer[..length];
        if stun::is_stun(datagrams) {
            if let Some((server, transaction)) = self.asked
                && server == from
                && let Some(address) = stun::mapped_address(datagrams, transaction)
            {
                self.asked = None;
                // Full only if nobody listens any more.
                let _ = self.observe.try_send(address);
            }
            return;
        }
        let tun = &self.tun;
        self.device.handle_datagrams(from, datagrams, segment, Instant::now(), |packet| {
            // What the kernel does not take is lost, as on any network.
            if let Err(error) = tun.write(&packet) {
                tracing::trace!(%error, "packet not delivered");
            }
        });
    }

    /// Reads from the queues that are readable, one after the other, so that a flow that fills its queue does not hold up the others.
    fn read_packets(&mut self) -> io::Result<Turn> {
        let mut turn = Turn::default();
        let mut next = 0;
        while turn.goes_on() && !self.queues.is_empty() {
            next %= self.queues.len();
            if self.read_queue(self.queues[next], &mut turn)? {
                next += 1;
            } else {
                self.queues.remove(next);
            }
        }
        Ok(turn)
    }

    /// Reads a super-packet or a few small ones. Whether there may be more.
    fn read_queue(&mut self, queue: usize, turn: &mut Turn) -> io::Result<bool> {
        let mut bytes = 0;
        for _ in 0..PACKETS_AT_ONCE {
            match self.tun.read(queue, &mut self.buffer) {
                Ok(Some((header, packet))) => {
                    bytes += packet.len();
                    turn.count(packet.len());
                    self.device.handle_packet(&header, packet, Instant::now());
                }
                Ok(None) => turn.count(0),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => turn.count(0),
                // The interface is down; packets come again when somebody brings it up.
                Err(error) if error.raw_os_error() == Some(libc::EIO) => return Ok(false),
                Err(error) => return Err(error),
            }
            // Small packets wait for each other, as long as there are more at once.
            if self.device.transmit_bytes() >= SEND_AT_ONCE {
                self.send();
            }
            if bytes >= BYTES_AT_ONCE || !turn.goes_on() {
                break;
            }
        }
        Ok(true)
    }

    /// Sends everything that the device has to. What the kernel does not take is lost, as on any network.
    fn send(&mut self) {
        while let Some(transmit) = self.device.poll_transmit() {
            if let Err(error) = self.sockets.send(&transmit) {
                tracing::trace!(to = %transmit.to, %error, "datagrams not sent");
            }
            self.device.recycle(transmit);
        }
    }
}
