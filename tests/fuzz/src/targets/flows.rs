//! Packets of flows, which become one for the kernel where they may, and come apart again.

use carrick_dataplane::offload::{Coalescer, Gso, Segments, VnetHeader};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// In the first byte of an input: how many packets the rest is, all of one length but for the last; whether lengths and checksums are made
/// right, without which little is coalesced.
const COUNT: u8 = 0x0f;
const AS_IT_IS: u8 = 0x80;

/// The packets that an input means.
pub(super) fn packets_of(input: &[u8]) -> Vec<Vec<u8>> {
    let Some((first, rest)) = input.split_first() else { return Vec::new() };
    let length = rest.len().div_ceil(usize::from(first & COUNT) + 1);
    rest.chunks(length.max(1)).map(<[u8]>::to_vec).collect()
}

/// Where the parts of a packet are.
struct Layout {
    v6: bool,
    protocol: u8,
    transport: usize,
    /// Where the checksum of TCP or UDP is.
    checksum: usize,
}

impl Layout {
    /// `None` where there is no whole header of TCP or UDP. Fragments are none of its affair.
    fn of(packet: &[u8]) -> Option<Self> {
        let (v6, protocol, transport) = match packet.first()? >> 4 {
            4 => (false, *packet.get(9)?, 4 * usize::from(packet[0] & 0x0f)),
            6 => (true, *packet.get(6)?, 40),
            _ => return None,
        };
        let (at, header) = match protocol {
            TCP => (16, 20),
            UDP => (6, 8),
            _ => return None,
        };
        let whole = transport >= 20 && transport + header <= packet.len();
        whole.then_some(Self { v6, protocol, transport, checksum: transport + at })
    }

    /// The sum over pseudo-header and segment: zero where the checksum in it is right.
    fn sum(&self, packet: &[u8]) -> u16 {
        let addresses = if self.v6 { &packet[8..40] } else { &packet[12..20] };
        let length = (packet.len() - self.transport) as u16;
        checksum(&[addresses, &length.to_be_bytes(), &[0, self.protocol], &packet[self.transport..]].concat())
    }
}

/// RFC 1071, word by word.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u64 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn put(packet: &mut [u8], at: usize, number: u16) {
    packet[at..at + 2].copy_from_slice(&number.to_be_bytes());
}

/// Makes lengths and checksums of a packet right, unless the input says otherwise.
pub(super) fn finish(packet: &mut [u8], input: &[u8]) {
    let Some(layout) = Layout::of(packet) else { return };
    if input.first().is_none_or(|first| first & AS_IT_IS != 0) {
        return;
    }
    let total = packet.len() as u16;
    let length = (packet.len() - layout.transport) as u16;
    if layout.v6 {
        put(packet, 4, length);
    } else {
        put(packet, 2, total);
        put(packet, 10, 0);
        let sum = checksum(&packet[..layout.transport]);
        put(packet, 10, sum);
    }
    if layout.protocol == UDP {
        put(packet, layout.transport + 4, length);
    }
    put(packet, layout.checksum, 0);
    let sum = layout.sum(packet);
    put(packet, layout.checksum, if layout.protocol == UDP && sum == 0 { 0xffff } else { sum });
}

/// What of a packet may not be another after it was part of a larger one: all but its checksums and, where IPv4 must not fragment it, its number.
fn significant(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if let Some(layout) = Layout::of(&packet) {
        put(&mut packet, layout.checksum, 0);
        if !layout.v6 {
            put(&mut packet, 10, 0);
            if packet[6] & 0x40 != 0 {
                put(&mut packet, 4, 0);
            }
        }
    }
    packet
}

/// A packet of TCP or UDP with so many bytes of payload, from port 1 to `port`. Over IPv4 from 10.0.`from`.1 to 10.0.`to`.1.
fn packet(v6: bool, protocol: u8, [from, to]: [u8; 2], port: u8, sequence: u32, payload: usize) -> Vec<u8> {
    let transport = if v6 { 40 } else { 20 };
    let mut packet = vec![7; transport + if protocol == TCP { 20 } else { 8 } + payload];
    let headers = packet.len() - payload;
    packet[..headers].fill(0);
    if v6 {
        (packet[0], packet[6], packet[7], packet[23], packet[39]) = (0x60, protocol, 64, from, to);
    } else {
        (packet[0], packet[6], packet[8], packet[9]) = (0x45, 0x40, 64, protocol);
        packet[12..20].copy_from_slice(&[10, 0, from, 1, 10, 0, to, 1]);
    }
    (packet[transport + 1], packet[transport + 3]) = (1, port);
    if protocol == TCP {
        packet[transport + 4..transport + 8].copy_from_slice(&sequence.to_be_bytes());
        (packet[transport + 12], packet[transport + 13]) = (0x50, 0x10);
    }
    packet
}

fn input_of(packets: &[Vec<u8>]) -> Vec<u8> {
    [&[packets.len() as u8 - 1], packets.concat().as_slice()].concat()
}

/// From one node to another: segments and datagrams that become one, the first packet of a connection, segments of four connections, and one
/// datagram.
pub(super) fn seeds_of_flows(from: u8, to: u8) -> Vec<Vec<u8>> {
    let run = |v6, protocol| [0, 1, 2, 3].map(|n| packet(v6, protocol, [from, to], 2, n * 40, 40));
    let mut syn = packet(false, TCP, [from, to], 2, 0, 4);
    (syn[32], syn[33]) = (0x60, 2);
    syn[40..44].copy_from_slice(&[2, 4, 0xff, 0xff]);
    let four = [1, 2, 3, 4].map(|port| packet(false, TCP, [from, to], port, 0, 10));
    let one = packet(false, UDP, [from, to], 2, 0, 33);
    let packets: [&[Vec<u8>]; 5] = [&run(false, TCP), &run(false, UDP), &[syn], &four, &[one]];
    packets.map(input_of).to_vec()
}

pub(super) fn flows() -> Vec<Vec<u8>> {
    let run = |protocol| [0, 1, 2, 3].map(|n| packet(true, protocol, [2, 1], 2, n * 40, 40));
    [seeds_of_flows(2, 1), vec![input_of(&run(TCP)), input_of(&run(UDP))]].concat()
}

pub(super) fn run(input: &[u8]) {
    let _ = coalesced(input);
}

/// How many packets become how many.
fn coalesced(input: &[u8]) -> [usize; 2] {
    let mut packets = packets_of(input);
    packets.iter_mut().for_each(|packet| finish(packet, input));
    let (mut buffer, mut coalescer, mut at) = (packets.concat(), Coalescer::default(), 0);
    for packet in &packets {
        coalescer.push(&buffer, at..at + packet.len());
        at += packet.len();
    }
    let (count, mut out) = (packets.len(), 0);
    coalescer.flush(&mut buffer, |coalesced| {
        out += 1;
        let (header, bytes) = (coalesced.header, coalesced.parts().collect::<Vec<_>>().concat());
        if header.gso == Gso::None {
            assert_eq!(header, VnetHeader::default());
            let same = packets.iter().position(|packet| *packet == bytes);
            packets.swap_remove(same.expect("what is alone is as it was"));
            return;
        }
        let mut segments = Segments::of(&header, &bytes).expect("the kernel can split it");
        while segments.next_length().is_some() {
            let mut part = Vec::new();
            segments.append_next(&mut part);
            let layout = Layout::of(&part).expect("it is TCP or UDP");
            assert_eq!(layout.sum(&part), 0, "its checksum is right");
            let same = packets.iter().position(|packet| significant(packet) == significant(&part));
            packets.swap_remove(same.expect("what comes apart is what was put together"));
        }
    });
    assert!(packets.is_empty(), "nothing is lost");
    [count, out]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_become_fewer_packets() {
        let all: Vec<_> = flows().iter().map(|seed| coalesced(seed)).collect();
        assert_eq!(all, [[4, 1], [4, 1], [1, 1], [4, 4], [1, 1], [4, 1], [4, 1]]);
    }
}
