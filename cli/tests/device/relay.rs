//! A bad network between two devices.

use std::{
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt};

use crate::wireguard::{OUTSIDE, PORT, Pair};

/// Whether it is over is looked at so often.
const TICK: Duration = Duration::from_millis(20);

/// So many datagrams fit into one call.
const AT_ONCE: usize = 32;

/// What the first device takes for its peer: it loses every 50th datagram, brings every 37th twice, and swaps every 23rd with the one before it,
/// where that is still there, each way.
pub(crate) struct Relay {
    over: Arc<AtomicBool>,
    ways: Vec<(Arc<Counts>, JoinHandle<()>)>,
}

/// What befell datagrams.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) lost: AtomicU64,
    pub(crate) doubled: AtomicU64,
    pub(crate) swapped: AtomicU64,
}

impl Relay {
    /// Begins, on the first device's host, and tells that device.
    pub(crate) fn between(pair: &Pair) -> Self {
        let [near, far] = ["127.0.0.1", OUTSIDE[0][0]].map(|address| {
            Arc::new(pair.one.host.udp_bind(format!("{address}:0").parse().unwrap()).unwrap())
        });
        let device = |address: &str| SocketAddr::new(address.parse().unwrap(), PORT);
        let ends = [device("127.0.0.1"), device(OUTSIDE[1][0])];
        let here = near.local_addr().unwrap().to_string();
        let over = Arc::new(AtomicBool::new(false));
        let ways = [(&near, &far, ends[1]), (&far, &near, ends[0])].map(|(from, to, end)| {
            let (from, to, over, counts) =
                (from.clone(), to.clone(), over.clone(), Arc::new(Counts::default()));
            from.set_read_timeout(Some(TICK)).unwrap();
            let counted = counts.clone();
            (counts, thread::spawn(move || pass(&from, &to, end, &over, &counted)))
        });
        pair.one.set(&["peer", &pair.two.public_key, "endpoint", &here]);
        Self { over, ways: ways.into() }
    }

    /// What befell datagrams of the first device, and what those of the second.
    pub(crate) fn counts(&self) -> impl Iterator<Item = &Counts> {
        self.ways.iter().map(|(counts, _)| &**counts)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.ways.drain(..).for_each(|(_, way)| way.join().unwrap());
    }
}

fn pass(from: &UdpSocket, to: &UdpSocket, end: SocketAddr, over: &AtomicBool, counts: &Counts) {
    let mut way = Way { counts, datagrams: 0, on_the_way: Vec::new() };
    let mut buffer = vec![0; 1 << 16];
    while !over.load(Ordering::Relaxed) {
        let Ok(length) = from.recv(&mut buffer) else { continue };
        way.post(&buffer[..length]);
        // And what else is there.
        while way.on_the_way.len() < AT_ONCE
            && let Ok(length) = recv(from.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT)
        {
            way.post(&buffer[..length]);
        }
        way.deliver(to, end);
    }
}

/// One direction.
struct Way<'a> {
    counts: &'a Counts,
    datagrams: u64,
    on_the_way: Vec<Vec<u8>>,
}

impl Way<'_> {
    fn post(&mut self, datagram: &[u8]) {
        let count = |of: &AtomicU64| {
            of.fetch_add(1, Ordering::Relaxed);
        };
        self.datagrams += 1;
        let last = self.on_the_way.len();
        if self.datagrams.is_multiple_of(50) {
            return count(&self.counts.lost);
        }
        self.on_the_way.push(datagram.to_vec());
        if self.datagrams.is_multiple_of(37) {
            count(&self.counts.doubled);
            self.on_the_way.push(datagram.to_vec());
        }
        if self.datagrams.is_multiple_of(23) && last > 0 {
            count(&self.counts.swapped);
            self.on_the_way.swap(last - 1, last);
        }
    }

    /// Those that follow each other and have one length may come to the device in one buffer.
    fn deliver(&mut self, to: &UdpSocket, end: SocketAddr) {
        for run in self.on_the_way.chunk_by(|a, b| a.len() == b.len()) {
            setsockopt(to, sockopt::UdpGsoSegment, &i32::try_from(run[0].len()).unwrap()).unwrap();
            // Those that nobody listens for, or that there is no room for, are lost, too.
            let _ = to.send_to(&run.concat(), end);
        }
        self.on_the_way.clear();
    }
}
