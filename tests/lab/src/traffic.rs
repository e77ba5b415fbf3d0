//! Traffic for proofs and measurements: HTTP, TCP streams, numbered datagrams, pings.

use std::io::{self, Read, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::error::{Doing as _, Result, invalid};
use crate::host::Host;

const TICK: Duration = Duration::from_millis(20);

/// A tiny HTTP/1.0 server with one answer. It ends when it is dropped.
#[derive(Debug)]
pub struct HttpServer {
    address: SocketAddr,
    requests: Arc<AtomicU64>,
    _acceptor: Background,
}

impl HttpServer {
    /// Serves `body` for every request.
    pub fn start(host: &Host, address: SocketAddr, body: String) -> Result<Self> {
        let listener = host.tcp_listen(address)?;
        let serve = || format!("serve HTTP on {address} of {}", host.name());
        let address = listener.local_addr().doing(serve)?;
        // accept(2) honours the receive timeout of a listener.
        SockRef::from(&listener).set_read_timeout(Some(TICK)).doing(serve)?;
        let requests = Arc::new(AtomicU64::new(0));
        let (counter, body) = (Arc::clone(&requests), Arc::new(body));
        let acceptor = Background::start(move |stop| {
            while !stop.load(Ordering::Relaxed) {
                let Ok((connection, _)) = listener.accept() else { continue };
                let (counter, body) = (Arc::clone(&counter), Arc::clone(&body));
                thread::spawn(move || {
                    // A client that goes away is its own affair.
                    let _ = answer(connection, &body, &counter);
                });
            }
        });
        Ok(Self { address, requests, _acceptor: acceptor })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many requests came.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

/// The body that an HTTP server gives to a host. Connecting and answering must each end within `timeout`.
pub fn http_get(host: &Host, address: SocketAddr, timeout: Duration) -> Result<String> {
    let get = || format!("GET http://{address}/ from {}", host.name());
    let mut connection = host.tcp_connect(address, timeout)?;
    let deadline = Instant::now() + timeout;
    connection.set_write_timeout(Some(timeout)).doing(get)?;
    write!(connection, "GET / HTTP/1.0\r\nHost: {address}\r\n\r\n").doing(get)?;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::from(io::ErrorKind::TimedOut)).doing(get);
        }
        connection.set_read_timeout(Some(left)).doing(get)?;
        match connection.read(&mut buffer).doing(get)? {
            0 => break,
            length => answer.extend_from_slice(&buffer[..length]),
        }
    }
    let answer = String::from_utf8_lossy(&answer);
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.split(' ').nth(1) == Some("200") => Ok(body.to_owned()),
        _ => Err(invalid(get(), format!("the answer was {answer:?}"))),
    }
}

/// What one TCP stream carried.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stream {
    /// Bytes that the receiver got.
    pub bytes: u64,
    /// From the first to the last of them.
    pub elapsed: Duration,
}

impl Stream {
    /// The mean rate at the receiver.
    pub fn bits_per_second(&self) -> f64 {
        if self.elapsed.is_zero() { 0.0 } else { self.bytes as f64 * 8.0 / self.elapsed.as_secs_f64() }
    }
}

/// Sends one TCP stream from a host to an address of another, as fast as it goes, for `duration`.
pub fn stream(from: &Host, to: &Host, address: SocketAddr, duration: Duration) -> Result<Stream> {
    const CONNECT: Duration = Duration::from_secs(5);
    let send = || format!("stream from {} to {address} of {}", from.name(), to.name());
    let listener = to.tcp_listen(address)?;
    let address = listener.local_addr().doing(send)?;
    let mut sender = from.tcp_connect(address, CONNECT)?;
    SockRef::from(&listener).set_read_timeout(Some(CONNECT)).doing(send)?;
    let (mut receiver, _) = listener.accept().doing(send)?;
    receiver.set_read_timeout(Some(TICK)).doing(send)?;
    sender.set_write_timeout(Some(TICK)).doing(send)?;

    let _sender = Background::start(move |stop| {
        let chunk = vec![0x5a; 256 << 10];
        while !stop.load(Ordering::Relaxed) {
            match sender.write(&chunk) {
                Ok(_) => {}
                Err(error) if is_timeout(&error) => {}
                Err(_) => break,
            }
        }
    });
    let deadline = Instant::now() + duration;
    let mut buffer = vec![0; 256 << 10];
    let mut bytes = 0;
    let mut span: Option<(Instant, Instant)> = None;
    while Instant::now() < deadline {
        match receiver.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => {
                let now = Instant::now();
                bytes += length as u64;
                span = Some((span.map_or(now, |(first, _)| first), now));
            }
            Err(error) if is_timeout(&error) => {}
            Err(error) => return Err(error).doing(send),
        }
    }
    Ok(Stream { bytes, elapsed: span.map_or(Duration::ZERO, |(first, last)| last - first) })
}

/// Sends numbered datagrams at a steady pace and notes when each arrives. It ends when it is dropped.
#[derive(Debug)]
pub struct Beacon {
    sent: Arc<AtomicU64>,
    arrivals: Arc<Mutex<Vec<(u64, Instant)>>>,
    _sender: Background,
    _receiver: Background,
}

impl Beacon {
    /// Starts sending from one host to an address of another, every `every`. Each datagram is the marker followed
    /// by its number (64 bits, big endian, from 0).
    pub fn start(
        from: &Host,
        to: &Host,
        to_address: SocketAddr,
        every: Duration,
        marker: &[u8],
    ) -> Result<Self> {
        let receiver = to.udp_bind(to_address)?;
        let address = receiver.local_addr().doing(|| format!("receive datagrams at {to_address}"))?;
        receiver.set_read_timeout(Some(TICK)).doing(|| format!("receive datagrams at {address}"))?;
        let any: IpAddr =
            if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let sender = from.udp_bind(SocketAddr::new(any, 0))?;

        let sent = Arc::new(AtomicU64::new(0));
        let arrivals = Arc::new(Mutex::new(Vec::new()));
        let (counter, log) = (Arc::clone(&sent), Arc::clone(&arrivals));
        let (sent_marker, marker) = (marker.to_vec(), marker.to_vec());
        Ok(Self {
            sent,
            arrivals,
            _receiver: Background::start(move |stop| note_arrivals(&receiver, &marker, &log, stop)),
            _sender: Background::start(move |stop| {
                let mut next = Instant::now();
                for number in 0_u64.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let datagram = [sent_marker.as_slice(), &number.to_be_bytes()].concat();
                    if sender.send_to(&datagram, address).is_ok() {
                        counter.fetch_add(1, Ordering::Relaxed);
                    }
                    next += every;
                    thread::sleep(next.saturating_duration_since(Instant::now()));
                }
            }),
        })
    }

    /// How many datagrams the sender's kernel took.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// How many arrived.
    pub fn received(&self) -> u64 {
        self.log().len() as u64
    }

    /// When the last of them arrived.
    pub fn last_received(&self) -> Option<Instant> {
        self.log().last().map(|(_, at)| *at)
    }

    /// Number and time of each arrival.
    pub fn arrivals(&self) -> Vec<(u64, Instant)> {
        self.log().clone()
    }

    fn log(&self) -> std::sync::MutexGuard<'_, Vec<(u64, Instant)>> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends one ICMP echo request (ICMPv6 for an IPv6 address) and gives the round-trip time.
pub fn ping(host: &Host, address: IpAddr, timeout: Duration) -> Result<Duration> {
    static SEQUENCE: AtomicU64 = AtomicU64::new(0);
    let sequence = (SEQUENCE.fetch_add(1, Ordering::Relaxed) as u16).to_be_bytes();
    let identifier = (std::process::id() as u16).to_be_bytes();
    let (domain, protocol, request, reply) = match address {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8, 0),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128, 129),
    };
    let mut echo = [request, 0, 0, 0, identifier[0], identifier[1], sequence[0], sequence[1]];
    if address.is_ipv4() {
        // The kernel fills in the checksum of ICMPv6 only.
        let checksum = internet_checksum(&echo).to_be_bytes();
        echo[2..4].copy_from_slice(&checksum);
    }

    let ping = || format!("ping {address} from {}", host.name());
    let socket = host.within(|| Socket::new(domain, Type::RAW, Some(protocol))).doing(ping)?;
    socket.connect(&SocketAddr::new(address, 0).into()).doing(ping)?;
    let start = Instant::now();
    socket.send(&echo).doing(ping)?;
    let mut buffer = [0; 2048];
    loop {
        let left = timeout.saturating_sub(start.elapsed());
        if left.is_zero() {
            return Err(io::Error::from(io::ErrorKind::TimedOut)).doing(ping);
        }
        socket.set_read_timeout(Some(left)).doing(ping)?;
        let length = match (&socket).read(&mut buffer) {
            Err(error) if is_timeout(&error) => 0,
            other => other.doing(ping)?,
        };
        let packet = &buffer[..length];
        // IPv4 raw sockets give the IP header, too.
        let skipped =
            packet.first().filter(|_| address.is_ipv4()).map_or(0, |byte| usize::from(byte & 0xf) * 4);
        let message = packet.get(skipped..).unwrap_or_default();
        if message.first() == Some(&reply) && message.get(4..8) == Some(&echo[4..8]) {
            return Ok(start.elapsed());
        }
    }
}

/// A thread that is told to stop, and joined, when this is dropped.
#[derive(Debug)]
struct Background {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    fn start(work: impl FnOnce(&AtomicBool) + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        Self { stop, thread: Some(thread::spawn(move || work(&flag))) }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn answer(mut connection: TcpStream, body: &str, requests: &AtomicU64) -> io::Result<()> {
    const PATIENCE: Duration = Duration::from_secs(5);
    const LONGEST_REQUEST: usize = 16 << 10;
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.set_write_timeout(Some(PATIENCE))?;
    let mut request = Vec::new();
    let mut buffer = [0; 1024];
    while !request.ends_with(b"\r\n\r\n") {
        match connection.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            length => request.extend_from_slice(&buffer[..length]),
        }
        if request.len() > LONGEST_REQUEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    requests.fetch_add(1, Ordering::Relaxed);
    let length = body.len();
    write!(
        connection,
        "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

fn note_arrivals(receiver: &UdpSocket, marker: &[u8], log: &Mutex<Vec<(u64, Instant)>>, stop: &AtomicBool) {
    /// Enough for an hour at a thousand a second.
    const KEPT: usize = 3_600_000;
    let mut buffer = vec![0; 1 << 16];
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, _)) = receiver.recv_from(&mut buffer) else { continue };
        let at = Instant::now();
        let number = buffer[..length].strip_prefix(marker).and_then(|number| number.try_into().ok());
        let Some(number) = number.map(u64::from_be_bytes) else { continue };
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.len() < KEPT {
            log.push((number, at));
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

/// RFC 1071, for an even number of bytes.
fn internet_checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !(((folded & 0xffff) + (folded >> 16)) as u16)
}
