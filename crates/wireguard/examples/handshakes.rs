//! How many whole handshakes one core does in a second, both ends together, here and in boringtun:
//! `cargo run --release -p carrick-wireguard --example handshakes`.

#![allow(clippy::print_stdout, reason = "it is what this is for")]
#![allow(clippy::disallowed_methods, reason = "it measures")]
#![allow(clippy::unwrap_used, reason = "whoever runs it sees what broke")]

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use boringtun::{
    noise::{Tunn, TunnResult, rate_limiter::RateLimiter},
    x25519,
};
use carrick_types::WireGuardSecret;
use carrick_wireguard::{
    Config, Context, CookieChecker, Event, Identity, Load, Tai64N, Transmit, Tunnel,
    message::{Initiation, Response},
};

/// So much passes between two handshakes: more than rekey-timeout with its jitter.
const PAUSE: Duration = Duration::from_secs(6);

/// Each measurement is the best of so many.
const WINDOWS: usize = 400;

fn main() {
    let (ours, theirs) = (best(carricks()), best(boringtuns()));
    for (name, time) in [("carrick", ours), ("boringtun", theirs)] {
        println!("{name:>9}: {:>6.0} a second, {:>4} us", 1.0 / time.as_secs_f64(), time.as_micros());
    }
    println!("    ratio: {:.2}", theirs.as_secs_f64() / ours.as_secs_f64());
}

fn best(mut handshake: impl FnMut()) -> Duration {
    let mut window = || {
        let begun = Instant::now();
        handshake();
        begun.elapsed()
    };
    (0..WINDOWS).map(|_| window()).min().unwrap_or_default()
}

fn secret(of: usize) -> WireGuardSecret {
    WireGuardSecret::from_bytes([7 + u8::try_from(of).unwrap(); 32])
}

fn carricks() -> impl FnMut() {
    let identities = [0, 1].map(|me| Arc::new(Identity::new(&secret(me))));
    let mut checkers = [0, 1].map(|me| CookieChecker::new(identities[me].public()));
    let mut tunnels =
        [0, 1].map(|me| Tunnel::new(identities[me].clone(), secret(1 - me).public(), Config::default()));
    let (mut now, mut wall, mut number) = (Instant::now(), PAUSE, 0_u32);
    let from = SocketAddr::from(([192, 0, 2, 1], 51820));
    move || {
        now += PAUSE;
        wall += PAUSE;
        let mut indices = || {
            number += 1;
            number
        };
        let mut random = |buffer: &mut [u8]| buffer.fill(wall.subsec_nanos().to_le_bytes()[0] | 1);
        let mut context =
            Context { now, wall: Tai64N::from_unix(wall), random: &mut random, indices: &mut indices };
        tunnels[0].initiate(now);
        let first: Transmit = tunnels[0].poll_transmit(&mut context).unwrap();
        checkers[1].check(from, first.datagram(), Load::Light, now, context.random).unwrap();
        let identified = identities[1].identify(Initiation::parse(first.datagram()).unwrap()).unwrap();
        tunnels[1].handle_initiation(identified, &mut context).unwrap();
        let second = tunnels[1].poll_transmit(&mut context).unwrap();
        checkers[0].check(from, second.datagram(), Load::Light, now, context.random).unwrap();
        tunnels[0].handle_response(&Response::parse(second.datagram()).unwrap(), now).unwrap();
        assert!(tunnels[0].poll_transmit(&mut context).is_some(), "a keepalive");
        let established = std::iter::from_fn(|| tunnels[0].poll_event());
        assert!(established.filter(|event| matches!(event, Event::Established { .. })).count() == 1);
        while tunnels[1].poll_event().is_some() {}
    }
}

fn boringtuns() -> impl FnMut() {
    let keys = [0, 1].map(|me| x25519::StaticSecret::from(*secret(me).expose()));
    let mut tunnels = [0, 1].map(|me| {
        let peer = x25519::PublicKey::from(&keys[1 - me]);
        let limiter = RateLimiter::new(&x25519::PublicKey::from(&keys[me]), u64::MAX);
        Tunn::new(keys[me].clone(), peer, None, None, 1, Some(Arc::new(limiter)))
    });
    let mut buffers = [[0; 256]; 3];
    move || {
        mock_instant::MockClock::advance(PAUSE);
        let [one, two] = &mut tunnels;
        let [first, second, third] = &mut buffers;
        let TunnResult::WriteToNetwork(initiation) = one.format_handshake_initiation(first, true) else {
            panic!("no initiation")
        };
        let TunnResult::WriteToNetwork(response) = two.decapsulate(None, initiation, second) else {
            panic!("no response")
        };
        let finished = one.decapsulate(None, response, third);
        assert!(matches!(finished, TunnResult::WriteToNetwork(_)), "a keepalive");
    }
}
