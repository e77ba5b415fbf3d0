//! A device whose interface is moved to another network namespace: its datagrams go on to leave from where it was started.

use std::{
    net::IpAddr,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use carrick_lab::{Host, Lab, eventually, in_lab, traffic::ping};

use crate::{
    down::is_bound,
    lifetime::assert_gone,
    wireguard::{
        ATTEMPT, Device, INSIDE, Implementation, OUTSIDE, PATIENCE, PORT, Pair, find, own_run, run, socket,
    },
};

#[test]
fn packets_pass_in_the_other_namespace_and_datagrams_in_the_old_one() {
    in_lab(|lab| moves_away(lab, Implementation::Carrick));
}

#[test]
fn so_they_do_with_several_shards() {
    in_lab(|lab| moves_away(lab, Implementation::ShardedCarrick));
}

fn moves_away(lab: &mut Lab, implementation: Implementation) {
    let pair = Pair::new(lab, [implementation; 2]);
    let (one, away) = (pair.one.host.clone(), lab.host("away").unwrap());
    pair.point(0, 0);
    pair.point(1, 0);
    pair.assert_pings();
    one.move_interface("wg-one", &away).unwrap();
    // It is down there.
    await_bound(&one, false);
    let moved = Moved { pair, host: away };
    moved.up();
    moved.assert_pings();
    assert_eq!(moved.pair.two.show("endpoints"), format!("{}:{PORT}", OUTSIDE[0][0]));
    assert_eq!(run(&moved.host, "wg", &["show", "wg-one", "public-key"]).trim(), moved.pair.one.public_key);
    assert!(is_bound(&one, PORT) && !is_bound(&moved.host, PORT));

    for (mtu, datagram) in [(1300, 1332), (1311, 1343), (1310, 1342)] {
        set_mtu(&moved.host, "wg-one", mtu);
        moved.await_full_datagram(&one, mtu, datagram);
    }

    moved.down();
    await_bound(&one, false);
    moved.up();
    moved.assert_pings();
    assert!(moved.pair.one.process.terminate(PATIENCE).unwrap().success());
    assert_gone(&moved.host, "wg-one");
}

#[test]
fn an_interface_moves_on_is_renamed_and_comes_home() {
    in_lab(|lab| {
        let pair = Pair::carrick(lab);
        let one = pair.one.host.clone();
        let (first, second) = (lab.host("first").unwrap(), lab.host("second").unwrap());
        pair.point(0, 0);
        pair.point(1, 0);
        let index = |host: &Host, name: &str| {
            let shown = run(host, "ip", &["-oneline", "link", "show", "dev", name]);
            shown.split(':').next().unwrap().parse::<u32>().unwrap()
        };
        let add_other = |host: &Host, index: u32| {
            run(host, "ip", &["link", "add", "other", "index", &index.to_string(), "type", "bridge"]);
        };
        let home = index(&one, "wg-one");
        // Somebody has its index in either place, and its name in one.
        add_other(&first, home);
        one.move_interface("wg-one", &first).unwrap();
        assert_ne!(index(&first, "wg-one"), home);
        let mut moved = Moved { pair, host: first.clone() };
        moved.up();
        moved.assert_pings();
        // An interface with such an index is another one at home.
        let there = index(&first, "wg-one");
        let began = moved.pair.two.last_handshake();
        add_other(&one, there);
        (0..5).for_each(|_| moved.assert_pings());
        run(&one, "ip", &["link", "delete", "other"]);
        run(&first, "ip", &["link", "delete", "other"]);
        moved.assert_pings();
        assert_eq!(moved.pair.two.last_handshake(), began, "the sessions stay");
        moved.down();
        await_bound(&one, false);
        moved.up();
        moved.assert_pings();

        first.move_interface("wg-one", &second).unwrap();
        await_bound(&one, false);
        run(&second, "ip", &["link", "set", "wg-one", "name", "wg-renamed"]);
        run(&second, "ip", &["link", "add", "wg-one", "type", "bridge"]);
        moved.pair.one.interface = "wg-renamed".to_owned();
        moved.host = second.clone();
        moved.up();
        moved.assert_pings();
        run(&second, "ip", &["link", "delete", "wg-one"]);
        moved.assert_pings();

        second.move_interface("wg-renamed", &one).unwrap();
        await_bound(&one, false);
        moved.host = one.clone();
        moved.up();
        moved.assert_pings();
        // Here super-packets are made to fit again.
        let before = longest_superpacket(&one, "wg-renamed");
        set_mtu(&one, "wg-renamed", 1300);
        eventually(PATIENCE, "super-packets of another length", || {
            (longest_superpacket(&one, "wg-renamed") != before).then_some(())
        })
        .unwrap();
        run(&one, "ip", &["link", "delete", "wg-renamed"]);
        assert!(moved.pair.one.process.wait(PATIENCE).unwrap().success());
        assert!(!socket("wg-one").exists());
    });
}

#[test]
fn an_interface_that_was_given_another_mtu_elsewhere_has_it_when_it_comes_home() {
    in_lab(|lab| {
        let pair = Pair::carrick(lab);
        let (one, away) = (pair.one.host.clone(), lab.host("away").unwrap());
        pair.point(0, 0);
        pair.point(1, 0);
        let await_longest = |longest: u32| {
            eventually(PATIENCE, &format!("super-packets of {longest} bytes"), || {
                (longest_superpacket(&one, "wg-one") == longest).then_some(())
            })
            .unwrap();
        };
        // What fits those that it is given here.
        let usual = longest_superpacket(&one, "wg-one");
        set_mtu(&one, "wg-one", 1311);
        let fitting = eventually(PATIENCE, "super-packets of another length", || {
            Some(longest_superpacket(&one, "wg-one")).filter(|longest| *longest != usual)
        })
        .unwrap();
        set_mtu(&one, "wg-one", 1420);
        await_longest(usual);

        let mut moved = Moved { pair, host: away.clone() };
        for up in [true, false] {
            one.move_interface("wg-one", &away).unwrap();
            await_bound(&one, false);
            if up {
                moved.host = away.clone();
                moved.up();
                await_bound(&one, true);
            }
            set_mtu(&away, "wg-one", 1311);
            away.move_interface("wg-one", &one).unwrap();
            await_longest(fitting);
            moved.host = one.clone();
            moved.up();
            moved.assert_pings();
            moved.await_full_datagram(&one, 1311, 1343);
            set_mtu(&one, "wg-one", 1420);
            await_longest(usual);
        }
    });
}

#[test]
fn an_interface_that_is_moved_up_and_down_is_followed_without_delay() {
    in_lab(|lab| {
        let (one, away) = (lab.host("one").unwrap(), lab.host("away").unwrap());
        own_run();
        let _device = Device::start(Implementation::Carrick, &one, "wg-one");
        one.move_interface("wg-one", &away).unwrap();
        let begin = Instant::now();
        for _ in 0..20 {
            away.set_up("wg-one").unwrap();
            await_bound(&one, true);
            away.set_down("wg-one").unwrap();
            await_bound(&one, false);
        }
        // Whoever looks each second takes four times as long.
        assert!(begin.elapsed().as_secs() < 10, "{:?}", begin.elapsed());
    });
}

#[test]
fn a_process_that_may_not_hear_of_other_namespaces_follows_its_interface_all_the_same() {
    in_lab(|lab| {
        let (one, away) = (lab.host("one").unwrap(), lab.host("away").unwrap());
        own_run();
        let setpriv = find("setpriv").expect("setpriv is missing: apt-get install util-linux");
        let mut command = Command::new(setpriv);
        command.args(["--bounding-set", "-all,+net_admin", env!("CARGO_BIN_EXE_carrick")]);
        command.args(["device", "-f", "wg-one"]);
        let process = one.spawn("wg-one", command).unwrap();
        process.wait_for_line("device started", PATIENCE).unwrap();
        run(&one, "wg", &["set", "wg-one", "listen-port", &PORT.to_string()]);
        // Changes of another interface put nothing off.
        let over = AtomicBool::new(false);
        let change_another = || {
            for mtu in (1500..1700).take_while(|_| !over.load(Ordering::Relaxed)) {
                run(&one, "ip", &["link", "set", "lo", "mtu", &mtu.to_string()]);
                thread::sleep(Duration::from_millis(200));
            }
        };
        thread::scope(|scope| {
            scope.spawn(change_another);
            for (from, to) in [(&one, &away), (&away, &one)] {
                from.move_interface("wg-one", to).unwrap();
                to.set_up("wg-one").unwrap();
                await_bound(&one, true);
                to.set_down("wg-one").unwrap();
                await_bound(&one, false);
            }
            over.store(true, Ordering::Relaxed);
        });
        assert!(process.terminate(PATIENCE).unwrap().success());
    });
}

#[test]
fn an_interface_that_is_removed_where_it_was_moved_to_ends_its_device() {
    in_lab(|lab| {
        let (one, away) = (lab.host("one").unwrap(), lab.host("away").unwrap());
        own_run();
        for up in [false, true] {
            let device = Device::start(Implementation::Carrick, &one, "wg-one");
            one.move_interface("wg-one", &away).unwrap();
            away.set_up("wg-one").unwrap();
            await_bound(&one, true);
            if !up {
                away.set_down("wg-one").unwrap();
                await_bound(&one, false);
            }
            run(&away, "ip", &["link", "delete", "wg-one"]);
            assert!(device.process.wait(PATIENCE).unwrap().success(), "{}", device.process.output());
            assert_gone(&away, "wg-one");
        }
    });
}

#[test]
fn a_namespace_ends_with_an_interface_that_was_moved_to_it_and_its_device_ends_with_both() {
    in_lab(|lab| {
        let one = lab.host("one").unwrap();
        own_run();
        for up in [false, true] {
            let device = Device::start(Implementation::Carrick, &one, "wg-one");
            let unshare = find("unshare").expect("unshare is missing: apt-get install util-linux");
            let work =
                if up { "until ip link set wg-one up 2> /dev/null; do sleep 0.01; done; " } else { "" };
            let mut command = Command::new(unshare);
            command.args(["--net", "sh", "-c", &format!("echo ready; {work}exec sleep 1000")]);
            let namespace = one.spawn("namespace", command).unwrap();
            namespace.wait_for_line("ready", PATIENCE).unwrap();
            run(&one, "ip", &["link", "set", "wg-one", "netns", &namespace.pid().to_string()]);
            await_bound(&one, up);
            namespace.kill().unwrap();
            assert!(device.process.wait(PATIENCE).unwrap().success(), "{}", device.process.output());
            assert!(!socket("wg-one").exists());
        }
    });
}

/// Two devices, and the host that the first one's interface is on now.
struct Moved {
    pair: Pair,
    host: Host,
}

impl Moved {
    fn up(&self) {
        let interface = &self.pair.one.interface;
        for address in [format!("{}/24", INSIDE[0][0]), format!("{}/64", INSIDE[0][1])] {
            run(&self.host, "ip", &["address", "replace", &address, "dev", interface]);
        }
        run(&self.host, "ip", &["link", "set", interface, "up"]);
    }

    fn down(&self) {
        run(&self.host, "ip", &["link", "set", &self.pair.one.interface, "down"]);
    }

    /// Sends packets as long as the interface takes, until they leave the home of the first device as datagrams of such a length: a packet is
    /// padded to a multiple of 16 bytes, but not beyond the MTU; then there are a header and a tag of 16 bytes each.
    fn await_full_datagram(&self, home: &Host, mtu: u32, datagram: usize) {
        eventually(PATIENCE, &format!("a full datagram with an MTU of {mtu}"), || {
            let wire = home.capture("eth0").unwrap();
            let size = (mtu - 28).to_string();
            run(&self.host, "ping", &["-q", "-c", "1", "-W", "5", "-M", "do", "-s", &size, INSIDE[1][0]]);
            let packets = wire.packets();
            let mut from_here = packets.iter().filter_map(|packet| packet.udp());
            from_here
                .any(|(from, _, payload)| {
                    from.ip() == OUTSIDE[0][0].parse::<IpAddr>().unwrap() && payload.len() == datagram
                })
                .then_some(())
        })
        .unwrap();
    }

    /// Both ways, and for both families inside.
    fn assert_pings(&self) {
        for (host, inside) in [(&self.host, INSIDE[1]), (&self.pair.two.host, INSIDE[0])] {
            for address in inside {
                let what = format!("an answer to {}: {}", host.name(), self.pair.one.process.output());
                let answer = || ping(host, address.parse().unwrap(), ATTEMPT).ok();
                eventually(PATIENCE, &what, answer).unwrap();
            }
        }
    }
}

fn set_mtu(host: &Host, interface: &str, mtu: u32) {
    run(host, "ip", &["link", "set", interface, "mtu", &mtu.to_string()]);
}

/// In bytes.
fn longest_superpacket(host: &Host, interface: &str) -> u32 {
    let shown = run(host, "ip", &["-details", "link", "show", "dev", interface]);
    shown.split("gso_max_size ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap()
}

/// Whether the device's port is bound is whether its interface is up as far as it knows.
fn await_bound(host: &Host, bound: bool) {
    let what = format!("the port to be {}", if bound { "bound" } else { "free" });
    eventually(PATIENCE, &what, || (is_bound(host, PORT) == bound).then_some(())).unwrap();
}
