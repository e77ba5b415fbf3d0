//! What every shard does: it waits, reads, has a device or a forwarder make of it what is to be made, and sends that.

use std::{
    io,
    net::UdpSocket,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use carrick_dataplane::{
    Arrival, Endpoint, Transmit,
    offload::{Coalesced, VnetHeader},
};

use super::{queues::Queues, wake::Wake};
use crate::{
    moderation::{Moderation, PAUSE},
    readiness::{Readiness, Source},
    tun::Tun,
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

/// So many packets a queue of the interface holds at most, if nobody has made it longer (`txqueuelen`).
const PACKETS_IN_QUEUE: usize = 1_000;

/// So many bytes are sent before more packets are looked at.
const SEND_AT_ONCE: usize = 60_000;

/// Room for the longest packet behind its header, and for as many datagrams as the kernel gives at once.
const BUFFER: usize = 65_536 + 64;

/// What packets and datagrams are handed to: a device, or a forwarder, with what ties it to the other shards.
pub(super) trait Engine {
    fn handle_packet(&mut self, header: &VnetHeader, packet: &[u8], now: Instant);
    fn handle_datagrams(
        &mut self,
        arrival: Arrival,
        datagrams: &mut [u8],
        segment: usize,
        now: Instant,
        deliver: impl FnMut(Coalesced<'_>),
    );
    fn poll_transmit(&mut self) -> Option<Transmit>;
    fn recycle(&mut self, transmit: Transmit);
    fn transmit_bytes(&self) -> usize;
    fn poll_answer(&mut self) -> Option<Vec<u8>>;
}

/// What one shard reads and writes.
pub(super) struct Path {
    tun: Arc<Tun>,
    /// None while the interface of a device is down.
    sockets: Option<Arc<UdpSockets>>,
    /// Readable where somebody has something to say.
    wake: Wake,
    readiness: Readiness,
    queues: Queues,
    moderation: Moderation,
    buffer: Box<[u8]>,
}

/// What is readable beside the queues of the interface.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Ready {
    pub(super) commands: bool,
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
#[derive(Debug)]
pub(super) struct Turns {
    begun: Instant,
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

impl Path {
    /// A shard reads these queues of the interface, and these sockets.
    pub(super) fn new(
        tun: Arc<Tun>,
        queues: impl Iterator<Item = usize> + Clone,
        sockets: Option<Arc<UdpSockets>>,
        wake: Wake,
    ) -> io::Result<Self> {
        let readiness = Readiness::new(3 + queues.clone().count())?;
        readiness.watch(&wake, Source::Commands)?;
        for number in queues {
            if let Some(queue) = tun.queue(number) {
                readiness.watch(queue, Source::Queue(number))?;
            }
        }
        watch(&readiness, sockets.as_deref())?;
        Ok(Self {
            tun,
            sockets,
            wake,
            readiness,
            queues: Queues::default(),
            moderation: Moderation::default(),
            buffer: vec![0; BUFFER].into(),
        })
    }

    /// Reads other sockets from here on; where these cannot be waited for, the former ones still. Or none: then what waits in the interface is
    /// of a time that is over, and is dropped.
    pub(super) fn set_sockets(&mut self, sockets: Option<Arc<UdpSockets>>) -> io::Result<()> {
        watch(&self.readiness, sockets.as_deref())?;
        let former = std::mem::replace(&mut self.sockets, sockets);
        // Somebody may have them still, and what comes there would make every wait end at once.
        if let Some(former) = former
            && !self.sockets.as_ref().is_some_and(|sockets| Arc::ptr_eq(sockets, &former))
        {
            former.both().for_each(|socket| self.readiness.forget(socket));
        }
        if self.sockets.is_none() {
            self.drop_packets()?;
        }
        Ok(())
    }

    /// Empties the queues of the interface.
    fn drop_packets(&mut self) -> io::Result<()> {
        self.queues.begin(self.readiness.wait(Some(Duration::ZERO))?.filter_map(Source::queue));
        while let Some(queue) = self.queues.next() {
            // More than a queue holds: whoever fills it meanwhile is not waited for.
            let mut reads = 0..PACKETS_IN_QUEUE;
            while reads.next().is_some() && self.tun.read(queue, &mut self.buffer).is_ok() {}
        }
        Ok(())
    }

    pub(super) fn sockets(&self) -> Option<&UdpSockets> {
        self.sockets.as_deref()
    }

    /// Waits until something is readable, or for so long; `None`: for ever. Queues of the interface that are readable are noted.
    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<Ready> {
        let mut ready = Ready::default();
        let sources = self.readiness.wait(timeout)?;
        self.queues.begin(sources.filter_map(|source| {
            match source {
                Source::Commands => ready.commands = true,
                Source::V4 => ready.v4 = true,
                Source::V6 => ready.v6 = true,
                Source::Queue(queue) => return Some(queue),
            }
            None
        }));
        if ready.commands {
            self.wake.clear();
        }
        Ok(ready)
    }

    /// Makes the next wait end at once.
    pub(super) fn wake(&self) {
        self.wake.call();
    }

    /// Waits until somebody has something to say, or for so long; `None`: for ever.
    pub(super) fn wait_for_commands(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.wake.wait(timeout)
    }

    /// Takes what is readable, by turns. `is_other` takes datagrams that are none of the engine's affair.
    pub(super) fn read(
        &mut self,
        engine: &mut impl Engine,
        ready: Ready,
        mut is_other: impl FnMut(Endpoint, &[u8]) -> bool,
    ) -> io::Result<Turns> {
        let mut turns = Turns { begun: Instant::now(), reads: 0, bytes: 0, more: false };
        if ready.v4 {
            turns.add(self.receive(engine, |sockets| Some(&sockets.v4), &mut is_other));
        }
        if ready.v6 {
            turns.add(self.receive(engine, |sockets| sockets.v6.as_ref(), &mut is_other));
        }
        turns.add(self.read_packets(engine)?);
        while let Some(answer) = engine.poll_answer() {
            if let Err(error) = self.tun.write_whole(&answer) {
                tracing::trace!(%error, "answer not delivered");
            }
        }
        Ok(turns)
    }

    /// Sends everything that there is to send. What the kernel does not take is lost, as on any network, and so is everything where there
    /// are no sockets. Nothing waits for room in a socket: one peer whose datagrams do not leave would hold up all others.
    pub(super) fn send(&self, engine: &mut impl Engine) {
        while let Some(transmit) = engine.poll_transmit() {
            if let Some(Err(error)) = self.sockets().map(|sockets| sockets.send(&transmit)) {
                tracing::trace!(to = %transmit.to, %error, "datagrams not sent");
            }
            engine.recycle(transmit);
        }
    }

    /// Pauses, where more will then come together.
    pub(super) fn pause(&mut self, Turns { begun, reads, bytes, more }: &Turns) {
        if self.moderation.pauses(*begun, *reads, *bytes, *more) {
            thread::sleep(PAUSE);
        }
    }

    fn receive(
        &mut self,
        engine: &mut impl Engine,
        socket: impl Fn(&UdpSockets) -> Option<&UdpSocket>,
        is_other: &mut impl FnMut(Endpoint, &[u8]) -> bool,
    ) -> Turn {
        let mut turn = Turn::default();
        while turn.goes_on() {
            let socket = self.sockets.as_deref().and_then(&socket);
            let received = socket.map(|socket| udp::receive(socket, &mut self.buffer));
            match received {
                Some(Ok(received)) => {
                    turn.count(received.length);
                    self.handle_received(engine, received, is_other);
                }
                Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => break,
                // An error that an earlier datagram came back with, such as ICMP's "port unreachable".
                Some(Err(error)) => {
                    turn.count(0);
                    tracing::trace!(%error, "socket error");
                }
                None => break,
            }
            self.send(engine);
        }
        turn
    }

    fn handle_received(
        &mut self,
        engine: &mut impl Engine,
        Received { arrival, length, segment }: Received,
        is_other: &mut impl FnMut(Endpoint, &[u8]) -> bool,
    ) {
        let datagrams = &mut self.buffer[..length];
        if is_other(arrival.from, datagrams) {
            return;
        }
        let tun = &self.tun;
        engine.handle_datagrams(arrival, datagrams, segment, Instant::now(), |packet| {
            // What the kernel does not take is lost, as on any network.
            if let Err(error) = tun.write(&packet) {
                tracing::trace!(%error, "packet not delivered");
            }
        });
    }

    /// Reads from the queues that are readable, one after the other, so that a flow that fills its queue does not hold up the others.
    fn read_packets(&mut self, engine: &mut impl Engine) -> io::Result<Turn> {
        let mut turn = Turn::default();
        while turn.goes_on()
            && let Some(queue) = self.queues.next()
        {
            if self.read_queue(engine, queue, &mut turn)? {
                self.queues.again(queue);
            }
        }
        Ok(turn)
    }

    /// Reads a super-packet or a few small ones. Whether there may be more.
    fn read_queue(&mut self, engine: &mut impl Engine, queue: usize, turn: &mut Turn) -> io::Result<bool> {
        let mut bytes = 0;
        for _ in 0..PACKETS_AT_ONCE {
            match self.tun.read(queue, &mut self.buffer) {
                Ok(Some((header, packet))) => {
                    bytes += packet.len();
                    turn.count(packet.len());
                    engine.handle_packet(&header, packet, Instant::now());
                }
                Ok(None) => turn.count(0),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => turn.count(0),
                // The interface is down; packets come again when somebody brings it up.
                Err(error) if error.raw_os_error() == Some(libc::EIO) => return Ok(false),
                Err(error) => return Err(error),
            }
            // Small packets wait for each other, as long as there are more at once.
            if engine.transmit_bytes() >= SEND_AT_ONCE {
                self.send(engine);
            }
            if bytes >= BYTES_AT_ONCE || !turn.goes_on() {
                break;
            }
        }
        Ok(true)
    }
}

/// Watches both sockets, or where that fails, neither.
fn watch(readiness: &Readiness, sockets: Option<&UdpSockets>) -> io::Result<()> {
    let Some(sockets) = sockets else { return Ok(()) };
    let mut both = sockets.both().zip([Source::V4, Source::V6]);
    let watched = both.try_for_each(|(socket, source)| readiness.watch(socket, source));
    if watched.is_err() {
        sockets.both().for_each(|socket| readiness.forget(socket));
    }
    watched
}

#[cfg(test)]
mod tests;
