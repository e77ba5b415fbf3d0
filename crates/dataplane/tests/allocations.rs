//! Moving packets takes no memory from the heap once buffers are there.

#![expect(clippy::unwrap_used, reason = "in a test it is the assertion that the value is there")]

mod net;

use allocation_counter::measure;
use carrick_dataplane::offload::VnetHeader;
use net::stream::{PACKETS, PAYLOAD, Pair, address, superpacket};

#[test]
fn packets_are_sealed_and_opened_without_memory_from_the_heap() {
    let mut pair = Pair::connected();
    let (many, large) = superpacket(0, &vec![7; PACKETS * PAYLOAD]);
    let (_, mut small) = superpacket(0, &[7; 64]);
    let length = u16::try_from(small.len()).unwrap();
    small[2..4].copy_from_slice(&length.to_be_bytes());
    for (header, packet, parts) in [(many, large, PACKETS), (VnetHeader::default(), small, 1)] {
        let mut delivered = 0;
        let mut carry = |pair: &mut Pair| {
            pair.one.handle_packet(&header, &packet, pair.now);
            let mut sent = pair.one.poll_transmit().unwrap();
            pair.two.handle_datagrams(address(0), &mut sent.payload, sent.segment, pair.now, |packet| {
                delivered += packet.parts().len();
            });
            pair.one.recycle(sent);
        };
        // Buffers grow to what they need.
        (0..100).for_each(|_| carry(&mut pair));
        let used = measure(|| (0..1000).for_each(|_| carry(&mut pair)));
        assert_eq!(used.count_total, 0, "{parts} at once: {used:?}");
        assert_eq!(delivered, 1100 * parts);
    }
}
