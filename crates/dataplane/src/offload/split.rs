//! One super-packet into the packets it stands for.

use super::{
    checksum::Sum,
    header::{Gso, VnetHeader},
    headers::{
        CWR, FIN, Headers, PSH, TCP, TCP_FLAGS, UDP, read_u16, read_u32, set_network_length, write_u16,
        write_u32,
    },
};
use crate::packet::has_header;

/// The header contradicts the packet behind it, or that contradicts itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the packet is not what its header says")]
pub struct Malformed;

/// The packets that a super-packet stands for, one after the other, each with exact checksums.
#[derive(Debug)]
pub struct Segments<'a> {
    packet: &'a [u8],
    how: How,
    /// How many packets were written.
    written: usize,
    /// Where the payload of the next one begins.
    next: usize,
}

#[derive(Debug, Clone, Copy)]
enum How {
    /// The packet is one already, but for its checksum, which covers the bytes from `.0` on and is put at `.1`.
    Whole(Option<(usize, usize)>),
    /// Each packet has these headers and so many bytes of payload.
    Cut(Headers, usize),
}

impl<'a> Segments<'a> {
    /// The packets in `packet`, as the kernel's header describes it.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn of(header: &VnetHeader, packet: &'a [u8]) -> Result<Self, Malformed> {
        if !has_header(packet) {
            return Err(Malformed);
        }
        if header.gso == Gso::None {
            let checksum = header.checksum.map(|(start, offset)| (usize::from(start), usize::from(offset)));
            if checksum.is_some_and(|(start, offset)| start + offset + 2 > packet.len()) {
                return Err(Malformed);
            }
            return Ok(Self { packet, how: How::Whole(checksum), written: 0, next: 0 });
        }
        let headers = Headers::of_super_packet(packet).ok_or(Malformed)?;
        let expected = match header.gso {
            Gso::TcpV4 => headers.protocol == TCP && !headers.v6,
            Gso::TcpV6 => headers.protocol == TCP && headers.v6,
            Gso::Udp | Gso::None => headers.protocol == UDP,
        };
        if !expected || header.gso_size == 0 || headers.payload == packet.len() {
            return Err(Malformed);
        }
        let how = How::Cut(headers, header.gso_size.into());
        Ok(Self { packet, how, written: 0, next: headers.payload })
    }

    /// Whether there is one packet, uncut.
    pub const fn is_whole(&self) -> bool {
        matches!(self.how, How::Whole(_))
    }

    /// How many bytes the next packet has; `None` where there is none.
    pub fn next_length(&self) -> Option<usize> {
        match self.how {
            How::Whole(_) => (self.written == 0).then_some(self.packet.len()),
            How::Cut(headers, size) => {
                let rest = self.packet.len().checked_sub(self.next).filter(|rest| *rest > 0)?;
                Some(headers.payload + rest.min(size))
            }
        }
    }

    /// Writes the next packet behind what is there.
    pub fn append_next(&mut self, to: &mut Vec<u8>) {
        let from = to.len();
        match self.how {
            How::Whole(checksum) => {
                to.extend_from_slice(self.packet);
                if let Some((start, at)) = checksum
                    && let Some(packet) = to.get_mut(from..)
                {
                    let sum = Sum::default().add(packet.get(start..).unwrap_or_default()).checksum();
                    // Of UDP, zero says that there is none; for all others both spellings mean the same.
                    write_u16(packet, start + at, if sum == 0 { 0xffff } else { sum });
                }
            }
            How::Cut(headers, size) => {
                let end = self.packet.len().min(self.next + size);
                to.extend_from_slice(self.packet.get(..headers.payload).unwrap_or_default());
                to.extend_from_slice(self.packet.get(self.next..end).unwrap_or_default());
                let last = end == self.packet.len();
                if let Some(segment) = to.get_mut(from..) {
                    make_segment(headers, segment, self.written, size, last);
                }
                self.next = end;
            }
        }
        self.written += 1;
    }
}

/// Makes a copy of the super-packet's headers those of its packet number `index`.
fn make_segment(headers: Headers, segment: &mut [u8], index: usize, size: usize, last: bool) {
    let total = segment.len();
    if !headers.v6 {
        let id = read_u16(segment, 4).wrapping_add(u16::try_from(index).unwrap_or_default());
        write_u16(segment, 4, id);
    }
    let (network, transport) = segment.split_at_mut(headers.transport);
    set_network_length(headers.v6, network, total);
    if headers.protocol == TCP {
        let ahead = u32::try_from(index * size).unwrap_or_default();
        let sequence = read_u32(transport, 4).wrapping_add(ahead);
        write_u32(transport, 4, sequence);
        if let Some(flags) = transport.get_mut(TCP_FLAGS) {
            *flags &= !(if index > 0 { CWR } else { 0 } | if last { 0 } else { FIN | PSH });
        }
    } else {
        let length = u16::try_from(transport.len()).unwrap_or(u16::MAX);
        write_u16(transport, 4, length);
    }
    let at = headers.checksum_offset();
    write_u16(transport, at, 0);
    let checksum = headers.pseudo_header(network, transport.len()).add(transport).checksum();
    // Of UDP, zero says that there is no checksum (RFC 768).
    let checksum = if headers.protocol == UDP && checksum == 0 { 0xffff } else { checksum };
    write_u16(transport, at, checksum);
}
