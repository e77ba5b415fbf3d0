//! The WireGuard sockets: one for IPv4 and one for IPv6, on the same port.
//!
//! Many datagrams go to, or come from, one place in one call (`UDP_SEGMENT`, `UDP_GRO`: udp(7)) where the kernel can. What goes to a peer
//! leaves from the address that it spoke to, for as long as that is one of this host (`IP_PKTINFO`: ip(7), `IPV6_PKTINFO`: RFC 3542).

use std::{
    io::{self, IoSlice, IoSliceMut},
    iter,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket},
    os::fd::AsRawFd as _,
    sync::{
        Once,
        atomic::{AtomicBool, Ordering},
    },
};

use carrick_dataplane::{Arrival, Ecn, Endpoint, MessageType, Source, Transmit};
use nix::{
    errno::Errno,
    sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt},
};
use socket2::{Domain, MsgHdr, Protocol, SockAddr, SockRef, Socket, Type};

use self::control::Control;

/// How much each socket may hold, in bytes, either way. What is on its way out to a slow or silent neighbour has its part of it until the
/// interface's queue drops it: with less, few such would leave no room for anybody else.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;

/// How often a free port for both families is looked for.
const ATTEMPTS: usize = 16;

/// Both sockets. A host without IPv6 has only the first.
#[derive(Debug)]
pub(crate) struct UdpSockets {
    pub(crate) v4: UdpSocket,
    pub(crate) v6: Option<UdpSocket>,
    port: u16,
    /// Whether the kernel cuts datagrams up, as far as is known.
    segments: AtomicBool,
}

/// Datagrams of one sender.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Received {
    /// Whose, what they were sent to, and how they came.
    pub(crate) arrival: Arrival,
    /// How many bytes they have together.
    pub(crate) length: usize,
    /// How long each is, but for the last, which may be shorter.
    pub(crate) segment: usize,
}

impl UdpSockets {
    /// Binds both to `port`, or to one that is free in both where it is 0. Datagrams carry the firewall mark, so that routes into
    /// the tunnels do not apply to them.
    pub(crate) fn bind(port: u16, mark: u32) -> io::Result<Self> {
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for _ in 0..ATTEMPTS {
            let v4 = bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), mark)?;
            let chosen = v4.local_addr()?.port();
            match bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, chosen)), mark) {
                Ok(v6) => {
                    return Ok(Self { v4, v6: Some(v6), port: chosen, segments: true.into() });
                }
                Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
                    return Ok(Self { v4, v6: None, port: chosen, segments: true.into() });
                }
                Err(error) if port == 0 => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    /// Two more on the same port. Which of them a datagram comes to is the kernel's choice, until [`UdpSockets::steer`].
    ///
    /// Nobody else can bind that port meanwhile, unless on purpose (`SO_REUSEPORT`) and as the same user.
    pub(crate) fn join(&self) -> io::Result<Self> {
        for socket in self.both() {
            SockRef::from(socket).set_reuse_port(true)?;
        }
        let mark = self.mark()?;
        let bind = |ip: IpAddr| bind_beside(SocketAddr::new(ip, self.port), mark);
        let v4 = bind(Ipv4Addr::UNSPECIFIED.into())?;
        let v6 = self.v6.as_ref().map(|_| bind(Ipv6Addr::UNSPECIFIED.into())).transpose()?;
        let segments = self.segments.load(Ordering::Relaxed).into();
        Ok(Self { v4, v6, port: self.port, segments })
    }

    /// Makes each data message come to one of `count` sockets on this port, counted as they were bound: the one that the second byte of its
    /// receiver index names, modulo `count`. Anything else comes to the first.
    pub(crate) fn steer(&self, count: usize) -> io::Result<()> {
        let count = u32::try_from(count.max(1)).map_err(io::Error::other)?;
        let step = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
        let data = u32::from(MessageType::Data as u8);
        // What is read beyond the end of a datagram ends the program with 0.
        let mut program = [
            step(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0),
            libc::sock_filter { jf: 3, ..step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, data) },
            step(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 5),
            step(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, count),
            step(libc::BPF_RET | libc::BPF_A, 0),
            step(libc::BPF_RET | libc::BPF_K, 0),
        ];
        let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
        for socket in self.both() {
            setsockopt(socket, sockopt::AttachReusePortCbpf, &program)?;
        }
        Ok(())
    }

    /// Both, as far as there are two.
    pub(crate) fn both(&self) -> impl Iterator<Item = &UdpSocket> {
        iter::once(&self.v4).chain(&self.v6)
    }

    /// The port of both.
    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// The firewall mark of both.
    pub(crate) fn mark(&self) -> io::Result<u32> {
        SockRef::from(&self.v4).mark()
    }

    /// Sends datagrams from the socket of their family: in one call, or where the kernel refuses that, one by one.
    pub(crate) fn send(&self, Transmit { to, source, payload, segment, .. }: &Transmit) -> io::Result<()> {
        self.send_all(Endpoint { remote: *to, source: *source }, payload, *segment)
    }

    fn send_all(&self, mut to: Endpoint, payload: &[u8], segment: usize) -> io::Result<()> {
        if payload.len() > segment && self.segments.load(Ordering::Relaxed) {
            match self.send_segments(to, payload, segment) {
                // The interface that the datagrams leave by cannot do it, nor will it later.
                Err(Errno::EIO) => {
                    self.segments.store(false, Ordering::Relaxed);
                    tracing::info!(to = %to.remote, "the kernel does not cut datagrams up here; they are sent one by one");
                }
                // Not on this way, or not these: on a path with a smaller MTU they become fragments. Or not from there, which shows when
                // one goes alone.
                Err(errno)
                    if matches!(errno, Errno::EINVAL | Errno::EMSGSIZE | Errno::EOPNOTSUPP)
                        || (to.source.is_some() && is_of_source(errno)) => {}
                outcome => return outcome.map_err(io::Error::from),
            }
        }
        payload.chunks(segment).try_for_each(|datagram| self.send_one(&mut to, datagram))
    }

    /// Sends a datagram from the socket of its family.
    pub(crate) fn send_to(&self, to: SocketAddr, payload: &[u8]) -> io::Result<()> {
        self.send_message(to.into(), payload, None).map_err(io::Error::from)
    }

    /// Sends a datagram; where it cannot leave from its source, from wherever the routing table says, and so do those after it.
    fn send_one(&self, to: &mut Endpoint, datagram: &[u8]) -> io::Result<()> {
        let mut sent = self.send_message(*to, datagram, None);
        if to.source.is_some() && sent.is_err_and(is_of_source) {
            let anywhere = Endpoint::from(to.remote);
            sent = self.send_message(anywhere, datagram, None);
            if sent.is_ok() {
                *to = anywhere;
            }
        }
        sent.map_err(io::Error::from)
    }

    fn send_segments(&self, to: Endpoint, payload: &[u8], segment: usize) -> Result<(), Errno> {
        let segment = u16::try_from(segment).map_err(|_| Errno::EINVAL)?;
        self.send_message(to, payload, Some(segment))
    }

    fn send_message(&self, to: Endpoint, payload: &[u8], segment: Option<u16>) -> Result<(), Errno> {
        let socket = self.socket_to(to.remote).map_err(|_| Errno::EAFNOSUPPORT)?;
        let (address, control) = (SockAddr::from(to.remote), Control::new(to.source, segment));
        let slices = [IoSlice::new(payload)];
        let message =
            MsgHdr::new().with_addr(&address).with_buffers(&slices).with_control(control.as_bytes());
        let sent = SockRef::from(socket).sendmsg(&message, 0);
        sent.map(drop).map_err(|error| error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw))
    }

    fn socket_to(&self, to: SocketAddr) -> io::Result<&UdpSocket> {
        let socket = if to.is_ipv4() { Some(&self.v4) } else { self.v6.as_ref() };
        socket.ok_or_else(|| io::ErrorKind::Unsupported.into())
    }
}

/// Whether datagrams may be refused for where they are to leave from: the address is no longer this host's (`ENETUNREACH`, or `EINVAL`
/// of IPv6 and of earlier kernels), its interface is gone (`ENODEV`), or a rule for that address leads nowhere.
const fn is_of_source(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::EINVAL
            | Errno::EADDRNOTAVAIL
            | Errno::ENODEV
            | Errno::ENETUNREACH
            | Errno::EHOSTUNREACH
            | Errno::EACCES
    )
}

/// Room for the control messages of one read, aligned as they are.
#[repr(align(8))]
struct ControlRoom([u8; 128]);

/// Takes what waits at a socket: a datagram, or several of one sender and one length. `WouldBlock` where nothing does.
pub(crate) fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Received> {
    let mut control = ControlRoom([0; 128]);
    let mut slices = [IoSliceMut::new(buffer)];
    let message = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut slices,
        Some(&mut control.0),
        MsgFlags::MSG_DONTWAIT,
    )?;
    let (mut segment, mut source, mut ecn) = (None, None, Ecn::default());
    for control in message.cmsgs()? {
        if let ControlMessageOwned::UdpGroSegments(length) = control {
            segment = usize::try_from(length).ok().filter(|length| *length > 0);
        } else if let Some(class) = traffic_class(&control) {
            ecn = Ecn::of(class);
        } else {
            source = source.or_else(|| sent_to(&control));
        }
    }
    let remote = message.address.as_ref().and_then(address).ok_or(io::ErrorKind::InvalidData)?;
    let arrival = Arrival { from: Endpoint { remote, source }, ecn };
    Ok(Received { arrival, length: message.bytes, segment: segment.unwrap_or(message.bytes.max(1)) })
}

/// The type of service of IPv4, or the traffic class of IPv6.
const fn traffic_class(control: &ControlMessageOwned) -> Option<u8> {
    if let ControlMessageOwned::Ipv4Tos(class) = control {
        Some(*class)
    } else if let ControlMessageOwned::Ipv6TClass(class) = control {
        Some(*class as u8)
    } else {
        None
    }
}

/// What a datagram was sent to, if one can answer from there.
fn sent_to(control: &ControlMessageOwned) -> Option<Source> {
    let (address, interface) = if let ControlMessageOwned::Ipv4PacketInfo(info) = control {
        (
            Ipv4Addr::from_bits(u32::from_be(info.ipi_spec_dst.s_addr)).into(),
            u32::try_from(info.ipi_ifindex).ok()?,
        )
    } else if let ControlMessageOwned::Ipv6PacketInfo(info) = control {
        (IpAddr::from(info.ipi6_addr.s6_addr), info.ipi6_ifindex)
    } else {
        return None;
    };
    (!address.is_unspecified() && !address.is_multicast()).then_some(Source { address, interface })
}

fn address(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|address| SocketAddrV4::from(*address).into());
    v4.or_else(|| address.as_sockaddr_in6().map(|address| SocketAddrV6::from(*address).into()))
}

fn bind(address: SocketAddr, mark: u32) -> io::Result<UdpSocket> {
    bound(address, mark, false)
}

/// Beside other sockets that allow it.
fn bind_beside(address: SocketAddr, mark: u32) -> io::Result<UdpSocket> {
    bound(address, mark, true)
}

fn bound(address: SocketAddr, mark: u32, beside: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_port(beside)?;
    socket.set_mark(mark)?;
    // More than the host lets anybody have (`net.core.rmem_max`), where this process may.
    if setsockopt(&socket, sockopt::RcvBufForce, &SOCKET_BUFFER).is_err() {
        socket.set_recv_buffer_size(SOCKET_BUFFER)?;
    }
    if setsockopt(&socket, sockopt::SndBufForce, &SOCKET_BUFFER).is_err() {
        socket.set_send_buffer_size(SOCKET_BUFFER)?;
    }
    // Without these, datagrams come one by one, answers leave from where the routing table says, and nobody hears of congestion, and all
    // goes on.
    if let Err(error) = setsockopt(&socket, sockopt::UdpGroSegment, &true) {
        static SAID: Once = Once::new();
        SAID.call_once(|| tracing::info!(%error, "the kernel does not hand over many datagrams at once; they come one by one"));
    }
    if address.is_ipv6() {
        let _ = setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true);
        let _ = setsockopt(&socket, sockopt::Ipv6RecvTClass, &true);
    } else {
        let _ = setsockopt(&socket, sockopt::Ipv4PacketInfo, &true);
        let _ = setsockopt(&socket, sockopt::IpRecvTos, &true);
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

mod control;
#[cfg(test)]
mod tests;
