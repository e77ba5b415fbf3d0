//! A device whose interface is down, and up again: as the kernel's own WireGuard, it listens nowhere meanwhile.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    thread,
};

use carrick_lab::{Host, eventually, in_lab, traffic::ping};
use nix::sys::signal::Signal;

use crate::wireguard::{
    ATTEMPT, Device, INSIDE, Implementation, OUTSIDE, PATIENCE, PORT, Pair, own_run, run,
};

#[test]
fn nothing_is_bound_while_the_interface_is_down_and_traffic_flows_again_once_it_is_up() {
    in_lab(|lab| goes_down_and_up(&Pair::carrick(lab)));
}

#[test]
fn nothing_is_bound_by_any_of_several_shards_while_the_interface_is_down() {
    in_lab(|lab| goes_down_and_up(&Pair::new(lab, [Implementation::ShardedCarrick; 2])));
}

fn goes_down_and_up(pair: &Pair) {
    pair.point(0, 0);
    pair.point(1, 0);
    pair.assert_pings();
    down(&pair.one);
    // Whoever wants it has the port.
    drop(pair.one.host.udp_bind(format!("0.0.0.0:{PORT}").parse().unwrap()).unwrap());
    assert_eq!(pair.one.show("listen-port"), PORT.to_string());
    assert_eq!(pair.one.show("endpoints"), format!("{}:{PORT}", OUTSIDE[1][0]));
    assert_eq!(run(&pair.one.host, "wg", &["show", "wg-one", "public-key"]).trim(), pair.one.public_key);
    up(&pair.one);
    // The other one has sessions still, and finds out that they are over.
    pair.two.eventually_ping(inside(0));
    pair.one.eventually_ping(inside(1));
    assert!(is_bound(&pair.one.host, PORT));

    // What is set meanwhile is so from then on.
    down(&pair.one);
    pair.one.set(&["listen-port", "7777", "fwmark", "9"]);
    assert_eq!(pair.one.show("listen-port"), "7777");
    assert!(!is_bound(&pair.one.host, 7777));
    up(&pair.one);
    pair.one.eventually_ping(inside(1));
    pair.two.eventually_ping(inside(0));
    assert_eq!(pair.two.show("endpoints"), format!("{}:7777", OUTSIDE[0][0]));
    assert_eq!(pair.one.show("fwmark"), "0x9");
    assert!(!is_bound(&pair.one.host, PORT));
}

#[test]
fn a_key_that_is_changed_while_the_interface_is_down_is_used_once_it_is_up() {
    in_lab(|lab| {
        let pair = Pair::carrick(lab);
        pair.point(0, 0);
        pair.assert_pings();
        down(&pair.one);
        let key = pair.one.change_key();
        assert_eq!(run(&pair.one.host, "wg", &["show", "wg-one", "public-key"]).trim(), key);
        pair.two.set(&["peer", &pair.one.public_key, "remove"]);
        pair.two.set(&["peer", &key, "allowed-ips", "10.77.0.1/32"]);
        up(&pair.one);
        pair.one.eventually_ping(inside(1));
    });
}

#[test]
fn nothing_is_sent_while_the_interface_is_down_and_whoever_is_kept_in_touch_with_is_once_it_is_up() {
    in_lab(|lab| {
        let pair = Pair::carrick(lab);
        pair.point(0, 0);
        pair.one.set(&["peer", &pair.two.public_key, "persistent-keepalive", "1"]);
        let handshake = |after| {
            let later = || Some(pair.two.last_handshake()).filter(|at| *at > after);
            eventually(PATIENCE, "a handshake without a packet", later).unwrap()
        };
        let before = handshake(0);
        let known = pair.one.last_handshake();
        down(&pair.one);
        let (one, two) = (pair.one.transfer(), pair.two.transfer());
        assert_eq!(pair.one.last_handshake(), known, "it is remembered");
        // Three keepalives, or an initiation.
        thread::sleep(ATTEMPT * 3);
        assert_eq!((pair.one.transfer(), pair.two.transfer().0), (one, two.0));
        up(&pair.one);
        handshake(before);
    });
}

#[test]
fn a_port_that_is_taken_when_the_interface_comes_up_is_said_and_the_next_time_it_is_had() {
    in_lab(|lab| {
        own_run();
        let implementations = [Implementation::Carrick, Implementation::ShardedCarrick];
        for (names, implementation) in [["one", "two"], ["three", "four"]].into_iter().zip(implementations) {
            let pair = Pair::among(lab, names, [implementation; 2]);
            pair.point(0, 0);
            pair.assert_pings();
            let take = |port| {
                let taken =
                    pair.one.host.udp_bind(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port)).unwrap();
                up(&pair.one);
                pair.one.process.wait_for_line(&format!("port={port}"), PATIENCE).unwrap();
                ping(&pair.one.host, inside(1), ATTEMPT).unwrap_err();
                taken
            };
            down(&pair.one);
            let taken = take(PORT);
            let line = pair.one.process.wait_for_line("its UDP port cannot be opened", PATIENCE).unwrap();
            assert!(line.contains("WARN"), "{line}");
            assert_eq!(pair.one.show("listen-port"), PORT.to_string());
            let bind = |device: &Device, which, port| {
                device.host.udp_bind(SocketAddr::new(inside(which), port)).unwrap()
            };
            let listener = bind(&pair.two, 1, 9);
            bind(&pair.one, 0, 0).send_to(b"late", (inside(1), 9)).unwrap();
            // Nobody need do anything once whoever has it lets go.
            drop(taken);
            pair.one.eventually_ping(inside(1));
            listener.set_nonblocking(true).unwrap();
            listener.recv(&mut [0; 8]).expect_err("what was sent meanwhile is of another time");

            // Or it is taken down and up, or an administrator says the port once more, or another one.
            down(&pair.one);
            let taken = take(PORT);
            run(&pair.one.host, "ip", &["link", "set", &pair.one.interface, "down"]);
            drop(taken);
            up(&pair.one);
            pair.one.eventually_ping(inside(1));
            down(&pair.one);
            pair.one.set(&["listen-port", "7776"]);
            drop(take(7776));
            pair.one.set(&["listen-port", "7776"]);
            pair.one.eventually_ping(inside(1));
            down_from(&pair.one, 7776);
            pair.one.set(&["listen-port", "7777"]);
            let _taken = take(7777);
            pair.one.set(&["listen-port", "7778"]);
            pair.one.eventually_ping(inside(1));
        }
    });
}

#[test]
fn a_port_that_was_given_to_a_device_is_its_port_from_then_on() {
    in_lab(|lab| {
        let host = lab.host("one").unwrap();
        own_run();
        let device = Device::start_at(Implementation::Carrick, &host, "wg-one", 0);
        let port = || run(&host, "wg", &["show", "wg-one", "listen-port"]).trim().parse::<u16>().unwrap();
        assert_eq!((port(), bound(&host)), (0, Vec::new()));
        up(&device);
        let given = eventually(PATIENCE, "a port", || Some(port()).filter(|port| *port > 0)).unwrap();
        for _ in 0..3 {
            down_from(&device, given);
            assert_eq!(port(), given);
            up(&device);
            eventually(PATIENCE, "the port", || is_bound(&host, given).then_some(())).unwrap();
        }
    });
}

#[test]
fn what_the_kernel_had_no_room_to_tell_is_noticed() {
    in_lab(|lab| {
        let pair = Pair::carrick(lab);
        pair.point(0, 0);
        pair.assert_pings();
        let batch = |last: &str| {
            pair.one.process.signal(Signal::SIGSTOP).unwrap();
            let many = (0..2000).map(|number| format!("link set wg-one mtu {}\n", 1300 + number % 2));
            fs::write("/run/many", many.collect::<String>() + last).unwrap();
            let before = drops(&pair.one);
            run(&pair.one.host, "ip", &["-batch", "/run/many"]);
            assert!(drops(&pair.one) > before, "there was room for all");
            pair.one.process.signal(Signal::SIGCONT).unwrap();
        };
        batch("link set wg-one down\n");
        eventually(PATIENCE, "no socket", || (!is_bound(&pair.one.host, PORT)).then_some(())).unwrap();
        batch("link set wg-one up\n");
        pair.one.eventually_ping(inside(1));
        batch("link delete wg-one\n");
        assert!(pair.one.process.wait(PATIENCE).unwrap().success(), "{}", pair.one.process.output());
    });
}

/// How many messages of the kernel found no room, of all that listen on a device's host.
fn drops(device: &Device) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/net/netlink", device.process.pid())).unwrap();
    let drops = |line: &str| line.split_whitespace().nth(8).unwrap().parse::<u64>().unwrap();
    text.lines().skip(1).map(drops).sum()
}

fn inside(which: usize) -> IpAddr {
    INSIDE[which][0].parse().unwrap()
}

/// Takes the interface down, and waits until nothing is bound.
fn down(device: &Device) {
    down_from(device, PORT);
}

fn down_from(device: &Device, port: u16) {
    assert!(is_bound(&device.host, port), "{}", device.process.output());
    run(&device.host, "ip", &["link", "set", &device.interface, "down"]);
    eventually(PATIENCE, "no socket", || bound(&device.host).is_empty().then_some(())).unwrap();
}

fn up(device: &Device) {
    run(&device.host, "ip", &["link", "set", &device.interface, "up"]);
}

pub(crate) fn is_bound(host: &Host, port: u16) -> bool {
    bound(host).contains(&port)
}

/// The ports of every UDP socket on a host.
fn bound(host: &Host) -> Vec<u16> {
    let read = |file| host.within(|| fs::read_to_string(file).unwrap());
    let text = ["/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"].map(read).concat();
    // The second field is an address and a port, in hexadecimal digits.
    let local = text.lines().filter_map(|line| line.split_ascii_whitespace().nth(1)?.split_once(':'));
    local.filter_map(|(_, port)| u16::from_str_radix(port, 16).ok()).collect()
}
