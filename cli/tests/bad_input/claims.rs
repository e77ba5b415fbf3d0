//! Claims to what belongs to somebody else.

use std::fs;

use carrick_lab::in_lab;

use crate::{
    bystanders::{Bystanders, EAST, NEWCOMER},
    support::{PATIENCE, node_of},
};

#[test]
fn a_prefix_of_another_node_is_refused() {
    in_lab(|lab| {
        let mut net = Bystanders::start(lab);
        let token = net.mesh.token("east", 1).unwrap();
        for (claimed, held) in [
            ("10.1.1.0/24", "10.1.1.0/24"),
            ("10.1.0.0/23", "10.1.1.0/24"),
            ("10.1.1.128/25", "10.1.1.0/24"),
            ("fd00:1:1::/64", "fd00:1:1::/64"),
        ] {
            let error = net.refused(Some(&token), &["--prefix", claimed]);
            let expected = "of node east-1: claim another, or revoke that node first";
            assert_eq!(error, format!("prefix {claimed} overlaps {held} {expected}"));
        }
        // A member that asks for more is refused as well, and keeps what it has.
        net.assert_newcomer_is_welcome();
        net.mesh.nodes[NEWCOMER].process.take().unwrap().terminate(PATIENCE).unwrap();
        let error = net.refused(None, &["--prefix", "10.1.1.0/24"]);
        assert_eq!(
            error,
            "prefix 10.1.1.0/24 overlaps 10.1.1.0/24 of node east-1: claim another, or revoke that node first"
        );
        net.mesh.start_node(NEWCOMER, None).unwrap();
        net.mesh.settle().unwrap();
        net.assert_unharmed();
    });
}

#[test]
fn a_wireguard_key_of_another_node_is_refused() {
    in_lab(|lab| {
        let mut net = Bystanders::start(lab);
        let token = net.mesh.token("east", 1).unwrap();
        let stolen = net.mesh.nodes[EAST].state_dir.join("wireguard.key");
        fs::create_dir_all(&net.newcomer().state_dir).unwrap();
        fs::copy(stolen, net.newcomer().state_dir.join("wireguard.key")).unwrap();
        let error = net.refused(Some(&token), &[]);
        let expected = "the WireGuard key belongs to node east-1: start with an empty state directory, so that new keys are made";
        assert_eq!(error, expected);
        fs::remove_dir_all(&net.newcomer().state_dir).unwrap();
        net.assert_newcomer_is_welcome();
        net.assert_unharmed();
    });
}

#[test]
fn a_prefix_that_covers_the_default_route_is_refused() {
    in_lab(|lab| {
        let net = Bystanders::start(lab);
        let token = net.mesh.token("east", 1).unwrap();
        for claimed in ["0.0.0.0/0", "::/0", "0.0.0.0/1", "128.0.0.0/1", "8000::/1"] {
            let error = net.refused(Some(&token), &["--prefix", claimed]);
            assert_eq!(
                error,
                format!(
                    "prefix {claimed} would take over the default route: claim the pod CIDR only \
                     (IPv4 /8, IPv6 /16 or longer)"
                )
            );
        }
        net.assert_unharmed();
    });
}

#[test]
fn a_prefix_that_covers_an_overlay_address_is_refused() {
    in_lab(|lab| {
        let mut net = Bystanders::start(lab);
        let token = net.mesh.token("east", 1).unwrap();
        let east = node_of(&net.mesh, "east-1");
        let v4 = format!("{}/32", east["overlay_ips"][0].as_str().unwrap());
        let v6 = format!("{}/128", east["overlay_ips"][1].as_str().unwrap());
        for claimed in [v4.as_str(), "100.64.0.0/16", &v6] {
            let error = net.refused(Some(&token), &["--prefix", claimed]);
            assert!(error.starts_with(&format!("prefix {claimed} overlaps the overlay range ")), "{error}");
            assert!(error.contains("choose another pod CIDR"), "{error}");
        }
        net.assert_newcomer_is_welcome();
        net.assert_unharmed();
    });
}
