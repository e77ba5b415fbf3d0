//! A `carrick device` with a device of each other implementation, each of the two beginning, over IPv4 and IPv6, with a preshared key.

use std::{
    io::Write as _,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use carrick_lab::{
    eventually, in_lab, in_lab_for,
    traffic::{ping, stream},
};

use crate::wireguard::{ATTEMPT, Device, INSIDE, Implementation, OUTSIDE, PATIENCE, Pair, own_run, run};

const STREAM: u16 = 5201;
const STREAM_TIME: Duration = Duration::from_millis(500);

/// For so long a session is used before the next one is made (WireGuard's rekey-after-time), and a while longer.
const RENEWAL: Duration = Duration::from_secs(132);

macro_rules! interop {
    ($name:ident, $implementation:expr) => {
        mod $name {
            use super::*;

            #[test]
            fn carrick_initiates_over_ipv4() {
                if at_hand($implementation) {
                    in_lab(|lab| speak(Pair::new(lab, [Implementation::Carrick, $implementation]), V4));
                }
            }

            #[test]
            fn carrick_initiates_over_ipv6() {
                if at_hand($implementation) {
                    in_lab(|lab| speak(Pair::new(lab, [Implementation::Carrick, $implementation]), V6));
                }
            }

            #[test]
            fn carrick_responds_over_ipv4() {
                if at_hand($implementation) {
                    in_lab(|lab| speak(Pair::new(lab, [$implementation, Implementation::Carrick]), V4));
                }
            }

            #[test]
            fn carrick_responds_over_ipv6() {
                if at_hand($implementation) {
                    in_lab(|lab| speak(Pair::new(lab, [$implementation, Implementation::Carrick]), V6));
                }
            }

            #[test]
            fn sessions_are_renewed_in_time_whoever_began_them() {
                if at_hand($implementation) {
                    in_lab_for(Duration::from_secs(240), |lab| {
                        own_run();
                        let ours = [Implementation::Carrick, $implementation];
                        let theirs = [$implementation, Implementation::Carrick];
                        let pairs = [
                            Pair::among(lab, ["one", "two"], ours),
                            Pair::among(lab, ["three", "four"], theirs),
                        ];
                        renew(&pairs);
                    });
                }
            }
        }
    };
}

interop!(wireguard_go, Implementation::WireGuardGo);
interop!(boringtun, Implementation::Boringtun);
interop!(gotatun, Implementation::Gotatun);

/// The families, as indices of addresses.
const V4: usize = 0;
const V6: usize = 1;

/// Whether an implementation is there. Where not, that is said where nobody overlooks it: the test harness does not catch it.
fn at_hand(implementation: Implementation) -> bool {
    let (program, variable) = match implementation {
        Implementation::Carrick | Implementation::WireGuardGo => ("wireguard-go", "CARRICK_WIREGUARD_GO"),
        Implementation::Boringtun => ("boringtun-cli", "CARRICK_BORINGTUN"),
        Implementation::Gotatun => ("gotatun-cli", "CARRICK_GOTATUN"),
    };
    let found = implementation.program().is_some();
    if !found {
        let warning = format!(
            "\n!!! NOT TESTED with {program}: not found; `cargo install {program}`, or name it in {variable}\n"
        );
        std::io::stderr().write_all(warning.as_bytes()).unwrap();
    }
    found
}

/// The first begins, and only it knows where the other is.
fn speak(pair: Pair, family: usize) {
    pair.share(&run(&pair.one.host, "wg", &["genpsk"]));
    let first = OUTSIDE[0][family].parse::<IpAddr>().unwrap();
    let begin = initiators_until_answer(&pair, || pair.point(0, family));
    assert_eq!(begin.first(), Some(&first));
    assert_traffic(&pair);
    let began = [&pair.one, &pair.two].map(Device::last_handshake);
    assert!(began.iter().all(|when| *when > 0), "{began:?}");

    // Another secret is of no account to a session, and the next handshake is made with it.
    pair.share(&run(&pair.one.host, "wg", &["genpsk"]));
    pair.one.eventually_ping(INSIDE[1][0].parse().unwrap());
    assert_traffic(&pair);
    let again = initiators_until_answer(&pair, || pair.forget(0));
    assert_eq!(again.first(), Some(&first));
    assert_traffic(&pair);

    // A responder that has lost its keys: the initiator finds out by its silence.
    let again = initiators_until_answer(&pair, || pair.forget(1));
    assert_eq!(again.first(), Some(&first));
    assert_traffic(&pair);
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

/// Pings all the time, longer than a session is used: each gets its answer.
fn renew(pairs: &[Pair; 2]) {
    for pair in pairs {
        pair.point(0, V4);
        pair.assert_pings();
    }
    // Boringtun says how long ago that was, not when.
    let ours = [&pairs[0].one, &pairs[1].two];
    let began = ours.map(Device::last_handshake);
    let begin = Instant::now();
    let mut lost = Vec::new();
    while begin.elapsed() < RENEWAL {
        for pair in pairs {
            for (device, inside) in [(&pair.one, INSIDE[1]), (&pair.two, INSIDE[0])] {
                if ping(&device.host, inside[0].parse().unwrap(), ATTEMPT).is_err() {
                    lost.push((device.interface.clone(), begin.elapsed()));
                }
            }
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(lost.is_empty(), "lost: {lost:?}");
    for (device, began) in ours.into_iter().zip(began) {
        assert!(device.last_handshake() >= began + 100, "no handshake of {} since", device.interface);
    }
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
