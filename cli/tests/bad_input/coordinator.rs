//! Coordinators that cannot be, or are not who they should be.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use carrick_lab::{Process, in_lab};

use crate::{
    bystanders::{Bystanders, EAST, NEWCOMER, WEST},
    support::{PATIENCE, error_of},
};

#[test]
fn a_coordinator_with_another_certificate_than_the_pinned_one_is_refused() {
    in_lab(|lab| {
        let mut net = Bystanders::start(lab);
        let token = net.mesh.token("east", 1).unwrap();
        let other = net.mesh.directory().join("other");
        let impostor =
            coordinator(&net, NEWCOMER, &other, &["--listen", "127.0.0.1:0", "--udp", "127.0.0.1:0"]);
        impostor.wait_for_line("carrick token create", PATIENCE).unwrap();
        impostor.terminate(PATIENCE).unwrap();
        net.mesh.coordinator.take().unwrap().terminate(PATIENCE).unwrap();
        swap_authority(&net.mesh.data_dir(), &other);
        net.mesh.start_coordinator(&[]).unwrap();

        let expected = "is not the coordinator that the token or credential pins: its certificate is of another authority; \
                        check the address, or get a new token or credential";
        for node in [EAST, WEST] {
            let process = net.mesh.nodes[node].process.as_ref().unwrap();
            process.wait_for_line(expected, PATIENCE).unwrap();
        }
        assert!(net.refused(Some(&token), &[]).ends_with(expected));
        let operator = net.mesh.operate(&["token", "list"]).unwrap();
        let stderr = String::from_utf8(operator.stderr).unwrap();
        assert!(
            !operator.status.success() && stderr.lines().count() == 1 && stderr.contains(expected),
            "{stderr}"
        );
        net.traffic.assert_unbroken();

        net.mesh.coordinator.take().unwrap().terminate(PATIENCE).unwrap();
        swap_authority(&net.mesh.data_dir(), &other);
        net.mesh.start_coordinator(&[]).unwrap();
        net.assert_newcomer_is_welcome();
        net.assert_unharmed();
    });
}

#[test]
fn a_second_coordinator_on_the_same_data_directory_is_refused() {
    in_lab(|lab| {
        let net = Bystanders::start(lab);
        let data_dir = net.mesh.data_dir();
        let second = coordinator(&net, NEWCOMER, &data_dir, &["--listen", "[::]:9443", "--udp", "[::]:9478"]);
        let first = net.mesh.coordinator.as_ref().unwrap().pid();
        assert_eq!(
            error_of(&second),
            format!(
                "another coordinator runs on {} (pid {first}): stop it or choose another --data-dir",
                data_dir.display()
            )
        );
        net.assert_unharmed();
    });
}

#[test]
fn a_port_that_is_taken_is_named_with_its_option() {
    in_lab(|lab| {
        let mut net = Bystanders::start(lab);
        let data_dir = net.mesh.directory().join("other");
        let held: SocketAddr = (Ipv4Addr::UNSPECIFIED, 7001).into();
        let host = &net.mesh.nodes[NEWCOMER].host;
        let tcp = host.tcp_listen(held).unwrap();
        let _udp = host.udp_bind(held).unwrap();
        for (arguments, option) in [
            (["--listen", "0.0.0.0:7001", "--udp", "0.0.0.0:7002"], "--listen"),
            (["--listen", "0.0.0.0:7002", "--udp", "0.0.0.0:7001"], "--udp"),
            (["--listen", "[::]:7001", "--udp", "[::]:7002"], "--listen"),
            (["--listen", "[::]:7002", "--udp", "[::]:7001"], "--udp"),
        ] {
            let error = error_of(&coordinator(&net, NEWCOMER, &data_dir, &arguments));
            let expected =
                format!(":7001 is already in use: stop the other process or choose another {option}");
            assert!(error.ends_with(&expected), "{error}");
        }
        drop(tcp);
        // The failed starts have spoilt nothing for the one that has its ports.
        let free = ["--listen", "0.0.0.0:7001", "--udp", "0.0.0.0:7002"];
        let started = coordinator(&net, NEWCOMER, &data_dir, &free);
        started.wait_for_line("carrick token create", PATIENCE).unwrap();
        net.assert_newcomer_is_welcome();
        net.assert_unharmed();
    });
}

#[test]
fn a_coordinator_that_is_gone_for_good_is_named_by_its_address() {
    in_lab(|lab| {
        let mut net = Bystanders::start(lab);
        let token = net.mesh.token("east", 1).unwrap();
        net.mesh.coordinator.take().unwrap().kill().unwrap();
        let operator = net.mesh.operate(&["status"]).unwrap();
        let stderr = String::from_utf8(operator.stderr).unwrap();
        assert!(
            stderr.starts_with("carrick: error: cannot reach the coordinator at https://203.0.113.10:8443: "),
            "{stderr}"
        );
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        // A node that is to join waits for it, and says so.
        let newcomer = net.start_newcomer(Some(&token), &[]);
        newcomer.wait_for_line("no session with the coordinator; trying again", PATIENCE).unwrap();
        net.traffic.assert_goes_on_for(Duration::from_secs(1));
        net.mesh.start_coordinator(&[]).unwrap();
        newcomer.wait_for_line("netmap applied", PATIENCE).unwrap();
        net.mesh.nodes[NEWCOMER].process = Some(newcomer);
        net.mesh.settle().unwrap();
        net.assert_unharmed();
    });
}

/// Starts a coordinator on the host of a node.
fn coordinator(net: &Bystanders, node: usize, data_dir: &Path, arguments: &[&str]) -> Process {
    let mut command = net.mesh.command();
    command.arg("coordinator").arg("--data-dir").arg(data_dir).args(arguments);
    net.mesh.nodes[node].host.spawn("another coordinator", command).unwrap()
}

/// Exchanges what two coordinators are known by.
fn swap_authority(one: &Path, other: &Path) {
    for name in ["ca.key", "ca.crt"] {
        let (a, b) = (one.join(name), other.join(name));
        let (old, new) = (fs::read(&a).unwrap(), fs::read(&b).unwrap());
        fs::write(a, new).unwrap();
        fs::write(b, old).unwrap();
    }
}
