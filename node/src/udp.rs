//! The WireGuard sockets: one for IPv4 and one for IPv6, on the same port.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
};

use socket2::{Domain, Protocol, Socket, Type};

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
                Ok(v6) => return Ok(Self { v4, v6: Some(v6), port: chosen }),
                Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
                    return Ok(Self { v4, v6: None, port: chosen });
                }
                Err(error) if port == 0 => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    /// The port of both.
    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// Sends a datagram from the socket of its family.
    pub(crate) fn send_to(&self, to: SocketAddr, payload: &[u8]) -> io::Result<()> {
        let socket = if to.is_ipv4() { Some(&self.v4) } else { self.v6.as_ref() };
        let socket = socket.ok_or(io::ErrorKind::Unsupported)?;
        socket.send_to(payload, to).map(drop)
    }
}

fn bind(address: SocketAddr, mark: u32) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_mark(mark)?;
    socket.set_recv_buffer_size(SOCKET_BUFFER)?;
    socket.set_send_buffer_size(SOCKET_BUFFER)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}
