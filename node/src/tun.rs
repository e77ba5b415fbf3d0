//! The TUN interface: a file descriptor whose reads are packets from this host and whose writes are packets to it.
//!
//! Each has a [`VnetHeader`] before it: where the kernel can, it hands over, and takes, many packets of one flow as one.
//!
//! There are several queues. The kernel keeps a flow's packets in the queue that the flow's packets from here were last written to, or in one
//! that it chooses by a hash of the flow; so a flow that fills its queue delays hardly any other.

use std::{
    ffi::CString,
    fs::{File, OpenOptions},
    io::{self, IoSlice, Read as _, Write as _},
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use carrick_dataplane::{
    flow_hash,
    offload::{Coalesced, Gso, MAX_PARTS, Segments, VnetHeader},
};
use nix::{errno::Errno, net::if_::if_nametoindex};

use crate::whereabouts::Whereabouts;

const DEVICE: &str = "/dev/net/tun";

/// Packets without link layers, with headers that say how to cut them up.
const FLAGS: libc::c_int = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR;

/// So many flows are unlikely to share a queue.
pub(crate) const QUEUES: usize = 16;

/// Segments of TCP over IPv4 and IPv6, also with ECN, and packets without their checksum.
const TCP_OFFLOADS: libc::c_uint =
    libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;

/// Segments of UDP over both, since Linux 6.2.
const UDP_OFFLOADS: libc::c_uint = libc::TUN_F_USO4 | libc::TUN_F_USO6;

nix::ioctl_write_ptr_bad!(tunsetiff, libc::TUNSETIFF, libc::ifreq);
nix::ioctl_write_int_bad!(tunsetoffload, libc::TUNSETOFFLOAD);

/// A TUN interface with offloads. It disappears when this is dropped, however the process ends.
#[derive(Debug)]
pub(crate) struct Tun {
    queues: Vec<File>,
    index: u32,
    udp_segments: bool,
    /// Whether the kernel once refused to take many packets as one.
    refused: AtomicBool,
}

/// Why there is no interface.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// The kernel offers none here.
    #[error("{DEVICE} is missing: load the module with `modprobe tun`, or give the container this device")]
    Missing,
    /// It is there and closed to this process.
    #[error(
        "no permission to make a TUN interface: run as root, or with CAP_NET_ADMIN and access to {DEVICE}"
    )]
    Denied,
    /// The name belongs to another interface.
    #[error(
        "there is an interface called {0} already: stop what made it, or choose another name (a node's: --interface)"
    )]
    Taken(String),
    /// The name cannot be one.
    #[error(
        "{0:?} cannot be the name of an interface: use 1 to 15 letters, digits, '-', '_', '.', '=' or '+', but not \"all\" or \"default\""
    )]
    Name(String),
    /// Anything else.
    #[error("cannot make the interface {0}: {1}")]
    Failed(String, #[source] io::Error),
}

impl Tun {
    /// Makes an interface. It is down, without addresses.
    pub(crate) fn open(name: &str) -> Result<Self, TunError> {
        let failed = |error: io::Error| TunError::Failed(name.to_owned(), error);
        if !is_interface_name(name) {
            return Err(TunError::Name(name.chars().take(40).collect()));
        }
        if if_nametoindex(name).is_ok() {
            return Err(TunError::Taken(name.to_owned()));
        }
        let mut queues = vec![open_device(name)?];
        let taken = |errno| attach_error(name, errno);
        // Kernels without them are older than what has TUN interfaces with offloads worth the name; but who knows.
        let mut flags = FLAGS | libc::IFF_MULTI_QUEUE;
        if let Err(errno) = attach(&queues[0], name, flags | libc::IFF_TUN_EXCL) {
            if errno != Errno::EINVAL {
                return Err(taken(errno));
            }
            flags = FLAGS;
            attach(&queues[0], name, flags | libc::IFF_TUN_EXCL).map_err(taken)?;
        }
        while queues.len() < QUEUES && flags & libc::IFF_MULTI_QUEUE != 0 {
            let queue = open_device(name)?;
            if let Err(errno) = attach(&queue, name, flags) {
                tracing::info!(%errno, queues = queues.len(), "the interface has fewer queues");
                break;
            }
            queues.push(queue);
        }
        let index = if_nametoindex(name).map_err(|errno| failed(errno.into()))?;
        let udp_segments = ask_for_offloads(|offloads| set_offloads(&queues[0], offloads));
        Ok(Self { queues, index, udp_segments, refused: AtomicBool::new(false) })
    }

    /// None that anything could come from.
    #[cfg(test)]
    pub(crate) const fn without_queues() -> Self {
        Self { queues: Vec::new(), index: 0, udp_segments: false, refused: AtomicBool::new(false) }
    }

    /// Whether the kernel takes many UDP datagrams as one.
    pub(crate) const fn takes_udp_segments(&self) -> bool {
        self.udp_segments
    }

    /// The interface's index.
    pub(crate) const fn index(&self) -> u32 {
        self.index
    }

    /// A way to find the interface again when somebody has moved it. It stays until that is dropped, too.
    pub(crate) fn whereabouts(&self) -> io::Result<Whereabouts> {
        let queue = self.queues.first().ok_or(io::ErrorKind::NotFound)?;
        Whereabouts::new(queue.try_clone()?)
    }

    /// How many queues there are.
    pub(crate) const fn queues(&self) -> usize {
        self.queues.len()
    }

    /// A queue, to wait for.
    pub(crate) fn queue(&self, number: usize) -> Option<BorrowedFd<'_>> {
        self.queues.get(number).map(File::as_fd)
    }

    /// The next packet from this host in a queue, or many at once. `Ok(None)` for one that is of no use; `WouldBlock` where there is none.
    pub(crate) fn read<'a>(
        &self,
        queue: usize,
        buffer: &'a mut [u8],
    ) -> io::Result<Option<(VnetHeader, &'a [u8])>> {
        let Some(mut queue) = self.queues.get(queue) else { return Err(io::ErrorKind::WouldBlock.into()) };
        let length = queue.read(buffer)?;
        let parts = buffer.get(..length).and_then(<[u8]>::split_first_chunk);
        Ok(parts.and_then(|(header, packet)| Some((VnetHeader::parse(header)?, packet))))
    }

    /// Hands a packet to this host that is whole.
    pub(crate) fn write_whole(&self, packet: &[u8]) -> io::Result<usize> {
        let header = VnetHeader::default().to_bytes();
        let mut queue = &self.queues[flow_hash(packet).unwrap_or_default() as usize % self.queues.len()];
        queue.write_vectored(&[IoSlice::new(&header), IoSlice::new(packet)])
    }

    /// Hands a packet to this host, or many at once, or where the kernel refuses that, one by one.
    pub(crate) fn write(&self, packet: &Coalesced<'_>) -> io::Result<()> {
        // The kernel then keeps what this host answers in the same queue.
        let flow = packet.parts().next().and_then(flow_hash).unwrap_or_default();
        let mut queue = &self.queues[flow as usize % self.queues.len()];
        self.write_by(packet, |slices| queue.write_vectored(slices).map(drop))
    }

    fn write_by(
        &self,
        packet: &Coalesced<'_>,
        mut write: impl FnMut(&[IoSlice<'_>]) -> io::Result<()>,
    ) -> io::Result<()> {
        let header = packet.header.to_bytes();
        let mut slices = [IoSlice::new(&[]); 1 + MAX_PARTS];
        slices[0] = IoSlice::new(&header);
        let mut count = 1;
        for (slice, part) in slices[1..].iter_mut().zip(packet.parts()) {
            *slice = IoSlice::new(part);
            count += 1;
        }
        match write(&slices[..count]) {
            // It may take the next ones: what it looks at are their headers.
            Err(error) if packet.header.gso != Gso::None && is_refusal(&error) => {
                if !self.refused.swap(true, Ordering::Relaxed) {
                    tracing::info!(%error, "the kernel does not take these packets as one; they are written one by one");
                }
                write_each(packet, write)
            }
            outcome => outcome,
        }
    }
}

/// Whether an interface may have this name, as wg-quick(8) has it: what the kernel takes, less what no one would type. The kernel keeps `all`
/// and `default` for itself.
pub fn is_interface_name(name: &str) -> bool {
    let plausible = |b: u8| b.is_ascii_alphanumeric() || b"-_.=+".contains(&b);
    (1..=15).contains(&name.len()) && name.bytes().all(plausible) && !name.starts_with(['.', '-'])
}

/// Whether the kernel takes a packet for what it cannot be: not that the interface is down, or that there is no memory.
fn is_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EMSGSIZE | libc::EOPNOTSUPP))
}

/// Writes the packets that one stands for.
fn write_each(
    packet: &Coalesced<'_>,
    mut write: impl FnMut(&[IoSlice<'_>]) -> io::Result<()>,
) -> io::Result<()> {
    let together = packet.parts().collect::<Vec<_>>().concat();
    let mut segments = Segments::of(&packet.header, &together).map_err(io::Error::other)?;
    let header = VnetHeader::default().to_bytes();
    let (mut segment, mut outcome) = (Vec::new(), Ok(()));
    while segments.next_length().is_some() {
        segment.clear();
        segments.append_next(&mut segment);
        // One that is refused is no reason to lose those behind it.
        outcome = outcome.and(write(&[IoSlice::new(&header), IoSlice::new(&segment)]));
    }
    outcome
}

fn open_device(name: &str) -> Result<File, TunError> {
    OpenOptions::new().read(true).write(true).open(Path::new(DEVICE)).map_err(|error| {
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or_default());
        if [Errno::ENOENT, Errno::ENXIO, Errno::ENODEV].contains(&errno) {
            TunError::Missing
        } else if [Errno::EACCES, Errno::EPERM].contains(&errno) {
            TunError::Denied
        } else {
            TunError::Failed(name.to_owned(), error)
        }
    })
}

fn attach_error(name: &str, errno: Errno) -> TunError {
    if errno == Errno::EPERM {
        TunError::Denied
    } else if errno == Errno::EINVAL && if_nametoindex(name).is_err() {
        TunError::Name(name.to_owned())
    } else if [Errno::EBUSY, Errno::EINVAL].contains(&errno) {
        TunError::Taken(name.to_owned())
    } else {
        TunError::Failed(name.to_owned(), errno.into())
    }
}

/// Asks for as many offloads as the kernel has; says whether those for UDP are among them. `ask` says whether it has them all.
fn ask_for_offloads(ask: impl Fn(libc::c_uint) -> bool) -> bool {
    const ALL: libc::c_uint = TCP_OFFLOADS | UDP_OFFLOADS;
    let had = [ALL, TCP_OFFLOADS].into_iter().find(|offloads| ask(*offloads));
    if had != Some(ALL) {
        tracing::info!(tcp = had.is_some(), udp = false, "the kernel offers fewer offloads");
    }
    had == Some(ALL)
}

fn set_offloads(file: &File, offloads: libc::c_uint) -> bool {
    libc::c_int::try_from(offloads).is_ok_and(|offloads| {
        // SAFETY: the descriptor is a TUN interface's, and TUNSETOFFLOAD takes a number.
        unsafe { tunsetoffload(file.as_raw_fd(), offloads) }.is_ok()
    })
}

fn attach(file: &File, name: &str, flags: libc::c_int) -> Result<(), Errno> {
    let name = CString::new(name).map_err(|_| Errno::EINVAL)?;
    // SAFETY: `ifreq` is plain data for which all zeros is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.as_bytes()) {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: the descriptor is open, and `request` is an `ifreq` with a terminated name, as TUNSETIFF reads it.
    unsafe { tunsetiff(file.as_raw_fd(), &raw const request) }?;
    let flags = nix::fcntl::fcntl(file, nix::fcntl::FcntlArg::F_GETFL)?;
    let flags = nix::fcntl::OFlag::from_bits_retain(flags) | nix::fcntl::OFlag::O_NONBLOCK;
    nix::fcntl::fcntl(file, nix::fcntl::FcntlArg::F_SETFL(flags)).map(drop)
}

#[cfg(test)]
mod tests {
    use carrick_dataplane::offload::Coalescer;

    use super::*;

    #[test]
    fn a_kernel_is_asked_for_what_it_has() {
        for (has, expected, udp) in [
            (TCP_OFFLOADS | UDP_OFFLOADS, TCP_OFFLOADS | UDP_OFFLOADS, true),
            (TCP_OFFLOADS, TCP_OFFLOADS, false),
            (0, 0, false),
        ] {
            let set = std::cell::Cell::new(0);
            let takes_udp = ask_for_offloads(|offloads| {
                let takes = offloads & !has == 0;
                if takes {
                    set.set(offloads);
                }
                takes
            });
            assert_eq!((set.get(), takes_udp), (expected, udp));
        }
    }

    /// Three datagrams of one flow, as they come out of a tunnel.
    fn datagrams() -> Vec<Vec<u8>> {
        let mut together = vec![0; 28 + 250];
        together[..10].copy_from_slice(&[0x45, 0, 1, 22, 0, 7, 0x40, 0, 64, 17]);
        together[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        together[20..28].copy_from_slice(&[3, 232, 0, 80, 1, 2, 0, 0]);
        let header = VnetHeader { gso: Gso::Udp, gso_size: 100, ..VnetHeader::default() };
        let mut segments = Segments::of(&header, &together).unwrap();
        let mut datagrams = Vec::new();
        while segments.next_length().is_some() {
            let mut datagram = Vec::new();
            segments.append_next(&mut datagram);
            datagrams.push(datagram);
        }
        datagrams
    }

    /// What a kernel gets of `packets`, and what it says in the end, where it answers many at once with `refusal`.
    fn written(packets: &[Vec<u8>], refusal: Option<i32>) -> (Vec<(Gso, Vec<u8>)>, bool) {
        let mut coalescer = Coalescer::default();
        let (mut buffer, mut taken, mut delivered) = (packets.concat(), Vec::new(), true);
        let mut at = 0;
        for packet in packets {
            coalescer.push(&buffer, at..at + packet.len());
            at += packet.len();
        }
        coalescer.flush(&mut buffer, |packet| {
            let outcome = Tun::without_queues().write_by(&packet, |slices| {
                let header = VnetHeader::parse(slices[0].first_chunk().unwrap()).unwrap();
                match refusal.filter(|_| header.gso != Gso::None) {
                    Some(errno) => Err(io::Error::from_raw_os_error(errno)),
                    None => {
                        taken.push((header.gso, slices[1..].iter().flat_map(|part| part.to_vec()).collect()));
                        Ok(())
                    }
                }
            });
            delivered &= outcome.is_ok();
        });
        (taken, delivered)
    }

    #[test]
    fn packets_that_the_kernel_does_not_take_as_one_are_written_one_by_one() {
        let datagrams = datagrams();
        let (taken, delivered) = written(&datagrams, None);
        assert_eq!(
            taken.iter().map(|(gso, packet)| (*gso, packet.len())).collect::<Vec<_>>(),
            [(Gso::Udp, 28 + 250)]
        );
        assert!(delivered);
        for errno in [libc::EINVAL, libc::EMSGSIZE, libc::EOPNOTSUPP] {
            let (taken, delivered) = written(&datagrams, Some(errno));
            let alone = datagrams.iter().map(|datagram| (Gso::None, datagram.clone())).collect::<Vec<_>>();
            assert_eq!((taken, delivered), (alone, true), "{errno}");
        }
    }

    #[test]
    fn what_an_interface_that_is_down_does_not_take_is_lost() {
        assert_eq!(written(&datagrams(), Some(libc::EIO)), (Vec::new(), false));
    }
}
