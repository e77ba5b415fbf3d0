use std::io::{self, Read as _};
use std::mem;
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use memchr::memmem::Finder;
use netlink_packet_route::link::LinkLayerType;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use crate::error::{Doing as _, Error, Result};
use crate::host::Host;
use crate::packet::{Layer, Packet};

const KEPT_BYTES: usize = 64 << 20;
const KEPT_PACKETS: usize = 200_000;
const RECEIVE_BUFFER: usize = 64 << 20;
const LONGEST_FRAME: usize = 256 << 10;
const ETH_P_ALL: u16 = libc::ETH_P_ALL.cast_unsigned() as u16;

/// Sees every frame that passes an interface, in both directions. Started by [`Host::capture`].
///
/// Every question is answered for all frames that passed before it was asked.
#[derive(Debug)]
pub struct Capture {
    shared: Arc<Shared>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    interface: String,
    layer: Layer,
    socket: Socket,
    receive_buffer: usize,
    stop: AtomicBool,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    kept: Vec<Packet>,
    kept_bytes: usize,
    count: u64,
    /// Frames that came when enough had been kept.
    unkept: u64,
    /// Frames that the kernel dropped, or cut off, before they were read.
    dropped: u64,
    markers: Vec<(Finder<'static>, bool)>,
    stopped: bool,
}

impl Capture {
    pub(crate) fn start(host: &Host, interface: &str, markers: &[&[u8]]) -> Result<Self> {
        let capture = || format!("capture on {interface} of {}", host.name());
        let link = host.netlink().link(interface).doing(capture)?;
        let framed = matches!(link.header.link_layer_type, LinkLayerType::Ether | LinkLayerType::Loopback);
        let layer = if framed { Layer::Ethernet } else { Layer::Ip };
        let socket = host.within(|| open(link.header.index)).doing(capture)?;
        let receive_buffer = socket.recv_buffer_size().doing(capture)?;
        let markers = markers.iter().map(|marker| (Finder::new(marker).into_owned(), false)).collect();
        let shared = Arc::new(Shared {
            interface: format!("{interface} of {}", host.name()),
            layer,
            socket,
            receive_buffer,
            stop: AtomicBool::new(false),
            seen: Mutex::new(Seen { markers, ..Seen::default() }),
        });
        let reader = thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.read()
        });
        Ok(Self { shared, reader: Some(reader) })
    }

    /// The frames kept: all of them, up to 64 MiB or 200,000 frames. See [`Capture::unkept`] and [`Capture::dropped`].
    pub fn packets(&self) -> Vec<Packet> {
        self.shared.drain().kept.clone()
    }

    /// How many frames were seen, kept or not.
    pub fn count(&self) -> u64 {
        self.shared.drain().count
    }

    /// How many frames were seen but not kept.
    pub fn unkept(&self) -> u64 {
        self.shared.drain().unkept
    }

    /// How many frames the kernel dropped before they were seen.
    pub fn dropped(&self) -> u64 {
        self.shared.drain().dropped
    }

    /// Whether any frame contained `marker` in one piece.
    ///
    /// # Errors
    /// When it was not found, but not every frame was looked at: frames were dropped, or the marker is not one
    /// of those given to [`Host::capture_for`] and not every frame was kept.
    pub fn contains(&self, marker: &[u8]) -> Result<bool> {
        let seen = self.shared.drain();
        let registered = seen.markers.iter().find(|(finder, _)| finder.needle() == marker);
        let (found, unkept) = match registered {
            Some((_, found)) => (*found, 0),
            None => {
                let finder = Finder::new(marker);
                (seen.kept.iter().any(|packet| finder.find(&packet.bytes).is_some()), seen.unkept)
            }
        };
        if !found && seen.dropped + unkept > 0 {
            let interface = self.shared.interface.clone();
            return Err(Error::CaptureIncomplete { interface, dropped: seen.dropped, unkept });
        }
        Ok(found)
    }

    /// Stops looking; what was seen stays.
    pub fn stop(&mut self) {
        self.shared.drain().stopped = true;
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn read(&self) {
        const TICK: u16 = 20;
        while !self.stop.load(Ordering::Relaxed) {
            let mut ready = [PollFd::new(std::os::fd::AsFd::as_fd(&self.socket), PollFlags::POLLIN)];
            if poll(&mut ready, PollTimeout::from(TICK)).is_ok_and(|count| count > 0) {
                drop(self.drain());
            }
        }
    }

    /// Reads all that has passed until now: at most what the receive buffer can hold, while more may come.
    fn drain(&self) -> MutexGuard<'_, Seen> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffer = vec![0; LONGEST_FRAME];
        let mut left = self.receive_buffer;
        while left > 0 && !seen.stopped {
            match (&self.socket).read(&mut buffer) {
                Ok(length) => {
                    let at = Instant::now();
                    seen.take(&buffer[..length], at, self.layer);
                    left = left.saturating_sub(length.max(1));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        if let Ok(dropped) = dropped_since_asked(&self.socket) {
            seen.dropped += dropped;
        }
        seen
    }
}

impl Seen {
    fn take(&mut self, frame: &[u8], at: Instant, layer: Layer) {
        self.count += 1;
        if frame.len() == LONGEST_FRAME {
            self.dropped += 1;
        }
        for (finder, found) in &mut self.markers {
            *found = *found || finder.find(frame).is_some();
        }
        if self.kept.len() < KEPT_PACKETS && self.kept_bytes + frame.len() <= KEPT_BYTES {
            self.kept_bytes += frame.len();
            self.kept.push(Packet { at, bytes: frame.to_vec(), layer });
        } else {
            self.unkept += 1;
        }
    }
}

/// A packet socket on one interface of the calling thread's namespace.
fn open(index: u32) -> io::Result<Socket> {
    // Protocol 0 receives nothing, so that no frame of another interface comes in before `bind`.
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
    socket.set_nonblocking(true)?;
    let wanted = libc::c_int::try_from(RECEIVE_BUFFER).unwrap_or(libc::c_int::MAX);
    let forced = nix::sys::socket::setsockopt(
        &socket,
        nix::sys::socket::sockopt::RcvBufForce,
        &usize::try_from(wanted).unwrap_or(RECEIVE_BUFFER),
    );
    if forced.is_err() {
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    }
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as libc::sa_family_t,
        sll_protocol: ETH_P_ALL.to_be(),
        sll_ifindex: index.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is a socket address, for which the storage is large and aligned enough.
    unsafe { *storage.view_as::<libc::sockaddr_ll>() = address };
    // SAFETY: the storage holds a valid address of this length.
    let address = unsafe { SockAddr::new(storage, mem::size_of_val(&address) as libc::socklen_t) };
    socket.bind(&address)?;
    Ok(socket)
}

/// Frames dropped since the last call (packet(7), `PACKET_STATISTICS`).
fn dropped_since_asked(socket: &Socket) -> io::Result<u64> {
    let mut statistics = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let mut length = mem::size_of_val(&statistics) as libc::socklen_t;
    // SAFETY: the pointers are valid for the call, and `length` is the size of `statistics`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut statistics).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(statistics.tp_drops.into()) } else { Err(io::Error::last_os_error()) }
}
