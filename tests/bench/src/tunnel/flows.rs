//! Flows of datagrams into a device, each as fast as the device moves it on, and no faster.
//!
//! A full queue drops packets, and tells nobody: whoever sends as fast as a socket takes it burns the CPU time that the device
//! needs. So what has left the device's host by a flow's interface is counted, and the flow is kept a bounded amount ahead of that, as TCP would.

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
use nix::{
    libc::{PRIO_PROCESS, setpriority},
    sys::socket::{setsockopt, sockopt::UdpGsoSegment},
};

/// What the thread is called that feeds the flows.
pub(super) const THREAD: &str = "load";

/// So many datagrams go in one call, and stay one super-packet all the way: of 1,380 bytes each, they are less than what the kernel gives the
/// device as one (`gso_max_size`), so that what comes out of it is one again.
const TOGETHER: usize = 40;

/// So many datagrams of a flow may be on their way: a quarter of what a queue of the interface holds, and some milliseconds of work.
const AHEAD: u64 = 32 * TOGETHER as u64;

/// Between two looks, in which a shard takes half of that.
const PAUSE: Duration = Duration::from_millis(1);

/// Where nothing has left for so long, what was on its way is lost.
const LOST: Duration = Duration::from_secs(1);

/// The headers of Ethernet, IPv4 and UDP. A super-packet has them once.
const HEADERS: u64 = 14 + 20 + 8;

/// Flows, until they are stopped. One thread feeds all of them.
pub(super) struct Flows {
    left: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Flows {
    /// Feeds flows that leave `host`.
    pub(super) fn start(host: &Host, mut flows: Vec<Flow>) -> Result<Self> {
        // An open file goes on to tell of the host that it was opened in.
        let file = host.within(|| File::open("/proc/thread-self/net/dev"))?;
        let mut counters = Counters { file, text: String::new() };
        counters.read()?;
        for flow in &mut flows {
            flow.base = counters.datagrams(&flow.exit)?;
        }
        let (left, stop): (Arc<AtomicU64>, Arc<AtomicBool>) = Default::default();
        let feed = {
            let (left, stop) = (left.clone(), stop.clone());
            move || {
                go_before_others();
                while !stop.load(Relaxed) {
                    counters.read()?;
                    for flow in &mut flows {
                        flow.feed(counters.datagrams(&flow.exit)?);
                    }
                    left.store(flows.iter().map(|flow| flow.left).sum(), Relaxed);
                    thread::sleep(PAUSE);
                }
                let lost: u64 = flows.iter().map(|flow| flow.lost).sum();
                let left: u64 = flows.iter().map(|flow| flow.left).sum();
                ensure!(lost * 20 <= left, "{lost} datagrams were lost on the way, and {left} were not");
                Ok(())
            }
        };
        let thread = thread::Builder::new().name(THREAD.to_owned()).spawn(feed)?;
        Ok(Self { left, stop, thread: Some(thread) })
    }

    /// How many datagrams have left so far.
    pub(super) fn left(&self) -> u64 {
        self.left.load(Relaxed)
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

/// Gives the calling thread the priority that a shard has: neither is to wait for the other, nor both for what else the machine does.
fn go_before_others() {
    const NICENESS: i32 = -10;
    // SAFETY: numbers alone; 0 is the calling thread. Where it is forbidden, it is forbidden to the shards, too.
    unsafe { setpriority(PRIO_PROCESS, 0, NICENESS) };
}

/// Where a flow leaves its host.
struct Exit {
    interface: String,
    /// What of a datagram goes there behind the headers, in bytes.
    size: u64,
}

/// A flow of datagrams of one size.
pub(super) struct Flow {
    socket: UdpSocket,
    /// What a call sends.
    datagrams: Arc<[u8]>,
    exit: Exit,
    /// What had left there before.
    base: u64,
    /// Datagrams that went in, those that left, and those that never will.
    fed: u64,
    left: u64,
    lost: u64,
    /// When the latest left.
    latest: Instant,
}

impl Flow {
    /// Datagrams with so many bytes in each, to where the socket is connected. They leave by `interface`, `size` bytes behind the headers.
    pub(super) fn new(socket: UdpSocket, payload: usize, interface: String, size: u64) -> Result<Self> {
        let segment = i32::try_from(payload)?;
        setsockopt(&socket, UdpGsoSegment, &segment).context("the kernel does not cut up datagrams")?;
        socket.set_nonblocking(true)?;
        let datagrams = vec![0x5a; payload * TOGETHER].into();
        let exit = Exit { interface, size };
        Ok(Self { socket, datagrams, exit, base: 0, fed: 0, left: 0, lost: 0, latest: Instant::now() })
    }

    /// Brings it ahead of what has left.
    fn feed(&mut self, carried: u64) {
        let (left, now) = (carried.saturating_sub(self.base), Instant::now());
        if left > self.left {
            (self.left, self.latest) = (left, now);
            // What was late only was not lost.
            self.lost = self.lost.min(self.fed.saturating_sub(left));
        } else if now - self.latest > LOST {
            self.lost += self.ahead();
            self.latest = now;
        }
        while self.ahead() < AHEAD && self.socket.send(&self.datagrams).is_ok() {
            self.fed += TOGETHER as u64;
        }
    }

    /// How many are on their way.
    const fn ahead(&self) -> u64 {
        self.fed.saturating_sub(self.left + self.lost)
    }
}

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

    /// How many datagrams have left there. What else leaves is far less than a datagram now and then.
    fn datagrams(&self, exit: &Exit) -> Result<u64> {
        let (bytes, packets) =
            transmitted(&self.text, &exit.interface).context("the kernel counts nothing")?;
        Ok(bytes.saturating_sub(HEADERS * packets) / exit.size)
    }
}

/// Bytes and packets that left by an interface, as `/proc/net/dev` has them.
fn transmitted(text: &str, interface: &str) -> Option<(u64, u64)> {
    let of = |line| str::trim_start(line).strip_prefix(interface)?.strip_prefix(':');
    let counters = text.lines().find_map(of)?;
    let mut sent = counters.split_whitespace().skip(8).map(str::parse);
    Some((sent.next()?.ok()?, sent.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_left_by_an_interface_is_found_by_its_whole_name() {
        let text = "Inter-|   Receive     |  Transmit\n  eth1: 1 2 3 4 5 6 7 8 90 10 11 12 13 14 15 16\n\
                    eth10: 1 2 3 4 5 6 7 8 91 11 11 12 13 14 15 16\n";
        assert_eq!(transmitted(text, "eth1"), Some((90, 10)));
        assert_eq!(transmitted(text, "eth10"), Some((91, 11)));
        assert_eq!(transmitted(text, "eth0"), None);
    }

    #[test]
    fn datagrams_are_counted_by_bytes_however_many_were_one_packet() {
        let bytes = 3 * 42 + 45 * 100 + 2 * 100;
        let text = format!("eth0: 0 0 0 0 0 0 0 0 {bytes} 3 0 0 0 0 0 0\n");
        let counters = Counters { file: File::open("/dev/null").unwrap(), text };
        assert_eq!(counters.datagrams(&Exit { interface: "eth0".to_owned(), size: 100 }).unwrap(), 47);
    }

    #[test]
    fn a_flow_stays_a_bounded_amount_ahead_and_gives_up_what_is_lost_until_it_shows() {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(receiver.local_addr().unwrap()).unwrap();
        let mut flow = Flow::new(socket, 10, String::new(), 10).unwrap();
        let together = TOGETHER as u64;
        flow.feed(0);
        assert_eq!((flow.fed, flow.left), (AHEAD, 0));
        flow.feed(together);
        assert_eq!((flow.fed, flow.left, flow.lost), (AHEAD + together, together, 0));
        flow.latest -= 2 * LOST;
        flow.feed(together);
        assert_eq!((flow.lost, flow.ahead()), (AHEAD, AHEAD));
        flow.feed(2 * AHEAD);
        assert_eq!((flow.lost, flow.fed - flow.left), (together, AHEAD + together));
        flow.feed(flow.fed);
        assert_eq!((flow.lost, flow.ahead()), (0, AHEAD));
    }
}
