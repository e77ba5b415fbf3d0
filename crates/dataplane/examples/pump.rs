//! What each step of the packet path costs beside the kernel, for a packet of 1,420 bytes of a TCP stream that comes in super-packets, and what
//! a lookup among 100,000 prefixes costs: `cargo run --release -p carrick-dataplane --example pump`.

#![allow(clippy::print_stdout, reason = "it is what this is for")]
#![allow(clippy::disallowed_methods, reason = "it measures")]
#![allow(clippy::unwrap_used, reason = "whoever runs it sees what broke")]

#[path = "../tests/net/mod.rs"]
mod net;

use std::{
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use carrick_dataplane::AllowedIps;
use carrick_types::Cidr;
use net::stream::{PACKETS, PAYLOAD, Pair, address, superpacket};

/// Each measurement is the best of so many.
const WINDOWS: usize = 20_000;

fn main() {
    let mut pair = Pair::connected();
    let (header, packet) = superpacket(0, &vec![7; PACKETS * PAYLOAD]);
    let mut best = [Duration::MAX; 3];
    for _ in 0..WINDOWS {
        let begun = Instant::now();
        pair.one.handle_packet(&header, black_box(&packet), pair.now);
        let split = begun.elapsed();
        let begun = Instant::now();
        let mut sent = pair.one.poll_transmit().unwrap();
        let sealed = begun.elapsed();
        let mut packets = 0;
        let begun = Instant::now();
        pair.two.handle_datagrams(address(0), &mut sent.payload, sent.segment, pair.now, |packet| {
            packets += packet.parts().len();
        });
        let opened = begun.elapsed();
        assert_eq!(packets, PACKETS, "all in one");
        pair.one.recycle(sent);
        for (best, time) in best.iter_mut().zip([split, sealed, opened]) {
            *best = (*best).min(time);
        }
    }
    println!("ns a packet of 1,420 bytes, {PACKETS} at once:");
    for (what, time) in ["cut up, with checksums", "sealed", "opened, checked and coalesced"].iter().zip(best)
    {
        println!("{:>8.0}  {what}", time.as_secs_f64() * 1e9 / PACKETS as f64);
    }
    for count in [10, 1_000, 100_000] {
        println!("{:>8.0}  lookup among {count} prefixes", lookup(count));
    }
}

/// Nanoseconds of a lookup among so many prefixes of all lengths from 8 on.
fn lookup(count: u32) -> f64 {
    let scattered = |number: u32| number.wrapping_mul(0x9e37_79b1).rotate_left(7).wrapping_mul(0x85eb_ca6b);
    let mut table = AllowedIps::default();
    for number in 0..count {
        let bits = Ipv4Addr::from_bits(scattered(number));
        let length = 8 + u8::try_from(number % 25).unwrap();
        table.insert(Cidr::containing(IpAddr::V4(bits), length).unwrap(), number);
    }
    let probes: Vec<IpAddr> = (0..10_000).map(|n| IpAddr::V4(scattered(n * 7 + 1).into())).collect();
    let window = || {
        let begun = Instant::now();
        for probe in &probes {
            black_box(table.lookup(black_box(*probe)));
        }
        begun.elapsed()
    };
    (0..200).map(|_| window()).min().unwrap().as_secs_f64() * 1e9 / probes.len() as f64
}
