//! Clamping of TCP's maximum segment size (RFC 9293, section 3.7.1): both ends of a connection are told how much fits into the tunnel, since on
//! many paths they do not hear of it otherwise.
//!
//! Extension headers of IPv6 are passed over. They do not lessen what an end is told: it takes off those that it sends itself (RFC 6691).

use crate::offload::{SYN, TCP, TCP_FLAGS, Upper, replace_word};

/// The option's kind.
const MSS: u8 = 2;

/// The shortest headers of TCP and of each IP, in bytes.
const TCP_HEADER: usize = 20;
const V4_HEADER: usize = 20;
const V6_HEADER: usize = 40;

/// Where the checksum is in a TCP header.
const CHECKSUM: usize = 16;

/// Lowers the segment size that a SYN offers to what fits into `mtu` bytes, and says whether it did. The checksum is exactly as right or wrong
/// as it was.
pub(crate) fn clamp(packet: &mut [u8], mtu: usize) -> bool {
    let Some(Offer { network, transport, at }) = offer(packet) else { return false };
    let fits = u16::try_from(mtu.saturating_sub(network + TCP_HEADER)).unwrap_or(u16::MAX);
    let offered = packet.get(at..at + 2).map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
    if offered <= fits {
        return false;
    }
    replace_word(packet, transport, at, fits, transport + CHECKSUM);
    true
}

/// What a SYN offers.
struct Offer {
    /// How long its IP header is at least.
    network: usize,
    /// Where its TCP header begins.
    transport: usize,
    /// Where the option's value is.
    at: usize,
}

fn offer(packet: &[u8]) -> Option<Offer> {
    let (network, transport) = match packet.first()? >> 4 {
        4 => (V4_HEADER, v4_transport(packet)?),
        6 => (V6_HEADER, v6_transport(packet)?),
        _ => return None,
    };
    if packet.get(transport + TCP_FLAGS)? & SYN == 0 {
        return None;
    }
    let header = usize::from(packet.get(transport + 12)? >> 4) * 4;
    let mut at = transport + TCP_HEADER;
    loop {
        let option = packet.get(at..transport + header)?;
        at += match *option {
            [MSS, 4, _, _, ..] => return Some(Offer { network, transport, at: at + 2 }),
            // No operation.
            [1, ..] => 1,
            // The end of the list.
            [] | [0, ..] => return None,
            [_, length, ..] if length >= 2 => usize::from(length),
            [_, ..] => return None,
        };
    }
}

/// Where the TCP header of an IPv4 packet is that is no fragment.
fn v4_transport(packet: &[u8]) -> Option<usize> {
    let header = packet.first_chunk::<V4_HEADER>()?;
    let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
    let length = usize::from(header[0] & 0x0f) * 4;
    (header[9] == TCP && !fragment && length >= V4_HEADER).then_some(length)
}

/// Where the TCP header of an IPv6 packet is that is no fragment, or the first one.
fn v6_transport(packet: &[u8]) -> Option<usize> {
    Upper::of(packet).filter(|upper| upper.protocol == TCP).map(|upper| upper.at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::offload::headers::{DESTINATION, FRAGMENT, HOP_BY_HOP, Headers, MAX_EXTENSIONS, ROUTING};

    /// A SYN with options behind its header, and a right checksum.
    fn syn(v6: bool, flags: u8, options: &[u8]) -> Vec<u8> {
        let network = if v6 { 40 } else { 20 };
        let mut packet = vec![0; network + TCP_HEADER];
        packet.extend_from_slice(options);
        packet.resize(packet.len().next_multiple_of(4), 0);
        if v6 {
            (packet[0], packet[6], packet[23], packet[39]) = (0x60, TCP, 1, 2);
        } else {
            (packet[0], packet[9], packet[15], packet[19]) = (0x45, TCP, 1, 2);
        }
        let length = packet.len() - network;
        packet[network + 12] = u8::try_from(length / 4 * 16).unwrap();
        packet[network + 13] = flags;
        let headers = Headers::of(&packet).unwrap();
        let segment = &packet[network..];
        let checksum = headers.pseudo_header(&packet, length).add(segment).checksum();
        packet[network + 16..network + 18].copy_from_slice(&checksum.to_be_bytes());
        packet
    }

    #[test]
    fn a_syn_offers_what_fits_and_an_answer_to_it_does_so_too() {
        for (v6, expected) in [(false, 1380_u16), (true, 1360)] {
            for flags in [SYN, SYN | 0x10] {
                let mut packet = syn(v6, flags, &[1, 1, 2, 4, 0x05, 0xb4, 4, 2]);
                assert!(clamp(&mut packet, 1420));
                let headers = Headers::of(&packet).unwrap();
                let at = headers.transport + 24;
                assert_eq!(packet[at..at + 2], expected.to_be_bytes());
                assert!(headers.verifies(&packet));
            }
        }
    }

    #[test]
    fn whatever_fits_or_offers_nothing_stays_as_it_is() {
        let cases: [(u8, &[u8]); 7] = [
            (SYN, &[2, 4, 0x05, 0x64]),
            (SYN, &[]),
            (SYN, &[1, 1, 1]),
            (SYN, &[0, 2, 4, 0xff, 0xff]),
            (SYN, &[8, 1, 2, 4, 0xff, 0xff]),
            (SYN, &[2, 5, 0xff, 0xff, 0xff]),
            (0x10, &[2, 4, 0xff, 0xff]),
        ];
        for (flags, options) in cases {
            let packet = syn(false, flags, options);
            let mut clamped = packet.clone();
            assert!(!clamp(&mut clamped, 1420), "{options:?}");
            assert_eq!(clamped, packet);
        }
    }

    /// The same IPv6 packet with extension headers: which, and how many times eight bytes more than eight each has.
    fn extended(packet: &[u8], extensions: &[(u8, u8)]) -> Vec<u8> {
        let mut extended = packet[..V6_HEADER].to_vec();
        let mut next = 6;
        for &(kind, more) in extensions {
            extended[next] = kind;
            next = extended.len();
            extended.extend([TCP, if kind == FRAGMENT { 0 } else { more }]);
            extended.resize(next + 8 + 8 * usize::from(more), 0);
        }
        extended.extend_from_slice(&packet[V6_HEADER..]);
        extended
    }

    #[test]
    fn extension_headers_hide_no_offer() {
        for extensions in [
            [(HOP_BY_HOP, 0)].as_slice(),
            &[(ROUTING, 2)],
            &[(DESTINATION, 255)],
            &[(HOP_BY_HOP, 1), (DESTINATION, 0), (ROUTING, 4), (FRAGMENT, 0), (DESTINATION, 0)],
            &[(DESTINATION, 0); MAX_EXTENSIONS],
        ] {
            let plain = syn(true, SYN, &[1, 1, 2, 4, 0x05, 0xb4]);
            let mut packet = extended(&plain, extensions);
            let mut expected = plain;
            assert!(clamp(&mut expected, 1420));
            assert!(clamp(&mut packet, 1420), "{extensions:?}");
            assert_eq!(packet[packet.len() - 28..], expected[V6_HEADER..], "{extensions:?}");
        }
    }

    #[test]
    fn what_is_behind_other_headers_or_in_a_later_fragment_is_no_offer() {
        const AUTHENTICATION: u8 = 51;
        let plain = syn(true, SYN, &[2, 4, 0xff, 0xff]);
        let mut later = extended(&plain, &[(HOP_BY_HOP, 0), (FRAGMENT, 0)]);
        later[V6_HEADER + 8 + 3] = 8;
        // The first one, with more to come, is one.
        let mut first = extended(&plain, &[(FRAGMENT, 0)]);
        first[V6_HEADER + 3] = 1;
        assert!(clamp(&mut first, 1420));
        for mut packet in [
            later,
            extended(&plain, &[(AUTHENTICATION, 0)]),
            extended(&plain, &[(DESTINATION, 0); MAX_EXTENSIONS + 1]),
            // The header says that it is longer than the packet.
            [&extended(&plain, &[(DESTINATION, 0)])[..V6_HEADER], &[TCP, 255], &plain[V6_HEADER..]].concat(),
        ] {
            let before = packet.clone();
            assert!(!clamp(&mut packet, 1420), "{packet:x?}");
            assert_eq!(packet, before);
        }
    }

    proptest! {
        #[test]
        fn the_checksum_stays_right_wherever_the_option_is(
            v6: bool,
            before in prop::collection::vec(prop_oneof![Just(vec![1]), Just(vec![3, 3, 7]), Just(vec![4, 2])], 0..5),
            offered: u16,
            mtu in 0..2_000_usize,
            damage: u16,
        ) {
            let options = [before.concat(), vec![2, 4], offered.to_be_bytes().to_vec()].concat();
            let mut packet = syn(v6, SYN, &options);
            let at = Headers::of(&packet).unwrap().transport + 16;
            let right = u16::from_be_bytes([packet[at], packet[at + 1]]);
            let damaged = right ^ damage;
            packet[at..at + 2].copy_from_slice(&damaged.to_be_bytes());
            let before = Headers::of(&packet).unwrap().verifies(&packet);
            clamp(&mut packet, mtu);
            prop_assert_eq!(Headers::of(&packet).unwrap().verifies(&packet), before);
            prop_assert!(!clamp(&mut packet, mtu), "once is enough");
        }

        #[test]
        fn junk_behind_extension_headers_never_panics(
            kinds in prop::collection::vec(
                prop_oneof![Just(HOP_BY_HOP), Just(ROUTING), Just(FRAGMENT), Just(DESTINATION), Just(TCP)],
                9,
            ),
            lengths in prop::collection::vec(0..4_u8, 9),
            mut junk: Vec<u8>,
            mtu: u16,
        ) {
            let extensions: Vec<_> = kinds.into_iter().zip(lengths).collect();
            let head = extended(&syn(true, SYN, &[2, 4, 0xff, 0xff]), &extensions);
            for end in [head.len() - 1, head.len() / 2, V6_HEADER + 1, 7] {
                clamp(&mut [&head[..end], &junk].concat(), mtu.into());
            }
            clamp(&mut junk, mtu.into());
        }

        #[test]
        fn junk_never_panics(mut packet: Vec<u8>, v6: bool, mtu: u16) {
            if let Some(first) = packet.first_mut() {
                *first = if v6 { 0x60 } else { 0x45 };
            }
            if let Some(protocol) = packet.get_mut(if v6 { 6 } else { 9 }) {
                *protocol = TCP;
            }
            clamp(&mut packet, mtu.into());
        }
    }
}
