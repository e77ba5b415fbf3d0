//! What the kernel checks of its own WireGuard (`tools/testing/selftests/wireguard/netns.sh`), of ours.

use std::{
    net::{IpAddr, SocketAddr},
    thread,
    time::Duration,
};

use carrick_lab::{
    eventually, in_lab,
    traffic::{ping, stream},
};

use crate::wireguard::{
    ATTEMPT, Device, INSIDE, Implementation, OUTSIDE, PATIENCE, PORT, Pair, own_run, public, run, secret_file,
};

const STREAM: u16 = 5201;

#[test]
fn pings_and_streams_go_both_ways_inside_and_outside_in_both_families_and_with_every_mtu() {
    in_lab(|lab| {
        let pair = Pair::carrick(lab);
        for family in [0, 1] {
            pair.point(0, family);
            pair.point(1, family);
            for (inner, outer) in [("1420", 1500), ("1280", 1360), ("34000", 35_000)] {
                pair.link.set_mtu(outer).unwrap();
                for device in [&pair.one, &pair.two] {
                    run(&device.host, "ip", &["link", "set", &device.interface, "mtu", inner]);
                }
                pair.assert_pings();
                for (device, inside) in [(&pair.one, INSIDE[1]), (&pair.two, INSIDE[0])] {
                    // Full packets arrive in one piece outside, so no byte of padding is too many.
                    for (address, headers) in inside.into_iter().zip([28, 48]) {
                        let size = (inner.parse::<u32>().unwrap() - headers).to_string();
                        let arguments = ["-q", "-c", "3", "-W", "5", "-M", "do", "-s", &size, address];
                        run(&device.host, "ping", &arguments);
                    }
                }
                assert_streams(&pair);
            }
            pair.link.set_mtu(1500).unwrap();
        }
    });
}

#[test]
fn fifty_streams_go_at_once() {
    in_lab(|lab| {
        let pair = Pair::carrick(lab);
        pair.point(0, 0);
        pair.assert_pings();
        thread::scope(|scope| {
            let streams: Vec<_> = (0..50)
                .map(|number| {
                    let (from, to, address) = match number % 2 {
                        0 => (&pair.one.host, &pair.two.host, INSIDE[1][number / 2 % 2]),
                        _ => (&pair.two.host, &pair.one.host, INSIDE[0][number / 2 % 2]),
                    };
                    let address = SocketAddr::new(address.parse().unwrap(), 6000 + number as u16);
                    scope.spawn(move || stream(from, to, address, Duration::from_secs(4)).unwrap().bytes)
                })
                .collect();
            let bytes: Vec<u64> = streams.into_iter().map(|stream| stream.join().unwrap()).collect();
            assert!(bytes.iter().all(|bytes| *bytes > 100_000), "{bytes:?}");
        });
    });
}

#[test]
fn a_vxlan_goes_through_a_tunnel() {
    in_lab(|lab| {
        let pair = Pair::carrick(lab);
        pair.point(0, 0);
        pair.assert_pings();
        let inside = ["10.88.0.1", "10.88.0.2"];
        for (n, device) in [&pair.one, &pair.two].into_iter().enumerate() {
            let vxlan =
                ["link", "add", "vxlan0", "mtu", "1370", "type", "vxlan", "id", "42", "dstport", "4789"];
            let ends = ["local", INSIDE[n][0], "remote", INSIDE[1 - n][0]];
            run(&device.host, "ip", &[vxlan.as_slice(), &ends].concat());
            run(&device.host, "ip", &["address", "add", &format!("{}/24", inside[n]), "dev", "vxlan0"]);
            device.host.set_up("vxlan0").unwrap();
        }
        for (from, to, address) in
            [(&pair.one.host, &pair.two.host, inside[1]), (&pair.two.host, &pair.one.host, inside[0])]
        {
            eventually(PATIENCE, "an answer", || ping(from, address.parse().unwrap(), ATTEMPT).ok()).unwrap();
            run(from, "ping", &["-q", "-c", "3", "-W", "5", "-M", "do", "-s", "1342", address]);
            let before = pair.two.transfer();
            let address = SocketAddr::new(address.parse().unwrap(), STREAM);
            let sent = stream(from, to, address, Duration::from_secs(2)).unwrap();
            assert!(sent.bytes > 8 << 20, "{} bytes", sent.bytes);
            let after = pair.two.transfer();
            assert!(after.0 - before.0 + after.1 - before.1 > sent.bytes, "{before:?} {after:?}");
        }
    });
}

#[test]
fn counters_are_exact_and_count_every_message_with_its_padding() {
    in_lab(|lab| {
        let pair = Pair::carrick(lab);
        // The kernel's own chatter would count.
        for device in [&pair.one, &pair.two] {
            run(&device.host, "ip", &["-6", "address", "flush", "dev", &device.interface]);
        }
        pair.point(0, 0);
        pair.point(1, 0);
        run(&pair.two.host, "ping", &["-q", "-c", "10", "-f", "-W", "5", INSIDE[0][0]]);
        // Ten packets of 84 bytes, padded to 96, with 32 each, an initiation of 148 or its response of 92; the initiator may have sent a
        // keepalive.
        let check = |(one, two): ((u64, u64), (u64, u64))| {
            let began = |bytes| bytes == 1428 || bytes == 1460;
            two.0 == 1372 && began(two.1) && one.1 == 1372 && began(one.0)
        };
        let (one, two) = (pair.one.transfer(), pair.two.transfer());
        assert!(check((one, two)), "{one:?} {two:?}");
        assert_ne!(pair.one.last_handshake(), 0);
        assert_ne!(pair.two.last_handshake(), 0);
    });
}

#[test]
fn a_peer_that_roams_is_followed_in_both_families() {
    in_lab(|lab| {
        let pair = Pair::carrick(lab);
        pair.point(0, 0);
        pair.assert_pings();
        let host = &pair.one.host;
        // Or the second address goes with the first.
        host.sysctl("net.ipv4.conf.all.promote_secondaries", "1").unwrap();
        host.add_address("eth0", "192.0.2.77/24").unwrap();
        host.del_address("eth0", "192.0.2.1/24").unwrap();
        pair.one.eventually_ping(INSIDE[1][0].parse().unwrap());
        assert_eq!(pair.two.show("endpoints"), format!("192.0.2.77:{PORT}"));
        pair.two.eventually_ping(INSIDE[0][0].parse().unwrap());
        // From IPv4 to IPv6, and to another port.
        pair.point(0, 1);
        pair.one.set(&["listen-port", "9997"]);
        pair.one.eventually_ping(INSIDE[1][0].parse().unwrap());
        assert_eq!(pair.two.show("endpoints"), "[2001:db8::1]:9997");
        host.add_address("eth0", "2001:db8::77/64").unwrap();
        host.del_address("eth0", "2001:db8::1/64").unwrap();
        pair.one.eventually_ping(INSIDE[1][0].parse().unwrap());
        assert_eq!(pair.two.show("endpoints"), "[2001:db8::77]:9997");
        pair.two.eventually_ping(INSIDE[0][0].parse().unwrap());
    });
}

#[test]
fn a_reply_leaves_from_the_address_that_was_asked() {
    in_lab(|lab| {
        let pair = Pair::carrick(lab);
        for family in [0, 1] {
            let first = OUTSIDE[0][family];
            let (second, length) = [("192.0.2.11", 24), ("2001:db8::11", 64)][family];
            let network = ["192.0.2.0/24", "2001:db8::/64"][family];
            pair.one.host.add_address("eth0", &format!("{second}/{length}")).unwrap();
            for (asked, other) in [(second, first), (first, second)] {
                let endpoint = SocketAddr::new(asked.parse().unwrap(), PORT).to_string();
                // What the last stream ended with may still come from the address that was asked before.
                eventually(PATIENCE, &format!("an answer from {endpoint}"), || {
                    pair.two.set(&["peer", &pair.one.public_key, "endpoint", &endpoint]);
                    pair.two.eventually_ping(INSIDE[0][0].parse().unwrap());
                    (pair.two.show("endpoints") == endpoint).then_some(())
                })
                .unwrap();
                // Whatever the routing table prefers, and however many datagrams go at once.
                for preferred in [other, asked, other] {
                    run(
                        &pair.one.host,
                        "ip",
                        &["route", "replace", network, "dev", "eth0", "src", preferred],
                    );
                    ping(&pair.one.host, INSIDE[1][0].parse().unwrap(), PATIENCE).unwrap();
                    let address = SocketAddr::new(INSIDE[1][0].parse().unwrap(), STREAM);
                    stream(&pair.one.host, &pair.two.host, address, Duration::from_millis(300)).unwrap();
                    assert_eq!(pair.two.show("endpoints"), endpoint);
                }
            }
        }
    });
}

#[test]
fn an_address_of_another_interface_than_the_way_leads_over_is_asked_and_answers() {
    in_lab(|lab| {
        let pair = Pair::carrick(lab);
        let (one, two) = (&pair.one.host, &pair.two.host);
        for (family, asked) in ["203.0.113.1", "2001:db8:1::1"].into_iter().enumerate() {
            run(one, "ip", &["address", "add", asked, "dev", "lo"]);
            run(two, "ip", &["route", "add", asked, "via", OUTSIDE[0][family]]);
            let endpoint = SocketAddr::new(asked.parse().unwrap(), PORT).to_string();
            pair.two.set(&["peer", &pair.one.public_key, "endpoint", &endpoint]);
            pair.two.eventually_ping(INSIDE[0][0].parse().unwrap());
            // Another route says nothing of this one.
            let another = ["203.0.113.128/25", "2001:db8:2::/64"][family];
            run(one, "ip", &["route", "add", another, "via", OUTSIDE[1][family]]);
            thread::sleep(Duration::from_secs(1));
            ping(one, INSIDE[1][0].parse().unwrap(), PATIENCE).unwrap();
            assert_eq!(pair.two.show("endpoints"), endpoint);
        }
    });
}

#[test]
fn an_address_that_was_asked_may_go_away() {
    in_lab(|lab| {
        let pair = Pair::carrick(lab);
        let host = &pair.one.host;
        host.sysctl("net.ipv4.conf.all.promote_secondaries", "1").unwrap();
        for (family, [added, removed]) in
            [["192.0.2.77/24", "192.0.2.1/24"], ["2001:db8::77/64", "2001:db8::1/64"]].into_iter().enumerate()
        {
            pair.point(0, family);
            pair.assert_pings();
            let before = pair.one.last_handshake();
            host.add_address("eth0", added).unwrap();
            host.del_address("eth0", removed).unwrap();
            // Not one packet is lost, single or cut up by the kernel.
            ping(host, INSIDE[1][0].parse().unwrap(), PATIENCE).unwrap();
            let address = SocketAddr::new(INSIDE[1][0].parse().unwrap(), STREAM);
            stream(host, &pair.two.host, address, Duration::from_millis(300)).unwrap();
            assert_eq!(pair.one.last_handshake(), before);
            let now = added.split('/').next().unwrap().parse().unwrap();
            assert_eq!(pair.two.show("endpoints"), SocketAddr::new(now, PORT).to_string());
        }
    });
}

#[test]
fn a_source_is_given_up_when_the_way_leads_over_another_interface() {
    in_lab(|lab| {
        let pair = Pair::carrick(lab);
        let (one, two) = (&pair.one.host, &pair.two.host);
        let ends = [["198.51.100.1", "2001:db8:1::1"], ["198.51.100.2", "2001:db8:1::2"]];
        let [end_one, end_two] = ends.map(|[v4, v6]| [format!("{v4}/24"), format!("{v6}/64")]);
        let [end_one, end_two] = [&end_one, &end_two].map(|end| end.each_ref().map(String::as_str));
        lab.wire(one, "eth1", &end_one, two, "eth1", &end_two).unwrap();
        for (family, beyond) in ["203.0.113.2", "2001:db8:2::2"].into_iter().enumerate() {
            run(two, "ip", &["address", "add", beyond, "dev", "lo"]);
            run(one, "ip", &["route", "add", beyond, "via", OUTSIDE[1][family], "metric", "20"]);
            let endpoint = |address: &str| SocketAddr::new(address.parse().unwrap(), PORT).to_string();
            pair.one.set(&["peer", &pair.two.public_key, "endpoint", &endpoint(beyond)]);
            pair.one.eventually_ping(INSIDE[1][0].parse().unwrap());
            assert_eq!(pair.two.show("endpoints"), endpoint(OUTSIDE[0][family]));
            let before = pair.one.last_handshake();
            run(one, "ip", &["route", "add", beyond, "via", ends[1][family], "metric", "10"]);
            eventually(PATIENCE, "a packet from the other interface's address", || {
                // None is lost meanwhile.
                ping(one, INSIDE[1][0].parse().unwrap(), PATIENCE).unwrap();
                (pair.two.show("endpoints") == endpoint(ends[0][family])).then_some(())
            })
            .unwrap();
            assert_eq!(pair.one.last_handshake(), before);
        }
    });
}

#[test]
fn a_link_local_address_is_an_endpoint() {
    in_lab(|lab| {
        let pair = Pair::carrick(lab);
        for (device, address) in [(&pair.one, "fe80::1/64"), (&pair.two, "fe80::2/64")] {
            run(&device.host, "ip", &["address", "add", address, "dev", "eth0"]);
        }
        pair.one.set(&["peer", &pair.two.public_key, "endpoint", &format!("[fe80::2%eth0]:{PORT}")]);
        pair.assert_pings();
        assert!(pair.one.show("endpoints").starts_with("[fe80::2%"), "{}", pair.one.show("endpoints"));
        assert!(pair.two.show("endpoints").starts_with("[fe80::1%"), "{}", pair.two.show("endpoints"));
    });
}

#[test]
fn a_source_address_within_another_ones_longer_prefix_is_spoofed() {
    in_lab(|lab| {
        let pair = Pair::carrick(lab);
        pair.two.set(&["peer", &pair.one.public_key, "allowed-ips", "10.77.0.0/24,fd77::/64"]);
        pair.point(0, 0);
        pair.one.eventually_ping(INSIDE[1][0].parse().unwrap());
        let nobody = run(&pair.two.host, "wg", &["genkey"]);
        let nobody = public(&pair.two.host, &nobody);
        pair.two.set(&["peer", &nobody, "allowed-ips", "10.77.0.1/32"]);
        ping(&pair.one.host, INSIDE[1][0].parse().unwrap(), ATTEMPT).unwrap_err();
        ping(&pair.one.host, INSIDE[1][1].parse().unwrap(), ATTEMPT).unwrap();
        pair.two.set(&["peer", &nobody, "remove"]);
        pair.one.eventually_ping(INSIDE[1][0].parse().unwrap());
    });
}

#[test]
fn a_key_changes_while_the_tunnel_is_up() {
    in_lab(|lab| {
        let pair = Pair::carrick(lab);
        pair.point(0, 0);
        pair.assert_pings();
        let old = &pair.one.public_key;
        let new = pair.one.change_key();
        assert_ne!(&new, old);
        ping(&pair.one.host, INSIDE[1][0].parse().unwrap(), ATTEMPT).unwrap_err();
        pair.two.set(&["peer", old, "remove"]);
        pair.two.set(&["peer", &new, "allowed-ips", "10.77.0.1/32,fd77::1/128"]);
        pair.assert_pings();
        // A peer with the device's own key is none, and is gone when the key becomes the device's.
        pair.one.set(&["peer", &new, "allowed-ips", "10.9.0.0/16"]);
        assert!(!run(&pair.one.host, "wg", &["show", "wg-one", "peers"]).contains(&new));
    });
}

#[test]
fn a_persistent_keepalive_begins_at_once_and_the_tunnel_stays_open() {
    in_lab(|lab| {
        let pair = Pair::carrick(lab);
        pair.point(0, 0);
        assert_eq!(pair.two.last_handshake(), 0);
        pair.one.set(&["peer", &pair.two.public_key, "persistent-keepalive", "1"]);
        eventually(PATIENCE, "a handshake without a packet", || {
            (pair.two.last_handshake() > 0).then_some(())
        })
        .unwrap();
        let before = pair.two.transfer().0;
        eventually(PATIENCE, "five keepalives", || (pair.two.transfer().0 >= before + 5 * 32).then_some(()))
            .unwrap();
        pair.one.set(&["peer", &pair.two.public_key, "persistent-keepalive", "off"]);
        thread::sleep(Duration::from_secs(2));
        let quiet = pair.two.transfer().0;
        thread::sleep(Duration::from_secs(4));
        assert_eq!(pair.two.transfer().0, quiet);
    });
}

#[test]
fn datagrams_carry_the_firewall_mark() {
    in_lab(|lab| {
        let pair = Pair::carrick(lab);
        let host = &pair.one.host;
        for family in ["-4", "-6"] {
            run(host, "ip", &[family, "rule", "add", "fwmark", "7", "unreachable"]);
        }
        pair.one.set(&["fwmark", "7"]);
        for family in [0, 1] {
            pair.point(0, family);
            ping(host, INSIDE[1][0].parse().unwrap(), ATTEMPT).unwrap_err();
        }
        pair.one.set(&["fwmark", "0"]);
        for family in [0, 1] {
            pair.point(0, family);
            pair.one.eventually_ping(INSIDE[1][0].parse().unwrap());
        }
        // It also holds for a port that is bound later.
        pair.one.set(&["fwmark", "7"]);
        pair.one.set(&["listen-port", "7777"]);
        ping(host, INSIDE[1][0].parse().unwrap(), ATTEMPT).unwrap_err();
    });
}

#[test]
fn a_tunnel_that_leads_into_itself_does_not_run_away() {
    in_lab(|lab| {
        let pair = Pair::carrick(lab);
        let assert_is_quiet = |why: &str| {
            let before = (pair.one.transfer().1, pair.one.process.cpu_seconds().unwrap());
            ping(&pair.one.host, INSIDE[1][0].parse().unwrap(), ATTEMPT).unwrap_err();
            thread::sleep(Duration::from_secs(6) - ATTEMPT);
            let sent = pair.one.transfer().1 - before.0;
            assert!(sent < 20_000, "{why}: {sent} bytes in six seconds");
            let used = pair.one.process.cpu_seconds().unwrap() - before.1;
            assert!(used < 1.0, "{why}: {used} s of CPU time in six seconds");
        };
        let into_itself = ["peer", &pair.two.public_key, "endpoint", &format!("{}:{PORT}", INSIDE[1][0])];
        pair.one.set(&into_itself);
        assert_is_quiet("before there is a session");
        pair.point(0, 0);
        pair.assert_pings();
        pair.one.set(&into_itself);
        assert_is_quiet("the endpoint is inside");
        // Where a message is longer than the interface takes, the kernel cuts it up.
        let host = &pair.one.host;
        let sender = host.udp_bind("0.0.0.0:0".parse().unwrap()).unwrap();
        let inside = INSIDE[1][0];
        for (family, length) in [("-4", 32), ("-6", 128)] {
            let which = usize::from(family == "-6");
            pair.point(0, which);
            pair.assert_pings();
            let there = format!("{}/{length}", OUTSIDE[1][which]);
            pair.one.set(&["peer", &pair.two.public_key, "allowed-ips", &format!("{there},{inside}/32")]);
            run(host, "ip", &[family, "route", "add", &there, "dev", &pair.one.interface]);
            sender.send_to(&[0; 1380], (inside, 9)).unwrap();
            assert_is_quiet("a route to the endpoint leads inside");
            run(host, "ip", &[family, "route", "del", &there, "dev", &pair.one.interface]);
            pair.one.eventually_ping(inside.parse().unwrap());
        }
    });
}

#[test]
fn a_tunnel_goes_through_a_tunnel() {
    in_lab(|lab| {
        let pair = Pair::carrick(lab);
        pair.point(0, 0);
        pair.assert_pings();
        let [one, two] = [&pair.one, &pair.two].map(|outer| {
            let name = format!("{}-in", outer.interface);
            Device::start_at(Implementation::Carrick, &outer.host, &name, 51821)
        });
        one.set(&["peer", &two.public_key, "allowed-ips", "10.78.0.2/32", "endpoint", "10.77.0.2:51821"]);
        two.set(&["peer", &one.public_key, "allowed-ips", "10.78.0.1/32"]);
        one.up(&["10.78.0.1/24"], "1340");
        two.up(&["10.78.0.2/24"], "1340");
        one.eventually_ping("10.78.0.2".parse().unwrap());
        let address = "10.78.0.2:5201".parse().unwrap();
        let sent = stream(&one.host, &two.host, address, Duration::from_secs(3)).unwrap();
        assert!(sent.bytes > 1 << 20, "{sent:?}");
    });
}

#[test]
fn a_key_of_low_order_is_a_peer_like_any_other_that_nothing_is_sent_to() {
    in_lab(|lab| {
        let host = lab.host("one").unwrap();
        own_run();
        let device = Device::start(Implementation::Carrick, &host, "wg-one");
        let receiver = host.udp_bind("127.0.0.1:1111".parse().unwrap()).unwrap();
        receiver.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        for point in [
            "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            "7P///////////////////////////////////////38=",
            "7f///////////////////////////////////////38=",
            "7v///////////////////////////////////////38=",
            "4Ot6fDtBuK4WVuP68Z/EatoJjeucMrH9hmIFFl9JuAA=",
            "X5yVvKNQjCSx0LFVnIPvWwREXMRYHI6G2CJO3dCfEVc=",
        ] {
            device.set(&["peer", point, "persistent-keepalive", "1", "endpoint", "127.0.0.1:1111"]);
            device.set(&["peer", point, "allowed-ips", "10.77.0.0/16"]);
            assert!(run(&host, "wg", &["show", "wg-one", "peers"]).contains(point));
            assert_eq!(
                run(&host, "wg", &["show", "wg-one", "allowed-ips"]).matches("10.77.0.0/16").count(),
                1
            );
        }
        // All that would make it send: a key, an address, packets, and time.
        device.up(&["10.77.0.1/32"], "1420");
        run(&host, "ip", &["route", "add", "10.77.0.0/16", "dev", "wg-one"]);
        ping(&host, INSIDE[1][0].parse().unwrap(), ATTEMPT).unwrap_err();
        device.change_key();
        ping(&host, INSIDE[1][0].parse().unwrap(), ATTEMPT * 2).unwrap_err();
        receiver.recv(&mut [0; 200]).unwrap_err();
        let shown = run(&host, "wg", &["show", "wg-one", "transfer"]);
        assert_eq!(shown.lines().filter(|line| line.ends_with("\t0\t0")).count(), 7, "{shown}");
        let configuration = run(&host, "wg", &["showconf", "wg-one"]);
        std::fs::write("/run/shown", &configuration).unwrap();
        run(&host, "wg", &["syncconf", "wg-one", "/run/shown"]);
        assert_eq!(run(&host, "wg", &["showconf", "wg-one"]), configuration);
        for line in shown.lines() {
            device.set(&["peer", line.split('\t').next().unwrap(), "remove"]);
        }
        assert_eq!(run(&host, "wg", &["show", "wg-one", "peers"]), "");
        // The same of a sound key is a peer, and hears of it.
        let sound = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";
        device.set(&["peer", sound, "persistent-keepalive", "1", "endpoint", "127.0.0.1:1111"]);
        receiver.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(receiver.recv(&mut [0; 200]).unwrap(), 148);
    });
}

#[test]
fn a_keepalive_holds_a_way_through_a_nat_open_and_the_peer_is_followed_when_it_closes() {
    in_lab(|lab| {
        own_run();
        let (nat, one, two) =
            (lab.router("nat").unwrap(), lab.host("one").unwrap(), lab.host("two").unwrap());
        lab.wire(&one, "eth0", &["192.168.1.100/24"], &nat, "in", &["192.168.1.1/24"]).unwrap();
        lab.wire(&two, "eth0", &["192.0.2.2/24"], &nat, "out", &["192.0.2.1/24"]).unwrap();
        one.add_route("0.0.0.0/0", "192.168.1.1".parse().unwrap()).unwrap();
        let masquerade = ["-t", "nat", "-A", "POSTROUTING", "-o", "out", "-j", "MASQUERADE", "--random"];
        run(&nat, "iptables", &masquerade);
        for key in ["nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"] {
            nat.sysctl(&format!("net.netfilter.{key}"), "2").unwrap();
        }
        let [one, two] = [(&one, "wg-one"), (&two, "wg-two")]
            .map(|(host, name)| Device::start(Implementation::Carrick, host, name));
        one.set(&["peer", &two.public_key, "allowed-ips", "10.77.0.2/32", "endpoint", "192.0.2.2:51820"]);
        two.set(&["peer", &one.public_key, "allowed-ips", "10.77.0.1/32"]);
        one.up(&["10.77.0.1/24"], "1420");
        two.up(&["10.77.0.2/24"], "1420");
        let (one_inside, two_inside): (IpAddr, IpAddr) =
            ("10.77.0.1".parse().unwrap(), "10.77.0.2".parse().unwrap());
        one.set(&["peer", &two.public_key, "persistent-keepalive", "1"]);
        one.eventually_ping(two_inside);
        assert!(two.show("endpoints").starts_with("192.0.2.1:"));
        for _ in 0..3 {
            thread::sleep(Duration::from_secs(3));
            ping(&two.host, one_inside, ATTEMPT).unwrap();
        }
        one.set(&["peer", &two.public_key, "persistent-keepalive", "off"]);
        thread::sleep(Duration::from_secs(4));
        ping(&two.host, one_inside, ATTEMPT).unwrap_err();
        // Whatever the new way is, the other one sees where it comes from.
        one.eventually_ping(two_inside);
        ping(&two.host, one_inside, ATTEMPT).unwrap();
    });
}

#[test]
fn what_is_set_and_taken_away_is_shown() {
    in_lab(|lab| {
        let host = lab.host("one").unwrap();
        own_run();
        let device = Device::start(Implementation::Carrick, &host, "wg-one");
        let peer = run(&host, "wg", &["genkey"]);
        let (own, peer_key) = (run(&host, "wg", &["genkey"]), public(&host, &peer));
        let preshared = run(&host, "wg", &["genpsk"]);
        let secret =
            |secret: &str| device.set(&["private-key", secret_file("own", secret).to_str().unwrap()]);
        let show = |what: &str| run(&host, "wg", &["show", "wg-one", what]).trim().to_owned();
        secret(&own);
        device.set(&["peer", &peer_key, "preshared-key", secret_file("psk", &preshared).to_str().unwrap()]);
        assert_eq!(show("private-key"), own.trim());
        assert_eq!(show("preshared-keys"), format!("{peer_key}\t{}", preshared.trim()));
        device.set(&["private-key", "/dev/null", "peer", &peer_key, "preshared-key", "/dev/null"]);
        assert_eq!(show("private-key"), "(none)");
        assert_eq!(show("preshared-keys"), format!("{peer_key}\t(none)"));
        // A device is not its own peer.
        secret(&peer);
        assert_eq!((show("public-key"), show("peers")), (peer_key.clone(), String::new()));
        device.set(&["peer", &peer_key]);
        assert_eq!(show("peers"), "");
        secret(&own);
        device.set(&["peer", &peer_key]);
        assert_eq!(show("peers"), peer_key);
        // A key is shown as it is used.
        secret(&format!("/{}", &own[1..]));
        assert_eq!(show("private-key"), format!("+{}", own[1..].trim()));
    });
}

#[test]
fn many_prefixes_and_many_peers_come_back_whole() {
    in_lab(|lab| {
        let host = lab.host("one").unwrap();
        own_run();
        let device = Device::start(Implementation::Carrick, &host, "wg-one");
        let configure = |peers: String| {
            std::fs::write("/run/many", peers).unwrap();
            run(&host, "wg", &["setconf", "wg-one", "/run/many"]);
            run(&host, "wg", &["show", "wg-one", "allowed-ips"])
        };
        let key = || run(&host, "wg", &["genkey"]);
        let prefixes = (1..256)
            .flat_map(|a| (0..256).map(move |b| format!("AllowedIPs = {a}.{b}.0.0/16, {a}::{b}/128\n")));
        let shown = configure(format!("[Peer]\nPublicKey = {}{}", key(), prefixes.collect::<String>()));
        assert_eq!(shown.split_ascii_whitespace().count(), 255 * 256 * 2 + 1);
        let peers = (1..41).map(|a| {
            let prefixes: String = (1..53).map(|b| format!("AllowedIPs = {a}.{b}.0.0/16\n")).collect();
            format!("[Peer]\nPublicKey = {}{prefixes}", key())
        });
        let shown = configure(peers.collect());
        let counts: Vec<_> = shown.lines().map(|line| line.split_ascii_whitespace().count()).collect();
        assert_eq!(counts, [53; 40]);
        assert!(device.process.try_wait().unwrap().is_none());
    });
}

/// A stream each way, in both families.
fn assert_streams(pair: &Pair) {
    for (from, to, inside) in [(&pair.one, &pair.two, INSIDE[1]), (&pair.two, &pair.one, INSIDE[0])] {
        for address in inside {
            let address = SocketAddr::new(address.parse().unwrap(), STREAM);
            eventually(PATIENCE, &format!("a stream to {address}"), || {
                let sent = stream(&from.host, &to.host, address, Duration::from_millis(300)).unwrap();
                (sent.bytes > 1 << 20).then_some(())
            })
            .unwrap();
        }
    }
}
