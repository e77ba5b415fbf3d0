//! Answers STUN binding requests (RFC 8489), so that nodes learn where their datagrams come from.
//!
//! An answer is 32 bytes to IPv4 and 44 to IPv6, against at least 20 asked: with UDP and IP headers less than 1.4 times as much,
//! so nobody gains by sending requests in another's name.

use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::{net::UdpSocket, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::{error::StartError, serve::bind_error};

const BINDING_REQUEST: u16 = 0x0001;
const BINDING_SUCCESS: u16 = 0x0101;
const MAGIC_COOKIE: u32 = 0x2112_A442;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const HEADER_LEN: usize = 20;

/// More than any request that a client has reason to send; what is longer is cut off, and ignored for it.
const MAX_REQUEST: usize = 1500;

/// Binds the sockets of `--udp`, all to one port: one for each family where the address is unspecified, so that answers leave
/// from the address that was asked.
pub(crate) fn bind(address: SocketAddr) -> Result<(Vec<UdpSocket>, u16), StartError> {
    let fail = |source| bind_error(address, "--udp", source);
    let first = bind_one(address).map_err(fail)?;
    let port = first.local_addr().map_err(fail)?.port();
    let mut sockets = vec![first];
    if address.ip().is_unspecified() {
        let other = match address.ip() {
            IpAddr::V4(_) => Ipv6Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => IpAddr::from([0, 0, 0, 0]),
        };
        match bind_one(SocketAddr::new(other, port)) {
            Ok(socket) => sockets.push(socket),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                return Err(StartError::AddressInUse(SocketAddr::new(other, port), "--udp"));
            }
            Err(error) => debug!(%error, %other, "STUN is answered in one family only"),
        }
    }
    Ok((sockets, port))
}

/// Answers until shutdown.
pub(crate) async fn answer(socket: UdpSocket, shutdown: CancellationToken) {
    let mut buffer = [0; MAX_REQUEST];
    loop {
        let received = tokio::select! {
            () = shutdown.cancelled() => return,
            received = socket.recv_from(&mut buffer) => received,
        };
        match received {
            Ok((len, from)) => {
                if let Some(answer) = respond(&buffer[..len], from) {
                    // A full socket buffer loses the answer, as any hop may; the client asks again.
                    let _ = socket.try_send_to(&answer, from);
                }
            }
            Err(error) => {
                // An ICMP error for an earlier answer, or a passing lack of memory.
                debug!(%error, "STUN receive failed");
                sleep(Duration::from_millis(1)).await;
            }
        }
    }
}

fn bind_one(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::DGRAM.nonblocking(),
        Some(socket2::Protocol::UDP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

/// The answer to a binding request; `None` to anything else.
fn respond(datagram: &[u8], from: SocketAddr) -> Option<Vec<u8>> {
    let (header, attributes) = datagram.split_at_checked(HEADER_LEN)?;
    let kind = u16::from_be_bytes([header[0], header[1]]);
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let cookie = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    if kind != BINDING_REQUEST || cookie != MAGIC_COOKIE || length != attributes.len() || length % 4 != 0 {
        return None;
    }
    let mut answer = Vec::with_capacity(HEADER_LEN + 24);
    let (family, mut address, body_len) = match from.ip().to_canonical() {
        IpAddr::V4(ip) => (1, ip.octets().to_vec(), 8_u16),
        IpAddr::V6(ip) => (2, ip.octets().to_vec(), 20),
    };
    // The address is xored with cookie and transaction id, which stand side by side in the header.
    address.iter_mut().zip(&header[4..]).for_each(|(byte, mask)| *byte ^= mask);
    let port = from.port() ^ u16::from_be_bytes([header[4], header[5]]);
    answer.extend_from_slice(&BINDING_SUCCESS.to_be_bytes());
    answer.extend_from_slice(&(4 + body_len).to_be_bytes());
    answer.extend_from_slice(&header[4..]);
    answer.extend_from_slice(&XOR_MAPPED_ADDRESS.to_be_bytes());
    answer.extend_from_slice(&body_len.to_be_bytes());
    answer.extend_from_slice(&[0, family]);
    answer.extend_from_slice(&port.to_be_bytes());
    answer.extend_from_slice(&address);
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The transaction of RFC 5769's vectors, 2.2 and 2.3.
    const REQUEST: [u8; 20] = [
        0x00, 0x01, 0x00, 0x00, 0x21, 0x12, 0xa4, 0x42, 0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa,
        0x87, 0xdf, 0xae,
    ];

    #[test]
    fn the_addresses_of_rfc_5769_are_written_as_there() {
        let v4 = respond(&REQUEST, "192.0.2.1:32853".parse().unwrap()).unwrap();
        assert_eq!(v4[20..], [0x00, 0x20, 0x00, 0x08, 0x00, 0x01, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43]);
        assert_eq!(respond(&REQUEST, "[::ffff:192.0.2.1]:32853".parse().unwrap()).unwrap(), v4);
        let v6 = respond(&REQUEST, "[2001:db8:1234:5678:11:2233:4455:6677]:32853".parse().unwrap()).unwrap();
        assert_eq!(
            v6[20..],
            [
                0x00, 0x20, 0x00, 0x14, 0x00, 0x02, 0xa1, 0x47, 0x01, 0x13, 0xa9, 0xfa, 0xa5, 0xd3, 0xf1,
                0x79, 0xbc, 0x25, 0xf4, 0xb5, 0xbe, 0xd2, 0xb9, 0xd9
            ]
        );
        assert_eq!(v6[..4], [0x01, 0x01, 0x00, 0x18]);
    }

    #[test]
    fn anything_but_a_binding_request_gets_no_answer() {
        let from = "192.0.2.1:1".parse().unwrap();
        for at in [0, 1, 3, 4] {
            let mut altered = REQUEST;
            altered[at] ^= 0x41;
            assert_eq!(respond(&altered, from), None, "byte {at}");
        }
        for length in 0..HEADER_LEN {
            assert_eq!(respond(&REQUEST[..length], from), None);
        }
    }
}
