//! The shard that has the device: it shakes hands, keeps time and does what the control side asks, and moves its share of the packets.
//!
//! Control reaches it through a bounded channel and an eventfd, before the next packet is looked at.

use std::{
    io, iter,
    net::SocketAddr,
    ops::ControlFlow,
    sync::{Arc, mpsc::Receiver},
    time::{Duration, Instant},
};

use carrick_dataplane::{
    Arrival, Device, Transmit,
    offload::{Coalesced, VnetHeader},
};
use tokio::sync::mpsc;

use super::{
    Command, SocketGroup,
    deadline::Deadline,
    drops::Drops,
    further::{Further, Order},
    path::{Engine, Path},
    report::Listener,
};
use crate::{
    plan::Change,
    routes::Outgoing,
    stun,
    uapi::{self, AtRest},
};

/// So often a port is tried that somebody else has.
const RETRY: Duration = Duration::from_secs(1);

/// The device, which the other shards follow.
struct Leader {
    device: Device,
    others: Vec<Further>,
    /// One of them has ended.
    is_broken: bool,
}

impl Leader {
    /// Tells the other shards what has changed.
    fn tell_others(&mut self) {
        let Some(update) = self.device.poll_update() else { return };
        let updates: Arc<[_]> =
            iter::once(update).chain(iter::from_fn(|| self.device.poll_update())).collect();
        let told = |other: &Further| other.tell(Order::Heed(updates.clone())).is_ok();
        self.is_broken |= !self.others.iter().all(told);
    }
}

impl Engine for Leader {
    fn handle_packet(&mut self, header: &VnetHeader, packet: &[u8], now: Instant) {
        self.device.handle_packet(header, packet, now);
    }

    fn handle_datagrams(
        &mut self,
        arrival: Arrival,
        datagrams: &mut [u8],
        segment: usize,
        now: Instant,
        deliver: impl FnMut(Coalesced<'_>),
    ) {
        self.device.handle_datagrams(arrival, datagrams, segment, now, deliver);
    }

    fn poll_transmit(&mut self) -> Option<Transmit> {
        // What a peer answers to this may come to another shard.
        self.tell_others();
        self.device.poll_transmit()
    }

    fn recycle(&mut self, transmit: Transmit) {
        self.device.recycle(transmit);
    }

    fn transmit_bytes(&self) -> usize {
        self.device.transmit_bytes()
    }

    fn poll_answer(&mut self) -> Option<Vec<u8>> {
        self.device.poll_answer()
    }
}

/// What the thread has.
pub(super) struct First {
    leader: Leader,
    path: Path,
    /// The sockets of all shards.
    group: SocketGroup,
    /// Whether the interface is up.
    is_up: bool,
    /// While there are no sockets.
    at_rest: Option<AtRest>,
    commands: Receiver<Command>,
    observed: Observed,
    deadline: Arc<Deadline>,
    listener: Listener,
    drops: Drops,
}

/// The STUN request that waits for its answer, and who is told.
struct Observed {
    asked: Option<(SocketAddr, stun::Transaction)>,
    observe: mpsc::Sender<SocketAddr>,
}

impl Observed {
    /// Whether a datagram is STUN's.
    fn take(&mut self, from: SocketAddr, datagram: &[u8]) -> bool {
        if !stun::is_stun(datagram) {
            return false;
        }
        if let Some((server, transaction)) = self.asked
            && server == from
            && let Some(address) = stun::mapped_address(datagram, transaction)
        {
            self.asked = None;
            // Full only if nobody listens any more.
            let _ = self.observe.try_send(address);
        }
        true
    }
}

impl First {
    #[expect(clippy::too_many_arguments, reason = "all that the packet path has, in one place")]
    pub(super) fn new(
        mut device: Device,
        path: Path,
        group: SocketGroup,
        commands: Receiver<Command>,
        observe: mpsc::Sender<SocketAddr>,
        deadline: Arc<Deadline>,
        others: Vec<Further>,
        listener: Listener,
    ) -> Self {
        let is_up = group.is_open();
        let at_rest = (!is_up).then(|| AtRest::begin(&mut device, Instant::now()));
        let leader = Leader { device, others, is_broken: false };
        let observed = Observed { asked: None, observe };
        let drops = Drops::default();
        Self { leader, path, group, is_up, at_rest, commands, observed, deadline, listener, drops }
    }

    /// Runs until the control side says that it ends, and ends the other shards with it.
    pub(super) fn run(&mut self) -> io::Result<()> {
        let outcome = self.turns();
        self.leader.others.clear();
        outcome
    }

    fn turns(&mut self) -> io::Result<()> {
        loop {
            if self.is_idle() {
                let retries = self.lacks_sockets();
                self.path.wait_for_commands(retries.then_some(RETRY))?;
                self.listen()?;
                if self.obey()?.is_break() {
                    return Ok(());
                }
                if retries {
                    self.retry();
                    self.tell_others()?;
                }
                continue;
            }
            let due = self.leader.device.poll_timeout().map(|(due, _)| due);
            let timeout = due.map(|due| due.saturating_duration_since(Instant::now()));
            let ready = self.path.wait(timeout)?;
            self.listen()?;
            if ready.commands && self.obey()?.is_break() {
                return Ok(());
            }
            if self.is_idle() {
                continue;
            }
            let observed = &mut self.observed;
            let turns = self
                .path
                .read(&mut self.leader, ready, |from, datagram| observed.take(from.remote, datagram))?;
            let now = Instant::now();
            self.leader.device.handle_timeout(now);
            self.path.send(&mut self.leader);
            self.tell_others()?;
            self.drops.tell(|| self.leader.device.counters(), now);
            self.path.pause(&turns);
        }
    }

    /// Whether nothing passes. What comes from this host meanwhile waits in the interface.
    fn is_idle(&self) -> bool {
        self.path.sockets().is_none() || self.deadline.is_over()
    }

    /// Hears what the other shards have done: a part of it, where that is much.
    fn listen(&mut self) -> io::Result<()> {
        let (device, now) = (&mut self.leader.device, Instant::now());
        if self.listener.hear(|report| device.handle_report(report, now))? {
            self.path.wake();
        } else if self.leader.others.iter().any(Further::has_ended) {
            return Err(self.listener.reason());
        }
        Ok(())
    }

    /// Tells the other shards what has changed.
    fn tell_others(&mut self) -> io::Result<()> {
        self.leader.tell_others();
        if self.leader.is_broken { Err(self.listener.reason()) } else { Ok(()) }
    }

    fn obey(&mut self) -> io::Result<ControlFlow<()>> {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::SetOwn(prefixes) => self.leader.device.set_own(prefixes),
                Command::ReviseBy(by) => {
                    self.tell_others()?;
                    self.deadline.set(by);
                    // Those that wait for it.
                    self.leader.others.iter().for_each(Further::wake);
                }
                Command::Rotate(secret) => self.leader.device.rotate(&secret, Instant::now()),
                Command::ChangePeers(Change { removes, replaces, upserts }) => {
                    for (old, new, config) in replaces {
                        self.leader.device.replace_peer(&old, new, config, Instant::now());
                    }
                    removes.iter().for_each(|key| self.leader.device.remove_peer(key));
                    upserts.into_iter().for_each(|(key, config)| self.leader.device.set_peer(key, config));
                }
                Command::Links(answer) => drop(answer.send(self.leader.device.links().collect())),
                Command::Configure(set, answer) => {
                    let outcome = self.configure(set);
                    // Whoever hears the answer may send at once.
                    self.tell_others()?;
                    let _ = answer.send(outcome);
                }
                Command::Describe(question, answer) => {
                    let about =
                        uapi::describe(&self.leader.device, self.at_rest.as_ref(), &self.group, question);
                    let _ = answer.send(about);
                }
                Command::SetUp(up) => self.set_up(up),
                Command::SetMtu(mtu) => self.leader.device.set_mtu(mtu),
                Command::Outgoing(answer) => {
                    let (mark, port) = (self.group.mark(), self.group.port());
                    let endpoints = self.leader.device.sources().collect();
                    let _ = answer.send(Outgoing { mark, port, endpoints });
                }
                Command::ForgetSources(wrong) => {
                    self.leader.device.forget_sources(|endpoint| wrong.contains(endpoint));
                }
                Command::Stun { server, transaction } => {
                    self.observed.asked = Some((server, transaction));
                    let request = stun::request(transaction);
                    let sent = self.path.sockets().map(|sockets| sockets.send_to(server, &request));
                    if let Some(Err(error)) = sent {
                        tracing::debug!(%server, %error, "STUN request not sent");
                    }
                }
                Command::Stop => return Ok(ControlFlow::Break(())),
            }
        }
        self.tell_others()?;
        Ok(ControlFlow::Continue(()))
    }
}

mod listening;
#[cfg(test)]
mod tests;
