//! Clamping of TCP's maximum segment size (RFC 9293, section 3.7.1): both ends of a connection are told how much fits into the tunnel, since on
//! many paths they do not hear of it otherwise.

use crate::offload::{Headers, SYN, TCP, TCP_FLAGS, replace_word};

/// The option's kind.
const MSS: u8 = 2;

/// The shortest headers of TCP and of each IP, in bytes.
const TCP_HEADER: usize = 20;
const V4_HEADER: usize = 20;
const V6_HEADER: usize = 40;

/// Lowers the segment size that a SYN offers to what fits into `mtu` bytes, and says whether it did. The checksum is exactly as right or wrong
/// as it was.
pub(crate) fn clamp(packet: &mut [u8], mtu: usize) -> bool {
    let Some((headers, at)) = offer(packet) else { return false };
    let network = if headers.v6 { V6_HEADER } else { V4_HEADER };
    let fits = u16::try_from(mtu.saturating_sub(network + TCP_HEADER)).unwrap_or(u16::MAX);
    let offered = packet.get(at..at + 2).map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
    if offered <= fits {
        return false;
    }
    let checksum = headers.transport + headers.checksum_offset();
    replace_word(packet, headers.transport, at, fits, checksum);
    true
}

/// Where the value of a SYN's option is.
fn offer(packet: &[u8]) -> Option<(Headers, usize)> {
    let headers = Headers::of(packet).filter(|headers| headers.protocol == TCP)?;
    if packet.get(headers.transport + TCP_FLAGS)? & SYN == 0 {
        return None;
    }
    let mut at = headers.transport + TCP_HEADER;
    loop {
        let option = packet.get(at..headers.payload)?;
        at += match *option {
            [MSS, 4, _, _, ..] => return Some((headers, at + 2)),
            // No operation.
            [1, ..] => 1,
            // The end of the list.
            [] | [0, ..] => return None,
            [_, length, ..] if length >= 2 => usize::from(length),
            [_, ..] => return None,
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
