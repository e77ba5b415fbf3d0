//! Splitting and coalescing, against each other and against plain checks.

mod coalescing;

use proptest::prelude::*;

use super::{
    headers::{
        ACK, CWR, FIN, Headers, PSH, SYN, TCP, UDP, read_u16, read_u32, set_network_length, write_u16,
        write_u32,
    },
    *,
};

/// A packet as a pod makes it: TCP (with flags) or UDP, over IPv4 or IPv6.
#[derive(Debug, Clone)]
struct Packet {
    v6: bool,
    protocol: u8,
    flags: u8,
    sequence: u32,
    port: u16,
    id: u16,
    may_fragment: bool,
    options: usize,
    payload: Vec<u8>,
}

impl Packet {
    fn tcp(sequence: u32, payload: &[u8]) -> Self {
        Self {
            v6: false,
            protocol: TCP,
            flags: ACK,
            sequence,
            port: 1000,
            id: 7,
            may_fragment: false,
            options: 12,
            payload: payload.to_vec(),
        }
    }

    fn headers(&self) -> Headers {
        let transport = if self.v6 { 40 } else { 20 };
        let payload = transport + if self.protocol == TCP { 20 + self.options } else { 8 };
        Headers { v6: self.v6, protocol: self.protocol, transport, payload }
    }

    /// With the sum of the pseudo-header in place of the checksum, as the kernel hands it over.
    fn unfinished(&self) -> (VnetHeader, Vec<u8>) {
        let headers = self.headers();
        let mut packet = vec![0; headers.payload];
        if self.v6 {
            packet[..8].copy_from_slice(&[0x60, 0x10, 0, 1, 0, 0, self.protocol, 64]);
            (packet[23], packet[39]) = (1, 2);
        } else {
            packet[..10].copy_from_slice(&[0x45, 0x02, 0, 0, 0, 0, 0x40, 0, 64, self.protocol]);
            packet[6] = if self.may_fragment { 0 } else { 0x40 };
            write_u16(&mut packet, 4, self.id);
            packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        }
        write_u16(&mut packet, headers.transport, self.port);
        write_u16(&mut packet, headers.transport + 2, 80);
        if self.protocol == TCP {
            write_u32(&mut packet, headers.transport + 4, self.sequence);
            write_u32(&mut packet, headers.transport + 8, 99);
            packet[headers.transport + 12] = u8::try_from((20 + self.options) / 4 * 16).unwrap();
            packet[headers.transport + 13] = self.flags;
            write_u16(&mut packet, headers.transport + 14, 500);
        }
        packet.extend_from_slice(&self.payload);
        let length = packet.len() - headers.transport;
        if self.protocol == UDP {
            write_u16(&mut packet, headers.transport + 4, u16::try_from(length).unwrap());
        }
        let total = packet.len();
        set_network_length(self.v6, &mut packet[..headers.transport], total);
        let sum = headers.pseudo_header(&packet, length).fold();
        write_u16(&mut packet, headers.transport + headers.checksum_offset(), sum);
        let start = u16::try_from(headers.transport).unwrap();
        let checksum = Some((start, u16::try_from(headers.checksum_offset()).unwrap()));
        (VnetHeader { checksum, ..VnetHeader::default() }, packet)
    }

    fn finished(&self) -> Vec<u8> {
        let (header, packet) = self.unfinished();
        split_all(&header, &packet).unwrap().remove(0)
    }

    /// As the kernel hands over many at once.
    fn superpacket(&self, gso_size: u16) -> (VnetHeader, Vec<u8>) {
        let (header, packet) = self.unfinished();
        let gso = match (self.protocol, self.v6) {
            (TCP, false) => Gso::TcpV4,
            (TCP, true) => Gso::TcpV6,
            _ => Gso::Udp,
        };
        let header_length = u16::try_from(self.headers().payload).unwrap();
        (VnetHeader { gso, ecn: self.flags & CWR != 0, header_length, gso_size, ..header }, packet)
    }
}

/// Splits into packets of their own.
fn split_all(header: &VnetHeader, packet: &[u8]) -> Result<Vec<Vec<u8>>, Malformed> {
    let mut segments = Segments::of(header, packet)?;
    let mut packets = Vec::new();
    while let Some(length) = segments.next_length() {
        let mut packet = vec![0xaa];
        segments.append_next(&mut packet);
        assert_eq!(packet.remove(0), 0xaa, "what was there stays");
        assert_eq!(packet.len(), length);
        packets.push(packet);
    }
    Ok(packets)
}

#[test]
fn a_super_packet_with_extension_headers_is_cut_up_behind_them() {
    // Hop-by-hop options, then destination options of 16 bytes; all of it padding (RFC 8200, section 4.2).
    let extensions = [[60, 0, 1, 4, 0, 0, 0, 0].as_slice(), &[TCP, 1, 1, 12], &[0; 12]].concat();
    let plain = Packet { v6: true, ..Packet::tcp(1000, &[7; 2500]) };
    let (header, packet) = plain.superpacket(1000);
    let expected = split_all(&header, &packet).unwrap();
    let extend = |packet: &[u8]| {
        let mut extended = [&packet[..40], &extensions, &packet[40..]].concat();
        extended[6] = 0;
        let length = u16::try_from(extended.len() - 40).unwrap();
        write_u16(&mut extended, 4, length);
        extended
    };
    let mut extended = extend(&packet);
    let cut = split_all(&header, &extended).unwrap();
    assert_eq!(cut, expected.iter().map(|packet| extend(packet)).collect::<Vec<_>>());
    assert_eq!(cut.len(), 3);
    // A routing header names another destination, for which the checksum is.
    extended[40] = 43;
    assert_eq!(split_all(&header, &extended), Err(Malformed));
}

/// Coalesces packets that stand one behind the other.
fn coalesce(packets: &[Vec<u8>]) -> Vec<(VnetHeader, Vec<u8>)> {
    let mut buffer = packets.concat();
    let mut coalescer = Coalescer::default();
    let mut at = 0;
    for packet in packets {
        coalescer.push(&buffer, at..at + packet.len());
        at += packet.len();
    }
    let mut out = Vec::new();
    coalescer.flush(&mut buffer, |packet| {
        out.push((packet.header, packet.parts().collect::<Vec<_>>().concat()));
    });
    out
}

/// A packet of the network, looked at without the code under test.
fn check_packet(packet: &[u8]) {
    let headers = Headers::of(packet).unwrap();
    assert!(headers.verifies(packet), "the checksum is exact");
    let stated = if headers.v6 { 40 + read_u16(packet, 4) } else { read_u16(packet, 2) };
    assert_eq!(usize::from(stated), packet.len());
    if !headers.v6 {
        assert_eq!(super::checksum::Sum::default().add(&packet[..20]).checksum(), 0);
    }
}

#[test]
fn a_stream_becomes_one_packet_and_its_last_segment_may_be_short() {
    let segments: Vec<_> = [(0, 100), (100, 100), (200, 40)]
        .map(|(at, length)| Packet::tcp(5000 + at, &vec![1; length]).finished())
        .to_vec();
    let out = coalesce(&segments);
    assert_eq!(out.len(), 1);
    assert_eq!((out[0].0.gso, out[0].0.gso_size), (Gso::TcpV4, 100));
    assert_eq!(out[0].1.len(), 52 + 240);
}

#[test]
fn whatever_does_not_follow_is_a_packet_of_its_own_and_order_stays() {
    let base = Packet::tcp(5000, &[1; 100]);
    let followers = [
        ("a gap", Packet { sequence: 5101, ..base.clone() }),
        ("a longer one", Packet { sequence: 5100, payload: vec![1; 101], ..base.clone() }),
        ("another flow", Packet { sequence: 5100, port: 1001, ..base.clone() }),
        ("another family", Packet { sequence: 5100, v6: true, ..base.clone() }),
        ("a SYN", Packet { sequence: 5100, flags: SYN | ACK, ..base.clone() }),
        ("congestion window reduced", Packet { sequence: 5100, flags: ACK | CWR, ..base.clone() }),
        ("other options", Packet { sequence: 5100, options: 16, ..base.clone() }),
        ("a pure acknowledgement", Packet { sequence: 5100, payload: vec![], ..base.clone() }),
        ("UDP", Packet { protocol: UDP, ..base.clone() }),
    ];
    for (what, follower) in followers {
        let packets = [base.finished(), follower.finished()];
        let out = coalesce(&packets);
        assert_eq!(out.len(), 2, "{what}");
        assert!(
            out.iter()
                .zip(&packets)
                .all(|((header, out), packet)| { *header == VnetHeader::default() && out == packet }),
            "{what}"
        );
    }
}

#[test]
fn a_packet_with_a_wrong_checksum_is_left_as_it_is() {
    let mut second = Packet::tcp(5100, &[1; 100]).finished();
    *second.last_mut().unwrap() ^= 1;
    let packets = [Packet::tcp(5000, &[1; 100]).finished(), second, Packet::tcp(5200, &[1; 100]).finished()];
    let out = coalesce(&packets);
    assert_eq!(out.iter().map(|(_, packet)| packet.clone()).collect::<Vec<_>>(), packets);
}

#[test]
fn an_acknowledgement_between_segments_stays_between_them() {
    let ack = Packet { payload: vec![], ..Packet::tcp(5100, &[]) };
    let packets =
        [Packet::tcp(5000, &[1; 100]).finished(), ack.finished(), Packet::tcp(5100, &[1; 100]).finished()];
    let out = coalesce(&packets);
    assert_eq!(out.iter().map(|(_, packet)| packet.clone()).collect::<Vec<_>>(), packets);
}

#[test]
fn two_flows_that_alternate_are_both_coalesced() {
    let segment = |port, n: u32| Packet { port, ..Packet::tcp(n * 100, &[1; 100]) }.finished();
    let packets: Vec<_> = (0..10).flat_map(|n| [segment(1, n), segment(2, n)]).collect();
    assert_eq!(coalesce(&packets).len(), 2);
}

#[test]
fn a_udp_checksum_of_zero_stays_and_is_not_coalesced() {
    let mut none = Packet { protocol: UDP, ..Packet::tcp(0, &[1; 50]) }.finished();
    write_u16(&mut none, 26, 0);
    let out = coalesce(&[none.clone(), none.clone()]);
    assert_eq!(out.iter().map(|(_, packet)| packet.clone()).collect::<Vec<_>>(), [none.clone(), none]);
}

#[test]
fn a_udp_checksum_that_comes_out_as_zero_is_written_with_all_bits_set() {
    for v6 in [false, true] {
        let packet = |word: u16, times| {
            let payload = [&[5; 98][..], &word.to_be_bytes()].concat().repeat(times);
            Packet { v6, protocol: UDP, ..Packet::tcp(0, &payload) }
        };
        let at = packet(0, 1).headers().transport + 6;
        let word = read_u16(&packet(0, 1).finished(), at);
        assert_eq!(read_u16(&packet(word, 1).finished(), at), 0xffff, "whole");
        let (header, superpacket) = packet(word, 2).superpacket(100);
        let checksums: Vec<_> =
            split_all(&header, &superpacket).unwrap().iter().map(|packet| read_u16(packet, at)).collect();
        assert_eq!(checksums, [0xffff; 2], "cut up");
    }
}

#[test]
fn of_a_vxlan_tunnel_inside_only_the_inner_checksum_is_completed() {
    // UDP without a checksum to port 4789, eight bytes of VXLAN, an Ethernet header, and a TCP segment as a pod's kernel leaves it.
    let (inner_header, inner) = Packet::tcp(77, &[5; 300]).unfinished();
    let payload = [vec![8, 0, 0, 0, 0, 0, 1, 0], vec![2; 12], vec![8, 0], inner].concat();
    let mut outer = Packet { protocol: UDP, ..Packet::tcp(0, &payload) }.finished();
    write_u16(&mut outer, 22, 4789);
    write_u16(&mut outer, 26, 0);
    let (start, offset) = inner_header.checksum.unwrap();
    let before_inner = 28 + 8 + 14;
    let header = VnetHeader { checksum: Some((before_inner + start, offset)), ..VnetHeader::default() };
    let packets = split_all(&header, &outer).unwrap();
    assert_eq!(packets.len(), 1);
    assert_eq!(read_u16(&packets[0], 26), 0, "none stays none");
    check_packet(&packets[0][usize::from(before_inner)..]);
    assert_eq!(coalesce(&packets), [(VnetHeader::default(), packets[0].clone())]);
}

#[test]
fn a_header_that_contradicts_its_packet_is_refused() {
    let (header, packet) = Packet::tcp(0, &[1; 300]).superpacket(100);
    let refused = |header: VnetHeader, packet: &[u8]| split_all(&header, packet) == Err(Malformed);
    assert!(refused(VnetHeader { gso_size: 0, ..header }, &packet));
    assert!(refused(VnetHeader { gso: Gso::TcpV6, ..header }, &packet));
    assert!(refused(VnetHeader { gso: Gso::Udp, ..header }, &packet));
    assert!(refused(header, &[]));
    let outside = VnetHeader { checksum: Some((400, 16)), ..VnetHeader::default() };
    assert!(refused(outside, &packet));
}

/// A packet without what means nothing where it must not be fragmented: its number, and the checksum that covers it.
fn significant(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if packet[0] >> 4 == 4 && packet[6] & 0x40 != 0 {
        (packet[4], packet[5], packet[10], packet[11]) = (0, 0, 0, 0);
    }
    packet
}

fn any_packet() -> impl Strategy<Value = Packet> {
    let kinds = (any::<bool>(), prop_oneof![Just(TCP), Just(UDP)], 0..4_usize, any::<bool>());
    let numbers = (any::<u32>(), any::<u16>(), 1..4_u16);
    let flags = prop::sample::select(vec![ACK, ACK | PSH, ACK | FIN, ACK | FIN | PSH, ACK | CWR]);
    (kinds, numbers, flags, prop::collection::vec(any::<u8>(), 1..9000)).prop_map(
        |((v6, protocol, options, may_fragment), (sequence, id, port), flags, payload)| Packet {
            v6,
            protocol,
            flags: if protocol == TCP { flags } else { 0 },
            sequence,
            port,
            id,
            may_fragment,
            options: if protocol == TCP { options * 4 } else { 0 },
            payload,
        },
    )
}

proptest! {
    #[test]
    fn splitting_then_coalescing_is_the_identity(packet in any_packet(), gso_size in 1..1500_u16) {
        // A super-packet of one is a packet; and the kernel makes no more packets of one than this.
        prop_assume!(packet.payload.len() > gso_size.into() && packet.payload.len() / usize::from(gso_size) < MAX_PARTS);
        let (header, bytes) = packet.superpacket(gso_size);
        let packets = split_all(&header, &bytes).unwrap();
        packets.iter().for_each(|packet| check_packet(packet));
        let payload = |packet: &Vec<u8>| packet[header.header_length.into()..].to_vec();
        prop_assert_eq!(packets.iter().flat_map(payload).collect::<Vec<_>>(), packet.payload.clone());
        prop_assert_eq!(coalesce(&packets), vec![(header, bytes)]);
    }

    #[test]
    fn coalescing_then_splitting_loses_nothing(packets in prop::collection::vec(any_packet(), 0..12)) {
        let packets: Vec<_> = packets.iter().map(Packet::finished).collect();
        let mut again = Vec::new();
        for (header, packet) in coalesce(&packets) {
            again.extend(split_all(&header, &packet).unwrap());
        }
        let mut expected = packets;
        // Packets of different flows may change places.
        let flow = |packet: &Vec<u8>| {
            let headers = Headers::of(packet).unwrap();
            (headers.v6, headers.protocol, read_u32(packet, headers.transport))
        };
        again.sort_by_key(flow);
        expected.sort_by_key(flow);
        prop_assert!(again.iter().map(|packet| significant(packet)).eq(expected.iter().map(|packet| significant(packet))));
    }

    #[test]
    fn junk_never_panics(header: [u8; VnetHeader::LENGTH], junk: Vec<u8>, other: Vec<u8>) {
        if let Some(header) = VnetHeader::parse(&header) {
            let _ = split_all(&header, &junk);
        }
        coalesce(&[junk, other]);
    }
}
