//! ICMP's "packet too big" (RFC 4443, section 3.2) and "fragmentation needed" (RFC 792, RFC 1191) to senders on this host.

use std::time::{Duration, Instant};

use crate::offload::{Sum, write_u16, write_u32};

/// So many answers at once, and one more after each pause (RFC 4443, section 2.4 (f): the rate must be bounded).
const BURST: u32 = 50;
const PAUSE: Duration = Duration::from_millis(10);

/// The longest answer, in bytes (RFC 4443, section 2.4 (c); RFC 1812, section 4.3.2.3).
const MAX_V6: usize = 1280;
const MAX_V4: usize = 576;

/// The smallest MTU of IPv6 (RFC 8200, section 5).
const MIN_V6_MTU: u16 = 1280;

const ICMP: u8 = 1;
const ICMP_V6: u8 = 58;
const V4_HEADER: usize = 20;
const V6_HEADER: usize = 40;
const ICMP_HEADER: usize = 8;

/// Answers, no more of them than is good.
#[derive(Debug)]
pub(crate) struct TooBig {
    left: u32,
    refilled: Option<Instant>,
}

impl Default for TooBig {
    fn default() -> Self {
        Self { left: BURST, refilled: None }
    }
}

impl TooBig {
    /// The answer to a packet that is longer than `mtu`, as a whole packet; `None` where none may be given.
    pub(crate) fn answer(&mut self, packet: &[u8], mtu: u16, now: Instant) -> Option<Vec<u8>> {
        let answer = answer(packet, mtu)?;
        let since = self.refilled.get_or_insert(now);
        let pauses = now.saturating_duration_since(*since).as_nanos() / PAUSE.as_nanos();
        if pauses > 0 {
            self.left = self.left.saturating_add(u32::try_from(pauses).unwrap_or(u32::MAX)).min(BURST);
            *since = now;
        }
        self.left = self.left.checked_sub(1)?;
        Some(answer)
    }
}

/// It comes from the packet's destination, since the tunnel has no address of its own that the sender must know.
fn answer(packet: &[u8], mtu: u16) -> Option<Vec<u8>> {
    match packet.first()? >> 4 {
        4 => answer_v4(packet, mtu),
        6 => answer_v6(packet, mtu),
        _ => None,
    }
}

fn answer_v4(packet: &[u8], mtu: u16) -> Option<Vec<u8>> {
    let header = packet.first_chunk::<V4_HEADER>()?;
    let (may_fragment, later_fragment) = (header[6] & 0x40 == 0, header[6] & 0x1f != 0 || header[7] != 0);
    let transport = usize::from(header[0] & 0x0f) * 4;
    let is_error = header[9] == ICMP && packet.get(transport).is_none_or(|kind| !is_query_v4(*kind));
    let [.., s0, s1, s2, s3, d0, d1, d2, d3] = *header;
    if may_fragment
        || later_fragment
        || is_error
        || !is_unicast_v4([s0, s1, s2, s3])
        || !is_unicast_v4([d0, d1, d2, d3])
    {
        return None;
    }
    let quoted = packet.get(..packet.len().min(MAX_V4 - V4_HEADER - ICMP_HEADER))?;
    let mut answer = vec![0; V4_HEADER + ICMP_HEADER];
    answer.extend_from_slice(quoted);
    let total = u16::try_from(answer.len()).ok()?;
    (answer[0], answer[8], answer[9]) = (0x45, 64, ICMP);
    write_u16(&mut answer, 2, total);
    answer[12..20].copy_from_slice(&[d0, d1, d2, d3, s0, s1, s2, s3]);
    let checksum = Sum::default().add(&answer[..V4_HEADER]).checksum();
    write_u16(&mut answer, 10, checksum);
    // Destination unreachable: fragmentation needed and DF set.
    (answer[20], answer[21]) = (3, 4);
    write_u16(&mut answer, 26, mtu);
    let checksum = Sum::default().add(&answer[V4_HEADER..]).checksum();
    write_u16(&mut answer, 22, checksum);
    Some(answer)
}

fn answer_v6(packet: &[u8], mtu: u16) -> Option<Vec<u8>> {
    let header = packet.first_chunk::<V6_HEADER>()?;
    let (source, destination) = (header.get(8..24)?, header.get(24..40)?);
    // Errors have no upper bit; of other headers before ICMP's it is not known what is behind them.
    let is_error = match header[6] {
        ICMP_V6 => packet.get(V6_HEADER).is_none_or(|kind| kind & 0x80 == 0),
        // Hop-by-hop options, routing, fragment, destination options.
        0 | 43 | 44 | 60 => true,
        _ => false,
    };
    if is_error || source.iter().all(|byte| *byte == 0) || source[0] == 0xff || destination[0] == 0xff {
        return None;
    }
    let quoted = packet.get(..packet.len().min(MAX_V6 - V6_HEADER - ICMP_HEADER))?;
    let mut answer = vec![0; V6_HEADER + ICMP_HEADER];
    answer.extend_from_slice(quoted);
    let length = u16::try_from(answer.len() - V6_HEADER).ok()?;
    (answer[0], answer[6], answer[7]) = (0x60, ICMP_V6, 64);
    write_u16(&mut answer, 4, length);
    answer[8..24].copy_from_slice(destination);
    answer[24..40].copy_from_slice(source);
    answer[40] = 2;
    write_u32(&mut answer, 44, mtu.max(MIN_V6_MTU).into());
    let pseudo = Sum::default().add(&answer[8..40]).add_u16(length).add_u16(ICMP_V6.into());
    let checksum = pseudo.add(&answer[V6_HEADER..]).checksum();
    write_u16(&mut answer, 42, checksum);
    Some(answer)
}

/// Echoes and timestamps, and their replies: no errors.
const fn is_query_v4(kind: u8) -> bool {
    matches!(kind, 0 | 8 | 13 | 14)
}

const fn is_unicast_v4(address: [u8; 4]) -> bool {
    !matches!(address[0], 0 | 127 | 224..)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v4(length: usize) -> Vec<u8> {
        let mut packet = vec![7; length];
        packet[..12].copy_from_slice(&[0x45, 0, 0, 0, 0, 9, 0x40, 0, 64, 17, 0, 0]);
        packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        packet
    }

    fn v6(length: usize) -> Vec<u8> {
        let mut packet = vec![7; length];
        packet[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, 0, 17, 64]);
        packet[8..40].fill(0);
        (packet[8], packet[23], packet[24], packet[39]) = (0xfd, 1, 0xfd, 2);
        packet
    }

    #[test]
    fn ipv4_hears_that_fragmentation_is_needed() {
        let packet = v4(1400);
        let answer = answer(&packet, 1300).unwrap();
        assert_eq!(answer.len(), 576);
        assert_eq!(answer[12..20], [10, 0, 0, 2, 10, 0, 0, 1]);
        assert_eq!(answer[20..22], [3, 4]);
        assert_eq!(answer[26..28], 1300_u16.to_be_bytes());
        assert_eq!(answer[28..], packet[..548]);
        assert_eq!(Sum::default().add(&answer[..20]).checksum(), 0);
        assert_eq!(Sum::default().add(&answer[20..]).checksum(), 0);
    }

    #[test]
    fn ipv6_hears_of_a_packet_too_big_and_of_no_mtu_below_1280() {
        let packet = v6(1400);
        for (mtu, said) in [(1300, 1300_u32), (900, 1280)] {
            let answer = answer(&packet, mtu).unwrap();
            assert_eq!(answer.len(), 1280);
            assert_eq!((answer[6], answer[40], answer[41]), (ICMP_V6, 2, 0));
            assert_eq!((&answer[8..24], &answer[24..40]), (&packet[24..40], &packet[8..24]));
            assert_eq!(answer[44..48], said.to_be_bytes());
            let length = u16::try_from(answer.len() - 40).unwrap();
            let sum = Sum::default().add(&answer[8..40]).add_u16(length).add_u16(ICMP_V6.into());
            assert_eq!(sum.add(&answer[40..]).checksum(), 0);
        }
    }

    #[test]
    fn errors_multicast_later_fragments_and_what_may_be_fragmented_are_not_answered() {
        let silent = |change: &dyn Fn(&mut [u8]), mut packet: Vec<u8>| {
            change(&mut packet);
            answer(&packet, 1000)
        };
        assert_eq!(silent(&|p| p[6] = 0, v4(1400)), None, "may be fragmented");
        assert_eq!(silent(&|p| p[7] = 8, v4(1400)), None, "a later fragment");
        assert_eq!(silent(&|p| (p[9], p[20]) = (ICMP, 3), v4(1400)), None, "an error");
        assert!(silent(&|p| (p[9], p[20]) = (ICMP, 8), v4(1400)).is_some(), "an echo is none");
        assert_eq!(silent(&|p| p[16] = 224, v4(1400)), None, "to many");
        assert_eq!(silent(&|p| p[12] = 0, v4(1400)), None, "from nobody");
        assert_eq!(silent(&|p| (p[6], p[40]) = (ICMP_V6, 1), v6(1400)), None, "an error");
        assert!(silent(&|p| (p[6], p[40]) = (ICMP_V6, 128), v6(1400)).is_some(), "an echo is none");
        assert_eq!(silent(&|p| p[6] = 44, v6(1400)), None, "a fragment");
        assert_eq!(silent(&|p| p[24] = 0xff, v6(1400)), None, "to many");
        assert_eq!(silent(&|p| p[8..24].fill(0), v6(1400)), None, "from nobody");
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "an `Instant` to count from; no test depends on which")]
    fn answers_are_bounded() {
        let (mut answers, now) = (TooBig::default(), Instant::now());
        let mut given = |at| (0..1000).filter(|_| answers.answer(&v4(1400), 1000, at).is_some()).count();
        assert_eq!(given(now), 50);
        assert_eq!(given(now + PAUSE * 3), 3);
        assert_eq!(given(now + Duration::from_secs(60)), 50);
    }

    proptest! {
        #[test]
        fn junk_never_panics(mut packet: Vec<u8>, v6: bool, mtu: u16) {
            if let Some(first) = packet.first_mut() {
                *first = if v6 { 0x60 } else { 0x45 };
            }
            let _ = answer(&packet, mtu);
        }
    }
}
