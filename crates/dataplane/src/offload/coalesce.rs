//! Packets of one flow that follow each other, into one super-packet.

use std::{mem, ops::Range};

use super::{
    header::{Gso, VnetHeader},
    headers::{
        ACK, CWR, FIN, Headers, PSH, RST, SYN, TCP, TCP_FLAGS, UDP, URG, read_u16, read_u32,
        set_network_length, write_u16,
    },
};

/// The longest packet that IP has, in bytes.
const MAX_PACKET: usize = 65_535;

/// The most packets in one: more than IP has room for at any usual MTU.
pub const MAX_PARTS: usize = 128;

/// So many runs are looked at for the one that a packet continues.
const OPEN_RUNS: usize = 8;

/// Gathers the packets of a batch, all in one buffer, into runs: packets that the kernel takes as one. The order within each flow stays.
#[derive(Debug, Default)]
pub struct Coalescer {
    /// In order; those from `used` on are kept for their memory.
    runs: Vec<Run>,
    used: usize,
    /// UDP is left as it is.
    not_udp: bool,
}

/// A packet for the kernel, in parts.
#[derive(Debug)]
pub struct Coalesced<'a> {
    /// What is written before it.
    pub header: VnetHeader,
    buffer: &'a [u8],
    parts: &'a [Range<usize>],
}

impl<'a> Coalesced<'a> {
    /// The parts of the packet, in order.
    pub fn parts(&self) -> impl ExactSizeIterator<Item = &'a [u8]> {
        let buffer = self.buffer;
        self.parts.iter().map(move |part| buffer.get(part.clone()).unwrap_or_default())
    }
}

/// Packets that follow each other.
#[derive(Debug, Default)]
struct Run {
    /// The first packet whole, then the payloads of the others.
    parts: Vec<Range<usize>>,
    /// Of the first packet; `None` where nothing can follow it.
    headers: Option<Headers>,
    /// How long each payload is, but for the last.
    size: usize,
    /// How long all payloads are together.
    length: usize,
    /// FIN and PSH of the last packet.
    closing_flags: u8,
    /// Whether another packet may follow.
    open: bool,
}

impl Coalescer {
    /// Another one that does the same and has nothing.
    pub(crate) fn fork(&self) -> Self {
        Self { not_udp: self.not_udp, ..Self::default() }
    }

    /// Whether UDP datagrams are coalesced.
    pub const fn set_udp(&mut self, coalesces: bool) {
        self.not_udp = !coalesces;
    }

    /// Takes the packet in `range` of `buffer`, which is the same until [`Coalescer::flush`].
    pub fn push(&mut self, buffer: &[u8], range: Range<usize>) {
        let Some(packet) = buffer.get(range.clone()) else { return };
        let headers = Headers::of(packet)
            .filter(|headers| !(self.not_udp && headers.protocol == UDP) && may_coalesce(*headers, packet));
        let from = self.used.saturating_sub(OPEN_RUNS);
        for run in self.runs[from..self.used].iter_mut().rev().filter(|run| run.open) {
            let Some(first) = run.parts.first().and_then(|first| buffer.get(first.clone())) else { continue };
            if !same_addresses(first, packet) {
                continue;
            }
            let of_flow = headers.is_none_or(|headers| same_flow(headers, run.headers, first, packet));
            if !of_flow {
                continue;
            }
            if let Some(headers) = headers
                && run.continues(headers, first, packet)
            {
                let payload = range.start + headers.payload..range.end;
                run.append(payload, closing_flags(headers, packet));
                return;
            }
            // Whatever comes later in this flow comes behind this packet.
            run.open = false;
        }
        self.begin(headers, packet, range);
    }

    /// Hands over every packet, in order, and begins anew.
    pub fn flush(&mut self, buffer: &mut [u8], mut deliver: impl FnMut(Coalesced<'_>)) {
        for run in &mut self.runs[..mem::take(&mut self.used)] {
            let header = run.finish(buffer);
            deliver(Coalesced { header, buffer, parts: &run.parts });
        }
    }

    fn begin(&mut self, headers: Option<Headers>, packet: &[u8], range: Range<usize>) {
        if self.used == self.runs.len() {
            self.runs.push(Run::default());
        }
        let run = &mut self.runs[self.used];
        self.used += 1;
        run.parts.clear();
        run.parts.push(range);
        run.headers = headers;
        run.size = headers.map_or(0, |headers| packet.len() - headers.payload);
        run.length = run.size;
        run.closing_flags = headers.map_or(0, |headers| closing_flags(headers, packet));
        run.open = headers.is_some() && run.closing_flags == 0;
    }
}

impl Run {
    /// Whether a packet of the same flow goes on where this run ends.
    fn continues(&self, headers: Headers, first: &[u8], packet: &[u8]) -> bool {
        let payload = packet.len() - headers.payload;
        let fits = self.parts.len() < MAX_PARTS
            && payload <= self.size
            && first.len() - self.size + self.length + payload <= MAX_PACKET;
        fits && same_network_header(headers, self.parts.len(), first, packet)
            && (headers.protocol == UDP || self.continues_segment(headers, first, packet))
    }

    fn continues_segment(&self, headers: Headers, first: &[u8], packet: &[u8]) -> bool {
        let (ours, theirs) =
            (&first[headers.transport..headers.payload], &packet[headers.transport..headers.payload]);
        let ahead = u32::try_from(self.length).unwrap_or_default();
        let ignored = FIN | PSH | CWR;
        read_u32(theirs, 4) == read_u32(ours, 4).wrapping_add(ahead)
            && theirs[TCP_FLAGS] & CWR == 0
            && ours[TCP_FLAGS] & !ignored == theirs[TCP_FLAGS] & !ignored
            // Acknowledgement, length of the header and reserved bits; window; urgent pointer and options.
            && ours[8..TCP_FLAGS] == theirs[8..TCP_FLAGS]
            && ours[14..16] == theirs[14..16]
            && ours[18..] == theirs[18..]
    }

    fn append(&mut self, payload: Range<usize>, closing_flags: u8) {
        self.length += payload.len();
        self.open = payload.len() == self.size && closing_flags == 0;
        self.closing_flags = closing_flags;
        self.parts.push(payload);
    }

    /// Makes the headers of the first packet those of all.
    fn finish(&self, buffer: &mut [u8]) -> VnetHeader {
        let (Some(headers), [first, _, ..]) = (self.headers, self.parts.as_slice()) else {
            return VnetHeader::default();
        };
        let Some(head) = buffer.get_mut(first.start..first.start + headers.payload) else {
            return VnetHeader::default();
        };
        let (network, transport) = head.split_at_mut(headers.transport);
        let length = transport.len() + self.length;
        set_network_length(headers.v6, network, headers.transport + length);
        let mut ecn = false;
        if headers.protocol == TCP {
            ecn = transport[TCP_FLAGS] & CWR != 0;
            transport[TCP_FLAGS] |= self.closing_flags;
        } else {
            write_u16(transport, 4, u16::try_from(length).unwrap_or(u16::MAX));
        }
        // The kernel completes the checksum, or knows that it need not be looked at.
        let sum = headers.pseudo_header(network, length).fold();
        write_u16(transport, headers.checksum_offset(), sum);
        let gso = match (headers.protocol, headers.v6) {
            (TCP, false) => Gso::TcpV4,
            (TCP, true) => Gso::TcpV6,
            _ => Gso::Udp,
        };
        let short = |length: usize| u16::try_from(length).unwrap_or(u16::MAX);
        VnetHeader {
            gso,
            ecn,
            header_length: short(headers.payload),
            gso_size: short(self.size),
            checksum: Some((short(headers.transport), short(headers.checksum_offset()))),
        }
    }
}

/// Whether a packet may be part of a super-packet at all.
fn may_coalesce(headers: Headers, packet: &[u8]) -> bool {
    let length =
        if headers.v6 { 40 + usize::from(read_u16(packet, 4)) } else { usize::from(read_u16(packet, 2)) };
    let plain =
        length == packet.len() && headers.payload < packet.len() && (headers.v6 || headers.transport == 20);
    let of_protocol = if headers.protocol == TCP {
        let flags = packet[headers.transport + TCP_FLAGS];
        flags & ACK != 0 && flags & (SYN | RST | URG) == 0
    } else {
        let (stated, checksum) =
            (read_u16(packet, headers.transport + 4), read_u16(packet, headers.transport + 6));
        usize::from(stated) == packet.len() - headers.transport && checksum != 0
    };
    plain && of_protocol && network_checksum_holds(headers, packet) && headers.verifies(packet)
}

/// The header of IPv4 has a checksum of its own, which would be made anew.
fn network_checksum_holds(headers: Headers, packet: &[u8]) -> bool {
    headers.v6 || super::checksum::Sum::default().add(&packet[..headers.transport]).checksum() == 0
}

/// FIN and PSH: behind them nothing is added.
fn closing_flags(headers: Headers, packet: &[u8]) -> u8 {
    if headers.protocol == TCP { packet[headers.transport + TCP_FLAGS] & (FIN | PSH) } else { 0 }
}

fn same_addresses(a: &[u8], b: &[u8]) -> bool {
    let addresses = |packet: &[u8]| match packet.first().map(|byte| byte >> 4) {
        Some(4) => Some(12..20),
        Some(6) => Some(8..40),
        _ => None,
    };
    let (ours, theirs) = (addresses(a), addresses(b));
    ours == theirs && ours.is_some_and(|range| a.get(range.clone()) == b.get(range))
}

/// Whether two packets between the same addresses are of one flow: same protocol, same ports.
fn same_flow(headers: Headers, run: Option<Headers>, first: &[u8], packet: &[u8]) -> bool {
    run.is_none_or(|run| {
        let ports = |headers: Headers, packet: &[u8]| read_u32(packet, headers.transport);
        run.protocol == headers.protocol && ports(run, first) == ports(headers, packet)
    })
}

/// Whether the network headers differ in nothing but length, checksum and, where fragments could be made of the packets, a
/// number that counts them.
fn same_network_header(headers: Headers, count: usize, first: &[u8], packet: &[u8]) -> bool {
    if Headers::of(first) != Some(headers) {
        return false;
    }
    if headers.v6 {
        return first[..4] == packet[..4] && first[6..8] == packet[6..8];
    }
    let never_fragmented = first[6] & 0x40 != 0;
    let expected = read_u16(first, 4).wrapping_add(u16::try_from(count).unwrap_or_default());
    first[..2] == packet[..2]
        && first[6..10] == packet[6..10]
        // What the identification of a packet is that must not be fragmented means nothing (RFC 6864, section 4.1).
        && (never_fragmented || read_u16(packet, 4) == expected)
}
