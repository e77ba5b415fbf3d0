use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

/// How the frames of an interface begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layer {
    /// With an Ethernet header.
    Ethernet,
    /// With the IP header, as on a TUN device.
    Ip,
}

/// A captured frame. With offloads it can be longer than the MTU, and hold several segments of one flow.
#[derive(Clone, Debug)]
pub struct Packet {
    /// When it was read, shortly after it passed.
    pub at: Instant,
    /// The whole frame.
    pub bytes: Vec<u8>,
    pub(crate) layer: Layer,
}

/// The IP packet in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip<'a> {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Protocol number of the payload (6: TCP, 17: UDP).
    pub protocol: u8,
    /// Whether it is a fragment other than the first, so that the payload does not begin with a header.
    pub later_fragment: bool,
    /// What follows the IP headers.
    pub payload: &'a [u8],
}

impl Packet {
    /// The IP packet, if it is one.
    pub fn ip(&self) -> Option<Ip<'_>> {
        let packet = match self.layer {
            Layer::Ip => self.bytes.as_slice(),
            Layer::Ethernet => after_ethernet(&self.bytes)?,
        };
        match packet.first()? >> 4 {
            4 => ipv4(packet),
            6 => ipv6(packet),
            _ => None,
        }
    }

    /// Source, destination and payload of a UDP datagram.
    pub fn udp(&self) -> Option<(SocketAddr, SocketAddr, &[u8])> {
        const UDP: u8 = 17;
        const HEADER: usize = 8;
        let ip = self.ip().filter(|ip| ip.protocol == UDP && !ip.later_fragment)?;
        let port = |at| be16(ip.payload, at);
        let length = usize::from(be16(ip.payload, 4)?);
        let payload = match ip.payload.get(HEADER..length) {
            Some(payload) => payload,
            // The first fragment of a longer datagram.
            None => ip.payload.get(HEADER..)?,
        };
        Some((SocketAddr::new(ip.source, port(0)?), SocketAddr::new(ip.destination, port(2)?), payload))
    }

    /// Whether it is a UDP datagram with a WireGuard message of the right length for its type (the WireGuard paper,
    /// section 5.4). Of several data messages that one segmentation offload carries, the first is looked at.
    pub fn is_wireguard(&self) -> bool {
        const SMALLEST_DATA: usize = 32;
        let Some((_, _, payload)) = self.udp() else { return false };
        match payload {
            [1, 0, 0, 0, ..] => payload.len() == 148,
            [2, 0, 0, 0, ..] => payload.len() == 92,
            [3, 0, 0, 0, ..] => payload.len() == 64,
            [4, 0, 0, 0, ..] => payload.len() >= SMALLEST_DATA,
            _ => false,
        }
    }
}

fn after_ethernet(frame: &[u8]) -> Option<&[u8]> {
    const VLAN: [u16; 2] = [0x8100, 0x88a8];
    let mut at = 12;
    while VLAN.contains(&be16(frame, at)?) {
        at += 4;
    }
    matches!(be16(frame, at)?, 0x0800 | 0x86dd).then(|| frame.get(at + 2..)).flatten()
}

fn ipv4(packet: &[u8]) -> Option<Ip<'_>> {
    let header = usize::from(packet.first()? & 0xf) * 4;
    let total = usize::from(be16(packet, 2)?);
    let address = |at: usize| Some(Ipv4Addr::from(*packet.get(at..at + 4)?.first_chunk::<4>()?).into());
    Some(Ip {
        source: address(12)?,
        destination: address(16)?,
        protocol: *packet.get(9)?,
        later_fragment: be16(packet, 6)? & 0x1fff != 0,
        // Short frames are padded; the length of very long ones does not fit and is zero.
        payload: packet.get(header..total).or_else(|| packet.get(header..))?,
    })
}

fn ipv6(packet: &[u8]) -> Option<Ip<'_>> {
    const HEADER: usize = 40;
    const FRAGMENT: u8 = 44;
    let length = usize::from(be16(packet, 4)?);
    let address = |at: usize| Some(Ipv6Addr::from(*packet.get(at..at + 16)?.first_chunk::<16>()?).into());
    let mut protocol = *packet.get(6)?;
    let mut payload =
        packet.get(HEADER..HEADER + length).filter(|p| !p.is_empty()).or_else(|| packet.get(HEADER..))?;
    let mut later_fragment = false;
    // Hop-by-hop, routing and destination options precede the payload (RFC 8200, section 4).
    while matches!(protocol, 0 | 43 | 60 | FRAGMENT) && !later_fragment {
        let size = if protocol == FRAGMENT {
            later_fragment = be16(payload, 2)? & 0xfff8 != 0;
            8
        } else {
            (usize::from(*payload.get(1)?) + 1) * 8
        };
        protocol = *payload.first()?;
        payload = payload.get(size..)?;
    }
    Some(Ip { source: address(8)?, destination: address(24)?, protocol, later_fragment, payload })
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.first_chunk::<2>().map(|two| u16::from_be_bytes(*two))
}
