//! Load while peers come, go and change their keys at random, on a simulated network; fails where memory grows or a step takes a second of CPU time:
//! `cargo run --release -p carrick-dataplane --example churn -- [MINUTES]`, ten unless said.

#![allow(clippy::print_stdout, reason = "it is what this is for")]
#![allow(clippy::disallowed_methods, reason = "it measures")]
#![allow(clippy::unwrap_used, reason = "whoever runs it sees what broke")]

#[path = "../tests/net/mod.rs"]
mod net;

use std::{
    fs,
    time::{Duration, Instant},
};

use net::Net;

/// Node 0 and its peers.
const NODES: usize = 60;

/// What the memory may grow by after the first tenth of the time, in KiB.
const GROWTH: u64 = 10 * 1024;

fn main() {
    let minutes: u64 =
        std::env::args().nth(1).map_or(10, |minutes| minutes.parse().expect("a number of minutes"));
    let (begun, whole) = (Instant::now(), Duration::from_secs(60 * minutes));
    let mut net = Net::new(NODES);
    let mut seed = 1_u64;
    // Knuth's multiplicative generator: any would do.
    let mut random = move |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 33).unwrap() % below
    };
    let (mut steps, mut arrived, mut slowest) = (0_u64, 0_usize, Duration::ZERO);
    let mut settled = None;
    while begun.elapsed() < whole {
        let step = on_cpu();
        let peer = 1 + random(NODES - 1);
        match random(400) {
            0 => net.renew(peer),
            1 => net.forget(0, peer),
            2 => net.meet(0, peer),
            3 => net.leap(Duration::from_secs(random(200) as u64)),
            _ => (0..random(30)).for_each(|_| {
                net.send(0, peer);
                net.send(peer, 0);
            }),
        }
        net.pass(1 + random(5) as u64);
        arrived += net.take_received(0, peer).len() + net.take_received(peer, 0).len();
        slowest = slowest.max(on_cpu() - step);
        steps += 1;
        if settled.is_none() && begun.elapsed() > whole / 10 {
            settled = Some(resident());
        }
    }
    let (before, after) = (settled.unwrap_or_default(), resident());
    println!(
        "{steps} steps, {arrived} packets arrived, slowest step {slowest:?}, {before} KiB, then {after} KiB"
    );
    assert!(arrived > 0, "nothing arrived");
    assert!(slowest < Duration::from_secs(1), "a stall");
    assert!(after < before + GROWTH, "memory grows");
}

/// How long this thread has run: on a busy machine it may wait for longer than it works.
fn on_cpu() -> Duration {
    let status = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(status.split(' ').next().unwrap().parse().unwrap())
}

fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
