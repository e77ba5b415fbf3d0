//! The header between a TUN interface and its reader.

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
const NEEDS_CSUM: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_ECN`, a flag beside the type.
const GSO_ECN: u8 = 0x80;

/// What a packet is made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Gso {
    /// One packet.
    #[default]
    None,
    /// TCP segments over IPv4.
    TcpV4,
    /// TCP segments over IPv6.
    TcpV6,
    /// UDP datagrams over either.
    Udp,
}

/// `struct virtio_net_hdr`, in the byte order of the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// What the packet behind it is made of.
    pub gso: Gso,
    /// Whether one of the packets carries TCP's CWR.
    pub ecn: bool,
    /// How many bytes of headers each of the packets has.
    pub header_length: u16,
    /// How many bytes of payload each of the packets has, but for the last, which may have fewer.
    pub gso_size: u16,
    /// Where the checksum begins and, from there, where it is to be put; `None` where it is there.
    pub checksum: Option<(u16, u16)>,
}

impl VnetHeader {
    /// How long it is, in bytes.
    pub const LENGTH: usize = 10;

    /// Reads a header. `None` where the kernel uses an offload that was not asked for.
    pub fn parse(bytes: &[u8; Self::LENGTH]) -> Option<Self> {
        let [flags, gso, rest @ ..] = *bytes;
        let [header_length, gso_size, start, offset] =
            [0, 2, 4, 6].map(|at| u16::from_ne_bytes([rest[at], rest[at + 1]]));
        let (gso, ecn) = (gso & !GSO_ECN, gso & GSO_ECN != 0);
        let gso = match gso {
            0 => Gso::None,
            1 => Gso::TcpV4,
            4 => Gso::TcpV6,
            5 => Gso::Udp,
            _ => return None,
        };
        let checksum = (flags & NEEDS_CSUM != 0).then_some((start, offset));
        Some(Self { gso, ecn, header_length, gso_size, checksum })
    }

    /// The header as the kernel reads it.
    pub fn to_bytes(self) -> [u8; Self::LENGTH] {
        let gso = match self.gso {
            Gso::None => 0,
            Gso::TcpV4 => 1,
            Gso::TcpV6 => 4,
            Gso::Udp => 5,
        };
        let flags = if self.checksum.is_some() { NEEDS_CSUM } else { 0 };
        let (start, offset) = self.checksum.unwrap_or_default();
        let mut bytes = [0; Self::LENGTH];
        bytes[0] = flags;
        bytes[1] = gso | if self.ecn { GSO_ECN } else { 0 };
        for (at, number) in [(2, self.header_length), (4, self.gso_size), (6, start), (8, offset)] {
            bytes[at..at + 2].copy_from_slice(&number.to_ne_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_comes_back_from_bytes() {
        for gso in [Gso::None, Gso::TcpV4, Gso::TcpV6, Gso::Udp] {
            for (ecn, checksum) in [(false, None), (true, Some((40, 16)))] {
                let header = VnetHeader { gso, ecn, header_length: 60, gso_size: 1360, checksum };
                assert_eq!(VnetHeader::parse(&header.to_bytes()), Some(header));
            }
        }
        assert_eq!(
            VnetHeader::parse(&[0, 3, 0, 0, 0, 0, 0, 0, 0, 0]),
            None,
            "UDP fragments were not asked for"
        );
    }
}
