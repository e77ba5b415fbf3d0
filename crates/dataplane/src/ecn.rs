//! Explicit congestion notification (RFC 3168) through a tunnel (RFC 6040).
//!
//! A datagram to a peer is not ECN-capable (the compatibility mode of section 4.3: nobody knows whether the peer does its part), so no network
//! marks it. Other WireGuards copy the mark of a packet outside, and what the network makes of that is told to whoever the packet is for.

use crate::{endpoint::Endpoint, offload::replace_word};

/// The mark: the lower two bits of IPv4's type of service and of IPv6's traffic class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Ecn {
    /// The sender does not know it.
    #[default]
    NotCapable,
    /// The sender knows it, ECT(1).
    Capable1,
    /// The sender knows it, ECT(0).
    Capable0,
    /// Congestion was experienced on the way.
    Congestion,
}

impl Ecn {
    /// The mark in a type of service or traffic class.
    pub const fn of(class: u8) -> Self {
        match class & 3 {
            0 => Self::NotCapable,
            1 => Self::Capable1,
            2 => Self::Capable0,
            3.. => Self::Congestion,
        }
    }
}

/// Where datagrams come from, and how they came.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// Whose they are, and what they were sent to.
    pub from: Endpoint,
    /// The mark of all.
    pub ecn: Ecn,
}

impl<T: Into<Endpoint>> From<T> for Arrival {
    fn from(from: T) -> Self {
        Self { from: from.into(), ecn: Ecn::default() }
    }
}

/// Gives an IP packet the mark that it has behind a datagram with the mark `outer` (RFC 6040, section 4.2). Whether it may go on: a sender that
/// does not know the mark hears of congestion by the loss.
pub(crate) fn decapsulate(packet: &mut [u8], outer: Ecn) -> bool {
    let (class, v6) = match packet {
        [first, second, ..] if *first >> 4 == 6 => (*first << 4 | *second >> 4, true),
        [_, class, ..] => (*class, false),
        [] | [_] => return true,
    };
    let mark = match (Ecn::of(class), outer) {
        (Ecn::NotCapable, Ecn::Congestion) => return false,
        (Ecn::Capable0 | Ecn::Capable1, Ecn::Congestion) => Ecn::Congestion,
        (Ecn::Capable0, Ecn::Capable1) => Ecn::Capable1,
        _ => return true,
    };
    let class = class & !3 | mark as u8;
    match packet {
        [_, second, ..] if v6 => *second = class << 4 | *second & 0x0f,
        &mut [first, ..] => replace_word(packet, 0, 0, u16::from_be_bytes([first, class]), 10),
        [] => {}
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offload::Sum;

    fn v4(class: u8) -> Vec<u8> {
        let mut packet = vec![0; 28];
        packet[..10].copy_from_slice(&[0x45, class, 0, 28, 1, 2, 0x40, 0, 64, 17]);
        packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        let checksum = Sum::default().add(&packet[..20]).checksum().to_be_bytes();
        packet[10..12].copy_from_slice(&checksum);
        packet
    }

    fn v6(class: u8) -> Vec<u8> {
        let mut packet = vec![0; 48];
        packet[..8].copy_from_slice(&[0x60 | class >> 4, class << 4 | 0xb, 0xcd, 0xef, 0, 8, 17, 64]);
        packet
    }

    #[test]
    fn a_packet_has_the_mark_that_rfc_6040_gives_it_and_a_right_checksum() {
        // Inner by outer mark, in the order of their bits: figure 4 of the RFC.
        let table = [
            [Some(0), Some(0), Some(0), None],
            [Some(1), Some(1), Some(1), Some(3)],
            [Some(2), Some(1), Some(2), Some(3)],
            [Some(3), Some(3), Some(3), Some(3)],
        ];
        for (inner, row) in table.into_iter().enumerate() {
            for (outer, expected) in row.into_iter().enumerate() {
                for make in [v4, v6] {
                    // With a differentiated services field (RFC 2474) that stays.
                    let mut packet = make(0xb8 | inner as u8);
                    let goes_on = decapsulate(&mut packet, Ecn::of(outer as u8));
                    assert_eq!(goes_on, expected.is_some(), "{inner} in {outer}");
                    let expected = expected.unwrap_or(inner as u8);
                    assert_eq!(packet, make(0xb8 | expected), "{inner} in {outer}");
                }
            }
        }
    }

    #[test]
    fn what_is_too_short_is_left_alone() {
        for length in 0..12 {
            let mut packet = vec![0x46; length];
            decapsulate(&mut packet, Ecn::Congestion);
        }
    }
}
