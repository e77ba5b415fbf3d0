//! Flows of datagrams into a tunnel, each as fast as the device at this end sends it on, and no faster.
//!
//! A full interface drops packets, and tells nobody: whoever sends as fast as a socket takes it burns the CPU time that the device
//! needs. So what has left by a flow's cable is counted, and the flow is kept a bounded amount ahead of that, as TCP would.

use std::{
    fs::File,
    io::{Read as _, Seek as _},
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use carrick_lab::Host;
use nix::sys::socket::{setsockopt, sockopt::UdpGsoSegment};

/// What is in each datagram: as much as a packet of 1,420 bytes has room for.
pub(super) const PAYLOAD: usize = 1_392;

/// So many go in one call, and stay one super-packet all the way.
const TOGETHER: u64 = 40;

/// What a datagram is outside: a packet of 1,420 bytes, padded to 16, with WireGuard's header and tag.
const MESSAGE: u64 = 1_424 + 32;

/// The headers of Ethernet, IPv4 and UDP. A super-packet has them once.
const HEADERS: u64 = 14 + 20 + 8;

/// So many datagrams of a flow may be on their way: far less than the interface holds, and more than the device takes until the next look.
const AHEAD: u64 = 16 * TOGETHER;

/// Between two looks.
const PAUSE: Duration = Duration::from_micros(200);

/// What has not left after so long is lost.
const LOST: Duration = Duration::from_millis(50);

/// Flows, until they are stopped. One thread feeds all of them.
pub(super) struct Flows {
    sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Flows {
    /// Feeds sockets of this host, the packets of each of which leave by an interface of their own.
    pub(super) fn start(host: &Host, sockets: Vec<(UdpSocket, String)>) -> Result<Self> {
        // An open file goes on to tell of the host that it was opened in.
        let counters = host.within(|| File::open("/proc/thread-self/net/dev"))?;
        let mut flows = sockets.into_iter().map(|(socket, cable)| Flow::new(socket, cable));
        let mut flows = flows.by_ref().collect::<Result<Vec<_>>>()?;
        let mut counters = Counters { file: counters, text: String::new() };
        counters.read()?;
        for flow in &mut flows {
            flow.base = counters.messages(&flow.cable)?;
        }
        let (sent, stop): (Arc<AtomicU64>, Arc<AtomicBool>) = Default::default();
        let feed = {
            let (sent, stop) = (sent.clone(), stop.clone());
            move || {
                while !stop.load(Relaxed) {
                    counters.read()?;
                    for flow in &mut flows {
                        flow.feed(counters.messages(&flow.cable)?);
                    }
                    sent.store(flows.iter().map(|flow| flow.left).sum(), Relaxed);
                    thread::sleep(PAUSE);
                }
                let lost: u64 = flows.iter().map(|flow| flow.lost).sum();
                let left: u64 = flows.iter().map(|flow| flow.left).sum();
                ensure!(
                    lost * 100 <= left,
                    "{lost} datagrams were lost before the cable, and {left} were not"
                );
                Ok(())
            }
        };
        Ok(Self { sent, stop, thread: Some(thread::spawn(feed)) })
    }

    /// How many datagrams the device has sent so far.
    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    /// Ends them. An error where they were not what they should have been.
    pub(super) fn stop(mut self) -> Result<()> {
        self.stop.store(true, Relaxed);
        let feeder = self.thread.take().context("the flows have ended")?;
        feeder.join().map_err(|_| anyhow::anyhow!("the load has panicked"))?
    }
}

impl Drop for Flows {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

struct Flow {
    socket: UdpSocket,
    cable: String,
    /// What the cable had carried before.
    base: u64,
    /// Datagrams that went in, those that left, and those that never will.
    fed: u64,
    left: u64,
    lost: u64,
    /// When the latest left.
    latest: Instant,
}

impl Flow {
    fn new(socket: UdpSocket, cable: String) -> Result<Self> {
        let segment = i32::try_from(PAYLOAD)?;
        setsockopt(&socket, UdpGsoSegment, &segment).context("the kernel does not cut up datagrams")?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, cable, base: 0, fed: 0, left: 0, lost: 0, latest: Instant::now() })
    }

    /// Brings it ahead of what its cable has carried.
    fn feed(&mut self, carried: u64) {
        let (left, now) = (carried.saturating_sub(self.base), Instant::now());
        if left > self.left {
            (self.left, self.latest) = (left, now);
        } else if now - self.latest > LOST {
            self.lost += self.ahead();
            self.latest = now;
        }
        while self.ahead() < AHEAD && self.socket.send(&DATAGRAMS).is_ok() {
            self.fed += TOGETHER;
        }
    }

    /// How many are on their way.
    fn ahead(&self) -> u64 {
        self.fed.saturating_sub(self.left + self.lost)
    }
}

static DATAGRAMS: [u8; PAYLOAD * TOGETHER as usize] = [0x5a; PAYLOAD * TOGETHER as usize];

/// The counters of a host's interfaces.
struct Counters {
    file: File,
    text: String,
}

impl Counters {
    fn read(&mut self) -> Result<()> {
        self.text.clear();
        self.file.rewind()?;
        self.file.read_to_string(&mut self.text)?;
        Ok(())
    }

    /// How many full messages have left by this interface.
    fn messages(&self, interface: &str) -> Result<u64> {
        let (bytes, packets) = transmitted(&self.text, interface).context("the kernel counts nothing")?;
        Ok(bytes.saturating_sub(HEADERS * packets) / MESSAGE)
    }
}

/// Bytes and packets that left by an interface, as `/proc/net/dev` has them.
fn transmitted(text: &str, interface: &str) -> Option<(u64, u64)> {
    let of = |line: &str| line.trim_start().strip_prefix(interface)?.strip_prefix(':').map(str::to_owned);
    let counters = text.lines().find_map(of)?;
    let mut sent = counters.split_whitespace().skip(8).map(str::parse);
    Some((sent.next()?.ok()?, sent.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_interface_sent_is_found_by_its_whole_name() {
        let text = "Inter-|   Receive     |  Transmit\n  eth1: 1 2 3 4 5 6 7 8 90 10 11 12 13 14 15 16\n\
                    eth10: 1 2 3 4 5 6 7 8 91 11 11 12 13 14 15 16\n";
        assert_eq!(transmitted(text, "eth1"), Some((90, 10)));
        assert_eq!(transmitted(text, "eth10"), Some((91, 11)));
        assert_eq!(transmitted(text, "eth0"), None);
    }

    #[test]
    fn a_flow_stays_a_bounded_amount_ahead_and_gives_up_what_is_lost() {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(receiver.local_addr().unwrap()).unwrap();
        let mut flow = Flow::new(socket, String::new()).unwrap();
        flow.feed(0);
        assert_eq!((flow.fed, flow.left), (AHEAD, 0));
        flow.feed(TOGETHER);
        assert_eq!((flow.fed, flow.left, flow.lost), (AHEAD + TOGETHER, TOGETHER, 0));
        flow.latest -= 2 * LOST;
        flow.feed(TOGETHER);
        assert_eq!((flow.lost, flow.ahead()), (AHEAD, AHEAD));
    }
}
