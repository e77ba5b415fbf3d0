//! The packet path: one thread that owns the device, the TUN interface and both sockets, and never waits for anything else.
//!
//! Control reaches it through a bounded channel and an eventfd, before the next packet is looked at.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
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
    plan::Change,
    stun,
    tun::Tun,
    uapi,
    udp::{self, Received, UdpSockets},
};

/// So many packets or datagrams are taken from one descriptor before the next one has its turn.
const BUDGET: usize = 64;

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
        let mut path = PacketPath {
            device,
            tun,
            sockets,
            wake: wake.clone(),
            commands: receiver,
            observe,
            asked: None,
            revise_by: None,
            buffer: vec![0; BUFFER].into(),
        };
        let run = move || {
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
    buffer: Box<[u8]>,
}

impl PacketPath {
    fn run(&mut self) -> io::Result<()> {
        loop {
            let [commands, packets, v4, v6] = self.wait()?;
            if commands && self.obey().is_break() {
                return Ok(());
            }
            if self.is_overdue() {
                continue;
            }
            if v4 {
                self.receive(|sockets| Some(&sockets.v4));
            }
            if v6 {
                self.receive(|sockets| sockets.v6.as_ref());
            }
            if packets {
                self.read_packets()?;
            }
            self.device.handle_timeout(Instant::now());
            self.send();
        }
    }

    /// Waits until a descriptor is readable or a timer is due. Says which are: wake-up, interface, IPv4, IPv6.
    fn wait(&self) -> io::Result<[bool; 4]> {
        let timeout = self.device.poll_timeout().map_or(PollTimeout::NONE, |(due, _)| {
            let wait = due.saturating_duration_since(Instant::now());
            // Rounded up, so that the timer is due when the wait is over.
            PollTimeout::try_from(wait + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
        });
        let v6 = self.sockets.v6.as_ref().unwrap_or(&self.sockets.v4);
        let mut descriptors = [self.wake.as_fd(), self.tun.as_fd(), self.sockets.v4.as_fd(), v6.as_fd()]
            .map(|descriptor| PollFd::new(descriptor, PollFlags::POLLIN));
        if self.is_overdue() {
            return match poll(&mut descriptors[..1], PollTimeout::NONE) {
                Ok(_) => Ok([true, false, false, false]),
                Err(nix::errno::Errno::EINTR) => Ok([false; 4]),
                Err(errno) => Err(errno.into()),
            };
        }
        match poll(&mut descriptors, timeout) {
            Ok(_) => Ok(descriptors.map(|descriptor| descriptor.any().unwrap_or(true))),
            Err(nix::errno::Errno::EINTR) => Ok([false; 4]),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Whether a lease lapsed and the control side has not said what follows: it hangs, or all of this process stood still. What comes
    /// meanwhile waits in the kernel, and meets whatever holds then.
    fn is_overdue(&self) -> bool {
        self.revise_by.is_some_and(|by| by <= Instant::now())
    }

    fn obey(&mut self) -> std::ops::ControlFlow<()> {
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
                Command::Stop => return std::ops::ControlFlow::Break(()),
            }
        }
        std::ops::ControlFlow::Continue(())
    }

    fn receive(&mut self, socket: impl Fn(&UdpSockets) -> Option<&UdpSocket>) {
        for _ in 0..BUDGET {
            let received = socket(&self.sockets).map(|socket| udp::receive(socket, &mut self.buffer));
            match received {
                Some(Ok(received)) => self.handle_received(received),
                Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => return,
                // An error that an earlier datagram came back with, such as ICMP's "port unreachable".
                Some(Err(error)) => tracing::trace!(%error, "socket error"),
                None => return,
            }
            self.send();
        }
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

    fn read_packets(&mut self) -> io::Result<()> {
        for _ in 0..BUDGET {
            match self.tun.read(&mut self.buffer) {
                Ok(Some((header, packet))) => self.device.handle_packet(&header, packet, Instant::now()),
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The interface is down; packets come again when somebody brings it up.
                Err(error) if error.raw_os_error() == Some(libc::EIO) => break,
                Err(error) => return Err(error),
            }
            // Small packets wait for each other, as long as there are more at once.
            if self.device.transmit_bytes() >= SEND_AT_ONCE {
                self.send();
            }
        }
        Ok(())
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
