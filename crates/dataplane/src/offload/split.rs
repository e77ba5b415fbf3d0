//! One super-packet into the packets it stands for.

use super::{
    header::{Gso, VnetHeader},
    headers::{
        CWR, FIN, Headers, PSH, TCP, TCP_FLAGS, UDP, read_u16, read_u32, set_network_length, write_u16,
        write_u32,
    },
};

/// Why a packet cannot be split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SplitError {
    /// It is not what its header says.
    Malformed,
    /// One of its packets does not fit where it is to be written.
    TooLong,
}

/// Splits a super-packet. `place(length)` gives the room for the next packet, of exactly that many bytes; what is written there is
/// whole, with exact checksums. Packets are at most `mtu` bytes long where the kernel keeps to the interface's MTU; longer ones
/// are [`SplitError::TooLong`] if `place` says so.
///
/// # Errors
/// [`SplitError`]; packets that were written before stand.
pub fn split<'a>(
    header: &VnetHeader,
    packet: &mut [u8],
    mut place: impl FnMut(usize) -> Option<&'a mut [u8]>,
) -> Result<usize, SplitError> {
    if header.gso == Gso::None {
        if let Some((start, offset)) = header.checksum {
            complete_checksum(packet, start.into(), offset.into()).ok_or(SplitError::Malformed)?;
        }
        let room = place(packet.len()).ok_or(SplitError::TooLong)?;
        room.copy_from_slice(packet);
        return Ok(1);
    }
    let headers = Headers::of(packet).ok_or(SplitError::Malformed)?;
    let expected = match header.gso {
        Gso::TcpV4 => headers.protocol == TCP && !headers.v6,
        Gso::TcpV6 => headers.protocol == TCP && headers.v6,
        Gso::Udp | Gso::None => headers.protocol == UDP,
    };
    if !expected || header.gso_size == 0 {
        return Err(SplitError::Malformed);
    }
    let (head, payload) = packet.split_at(headers.payload);
    let mut count = 0;
    let mut chunks = payload.chunks(header.gso_size.into()).peekable();
    while let Some(chunk) = chunks.next() {
        let room = place(head.len() + chunk.len()).ok_or(SplitError::TooLong)?;
        let (to_head, to_payload) = room.split_at_mut(head.len());
        to_head.copy_from_slice(head);
        to_payload.copy_from_slice(chunk);
        write_segment(headers, room, count, header.gso_size.into(), chunks.peek().is_none());
        count += 1;
    }
    Ok(count)
}

/// Makes a copy of the super-packet's headers those of its packet number `index`.
fn write_segment(headers: Headers, segment: &mut [u8], index: usize, gso_size: usize, last: bool) {
    let total = segment.len();
    if !headers.v6 {
        let id = read_u16(segment, 4).wrapping_add(u16::try_from(index).unwrap_or_default());
        write_u16(segment, 4, id);
    }
    let (network, transport) = segment.split_at_mut(headers.transport);
    set_network_length(headers.v6, network, total);
    if headers.protocol == TCP {
        let ahead = u32::try_from(index * gso_size).unwrap_or_default();
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
    let length = transport.len();
    let checksum = headers.pseudo_header(network, length).add(transport).checksum();
    // Of UDP, zero says that there is no checksum (RFC 768).
    let checksum = if headers.protocol == UDP && checksum == 0 { 0xffff } else { checksum };
    write_u16(transport, at, checksum);
}

/// Puts the checksum into a packet that has the sum of its pseudo-header in its place.
fn complete_checksum(packet: &mut [u8], start: usize, offset: usize) -> Option<()> {
    let covered = packet.get_mut(start..)?;
    if offset + 2 > covered.len() {
        return None;
    }
    let checksum = super::checksum::Sum::default().add(covered).checksum();
    // For UDP zero would say that there is none, and for all others both spellings mean the same.
    write_u16(covered, offset, if checksum == 0 { 0xffff } else { checksum });
    Some(())
}
