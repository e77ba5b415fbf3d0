//! A shard beside the first: it moves packets with the keys that the first one's device has.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{
            Receiver, RecvTimeoutError, Sender, SyncSender, TryRecvError, TrySendError, channel, sync_channel,
        },
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use carrick_dataplane::{
    Endpoint, Forwarder, Report, Transmit, Update,
    offload::{Coalesced, VnetHeader},
};
use nix::sys::eventfd::EventFd;

use super::{
    deadline::Deadline,
    path::{Engine, Path, Ready},
    spawn,
};
use crate::udp::UdpSockets;

/// Lists of reports that may wait for the first shard.
const REPORTS: usize = 256;

/// Orders that may wait for a shard. The first shard waits where there are more.
const ORDERS: usize = 256;

/// For so long what went to and fro may be news to the first shard: WireGuard's timers count seconds.
const REPORT_EVERY: Duration = Duration::from_millis(100);

/// So long a shard has to change its sockets, before the first one goes on without it.
const MAX_WAIT: Duration = Duration::from_secs(1);

/// What the first shard tells another one.
pub(super) enum Order {
    Heed(Arc<[Update]>),
    /// Take these sockets, and say when the others are closed.
    Use(Arc<UdpSockets>, Sender<()>),
}

/// What a shard tells the first one.
pub(super) enum Word {
    Reports(Vec<Report>),
    Failed(io::Error),
}

/// The channel that all of them tell it by.
pub(super) fn reports() -> (SyncSender<Word>, Receiver<Word>) {
    sync_channel(REPORTS)
}

/// A shard's way to the first one.
pub(super) struct Reporter {
    words: SyncSender<Word>,
    wake: Arc<EventFd>,
    /// What found no room.
    unsent: Option<Word>,
    /// When something is to be said.
    due: Option<Instant>,
}

impl Reporter {
    pub(super) const fn new(words: SyncSender<Word>, wake: Arc<EventFd>) -> Self {
        Self { words, wake, unsent: None, due: None }
    }

    /// Tells what the forwarder has to tell, if it is time.
    fn report(&mut self, forwarder: &mut Forwarder) {
        let (urgent, now) = (forwarder.is_urgent(), Instant::now());
        if !urgent && now < *self.due.get_or_insert(now + REPORT_EVERY) {
            return;
        }
        self.due = None;
        // Without room the forwarder goes on counting.
        if self.unsent.take().is_none_or(|word| self.say(word)) {
            let reports = forwarder.take_reports();
            if !reports.is_empty() {
                self.say(Word::Reports(reports));
            }
        }
        if self.unsent.is_some() {
            self.due = Some(now + REPORT_EVERY);
        }
        // Where there was no room, the first shard may sleep over what is not urgent.
        if urgent || self.unsent.is_some() {
            let _ = self.wake.write(1);
        }
    }

    fn say(&mut self, word: Word) -> bool {
        match self.words.try_send(word) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => true,
            Err(TrySendError::Full(word)) => {
                self.unsent = Some(word);
                false
            }
        }
    }

    /// Says that the shard has ended, by itself.
    fn fail(&self, error: io::Error) {
        // Where there is no room, the first shard will notice that nobody takes its orders.
        let _ = self.words.try_send(Word::Failed(error));
        let _ = self.wake.write(1);
    }
}

/// A shard that panics ends the others: nobody else reads its queues and its sockets.
impl Drop for Reporter {
    fn drop(&mut self) {
        if thread::panicking() {
            self.fail(io::Error::other("the thread of a shard panicked"));
        }
    }
}

/// The first shard's handle on another one.
pub(super) struct Further {
    orders: SyncSender<Order>,
    wake: Arc<EventFd>,
    thread: JoinHandle<()>,
}

impl Further {
    /// Starts the thread.
    pub(super) fn start(
        shard: usize,
        forwarder: Forwarder,
        path: Path,
        wake: Arc<EventFd>,
        deadline: Arc<Deadline>,
        reporter: Reporter,
    ) -> io::Result<Self> {
        let (orders, receiver) = sync_channel(ORDERS);
        let follower = Follower { forwarder, orders: receiver, sockets: None, is_alone: false };
        let mut run = Run { follower, path, deadline, reporter };
        let thread = spawn(shard, move || {
            if let Err(error) = run.run() {
                run.reporter.fail(error);
            }
        })?;
        Ok(Self { orders, wake, thread })
    }

    /// Tells the shard something, before the next packet that it looks at.
    ///
    /// # Errors
    /// Where it has ended.
    pub(super) fn tell(&self, order: Order) -> io::Result<()> {
        self.orders.send(order).map_err(|_| io::Error::other("another shard has ended"))?;
        self.wake();
        Ok(())
    }

    /// Makes the shard look at its orders, and at the deadline.
    pub(super) fn wake(&self) {
        // An eventfd that is full wakes as well as one that is not.
        let _ = self.wake.write(1);
    }

    /// Gives the shard other sockets. When this returns, it has closed the former ones.
    ///
    /// # Errors
    /// Where it has ended.
    pub(super) fn set_sockets(&self, sockets: Arc<UdpSockets>) -> io::Result<()> {
        let (done, is_done) = channel();
        self.tell(Order::Use(sockets, done))?;
        match is_done.recv_timeout(MAX_WAIT) {
            Ok(()) => {}
            Err(RecvTimeoutError::Timeout) => tracing::warn!("a shard is late to change its sockets"),
            Err(RecvTimeoutError::Disconnected) => return Err(io::Error::other("another shard has ended")),
        }
        Ok(())
    }

    /// Ends the shard.
    pub(super) fn stop(self) {
        drop(self.orders);
        let _ = self.wake.write(1);
        let _ = self.thread.join();
    }
}

/// A forwarder that heeds what the first shard says before it looks at what has come: a peer sends nothing with keys that this shard was not
/// told of before the peer was.
struct Follower {
    forwarder: Forwarder,
    orders: Receiver<Order>,
    /// The sockets to use from the next turn on, and who waits for that.
    sockets: Option<(Arc<UdpSockets>, Sender<()>)>,
    /// The first shard has ended.
    is_alone: bool,
}

impl Follower {
    fn obey(&mut self) {
        loop {
            match self.orders.try_recv() {
                Ok(Order::Heed(updates)) => {
                    updates.iter().for_each(|update| self.forwarder.handle_update(update.clone()));
                }
                Ok(Order::Use(sockets, done)) => self.sockets = Some((sockets, done)),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => {
                    self.is_alone = true;
                    return;
                }
            }
        }
    }
}

impl Engine for Follower {
    fn handle_packet(&mut self, header: &VnetHeader, packet: &[u8], now: Instant) {
        self.obey();
        self.forwarder.handle_packet(header, packet, now);
    }

    fn handle_datagrams(
        &mut self,
        from: Endpoint,
        datagrams: &mut [u8],
        segment: usize,
        now: Instant,
        deliver: impl FnMut(Coalesced<'_>),
    ) {
        self.obey();
        self.forwarder.handle_datagrams(from, datagrams, segment, now, deliver);
    }

    fn poll_transmit(&mut self) -> Option<Transmit> {
        self.forwarder.poll_transmit()
    }

    fn recycle(&mut self, transmit: Transmit) {
        self.forwarder.recycle(transmit);
    }

    fn transmit_bytes(&self) -> usize {
        self.forwarder.transmit_bytes()
    }

    fn poll_answer(&mut self) -> Option<Vec<u8>> {
        self.forwarder.poll_answer()
    }
}

/// What the thread has.
struct Run {
    follower: Follower,
    path: Path,
    deadline: Arc<Deadline>,
    reporter: Reporter,
}

impl Run {
    fn run(&mut self) -> io::Result<()> {
        loop {
            let ready = if self.deadline.is_over() {
                self.path.wait_for_commands()?;
                Ready::default()
            } else {
                let due = self.reporter.due.map(|due| due.saturating_duration_since(Instant::now()));
                self.path.wait(due)?
            };
            // In this order: orders are given before the deadline that they come with is set.
            let over = self.deadline.is_over();
            self.follower.obey();
            if self.follower.is_alone {
                return Ok(());
            }
            if let Some((sockets, done)) = self.follower.sockets.take() {
                self.path.set_sockets(sockets)?;
                // Nobody waits for ever.
                let _ = done.send(());
            }
            if over {
                continue;
            }
            let turns = self.path.read(&mut self.follower, ready, |_, _| false)?;
            self.path.send(&mut self.follower);
            self.reporter.report(&mut self.follower.forwarder);
            self.path.pause(&turns);
        }
    }
}

#[cfg(test)]
mod tests;
