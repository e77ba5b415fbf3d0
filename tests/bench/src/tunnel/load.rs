//! Traffic for measurements: streams and datagrams, as fast as they go or at a pace.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::Result;
use carrick_lab::Host;
use socket2::SockRef;

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);

/// How often threads look whether they are to stop.
const TICK: Duration = Duration::from_millis(20);

/// What is written and read at once.
const CHUNK: usize = 128 << 10;

/// What a socket may hold.
const SOCKET_BUFFER: usize = 8 << 20;

/// From which host to which, and the address of the latter.
pub(super) type Way<'a> = (&'a Host, &'a Host, IpAddr);

/// What arrived so far.
#[derive(Debug, Default)]
struct Arrived {
    bytes: AtomicU64,
    pieces: AtomicU64,
}

/// Traffic, until it is dropped.
pub(super) struct Load {
    arrived: Arc<Arrived>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// A TCP stream on each way, all together at no more than so many bytes a second.
    pub(super) fn tcp(ways: &[Way<'_>], bytes_per_second: Option<u64>) -> Result<Self> {
        let mut load = Self::new();
        for (from, to, address) in ways {
            let listener = to.tcp_listen(SocketAddr::new(*address, 0))?;
            let sender = from.tcp_connect(listener.local_addr()?, CONNECT)?;
            SockRef::from(&listener).set_read_timeout(Some(CONNECT))?;
            let (receiver, _) = listener.accept()?;
            receiver.set_read_timeout(Some(TICK))?;
            sender.set_write_timeout(Some(TICK))?;
            let pace = bytes_per_second.map(|all| all / ways.len() as u64);
            load.spawn(move |stop, _| write_stream(sender, pace, stop));
            load.spawn(move |stop, arrived| read_stream(receiver, stop, arrived));
        }
        Ok(load)
    }

    /// Datagrams with so many bytes in each, one a call, as fast as they go.
    pub(super) fn udp((from, to, address): Way<'_>, payload: usize) -> Result<Self> {
        let receiver = to.udp_bind(SocketAddr::new(address, 0))?;
        SockRef::from(&receiver).set_recv_buffer_size(SOCKET_BUFFER)?;
        receiver.set_read_timeout(Some(TICK))?;
        let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let sender = from.udp_bind(any.parse()?)?;
        sender.connect(receiver.local_addr()?)?;
        let mut load = Self::new();
        load.spawn(move |stop, _| send_datagrams(&sender, payload, stop));
        load.spawn(move |stop, arrived| receive_datagrams(&receiver, stop, arrived));
        Ok(load)
    }

    /// Bytes and pieces that arrived so far.
    pub(super) fn arrived(&self) -> (u64, u64) {
        (self.arrived.bytes.load(Relaxed), self.arrived.pieces.load(Relaxed))
    }

    fn new() -> Self {
        Self { arrived: Arc::default(), stop: Arc::default(), threads: Vec::new() }
    }

    fn spawn(&mut self, work: impl FnOnce(&AtomicBool, &Arrived) + Send + 'static) {
        let (stop, arrived) = (self.stop.clone(), self.arrived.clone());
        self.threads.push(thread::spawn(move || work(&stop, &arrived)));
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

fn write_stream(mut sender: TcpStream, pace: Option<u64>, stop: &AtomicBool) {
    let chunk = vec![0x5a; CHUNK];
    let (begin, mut sent) = (Instant::now(), 0_u64);
    while !stop.load(Relaxed) {
        if let Some(pace) = pace {
            let due = Duration::from_secs_f64(sent as f64 / pace as f64);
            thread::sleep(due.saturating_sub(begin.elapsed()));
        }
        match sender.write(&chunk) {
            Ok(count) => sent += count as u64,
            Err(error) if is_timeout(&error) => {}
            Err(_) => break,
        }
    }
}

fn read_stream(mut receiver: TcpStream, stop: &AtomicBool, arrived: &Arrived) {
    let mut buffer = vec![0; CHUNK];
    while !stop.load(Relaxed) {
        match receiver.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => note(arrived, count),
            Err(error) if is_timeout(&error) => {}
            Err(_) => break,
        }
    }
}

fn send_datagrams(sender: &UdpSocket, payload: usize, stop: &AtomicBool) {
    let datagram = vec![0x5a; payload];
    while !stop.load(Relaxed) {
        // What finds no room is lost.
        let _ = sender.send(&datagram);
    }
}

fn receive_datagrams(receiver: &UdpSocket, stop: &AtomicBool, arrived: &Arrived) {
    let mut buffer = [0; 2048];
    while !stop.load(Relaxed) {
        if let Ok(count) = receiver.recv(&mut buffer) {
            note(arrived, count);
        }
    }
}

fn note(arrived: &Arrived, bytes: usize) {
    arrived.bytes.fetch_add(bytes as u64, Relaxed);
    arrived.pieces.fetch_add(1, Relaxed);
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}
