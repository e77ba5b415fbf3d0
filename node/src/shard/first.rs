//! The shard that has the device: it shakes hands, keeps time and does what the control side asks, and moves its share of the packets.
//!
//! Control reaches it through a bounded channel and an eventfd, before the next packet is looked at.

use std::{
    io,
    net::SocketAddr,
    ops::ControlFlow,
    sync::{Arc, mpsc::Receiver},
    time::Instant,
};

use carrick_dataplane::Device;
use tokio::sync::mpsc;

use super::{
    Command, SocketGroup,
    deadline::Deadline,
    further::{Further, Order, Word},
    path::Path,
};
use crate::{plan::Change, stun, uapi};

/// What the thread has.
pub(super) struct First {
    device: Device,
    path: Path,
    /// The sockets of all shards.
    group: SocketGroup,
    commands: Receiver<Command>,
    observed: Observed,
    deadline: Arc<Deadline>,
    others: Vec<Further>,
    words: Receiver<Word>,
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
    pub(super) const fn new(
        device: Device,
        path: Path,
        group: SocketGroup,
        commands: Receiver<Command>,
        observe: mpsc::Sender<SocketAddr>,
        deadline: Arc<Deadline>,
        others: Vec<Further>,
        words: Receiver<Word>,
    ) -> Self {
        let observed = Observed { asked: None, observe };
        Self { device, path, group, commands, observed, deadline, others, words }
    }

    /// Runs until the control side says that it ends, and ends the other shards with it.
    pub(super) fn run(&mut self) -> io::Result<()> {
        let outcome = self.turns();
        self.others.drain(..).for_each(Further::stop);
        outcome
    }

    fn turns(&mut self) -> io::Result<()> {
        loop {
            if self.deadline.is_over() {
                self.path.wait_for_commands()?;
                if self.obey()?.is_break() {
                    return Ok(());
                }
                continue;
            }
            let due = self.device.poll_timeout().map(|(due, _)| due);
            let timeout = due.map(|due| due.saturating_duration_since(Instant::now()));
            let ready = self.path.wait(timeout)?;
            if ready.commands && self.obey()?.is_break() {
                return Ok(());
            }
            if self.deadline.is_over() {
                continue;
            }
            self.listen()?;
            let observed = &mut self.observed;
            let turns =
                self.path.read(&mut self.device, ready, |from, datagram| observed.take(from, datagram))?;
            self.device.handle_timeout(Instant::now());
            // What has waited for keys goes before what the other shards send with them.
            self.path.send(&mut self.device);
            self.tell_others()?;
            self.path.pause(&turns);
        }
    }

    /// Hears what the other shards have done.
    fn listen(&mut self) -> io::Result<()> {
        while let Ok(word) = self.words.try_recv() {
            match word {
                Word::Reports(reports) => {
                    let now = Instant::now();
                    reports.into_iter().for_each(|report| self.device.handle_report(report, now));
                }
                Word::Failed(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Tells the other shards what has changed.
    fn tell_others(&mut self) -> io::Result<()> {
        let updates: Arc<[_]> = std::iter::from_fn(|| self.device.poll_update()).collect();
        if updates.is_empty() {
            return Ok(());
        }
        for other in &self.others {
            if let Err(error) = other.tell(Order::Heed(updates.clone())) {
                // It has said why.
                self.listen()?;
                return Err(error);
            }
        }
        Ok(())
    }

    fn obey(&mut self) -> io::Result<ControlFlow<()>> {
        self.listen()?;
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::SetOwn(prefixes) => self.device.set_own(prefixes),
                Command::ReviseBy(by) => {
                    self.tell_others()?;
                    self.deadline.set(by);
                    // Those that wait for it.
                    self.others.iter().for_each(Further::wake);
                }
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
                    let outcome = uapi::set_sockets(&self.group, &set).and_then(|group| match group {
                        Some(group) => self.change_sockets(group),
                        None => Ok(()),
                    });
                    let outcome = outcome.map_err(uapi::errno);
                    if outcome.is_ok() {
                        uapi::configure(&mut self.device, set, Instant::now());
                    }
                    let _ = answer.send(outcome);
                }
                Command::Describe(question, answer) => {
                    let _ = answer.send(uapi::describe(&self.device, &self.group, question));
                }
                Command::SetMtu(mtu) => self.device.set_mtu(mtu),
                Command::Stun { server, transaction } => {
                    self.observed.asked = Some((server, transaction));
                    if let Err(error) = self.path.sockets().send_to(server, &stun::request(transaction)) {
                        tracing::debug!(%server, %error, "STUN request not sent");
                    }
                }
                Command::Stop => return Ok(ControlFlow::Break(())),
            }
        }
        self.tell_others()?;
        Ok(ControlFlow::Continue(()))
    }

    fn change_sockets(&mut self, group: SocketGroup) -> io::Result<()> {
        for (other, sockets) in self.others.iter().zip(&group.sockets()[1..]) {
            other.set_sockets(sockets.clone())?;
        }
        self.path.set_sockets(group.sockets()[0].clone())?;
        self.group = group;
        Ok(())
    }
}
