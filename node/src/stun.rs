//! Asking the coordinator where this node's datagrams come from: STUN Binding (RFC 8489), on the WireGuard socket itself.
//!
//! A STUN message cannot be taken for one of WireGuard's: those begin with 1 to 4 and three zero bytes, and a STUN message has
//! its magic cookie where they have an index.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const MAGIC_COOKIE: [u8; 4] = 0x2112_a442_u32.to_be_bytes();
const BINDING_REQUEST: [u8; 2] = [0x00, 0x01];
const BINDING_SUCCESS: [u8; 2] = [0x01, 0x01];
const XOR_MAPPED_ADDRESS: [u8; 2] = [0x00, 0x20];
const HEADER: usize = 20;

/// Names one request, so that only its answer is believed.
pub(crate) type Transaction = [u8; 12];

/// A Binding request.
pub(crate) fn request(transaction: Transaction) -> [u8; HEADER] {
    let mut message = [0; HEADER];
    message[..2].copy_from_slice(&BINDING_REQUEST);
    message[4..8].copy_from_slice(&MAGIC_COOKIE);
    message[8..].copy_from_slice(&transaction);
    message
}

/// Whether a datagram is STUN's, by its cookie.
pub(crate) fn is_stun(datagram: &[u8]) -> bool {
    datagram.len() >= HEADER && datagram[..2] == BINDING_SUCCESS && datagram[4..8] == MAGIC_COOKIE
}

/// The address in the answer to a request; `None` where this is no such answer.
pub(crate) fn mapped_address(datagram: &[u8], transaction: Transaction) -> Option<SocketAddr> {
    if !is_stun(datagram) || datagram[8..HEADER] != transaction {
        return None;
    }
    let mut attributes = &datagram[HEADER..];
    while let Some((head, rest)) = attributes.split_first_chunk::<4>() {
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let value = rest.get(..length)?;
        if head[..2] == XOR_MAPPED_ADDRESS {
            return unmask(value, transaction);
        }
        attributes = rest.get(length.next_multiple_of(4)..)?;
    }
    None
}

fn unmask(value: &[u8], transaction: Transaction) -> Option<SocketAddr> {
    let (head, address) = value.split_first_chunk::<4>()?;
    let port = u16::from_be_bytes([head[2] ^ MAGIC_COOKIE[0], head[3] ^ MAGIC_COOKIE[1]]);
    let mask = MAGIC_COOKIE.iter().chain(&transaction);
    let ip = match head[1] {
        1 => {
            let mut octets = <[u8; 4]>::try_from(address).ok()?;
            octets.iter_mut().zip(mask).for_each(|(octet, mask)| *octet ^= mask);
            IpAddr::V4(Ipv4Addr::from(octets))
        }
        2 => {
            let mut octets = <[u8; 16]>::try_from(address).ok()?;
            octets.iter_mut().zip(mask).for_each(|(octet, mask)| *octet ^= mask);
            IpAddr::V6(Ipv6Addr::from(octets))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 5769 section 2.2: a response with software "test vector" and the mapped address 192.0.2.1:32853.
    const RESPONSE: &[u8] = b"\x01\x01\x00\x3c\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae\x80\x22\x00\x0b\
        test vector \x00\x20\x00\x08\x00\x01\xa1\x47\xe1\x12\xa6\x43\x00\x08\x00\x14\x2b\x91\xf5\x99\xfd\x9e\x90\xc3\
        \x8c\x74\x89\xf9\x2a\xf9\xba\x53\xf0\x6b\xe7\xd7\x80\x28\x00\x04\xc0\x7d\x4c\x96";
    const TRANSACTION: Transaction = *b"\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae";

    #[test]
    fn the_mapped_address_is_read() {
        assert_eq!(mapped_address(RESPONSE, TRANSACTION), Some("192.0.2.1:32853".parse().unwrap()));
        assert_eq!(mapped_address(RESPONSE, [0; 12]), None, "the answer to another request");
    }

    #[test]
    fn a_cut_answer_is_none() {
        for length in 0..44 {
            assert_eq!(mapped_address(&RESPONSE[..length], TRANSACTION), None, "{length}");
        }
    }
}
