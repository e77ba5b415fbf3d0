//! A bad network between two devices.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::wireguard::{OUTSIDE, PORT, Pair};

/// A datagram that waits for the next one, to come behind it, waits no longer.
const WAIT: Duration = Duration::from_millis(5);

/// What the first device takes for its peer: it loses every 50th datagram, brings every 37th twice, and swaps every 23rd with the next one,
/// each way.
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
            from.set_read_timeout(Some(WAIT)).unwrap();
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
    // A datagram that nobody listens for, or that there is no room for, is one more that is lost.
    let send = |datagram: &[u8]| drop(to.send_to(datagram, end));
    let count = |of: &AtomicU64| {
        of.fetch_add(1, Ordering::Relaxed);
    };
    let mut waiting: Option<Vec<u8>> = None;
    let mut buffer = vec![0; 1 << 16];
    let mut number = 0_u64;
    while !over.load(Ordering::Relaxed) {
        let Ok(length) = from.recv(&mut buffer) else {
            waiting.take().iter().for_each(|datagram| send(datagram));
            continue;
        };
        let datagram = &buffer[..length];
        number += 1;
        if number.is_multiple_of(50) {
            count(&counts.lost);
        } else if number.is_multiple_of(23) && waiting.is_none() {
            waiting = Some(datagram.to_vec());
        } else {
            send(datagram);
            if number.is_multiple_of(37) {
                count(&counts.doubled);
                send(datagram);
            }
            if let Some(earlier) = waiting.take() {
                count(&counts.swapped);
                send(&earlier);
            }
        }
    }
}
