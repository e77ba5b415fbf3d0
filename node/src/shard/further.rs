//! A shard beside the first: it moves packets with the keys that the first one's device has.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, TryRecvError, channel, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use carrick_dataplane::{
    Arrival, Forwarder, Transmit, Update,
    offload::{Coalesced, VnetHeader},
};

use super::{
    deadline::Deadline,
    path::{Engine, Path, Ready},
    report::Reporter,
    spawn,
    wake::Wake,
};
use crate::udp::UdpSockets;

/// Orders that may wait for a shard. The first shard waits where there are more.
const ORDERS: usize = 256;

/// So long a shard has to change its sockets, before the first one goes on without it.
const MAX_WAIT: Duration = Duration::from_secs(1);

/// What the first shard tells another one.
pub(super) enum Order {
    Heed(Arc<[Update]>),
    Use(Exchange),
}

/// Sockets to use instead of the former ones, and who is told when that is so, or that it cannot be.
pub(super) struct Exchange {
    sockets: Option<Arc<UdpSockets>>,
    done: Sender<io::Result<()>>,
}

/// The first shard's handle on another one, which ends with it: also where the first one panics, or was never started.
pub(super) struct Further {
    /// `None` at the end.
    orders: Option<SyncSender<Order>>,
    wake: Wake,
    thread: Option<JoinHandle<()>>,
}

impl Further {
    /// Starts the thread.
    pub(super) fn start(
        shard: usize,
        forwarder: Forwarder,
        path: Path,
        wake: Wake,
        deadline: Arc<Deadline>,
        reporter: Reporter,
    ) -> io::Result<Self> {
        let (orders, receiver) = sync_channel(ORDERS);
        let follower = Follower { forwarder, orders: receiver, exchange: None, is_alone: false };
        let mut run = Run { follower, path, deadline, reporter };
        let thread = spawn(shard, move || {
            if let Err(error) = run.run() {
                run.reporter.fail(error);
            }
        })?;
        Ok(Self { orders: Some(orders), wake, thread: Some(thread) })
    }

    /// Tells the shard something, before the next packet that it looks at.
    ///
    /// # Errors
    /// Where it has ended.
    pub(super) fn tell(&self, order: Order) -> io::Result<()> {
        let told = self.orders.as_ref().is_some_and(|orders| orders.send(order).is_ok());
        self.wake();
        if told { Ok(()) } else { Err(io::Error::other("another shard has ended")) }
    }

    /// Whether the shard has ended by itself.
    pub(super) fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Makes the shard look at its orders, and at the deadline.
    pub(super) fn wake(&self) {
        self.wake.call();
    }

    /// Gives the shard other sockets, or takes them. When this returns, it has given up the former ones, after a turn at most; one that is
    /// late does so when it can, and is waited for no longer.
    ///
    /// # Errors
    /// Where it cannot use them, and keeps the former ones, or has ended.
    pub(super) fn set_sockets(&self, sockets: Option<Arc<UdpSockets>>) -> io::Result<()> {
        let (done, is_done) = channel();
        self.tell(Order::Use(Exchange { sockets, done }))?;
        match is_done.recv_timeout(MAX_WAIT) {
            Ok(outcome) => outcome,
            Err(RecvTimeoutError::Timeout) => {
                tracing::warn!("a shard is late to change its sockets");
                Ok(())
            }
            Err(RecvTimeoutError::Disconnected) => Err(io::Error::other("another shard has ended")),
        }
    }
}

/// When this returns the shard has closed what it had.
impl Drop for Further {
    fn drop(&mut self) {
        self.orders = None;
        self.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A forwarder that heeds what the first shard says before it looks at what has come: a peer sends nothing with keys that this shard was not
/// told of before the peer was.
struct Follower {
    forwarder: Forwarder,
    orders: Receiver<Order>,
    /// To be made before the next turn.
    exchange: Option<Exchange>,
    /// The first shard has ended.
    is_alone: bool,
}

impl Follower {
    fn obey(&mut self) {
        loop {
            match self.orders.try_recv() {
                Ok(Order::Heed(updates)) => {
                    let now = Instant::now();
                    updates.iter().for_each(|update| self.forwarder.handle_update(update.clone(), now));
                }
                Ok(Order::Use(exchange)) => self.exchange = Some(exchange),
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
        arrival: Arrival,
        datagrams: &mut [u8],
        segment: usize,
        now: Instant,
        deliver: impl FnMut(Coalesced<'_>),
    ) {
        self.obey();
        self.forwarder.handle_datagrams(arrival, datagrams, segment, now, deliver);
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
            let ready = if self.deadline.is_over() || self.path.sockets().is_none() {
                self.path.wait_for_commands(None)?;
                Ready::default()
            } else {
                self.path.wait(self.reporter.due())?
            };
            // In this order: orders are given before the deadline that they come with is set.
            let over = self.deadline.is_over();
            self.follower.obey();
            if self.follower.is_alone {
                return Ok(());
            }
            if let Some(Exchange { sockets, done }) = self.follower.exchange.take() {
                // Nobody waits for ever.
                let _ = done.send(self.path.set_sockets(sockets));
            }
            if over || self.path.sockets().is_none() {
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
