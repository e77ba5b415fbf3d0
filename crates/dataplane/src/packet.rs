//! The addresses of an IP packet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::offload::{Headers, UDP, Upper};

/// Where a packet comes from and where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// Its source.
    pub source: IpAddr,
    /// Its destination.
    pub destination: IpAddr,
}

/// The addresses of an IPv4 (RFC 791) or IPv6 (RFC 8200) packet; `None` where the bytes are too short to be one.
pub fn addresses(packet: &[u8]) -> Option<Addresses> {
    match packet.first()? >> 4 {
        4 => {
            let header = packet.first_chunk::<20>()?;
            Some(Addresses {
                source: Ipv4Addr::new(header[12], header[13], header[14], header[15]).into(),
                destination: Ipv4Addr::new(header[16], header[17], header[18], header[19]).into(),
            })
        }
        6 => {
            let header = packet.first_chunk::<40>()?;
            Some(Addresses { source: v6(header, 8)?.into(), destination: v6(header, 24)?.into() })
        }
        _ => None,
    }
}

/// A number that all packets of a flow have in common, whichever way they go, and few others: of the addresses, and the ports where there are
/// some.
pub fn flow_hash(packet: &[u8]) -> Option<u32> {
    let Addresses { source, destination } = addresses(packet)?;
    let bits = |address: IpAddr| match address {
        IpAddr::V4(address) => address.to_bits(),
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            (0..4).fold(0, |sum, word| sum ^ (bits >> (32 * word)) as u32)
        }
    };
    let ports = Headers::of(packet).map_or(0, |headers| headers.ports(packet));
    let mixed =
        (bits(source) ^ bits(destination)).wrapping_mul(0x9e37_79b1) ^ (ports >> 16) ^ (ports & 0xffff);
    // The upper bits depend on all others.
    Some(mixed.wrapping_mul(0x9e37_79b1) >> 16)
}

/// Where a UDP datagram (RFC 768) goes and what is in it, or the beginning of that where it is cut into fragments; `None` where a packet is none,
/// or not the beginning of one.
pub(crate) fn udp(packet: &[u8]) -> Option<((IpAddr, u16), &[u8])> {
    let (protocol, header) = match packet.first()? >> 4 {
        4 if packet.get(6)? & 0x1f == 0 && *packet.get(7)? == 0 => {
            (*packet.get(9)?, usize::from(packet.first()? & 0xf) * 4)
        }
        6 => Upper::of(packet).map(|upper| (upper.protocol, upper.at))?,
        _ => return None,
    };
    if protocol != UDP {
        return None;
    }
    let destination = addresses(packet)?.destination;
    let (ports, payload) = packet.get(header..)?.split_first_chunk::<8>()?;
    let port = u16::from_be_bytes([ports[2], ports[3]]);
    Some(((destination, port), payload))
}

/// Whether the header is there that a packet says it has (RFC 791: its length is in words, and at least five). IPv6's is always as long.
pub(crate) fn has_header(packet: &[u8]) -> bool {
    packet.first().is_some_and(|first| {
        let length = usize::from(first & 0xf) * 4;
        first >> 4 != 4 || (20..=packet.len()).contains(&length)
    })
}

/// A packet without what follows it: its padding. `None` where the bytes are less than it says it has, or it says it has no whole header.
pub(crate) fn unpadded(text: &[u8]) -> Option<&[u8]> {
    let length =
        |at: usize| text.get(at..)?.first_chunk().map(|bytes| usize::from(u16::from_be_bytes(*bytes)));
    match text.first()? >> 4 {
        4 => text.get(..length(2)?).filter(|packet| has_header(packet)),
        6 => text.get(..40 + length(4)?),
        _ => None,
    }
}

fn v6(header: &[u8; 40], at: usize) -> Option<Ipv6Addr> {
    header.get(at..at + 16).and_then(|octets| <[u8; 16]>::try_from(octets).ok()).map(Ipv6Addr::from)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_datagram_is_read_and_the_first_of_its_fragments_and_no_other_one() {
        let mut v4 = [[0x45; 28].as_slice(), b"text"].concat();
        v4[4..24].fill(0);
        (v4[9], v4[22], v4[23]) = (17, 1, 2);
        let mut v6 = [[0x60; 48].as_slice(), b"text"].concat();
        v6[4..44].fill(0);
        (v6[6], v6[42], v6[43]) = (17, 1, 2);
        let nowhere = (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 258);
        assert_eq!(udp(&v4), Some((nowhere, b"text".as_slice())));
        assert_eq!(udp(&v6), Some(((IpAddr::V6(Ipv6Addr::UNSPECIFIED), 258), b"text".as_slice())));
        // More fragments, then an offset.
        v4[6] = 0x20;
        assert!(udp(&v4).is_some());
        for (at, bits) in [(6, 0x20), (6, 0x01), (7, 0x01)] {
            let mut later = v4.clone();
            later[at] |= bits;
            assert_eq!(udp(&later).is_some(), bits == 0x20);
        }
        v6[6] = 44;
        v6.splice(40..40, [17, 0, 0, 1, 0, 0, 0, 9]);
        assert_eq!(udp(&v6), Some(((IpAddr::V6(Ipv6Addr::UNSPECIFIED), 258), b"text".as_slice())));
        for (at, byte) in [(42, 1), (43, 9), (40, 6), (6, 6)] {
            let mut other = v6.clone();
            other[at] = byte;
            assert_eq!(udp(&other), None);
        }
        v4[9] = 6;
        assert_eq!(udp(&v4), None);
    }

    #[test]
    fn both_families_are_read() {
        let mut v4 = [0; 20];
        v4[0] = 0x45;
        v4[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        let found = addresses(&v4).unwrap();
        assert_eq!(
            (found.source.to_string(), found.destination.to_string()),
            ("10.0.0.1".into(), "10.0.0.2".into())
        );

        let mut v6 = [0; 40];
        v6[0] = 0x60;
        (v6[23], v6[39]) = (1, 2);
        let found = addresses(&v6).unwrap();
        assert_eq!((found.source.to_string(), found.destination.to_string()), ("::1".into(), "::2".into()));
        assert_eq!(addresses(&v6[..39]), None);
    }

    #[test]
    fn padding_is_cut_off_and_a_packet_that_is_cut_off_is_none() {
        let mut v4 = [0; 32];
        (v4[0], v4[3]) = (0x45, 28);
        assert_eq!(unpadded(&v4), Some(&v4[..28]));
        assert_eq!(unpadded(&v4[..27]), None);
        // A header that says it is not there: its addresses would be nobody's.
        for (length, whole) in [(0, false), (19, false), (20, true)] {
            v4[3] = length;
            assert_eq!(unpadded(&v4).is_some(), whole, "{length}");
        }
        // Or one of another length than it can have.
        v4[3] = 28;
        for (words, whole) in [(0, false), (4, false), (5, true), (7, true), (8, false), (15, false)] {
            v4[0] = 0x40 | words;
            assert_eq!(unpadded(&v4).is_some(), whole, "{words}");
        }
        let mut v6 = [0; 64];
        (v6[0], v6[5]) = (0x60, 10);
        assert_eq!(unpadded(&v6), Some(&v6[..50]));
        assert_eq!(unpadded(&v6[..49]), None);
        assert_eq!((unpadded(&[0x45]), unpadded(&[]), unpadded(&[0; 20])), (None, None, None));
    }

    proptest! {
        #[test]
        fn junk_never_panics(packet: Vec<u8>) {
            let _ = (addresses(&packet), unpadded(&packet), udp(&packet));
        }
    }
}
