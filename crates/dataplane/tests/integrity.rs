//! What goes in comes out: a stream through a network that loses, reorders and duplicates.
//!
//! `CARRICK_MEBIBYTES` says how long the stream is.

#![allow(clippy::unwrap_used, reason = "in a test it is the assertion that the value is there")]

mod net;

use net::stream::{PACKETS, PAYLOAD, Pair, address, brought};
use sha2::{Digest as _, Sha256};

/// How long the stream is unless the environment says otherwise. The code under test is some ten times faster when it is optimised.
const MEBIBYTES: usize = if cfg!(debug_assertions) { 64 } else { 1024 };

/// What is sent before the network delivers any of it.
const WINDOW: usize = 16 * PACKETS * PAYLOAD;

/// Loses every 50th datagram, sends every 37th twice, and swaps every 23rd with the one before it.
#[derive(Default)]
struct Network {
    datagrams: usize,
    on_the_way: Vec<Vec<u8>>,
}

impl Network {
    fn post(&mut self, datagram: &[u8]) {
        self.datagrams += 1;
        let last = self.on_the_way.len();
        if self.datagrams.is_multiple_of(50) {
            return;
        }
        self.on_the_way.push(datagram.to_vec());
        if self.datagrams.is_multiple_of(37) {
            self.on_the_way.push(datagram.to_vec());
        }
        if self.datagrams.is_multiple_of(23) && last > 0 {
            self.on_the_way.swap(last - 1, last);
        }
    }

    /// Datagrams as the kernel gives them: those that follow each other and have one length, in one buffer.
    fn deliver(&mut self, mut to: impl FnMut(&mut [u8], usize)) {
        for run in self.on_the_way.chunk_by(|a, b| a.len() == b.len()) {
            for run in run.chunks(PACKETS) {
                to(&mut run.concat(), run[0].len());
            }
        }
        self.on_the_way.clear();
    }
}

#[test]
fn a_stream_comes_out_whole_and_nothing_comes_out_twice_under_loss_reordering_and_duplication() {
    let mebibytes = std::env::var("CARRICK_MEBIBYTES").map_or(MEBIBYTES, |text| text.parse().unwrap());
    assert!(mebibytes < 4096, "sequence numbers are not to come again");
    let length = mebibytes << 20;
    let mut pair = Pair::connected();
    let mut network = Network::default();
    let (mut sent, mut received) = (Sha256::new(), Sha256::new());
    let mut seed = 1_u64;
    for start in (0..length).step_by(WINDOW) {
        let mut window = vec![0; WINDOW.min(length - start)];
        for word in window.chunks_mut(8) {
            // Knuth's multiplicative generator: any would do.
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            word.copy_from_slice(&seed.to_be_bytes()[..word.len()]);
        }
        sent.update(&window);
        let sequence = |at: usize| u32::try_from((start + at) % (1 << 32)).unwrap();
        let mut there = vec![0; window.len()];
        let mut missing: Vec<usize> = (0..window.len()).step_by(PAYLOAD).collect();
        let mut first_time = true;
        while !missing.is_empty() {
            let step = if std::mem::take(&mut first_time) { PACKETS } else { 1 };
            for at in missing.iter().step_by(step) {
                let transmit = pair.send(sequence(*at), &window[*at..window.len().min(at + step * PAYLOAD)]);
                transmit.payload.chunks(transmit.segment).for_each(|datagram| network.post(datagram));
                pair.one.recycle(transmit);
            }
            network.deliver(|datagrams, segment| {
                pair.two.handle_datagrams(address(0), datagrams, segment, pair.now, |packet| {
                    let (sequence, bytes) = brought(&packet);
                    let at = usize::try_from(sequence).unwrap() - start;
                    there[at..at + bytes.len()].copy_from_slice(&bytes);
                    for at in (at..at + bytes.len()).step_by(PAYLOAD) {
                        let found = missing.binary_search(&at).expect("nothing comes twice");
                        missing.remove(found);
                    }
                });
            });
        }
        received.update(&there);
    }
    assert!(network.datagrams > length / PAYLOAD * 102 / 100, "some had to be sent again");
    assert_eq!(sent.finalize(), received.finalize());
    let refused = pair.two.counters().refused;
    assert!(refused > 0, "copies were refused");
}

#[test]
fn the_order_within_a_stream_stays_on_a_clean_path() {
    let mut pair = Pair::connected();
    let mut next = 0;
    for _ in 0..200 {
        let bytes = vec![1; PACKETS * PAYLOAD];
        let mut sent = pair.send(next, &bytes);
        let mut expected = next;
        pair.two.handle_datagrams(address(0), &mut sent.payload, sent.segment, pair.now, |packet| {
            let (sequence, bytes) = brought(&packet);
            assert_eq!(sequence, expected);
            expected += u32::try_from(bytes.len()).unwrap();
        });
        next += u32::try_from(bytes.len()).unwrap();
        assert_eq!(expected, next, "all of it");
        pair.one.recycle(sent);
    }
}
