//! Packets whose headers are not there.

use carrick_wireguard::{HEADER, Message, OVERHEAD};

use super::*;

/// A packet whose header says it has so many words.
fn with_words(words: u8, from: [u8; 4], to: [u8; 4]) -> Vec<u8> {
    let mut packet = packet(from, to);
    packet[0] = 0x40 | words;
    packet
}

#[test]
fn a_packet_of_this_host_whose_header_is_not_there_does_not_go_out() {
    let (mut one, _, now) = connected();
    for (number, words) in (1..).zip([0, 4, 8, 15]) {
        one.handle_packet(&with_words(words, [10, 1, 0, 1], [10, 2, 0, 1]), now);
        assert_eq!((one.poll_transmit(), one.counters().malformed), (None, number), "{words}");
    }
    one.handle_packet(&with_words(7, [10, 1, 0, 1], [10, 2, 0, 1]), now);
    assert!(one.poll_transmit().is_some());
}

#[test]
fn a_packet_of_a_peer_whose_header_is_not_there_does_not_come_in() {
    let (one, mut two, now) = connected();
    // What no device of Carrick's seals.
    let key = one.forwarder.link(&secret(2).public()).unwrap().sending.first().unwrap().key.clone();
    let mut arrive = |packet: &[u8]| {
        let mut datagram = vec![0; packet.len() + OVERHEAD];
        datagram[HEADER..][..packet.len()].copy_from_slice(packet);
        let message = Message::outgoing(&mut datagram, packet.len(), packet.len()).unwrap();
        assert_eq!(key.reserve(1, now).unwrap().seal(&mut [message]), 1);
        two.handle_datagram(ONE.parse().unwrap(), &datagram, now);
        (two.poll_packet(), two.counters().malformed)
    };
    for (number, words) in (1..).zip([0, 4, 8, 15]) {
        assert_eq!(arrive(&with_words(words, [10, 1, 0, 1], [10, 2, 0, 1])), (None, number), "{words}");
    }
    let whole = with_words(7, [10, 1, 0, 1], [10, 2, 0, 1]);
    assert_eq!(arrive(&whole), (Some(whole), 4));
}
