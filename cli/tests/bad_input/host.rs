//! A host on which there can be no node.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use carrick_lab::in_lab;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::{
    bystanders::{Bystanders, NEWCOMER},
    support::PATIENCE,
};

#[test]
fn a_missing_tun_device_is_named() {
    in_lab(|lab| {
        let mut net = Bystanders::start(lab);
        let token = net.mesh.token("east", 1).unwrap();
        mount(Some("tmpfs"), "/dev/net", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        let error = net.refused(Some(&token), &[]);
        umount2("/dev/net", MntFlags::empty()).unwrap();
        assert_eq!(
            error,
            "/dev/net/tun is missing: load the module with `modprobe tun`, or give the container this device"
        );
        net.assert_newcomer_is_welcome();
        net.assert_unharmed();
    });
}

#[test]
fn a_tun_device_that_is_closed_to_it_is_named() {
    in_lab(|lab| {
        let mut net = Bystanders::start(lab);
        let token = net.mesh.token("east", 1).unwrap();
        let tun = "/dev/net/tun";
        for more in [MsFlags::empty(), MsFlags::MS_REMOUNT | MsFlags::MS_NODEV] {
            mount(Some(tun), tun, None::<&str>, MsFlags::MS_BIND | more, None::<&str>).unwrap();
        }
        let error = net.refused(Some(&token), &[]);
        umount2(tun, MntFlags::empty()).unwrap();
        assert_eq!(
            error,
            "no permission to make a TUN interface: run as root, or with CAP_NET_ADMIN and access to /dev/net/tun"
        );
        net.assert_newcomer_is_welcome();
        net.assert_unharmed();
    });
}

#[test]
fn an_interface_name_that_is_taken_is_refused_and_its_owner_stays() {
    in_lab(|lab| {
        let mut net = Bystanders::start(lab);
        let token = net.mesh.token("east", 1).unwrap();
        let neighbour = lab.host("neighbour").unwrap();
        let newcomer = net.newcomer().host.clone();
        lab.wire(&newcomer, "taken0", &["10.99.0.1/24"], &neighbour, "eth0", &["10.99.0.2/24"]).unwrap();
        let error = net.refused(Some(&token), &["--interface", "taken0"]);
        assert_eq!(
            error,
            "there is an interface called taken0 already: stop what made it, or choose another name (a node's: --interface)"
        );
        carrick_lab::traffic::ping(&newcomer, "10.99.0.2".parse().unwrap(), PATIENCE).unwrap();
        net.assert_newcomer_is_welcome();
        net.assert_unharmed();
    });
}

#[test]
fn an_impossible_interface_name_is_refused() {
    in_lab(|lab| {
        let net = Bystanders::start(lab);
        let token = net.mesh.token("east", 1).unwrap();
        for name in ["", "..", "a/b", "a b", "sixteen-letters-", "carrick0\n", "é"] {
            let process = net.start_newcomer(Some(&token), &["--interface", name]);
            let status = process.wait(PATIENCE).unwrap();
            assert_eq!(status.code(), Some(2), "{name:?}: {}", process.output());
            let stderr = process.stderr();
            assert!(
                stderr.contains("an interface has 1 to 15 letters, digits, '-', '_', '.', '=' and '+'"),
                "{stderr}"
            );
        }
        net.assert_unharmed();
    });
}

#[test]
fn a_udp_port_of_a_node_that_is_taken_is_named() {
    const PORT: u16 = 40_000;
    in_lab(|lab| {
        let mut net = Bystanders::start(lab);
        let token = net.mesh.token("east", 1).unwrap();
        let host = &net.mesh.nodes[NEWCOMER].host;
        for ip in [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::LOCALHOST.into()] {
            let _held = host.udp_bind((ip, PORT).into()).unwrap();
            let error = net.refused(Some(&token), &["--listen-port", &PORT.to_string()]);
            assert_eq!(
                error,
                "UDP port 40000 is taken: stop what uses it, or choose another with --listen-port (0 takes any that is free)"
            );
        }
        net.assert_newcomer_is_welcome();
        net.assert_unharmed();
    });
}
