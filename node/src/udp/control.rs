//! The control messages of one `sendmsg`, as the kernel lays them out (cmsg(3)), without a buffer from the heap.

use std::net::{IpAddr, Ipv6Addr};

use carrick_dataplane::Source;
use libc::c_int;

/// `struct cmsghdr`: the length with this header, level and type. What follows it, and the next one, are aligned as a length is.
const HEADER: usize = size_of::<usize>() + 2 * size_of::<c_int>();

/// Room for `struct in6_pktinfo` and the length of a segment.
const ROOM: usize = space(20) + space(2);

/// How many bytes a message takes with its header.
const fn space(length: usize) -> usize {
    HEADER + length.next_multiple_of(size_of::<usize>())
}

/// Control messages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Control {
    bytes: [u8; ROOM],
    length: usize,
}

impl Control {
    /// Says where datagrams are from, and how long each is, where they are to be cut up.
    pub(super) fn new(source: Option<Source>, segment: Option<u16>) -> Self {
        let mut control = Self { bytes: [0; ROOM], length: 0 };
        match source.map(|source| (source.address, source.interface)) {
            // The way is the routing table's to choose: with an interface that no route leads by, the kernel would take every
            // destination for a neighbour.
            Some((IpAddr::V4(address), _)) => {
                let mut info = [0; 12];
                info[4..8].copy_from_slice(&address.octets());
                control.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            Some((IpAddr::V6(address), interface)) => {
                let mut info = [0; 20];
                info[..16].copy_from_slice(&address.octets());
                info[16..].copy_from_slice(&scope(address, interface).to_ne_bytes());
                control.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
            None => {}
        }
        if let Some(segment) = segment {
            control.push(libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
        }
        control
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    fn push(&mut self, level: c_int, kind: c_int, data: &[u8]) {
        let fields =
            [&(HEADER + data.len()).to_ne_bytes()[..], &level.to_ne_bytes(), &kind.to_ne_bytes(), data];
        let mut at = self.length;
        for field in fields {
            self.bytes[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        }
        self.length += space(data.len());
    }
}

/// An address of the link means nothing without its interface.
const fn scope(address: Ipv6Addr, interface: u32) -> u32 {
    if address.is_unicast_link_local() { interface } else { 0 }
}
