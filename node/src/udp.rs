//! The WireGuard sockets: one for IPv4 and one for IPv6, on the same port.
//!
//! Many datagrams go to, or come from, one place in one call (`UDP_SEGMENT`, `UDP_GRO`: udp(7)) where the kernel can.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket},
    os::fd::AsRawFd as _,
    sync::atomic::{AtomicBool, Ordering},
};

use carrick_dataplane::{MessageType, Transmit};
use nix::{
    errno::Errno,
    sys::socket::{
        ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt, sockopt,
    },
};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// How much each socket may hold, in bytes; the kernel may grant less.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Received {
    /// Whose.
    pub(crate) from: SocketAddr,
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
        for socket in [Some(&self.v4), self.v6.as_ref()].into_iter().flatten() {
            SockRef::from(socket).set_reuse_port(true)?;
        }
        let mark = SockRef::from(&self.v4).mark()?;
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
        for socket in [Some(&self.v4), self.v6.as_ref()].into_iter().flatten() {
            setsockopt(socket, sockopt::AttachReusePortCbpf, &program)?;
        }
        Ok(())
    }

    /// The port of both.
    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// Sends datagrams from the socket of their family: in one call, or where the kernel refuses that, one by one.
    pub(crate) fn send(&self, Transmit { to, payload, segment, .. }: &Transmit) -> io::Result<()> {
        self.send_all(*to, payload, *segment)
    }

    fn send_all(&self, to: SocketAddr, payload: &[u8], segment: usize) -> io::Result<()> {
        if payload.len() > segment && self.segments.load(Ordering::Relaxed) {
            match self.send_segments(to, payload, segment) {
                // The interface that the datagrams leave by cannot do it, nor will it later.
                Err(Errno::EIO) => {
                    self.segments.store(false, Ordering::Relaxed);
                    tracing::info!(%to, "the kernel does not cut datagrams up here; they are sent one by one");
                }
                // Not on this way, or not these: on a path with a smaller MTU they become fragments.
                Err(Errno::EINVAL | Errno::EMSGSIZE | Errno::EOPNOTSUPP) => {}
                sent => return sent.map_err(io::Error::from),
            }
        }
        payload.chunks(segment).try_for_each(|datagram| self.send_to(to, datagram))
    }

    /// Sends a datagram from the socket of its family.
    pub(crate) fn send_to(&self, to: SocketAddr, payload: &[u8]) -> io::Result<()> {
        self.socket_to(to)?.send_to(payload, to).map(drop)
    }

    fn send_segments(&self, to: SocketAddr, payload: &[u8], segment: usize) -> Result<(), Errno> {
        let socket = self.socket_to(to).map_err(|_| Errno::EAFNOSUPPORT)?;
        let segment = u16::try_from(segment).map_err(|_| Errno::EINVAL)?;
        let control = [ControlMessage::UdpGsoSegments(&segment)];
        let to = SockaddrStorage::from(to);
        let slices = [IoSlice::new(payload)];
        sendmsg(socket.as_raw_fd(), &slices, &control, MsgFlags::empty(), Some(&to)).map(drop)
    }

    fn socket_to(&self, to: SocketAddr) -> io::Result<&UdpSocket> {
        let socket = if to.is_ipv4() { Some(&self.v4) } else { self.v6.as_ref() };
        socket.ok_or_else(|| io::ErrorKind::Unsupported.into())
    }
}

/// Takes what waits at a socket: a datagram, or several of one sender and one length. `WouldBlock` where nothing does.
pub(crate) fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Received> {
    let mut control = nix::cmsg_space!(i32);
    let mut slices = [IoSliceMut::new(buffer)];
    let message = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut slices,
        Some(&mut control),
        MsgFlags::MSG_DONTWAIT,
    )?;
    let segment = message.cmsgs()?.find_map(|control| {
        if let ControlMessageOwned::UdpGroSegments(segment) = control {
            usize::try_from(segment).ok().filter(|segment| *segment > 0)
        } else {
            None
        }
    });
    let from = message.address.as_ref().and_then(address).ok_or(io::ErrorKind::InvalidData)?;
    Ok(Received { from, length: message.bytes, segment: segment.unwrap_or(message.bytes.max(1)) })
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
    socket.set_recv_buffer_size(SOCKET_BUFFER)?;
    socket.set_send_buffer_size(SOCKET_BUFFER)?;
    // Without it datagrams come one by one, and all goes on.
    let _ = setsockopt(&socket, sockopt::UdpGroSegment, &true);
    socket.bind(&address.into())?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Sockets, and where theirs and another one's are on the loopback interface.
    fn sockets(v6: bool) -> (UdpSockets, SocketAddr) {
        let sockets = UdpSockets::bind(0, 0).unwrap();
        let host = if v6 { "[::1]" } else { "127.0.0.1" };
        let at = format!("{host}:{}", sockets.port()).parse().unwrap();
        (sockets, at)
    }

    fn peer(v6: bool) -> (UdpSocket, SocketAddr) {
        let socket = UdpSocket::bind(if v6 { "[::1]:0" } else { "127.0.0.1:0" }).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let at = socket.local_addr().unwrap();
        (socket, at)
    }

    /// Waits for what comes next.
    fn next(socket: &UdpSocket, buffer: &mut [u8]) -> Received {
        for _ in 0..2_000 {
            match receive(socket, buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                received => return received.unwrap(),
            }
        }
        panic!("nothing came");
    }

    #[test]
    fn where_the_kernel_stops_cutting_up_datagrams_go_one_by_one_and_none_is_lost() {
        let (sockets, _) = sockets(false);
        let (other, to) = peer(false);
        let payload: Vec<u8> = (0..250).collect();
        let mut buffer = [0; 200];
        let mut arrive = || {
            sockets.send_all(to, &payload, 100).unwrap();
            let came: Vec<_> = (0..3)
                .map(|_| other.recv(&mut buffer).map(|length| buffer[..length].to_vec()).unwrap())
                .collect();
            assert_eq!(came.concat(), payload);
            assert_eq!(came.iter().map(Vec::len).collect::<Vec<_>>(), [100, 100, 50]);
        };
        arrive();
        // Without checksums, which nothing can cut up (`EINVAL`).
        let on: libc::c_int = 1;
        let size = libc::socklen_t::try_from(size_of_val(&on)).unwrap();
        // SAFETY: the descriptor is open, and `on` is a number of the size that is said.
        let set = unsafe {
            libc::setsockopt(
                sockets.v4.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_NO_CHECK,
                (&raw const on).cast(),
                size,
            )
        };
        assert_eq!(set, 0);
        assert!(sockets.send_segments(to, &payload, 100).is_err(), "the kernel refuses");
        arrive();
    }

    #[test]
    fn each_datagram_of_a_burst_has_the_source_that_it_came_from() {
        for v6 in [false, true] {
            let (sockets, at) = sockets(v6);
            let socket = if v6 { sockets.v6.as_ref().unwrap() } else { &sockets.v4 };
            let others = [peer(v6), peer(v6), peer(v6)];
            for number in 0..30 {
                others[usize::from(number) % 3].0.send_to(&[number; 40], at).unwrap();
            }
            let mut buffer = [0; 4096];
            let mut seen = 0;
            while seen < 30 {
                let received = next(socket, &mut buffer);
                for datagram in buffer[..received.length].chunks(received.segment) {
                    assert_eq!(received.from, others[usize::from(datagram[0]) % 3].1);
                    seen += 1;
                }
            }
        }
    }

    #[test]
    fn each_data_message_comes_to_the_socket_that_its_index_names_and_all_else_to_the_first() {
        for v6 in [false, true] {
            let (first, at) = sockets(v6);
            let all = [first.join().unwrap(), first.join().unwrap()];
            first.steer(3).unwrap();
            let all = [&first, &all[0], &all[1]]
                .map(|sockets| if v6 { sockets.v6.as_ref().unwrap() } else { &sockets.v4 });
            let mut buffer = [0; 4096];
            let (other, _) = peer(v6);
            for (kind, slot, expected) in
                [(4, 3, 0), (4, 4, 1), (4, 5, 2), (1, 4, 0), (2, 5, 0), (3, 5, 0), (0, 5, 0)]
            {
                let datagram = [&[kind, 0, 0, 0, 7, slot, 1, 0][..], &[0; 24]].concat();
                other.send_to(&datagram, at).unwrap();
                assert_eq!(next(all[expected], &mut buffer).length, 32, "type {kind}, slot {slot}");
            }
            other.send_to(&[4], at).unwrap();
            assert_eq!(next(all[0], &mut buffer).length, 1, "one that is too short for an index");
            assert!(UdpSockets::bind(first.port(), 0).is_err(), "the port is taken");
        }
    }

    #[test]
    fn the_shortest_and_the_longest_datagram_there_are_come_as_they_are() {
        let (sockets, at) = sockets(false);
        let (other, _) = peer(false);
        let mut buffer = vec![0; 1 << 16];
        for length in [0, carrick_dataplane::MAX_DATAGRAM] {
            other.send_to(&vec![9; length], at).unwrap();
            let received = next(&sockets.v4, &mut buffer);
            assert_eq!((received.length, received.segment), (length, length.max(1)));
        }
    }
}
