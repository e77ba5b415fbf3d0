//! What peers tell each other of the log: its last signed head, through the tunnel.
//!
//! A coordinator that shows one log to some and another to others has to keep them from ever talking to each other.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
};

use carrick_trust::Member;
use nix::sys::socket::{setsockopt, sockopt::BindToDevice};
use tokio::net::UdpSocket;

/// The UDP port of gossip, on overlay addresses only.
const PORT: u16 = 51_821;

/// The longest note that is read, in bytes: a signed checkpoint has some 200.
const MAX_NOTE: usize = 1024;

/// The socket for gossip, inside the mesh.
#[derive(Debug)]
pub(crate) struct Gossip {
    socket: UdpSocket,
    own: Ipv4Addr,
}

impl Gossip {
    /// Listens on this node's overlay address, and hears what comes through the tunnels.
    pub(crate) fn open(interface: &str, own: Ipv4Addr) -> io::Result<Self> {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
        setsockopt(&socket, BindToDevice, &interface.into())?;
        socket.set_nonblocking(true)?;
        socket.bind(&SocketAddrV4::new(own, PORT).into())?;
        Ok(Self { socket: UdpSocket::from_std(socket.into())?, own })
    }

    /// The address that it stands on.
    pub(crate) const fn own(&self) -> Ipv4Addr {
        self.own
    }

    /// Tells a peer. What is lost is told again.
    pub(crate) fn tell(&self, peer: Ipv4Addr, note: &str) {
        let _ = self.socket.try_send_to(note.as_bytes(), SocketAddrV4::new(peer, PORT).into());
    }

    /// The next note. The tunnel it came through belongs to some peer; the note's signature is what counts. Cancel-safe.
    pub(crate) async fn hear(&self) -> Option<String> {
        let mut buffer = [0; MAX_NOTE];
        let (length, _) = self.socket.recv_from(&mut buffer).await.ok()?;
        String::from_utf8(buffer[..length].to_vec()).ok()
    }
}

/// The IPv4 overlay address of a peer.
pub(crate) fn address(peer: &Member) -> Option<Ipv4Addr> {
    match peer.grant.allowed_ips.first()?.address() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}
