//! What two packets may differ in that become one. The kernel makes headers for all of a super-packet from those of the first, so whatever else
//! differed would be lost: a mark of congestion, a window, an acknowledgement.

use super::{TCP, UDP, VnetHeader, coalesce};

const PAYLOAD: usize = 100;

/// A kind of packets, as a pod sends them.
#[derive(Debug, Clone, Copy)]
struct Kind {
    v6: bool,
    protocol: u8,
    /// Whether IPv4 may make fragments of them. Their numbers mean something only then (RFC 6864, section 4.1).
    may_fragment: bool,
}

const KINDS: [Kind; 6] = [
    Kind { v6: false, protocol: TCP, may_fragment: false },
    Kind { v6: false, protocol: TCP, may_fragment: true },
    Kind { v6: true, protocol: TCP, may_fragment: false },
    Kind { v6: false, protocol: UDP, may_fragment: false },
    Kind { v6: false, protocol: UDP, may_fragment: true },
    Kind { v6: true, protocol: UDP, may_fragment: false },
];

#[test]
fn packets_of_which_one_has_another_bit_anywhere_in_its_headers_stay_two_and_keep_it() {
    for kind in KINDS {
        let follow_each_other = [kind.packet(0), kind.packet(1)];
        assert_eq!(coalesce(&follow_each_other).len(), 1, "{kind:?}: two that differ in nothing");
        for changed in [0, 1] {
            for bit in 0..8 * kind.headers() {
                if kind.is_made_anew(bit / 8) {
                    continue;
                }
                let mut packets = follow_each_other.clone();
                packets[changed][bit / 8] ^= 0x80 >> (bit % 8);
                kind.finish(&mut packets[changed]);
                let out = coalesce(&packets);
                if kind.may_differ(changed, bit) {
                    assert_eq!(out.len(), 1, "{kind:?}: bit {bit} of packet {changed}");
                } else {
                    let expected = packets.map(|packet| (VnetHeader::default(), packet));
                    assert_eq!(out, expected, "{kind:?}: bit {bit} of packet {changed}");
                }
            }
        }
    }
}

#[test]
fn what_packets_have_in_common_is_what_the_one_packet_has() {
    // Congestion experienced, a hop limit, and TCP's "ECN echo": the first of each kind of header that is easily lost.
    for kind in KINDS {
        let changes: &[(usize, u8)] = if kind.v6 { &[(1, 0x30), (7, 0x0f)] } else { &[(1, 0x03), (8, 0x0f)] };
        let echo = (kind.network() + 13, 0x40);
        for &(at, bits) in changes.iter().chain((kind.protocol == TCP).then_some(&echo)) {
            let packets = [0, 1, 2].map(|number| {
                let mut packet = kind.packet(number);
                packet[at] |= bits;
                kind.finish(&mut packet);
                packet
            });
            let out = coalesce(&packets);
            assert_eq!(out.len(), 1, "{kind:?}");
            assert_eq!(out[0].1[at], packets[0][at], "{kind:?}: byte {at}");
        }
    }
}

impl Kind {
    const fn network(self) -> usize {
        if self.v6 { 40 } else { 20 }
    }

    /// TCP has a timestamp among its options.
    fn headers(self) -> usize {
        self.network() + if self.protocol == TCP { 32 } else { 8 }
    }

    fn checksum(self) -> usize {
        self.network() + if self.protocol == TCP { 16 } else { 6 }
    }

    /// Checksums: [`Kind::finish`] makes them.
    fn is_made_anew(self, at: usize) -> bool {
        let sum = self.checksum();
        (sum..sum + 2).contains(&at) || (!self.v6 && (10..12).contains(&at))
    }

    /// Whether the first or the second of two packets may have this bit alone.
    fn may_differ(self, packet: usize, bit: usize) -> bool {
        let number = !self.v6 && !self.may_fragment && (4..6).contains(&(bit / 8));
        let flags = 8 * (self.network() + 13);
        // CWR is the first one's (RFC 3168, section 6.1.2), PSH and FIN the last one's.
        let own: &[usize] = if packet == 0 { &[0] } else { &[4, 7] };
        number || (self.protocol == TCP && own.iter().any(|own| flags + own == bit))
    }

    /// The packet of that number.
    fn packet(self, number: u8) -> Vec<u8> {
        let network = self.network();
        let mut packet = vec![0; self.headers() + PAYLOAD];
        let (total, length) = (packet.len(), packet.len() - network);
        let (total, length) = (u16::try_from(total).unwrap(), u16::try_from(length).unwrap());
        if self.v6 {
            packet[..4].copy_from_slice(&[0x60, 0, 0x12, 0x34]);
            packet[4..6].copy_from_slice(&length.to_be_bytes());
            (packet[6], packet[7]) = (self.protocol, 64);
            (packet[8], packet[23], packet[24], packet[39]) = (0xfd, 1, 0xfd, 2);
        } else {
            (packet[0], packet[5], packet[8], packet[9]) = (0x45, 40 + number, 64, self.protocol);
            packet[2..4].copy_from_slice(&total.to_be_bytes());
            packet[6] = if self.may_fragment { 0 } else { 0x40 };
            packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        }
        let transport = &mut packet[network..];
        transport[..4].copy_from_slice(&[0x13, 0x88, 0x14, 0x51]);
        if self.protocol == TCP {
            transport[4..8].copy_from_slice(&(5_000 + u32::from(number) * PAYLOAD as u32).to_be_bytes());
            transport[8..12].copy_from_slice(&77_u32.to_be_bytes());
            (transport[12], transport[13]) = (0x80, 0x10);
            transport[14..16].copy_from_slice(&500_u16.to_be_bytes());
            transport[20..32].copy_from_slice(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
        } else {
            transport[4..6].copy_from_slice(&length.to_be_bytes());
        }
        self.finish(&mut packet);
        packet
    }

    /// Makes the checksums right, whatever else is wrong.
    fn finish(self, packet: &mut [u8]) {
        let (network, at) = (self.network(), self.checksum());
        packet[at..at + 2].fill(0);
        let (addresses, protocol) =
            if self.v6 { (&packet[8..40], packet[6]) } else { (&packet[12..20], packet[9]) };
        let length = u16::try_from(packet.len() - network).unwrap().to_be_bytes();
        let sum = checksum(&[addresses, &length, &[0, protocol], &packet[network..]].concat());
        packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        if !self.v6 {
            packet[10..12].fill(0);
            let sum = checksum(&packet[..20]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
    }
}

/// RFC 1071, word by word.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let sum = words.fold(0, |sum, word| (sum + word) % 0xffff);
    !u16::try_from(sum).unwrap()
}
