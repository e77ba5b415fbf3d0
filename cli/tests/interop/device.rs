//! A `carrick device` with a device of each other implementation, each of the two beginning, over IPv4 and IPv6, with a preshared key.

use std::{
    net::{IpAddr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use carrick_lab::{
    Lab, eventually, in_lab, in_lab_for,
    traffic::{ping, stream},
};

use crate::wireguard::{Device, INSIDE, Implementation, OUTSIDE, PATIENCE, Pair, own_run, run};

const STREAM: u16 = 5201;
const STREAM_TIME: Duration = Duration::from_millis(500);

/// For so long a session is used before the next one is made (WireGuard's rekey-after-time), and a while longer.
const RENEWAL: Duration = Duration::from_secs(132);

/// An answer that takes longer is lost.
const ANSWER: Duration = Duration::from_secs(5);

macro_rules! interop {
    ($name:ident, $implementation:expr) => {
        mod $name {
            use super::*;

            #[test]
            fn carrick_initiates_over_either_family() {
                in_lab(|lab| speak(lab, [Implementation::Carrick, $implementation]));
            }

            #[test]
            fn carrick_responds_over_either_family() {
                in_lab(|lab| speak(lab, [$implementation, Implementation::Carrick]));
            }
        }
    };
}

interop!(wireguard_go, Implementation::WireGuardGo);
interop!(boringtun, Implementation::Boringtun);
interop!(gotatun, Implementation::Gotatun);

/// It lasts longer than all others together, so its name is the first: they run beside it.
mod all_at_once {
    use super::*;

    #[test]
    fn sessions_are_renewed_in_time_whoever_began_them() {
        let others = [Implementation::WireGuardGo, Implementation::Boringtun, Implementation::Gotatun];
        in_lab_for(Duration::from_secs(360), |lab| {
            own_run();
            let pairs: Vec<Pair> = others
                .into_iter()
                .flat_map(|other| [[Implementation::Carrick, other], [other, Implementation::Carrick]])
                .enumerate()
                .map(|(n, implementations)| {
                    let names = [format!("{n}a"), format!("{n}b")];
                    Pair::among(lab, names.each_ref().map(String::as_str), implementations)
                })
                .collect();
            renew(&pairs);
        });
    }
}

/// The families, as indices of addresses.
const V4: usize = 0;
const V6: usize = 1;

/// Two pairs at the same time: most of it is waiting.
fn speak(lab: &mut Lab, implementations: [Implementation; 2]) {
    own_run();
    let pairs = [(V4, ["4a", "4b"]), (V6, ["6a", "6b"])]
        .map(|(family, names)| (family, Pair::among(lab, names, implementations)));
    thread::scope(|scope| {
        for (family, pair) in &pairs {
            scope.spawn(|| speak_over(*family, pair));
        }
    });
}

/// The first begins, and only it knows where the other is.
fn speak_over(family: usize, pair: &Pair) {
    pair.share(&run(&pair.one.host, "wg", &["genpsk"]));
    let first = OUTSIDE[0][family].parse::<IpAddr>().unwrap();
    let begin = initiators_until_answer(pair, || pair.point(0, family));
    assert_eq!(begin.first(), Some(&first));
    assert_traffic(pair);
    let began = [&pair.one, &pair.two].map(Device::last_handshake);
    assert!(began.iter().all(|when| *when > 0), "{began:?}");

    // Another secret is of no account to a session, and the next handshake is made with it.
    pair.share(&run(&pair.one.host, "wg", &["genpsk"]));
    pair.one.eventually_ping(INSIDE[1][0].parse().unwrap());
    assert_traffic(pair);
    let again = initiators_until_answer(pair, || pair.forget(0));
    assert_eq!(again.first(), Some(&first));
    assert_traffic(pair);

    // A responder that has lost its keys: the initiator finds out by its silence.
    let again = initiators_until_answer(pair, || pair.forget(1));
    assert_eq!(again.first(), Some(&first));
    assert_traffic(pair);
}

/// Whose handshake initiations there are, in their order, from what is done until the first has an answer of the second.
fn initiators_until_answer(pair: &Pair, cause: impl FnOnce()) -> Vec<IpAddr> {
    let wire = pair.two.host.capture("eth0").unwrap();
    cause();
    pair.one.eventually_ping(INSIDE[1][0].parse().unwrap());
    let packets = wire.packets();
    let udp = packets.iter().filter_map(|packet| packet.udp());
    udp.filter(|(.., payload)| payload.len() == 148 && payload.starts_with(&[1, 0, 0, 0]))
        .map(|(source, ..)| source.ip())
        .collect()
}

/// Pings through all of them all the time, longer than a session is used: each gets its answer.
fn renew(pairs: &[Pair]) {
    // Boringtun says how long ago that was, not when.
    let began: Vec<_> = pairs
        .iter()
        .map(|pair| {
            pair.point(0, V4);
            pair.assert_pings();
            let ours = [&pair.one, &pair.two].into_iter().find(|device| device.is_ours()).unwrap();
            (ours, ours.last_handshake())
        })
        .collect();
    let begin = Instant::now();
    let lost: Vec<_> = thread::scope(|scope| {
        let pingers: Vec<_> = pairs.iter().map(|pair| scope.spawn(move || lost(pair, begin))).collect();
        pingers.into_iter().flat_map(|pinger| pinger.join().unwrap()).collect()
    });
    assert!(lost.is_empty(), "lost: {lost:?}");
    for (device, began) in began {
        assert!(device.last_handshake() >= began + 100, "no handshake of {device} since");
    }
}

/// The pings that nobody answers: of which device, and how long after the beginning.
fn lost(pair: &Pair, begin: Instant) -> Vec<(String, Duration)> {
    let mut lost = Vec::new();
    while begin.elapsed() < RENEWAL {
        for (device, inside) in [(&pair.one, INSIDE[1]), (&pair.two, INSIDE[0])] {
            let since = begin.elapsed();
            if ping(&device.host, inside[0].parse().unwrap(), ANSWER).is_err() {
                lost.push((device.to_string(), since));
            }
        }
        thread::sleep(Duration::from_millis(200));
    }
    lost
}

/// Pings and streams, both ways and for both families inside.
fn assert_traffic(pair: &Pair) {
    pair.assert_pings();
    for (from, to, inside) in [(&pair.one, &pair.two, INSIDE[1]), (&pair.two, &pair.one, INSIDE[0])] {
        for address in inside {
            let address = SocketAddr::new(address.parse().unwrap(), STREAM);
            let what = format!("a stream to {address} of {}", to.interface);
            eventually(PATIENCE, &what, || {
                let sent = stream(&from.host, &to.host, address, STREAM_TIME).unwrap();
                (sent.bytes > 1 << 20).then_some(())
            })
            .unwrap();
        }
    }
}
