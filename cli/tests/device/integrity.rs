//! What goes in at one end comes out at the other, whatever the network between the devices does.
//!
//! `CARRICK_MEBIBYTES` says how long the stream is.

use std::{
    io::{Read as _, Write as _},
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use carrick_lab::{Lab, in_lab_for};
use sha2::{Digest as _, Sha256};

use crate::{
    relay::{Counts, Relay},
    wireguard::{INSIDE, Implementation, PATIENCE, Pair},
};

/// How long the stream is unless the environment says otherwise.
const MEBIBYTES: u64 = 64;

#[test]
fn a_stream_comes_out_with_the_same_hash_under_loss_reordering_and_duplication() {
    in_lab_for(limit(), |lab| assert_whole(lab, Implementation::SingleCarrick));
}

#[test]
fn so_does_one_that_several_shards_move() {
    in_lab_for(limit(), |lab| assert_whole(lab, Implementation::ShardedCarrick));
}

fn assert_whole(lab: &mut Lab, implementation: Implementation) {
    let pair = Pair::new(lab, [implementation; 2]);
    let relay = Relay::between(&pair);
    pair.assert_pings();
    let address = SocketAddr::new(INSIDE[1][0].parse().unwrap(), 0);
    let listener = pair.two.host.tcp_listen(address).unwrap();
    let mut sender = pair.one.host.tcp_connect(listener.local_addr().unwrap(), PATIENCE).unwrap();
    let (mut receiver, _) = listener.accept().unwrap();
    sender.set_write_timeout(Some(PATIENCE)).unwrap();
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    let sending = thread::spawn(move || {
        let (mut hash, mut seed, mut chunk) = (Sha256::new(), 1_u64, vec![0; 1 << 20]);
        for _ in 0..mebibytes() {
            for word in chunk.chunks_exact_mut(8) {
                // Knuth's multiplicative generator: any would do.
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                word.copy_from_slice(&seed.to_be_bytes());
            }
            hash.update(&chunk);
            sender.write_all(&chunk).unwrap();
        }
        hash.finalize()
    });
    let (mut hash, mut length, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 18]);
    loop {
        let bytes = receiver.read(&mut buffer).unwrap();
        if bytes == 0 {
            break;
        }
        length += bytes as u64;
        hash.update(&buffer[..bytes]);
    }
    assert_eq!(sending.join().unwrap(), hash.finalize());
    assert_eq!(length, mebibytes() << 20);
    // The network was as bad as it should be: of the datagrams with the stream, some 750 for each mebibyte, and of those with what answers it.
    let count = |of: fn(&Counts) -> &AtomicU64| {
        relay.counts().map(move |way| of(way).load(Ordering::Relaxed)).collect::<Vec<_>>()
    };
    let (lost, doubled, swapped) =
        (count(|way| &way.lost), count(|way| &way.doubled), count(|way| &way.swapped));
    for (counts, least) in [(lost, 14), (doubled, 18), (swapped, 10)] {
        assert!(counts[0] >= least * mebibytes() && counts[1] > 0, "{counts:?}");
    }
}

fn mebibytes() -> u64 {
    std::env::var("CARRICK_MEBIBYTES").map_or(MEBIBYTES, |text| text.parse().unwrap())
}

/// A mebibyte a second is slow even for a machine that is busy.
fn limit() -> Duration {
    Duration::from_secs(60 + mebibytes())
}
