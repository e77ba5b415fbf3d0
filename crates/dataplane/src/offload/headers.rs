//! The headers of a packet: where they are, and the pseudo-header of their checksum.

use super::checksum::Sum;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

/// TCP's flags (RFC 9293, section 3.1), in its fourteenth byte.
pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const URG: u8 = 0x20;
pub(crate) const CWR: u8 = 0x80;

/// Extension headers of IPv6 (RFC 8200, section 4).
pub(crate) const HOP_BY_HOP: u8 = 0;
pub(crate) const ROUTING: u8 = 43;
pub(crate) const FRAGMENT: u8 = 44;
pub(crate) const DESTINATION: u8 = 60;

/// More of them are nobody's packet: RFC 8200 recommends each but the last one once.
pub(crate) const MAX_EXTENSIONS: usize = 8;

/// Where the flags are in a TCP header.
pub(crate) const TCP_FLAGS: usize = 13;

/// The headers of a TCP segment or UDP datagram that is no fragment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Headers {
    pub(crate) v6: bool,
    /// [`TCP`] or [`UDP`].
    pub(crate) protocol: u8,
    /// Where the TCP or UDP header begins.
    pub(crate) transport: usize,
    /// Where the payload begins.
    pub(crate) payload: usize,
}

impl Headers {
    /// Finds the headers. `None` for other protocols, fragments, extension headers of IPv6, and whatever contradicts itself.
    pub(crate) fn of(packet: &[u8]) -> Option<Self> {
        Self::behind(packet, |packet| Some((*packet.get(6)?, 40)))
    }

    /// The same, also behind extension headers of IPv6 that are the same in each packet that a super-packet stands for, and name no other
    /// destination.
    pub(crate) fn of_super_packet(packet: &[u8]) -> Option<Self> {
        let upper = |packet: &_| {
            Upper::of(packet).filter(|upper| upper.is_plain).map(|upper| (upper.protocol, upper.at))
        };
        Self::behind(packet, upper)
    }

    /// `upper` says which protocol is behind IPv6, and where.
    fn behind(packet: &[u8], upper: impl FnOnce(&[u8]) -> Option<(u8, usize)>) -> Option<Self> {
        let v6 = packet.first()? >> 4 == 6;
        let (protocol, transport) = if v6 {
            upper(packet)?
        } else {
            if packet[0] >> 4 != 4 {
                return None;
            }
            let fragment = u16::from_be_bytes([*packet.get(6)?, *packet.get(7)?]) & 0x3fff != 0;
            let length = usize::from(packet[0] & 0x0f) * 4;
            if fragment || length < 20 {
                return None;
            }
            (*packet.get(9)?, length)
        };
        let header = match protocol {
            TCP => Some(usize::from(packet.get(transport + 12)? >> 4) * 4).filter(|length| *length >= 20)?,
            UDP => 8,
            _ => return None,
        };
        let payload = transport + header;
        (payload <= packet.len()).then_some(Self { v6, protocol, transport, payload })
    }

    /// Both ports.
    pub(crate) fn ports(self, packet: &[u8]) -> u32 {
        read_u32(packet, self.transport)
    }

    /// Where the checksum stands, from the transport header on.
    pub(crate) const fn checksum_offset(self) -> usize {
        if self.protocol == TCP { 16 } else { 6 }
    }

    /// The sum of the pseudo-header (RFC 9293, section 3.1; RFC 8200, section 8.1) of a packet with so many bytes behind its
    /// network header.
    pub(crate) fn pseudo_header(self, packet: &[u8], length: usize) -> Sum {
        let addresses = if self.v6 { packet.get(8..40) } else { packet.get(12..20) };
        let length = u16::try_from(length).unwrap_or(u16::MAX);
        Sum::default().add(addresses.unwrap_or_default()).add_u16(length).add_u16(self.protocol.into())
    }

    /// Whether the checksum of a whole packet is right.
    pub(crate) fn verifies(self, packet: &[u8]) -> bool {
        let Some(segment) = packet.get(self.transport..) else { return false };
        self.pseudo_header(packet, segment.len()).add(segment).checksum() == 0
    }
}

/// What is behind the headers of an IPv6 packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Upper {
    pub(crate) protocol: u8,
    /// Where it begins.
    pub(crate) at: usize,
    /// No fragment, and not routed by its sender.
    is_plain: bool,
}

impl Upper {
    /// Passes over the extension headers. `None` for a fragment that is not the first one, in which all headers are (RFC 7112), and where there
    /// is no end to them.
    pub(crate) fn of(packet: &[u8]) -> Option<Self> {
        let mut upper = Self { protocol: *packet.get(6)?, at: 40, is_plain: true };
        for _ in 0..=MAX_EXTENSIONS {
            if !matches!(upper.protocol, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION) {
                return Some(upper);
            }
            let extension = packet.get(upper.at..)?.first_chunk::<8>()?;
            let is_fragment = upper.protocol == FRAGMENT;
            if is_fragment && u16::from_be_bytes([extension[2], extension[3]]) & 0xfff8 != 0 {
                return None;
            }
            upper.at += if is_fragment { 8 } else { 8 + 8 * usize::from(extension[1]) };
            upper.is_plain &= !is_fragment && upper.protocol != ROUTING;
            upper.protocol = extension[0];
        }
        None
    }
}

/// Reads a number in network order.
pub(crate) fn read_u16(packet: &[u8], at: usize) -> u16 {
    packet.get(at..at + 2).map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
}

/// Reads a number in network order.
pub(crate) fn read_u32(packet: &[u8], at: usize) -> u32 {
    packet.get(at..at + 4).map_or(0, |bytes| u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

/// Writes a number in network order. Nothing happens behind the end.
pub(crate) fn write_u16(packet: &mut [u8], at: usize, number: u16) {
    if let Some(bytes) = packet.get_mut(at..at + 2) {
        bytes.copy_from_slice(&number.to_be_bytes());
    }
}

/// Writes a number in network order. Nothing happens behind the end.
pub(crate) fn write_u32(packet: &mut [u8], at: usize, number: u32) {
    if let Some(bytes) = packet.get_mut(at..at + 4) {
        bytes.copy_from_slice(&number.to_be_bytes());
    }
}

/// Sets the length in the network header, and the header's checksum, where there is one. `network` is the header alone, with its extensions.
pub(crate) fn set_network_length(v6: bool, network: &mut [u8], total: usize) {
    if v6 {
        write_u16(network, 4, u16::try_from(total.saturating_sub(40)).unwrap_or(u16::MAX));
    } else {
        write_u16(network, 2, u16::try_from(total).unwrap_or(u16::MAX));
        write_u16(network, 10, 0);
        let checksum = Sum::default().add(network).checksum();
        write_u16(network, 10, checksum);
    }
}
