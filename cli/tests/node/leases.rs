//! Leases: what lapses, when, and what comes back by itself.

use std::time::{Duration, Instant};

use carrick_lab::{Lab, Signal, eventually, in_lab, in_lab_for, mesh::Mesh};
use carrick_types::LeaseProfile;
use carrick_wire::api::LogCheckpoint;

use crate::{
    mesh::{assert_does_not_reach, assert_reaches, running},
    support::{
        guest, node_of,
        operator::{api, change_policy},
        traffic::Traffic,
        wait_for,
    },
};

const EAST: usize = 0;
const WEST: usize = 1;

/// By how much a datagram may seem to come later than it did, on a machine that is busy.
const LATE: Duration = Duration::from_secs(1);

/// A mesh in which leases are of one second.
fn strict(lab: &mut Lab, clusters: &[(&str, u8)]) -> Mesh {
    let mesh = running(lab, clusters);
    change_policy(&mesh, |bundle| bundle.default.lease = LeaseProfile::Strict);
    mesh.settle().unwrap();
    mesh
}

/// Waits until a node says that its leases have lapsed, once more than it had said `before`.
fn wait_for_lapse(mesh: &Mesh, node: usize, before: usize) {
    wait_for("the leases to lapse", || (lapses(mesh, node) > before).then_some(()));
}

fn lapses(mesh: &Mesh, node: usize) -> usize {
    mesh.nodes[node].process.as_ref().unwrap().output().matches("leases lapsed").count()
}

#[test]
fn in_strict_a_node_whose_coordinator_vanishes_closes_within_about_a_second() {
    in_lab(|lab| {
        let mut mesh = strict(lab, &[("east", 1), ("west", 1)]);
        let traffic = Traffic::between(&mesh.nodes[EAST], &mesh.nodes[WEST]);
        let before = [EAST, WEST].map(|node| lapses(&mesh, node));
        let since = Instant::now();
        // No connection is closed: nobody is told.
        mesh.coordinator_link.cut().unwrap();
        for node in [EAST, WEST] {
            wait_for_lapse(&mesh, node, before[node]);
        }
        let last = traffic.last();
        let lease = LeaseProfile::Strict.lease();
        assert!(last < since + lease + LATE, "the last datagram came {:?} after", last - since);
        assert_does_not_reach(&mesh.nodes[EAST], &mesh.nodes[WEST]);

        mesh.coordinator_link.restore().unwrap();
        traffic.assert_goes_on();
        // A coordinator that ends is no different.
        mesh.coordinator.take().unwrap().kill().unwrap();
        traffic.last();
        mesh.start_coordinator(&[]).unwrap();
        traffic.assert_goes_on();
    });
}

#[test]
fn in_strict_a_coordinator_that_stands_still_lets_every_lease_lapse_and_blames_nobody_when_it_goes_on() {
    in_lab(|lab| {
        let mesh = strict(lab, &[("east", 1), ("west", 1)]);
        let traffic = Traffic::between(&mesh.nodes[EAST], &mesh.nodes[WEST]);
        let before = [EAST, WEST].map(|node| lapses(&mesh, node));
        let log = mesh.json(&["log", "show"]).unwrap();
        let coordinator = mesh.coordinator.as_ref().unwrap();
        let since = Instant::now();
        coordinator.signal(Signal::SIGSTOP).unwrap();
        for node in [EAST, WEST] {
            wait_for_lapse(&mesh, node, before[node]);
        }
        let last = traffic.last();
        let lease = LeaseProfile::Strict.lease();
        assert!(last < since + lease + LATE, "the last datagram came {:?} after", last - since);
        coordinator.signal(Signal::SIGCONT).unwrap();
        traffic.assert_goes_on();
        assert_eq!(mesh.json(&["log", "show"]).unwrap(), log, "nobody was suspended");
    });
}

#[test]
fn in_strict_peers_that_are_cut_off_drop_a_revoked_node_no_later_than_the_lease() {
    in_lab(|lab| {
        let mesh = strict(lab, &[("east", 2), ("west", 1)]);
        let (revoked, hearing, cut_off) = (0, 1, 2);
        let to_cut_off = Traffic::between(&mesh.nodes[revoked], &mesh.nodes[cut_off]);
        let to_hearing = Traffic::between(&mesh.nodes[revoked], &mesh.nodes[hearing]);
        // Neither the node nor one of its peers hears that it is revoked.
        for node in [revoked, cut_off] {
            make_deaf(&mesh, node);
        }
        let since = Instant::now();
        assert!(mesh.operate(&["revoke", "east-1"]).unwrap().status.success());
        let told = Instant::now();
        let lease = LeaseProfile::Strict.lease();
        let (last, last_at_hearing) = (to_cut_off.last(), to_hearing.last());
        assert!(last < since + lease + LATE, "the last datagram came {:?} after the call", last - since);
        assert!(last_at_hearing < told + LATE, "{:?} after the answer", last_at_hearing - told);
    });
}

/// What the coordinator sends to a node is lost from now on.
fn make_deaf(mesh: &Mesh, node: usize) {
    for (address, nowhere) in mesh.nodes[node].underlay.iter().zip(["203.0.113.250", "2001:db8:ff::250"]) {
        let destination = format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 });
        mesh.coordinator_host.add_route(&destination, nowhere.parse().unwrap()).unwrap();
    }
}

#[test]
fn a_node_that_stood_still_for_longer_than_its_lease_passes_nothing_of_that_time_and_comes_back_by_itself() {
    in_lab(|lab| {
        let mesh = strict(lab, &[("east", 1), ("west", 1)]);
        let traffic = Traffic::between(&mesh.nodes[EAST], &mesh.nodes[WEST]);
        let node = mesh.nodes[EAST].process.as_ref().unwrap();
        let before = lapses(&mesh, EAST);
        node.signal(Signal::SIGSTOP).unwrap();
        // What is on its way in the kernel of the host has passed.
        traffic.assert_much_is_sent();
        let standing = traffic.0.each_ref().map(|beacon| beacon.sent());
        wait_for("the coordinator to miss it", || {
            let nodes = mesh.json(&["nodes"]).ok()?;
            let missed = |node: &serde_json::Value| node["name"] == "east-1" && node["state"] != "active";
            nodes.as_array()?.iter().any(missed).then_some(())
        });
        traffic.assert_much_is_sent();
        let moving = traffic.0.each_ref().map(|beacon| beacon.sent());
        node.signal(Signal::SIGCONT).unwrap();
        wait_for_lapse(&mesh, EAST, before);
        traffic.assert_goes_on();
        for (beacon, (from, to)) in traffic.0.iter().zip(standing.into_iter().zip(moving)) {
            let arrived = beacon.arrivals();
            let passed: Vec<u64> = arrived
                .iter()
                .map(|(number, _)| *number)
                .filter(|number| (from..to).contains(number))
                .collect();
            assert_eq!(passed, Vec::<u64>::new(), "of {from} to {to}");
        }
    });
}

#[test]
fn a_partition_shorter_than_the_lease_is_not_noticed() {
    in_lab(|lab| {
        let mesh = running(lab, &[("east", 1), ("west", 1)]);
        let traffic = Traffic::between(&mesh.nodes[EAST], &mesh.nodes[WEST]);
        let log = mesh.json(&["log", "show"]).unwrap();
        let cut = Instant::now();
        mesh.coordinator_link.cut().unwrap();
        // As long as a heartbeat is due, and far from the lease.
        traffic.assert_goes_on_for(LeaseProfile::Available.heartbeat() * 2);
        mesh.coordinator_link.restore().unwrap();
        assert!(cut.elapsed() < LeaseProfile::Available.lease(), "this machine is too slow for this test");
        mesh.settle().unwrap();
        traffic.assert_nothing_lost();
        assert_eq!(mesh.json(&["log", "show"]).unwrap(), log, "nobody was suspended");
        assert_eq!([EAST, WEST].map(|node| lapses(&mesh, node)), [0, 0]);
    });
}

#[test]
fn a_coordinator_that_restarts_renews_the_leases_that_it_finds() {
    in_lab(|lab| {
        let mut mesh = running(lab, &[("east", 1), ("west", 1)]);
        let traffic = Traffic::between(&mesh.nodes[EAST], &mesh.nodes[WEST]);
        let log = mesh.json(&["log", "show"]).unwrap();
        mesh.coordinator.take().unwrap().kill().unwrap();
        mesh.start_coordinator(&[]).unwrap();
        mesh.settle().unwrap();
        // Longer than the leases that were there when it ended.
        traffic.assert_goes_on_for(LeaseProfile::Available.lease() + LATE);
        traffic.assert_nothing_lost();
        assert_eq!([EAST, WEST].map(|node| lapses(&mesh, node)), [0, 0]);
        assert_eq!(mesh.json(&["log", "show"]).unwrap(), log, "nobody was suspended");
        assert_reaches(&mesh.nodes[EAST], &mesh.nodes[WEST]);
    });
}

#[test]
fn a_node_rotates_its_key_under_load_without_a_lost_packet() {
    in_lab_for(Duration::from_secs(240), |lab| {
        let mesh = running(lab, &[("east", 1), ("west", 1)]);
        let key = |name: &str| node_of(&mesh, name)["public_key"].as_str().unwrap().to_owned();
        let before = ["east-1", "west-1"].map(key);
        let traffic = Traffic::between(&mesh.nodes[EAST], &mesh.nodes[WEST]);
        // The shortest time that a key may be in use.
        let (shortest, since) = (Duration::from_secs(60), Instant::now());
        change_policy(&mesh, |bundle| bundle.rotate_keys_s = 60);
        eventually(shortest * 2, "the keys to be old", || (since.elapsed() > shortest).then_some(()))
            .unwrap();
        wait_for("new keys", || {
            let after = ["east-1", "west-1"].map(key);
            (after[0] != before[0] && after[1] != before[1]).then_some(())
        });
        traffic.assert_goes_on_for(Duration::from_secs(5));
        traffic.assert_nothing_lost();
    });
}

#[test]
fn a_bundle_that_keeps_a_node_good_loses_no_packet() {
    in_lab(|lab| {
        let mesh = running(lab, &[("east", 1), ("west", 1)]);
        let traffic = Traffic::between(&mesh.nodes[EAST], &mesh.nodes[WEST]);
        let applied = |node: usize| {
            mesh.nodes[node].process.as_ref().unwrap().output().matches("netmap applied").count()
        };
        for reattest_s in 1000..1010 {
            let before = [EAST, WEST].map(applied);
            change_policy(&mesh, |bundle| bundle.default.reattest_s = reattest_s);
            wait_for("both nodes to take the bundle", || {
                [EAST, WEST].into_iter().all(|node| applied(node) > before[node]).then_some(())
            });
        }
        traffic.assert_nothing_lost();
    });
}

#[test]
fn a_peer_that_tells_of_head_after_head_costs_a_node_no_session() {
    in_lab(|lab| {
        let mesh = running(lab, &[("east", 1), ("west", 1)]);
        let traffic = Traffic::between(&mesh.nodes[EAST], &mesh.nodes[WEST]);
        let api = api(&mesh);
        // Heads that the coordinator signed and no node was told of.
        let mut notes = Vec::new();
        for _ in 0..20 {
            mesh.token("east", 1).unwrap();
            let checkpoint: LogCheckpoint =
                guest::on(&mesh.coordinator_host, async || api.get("/v1/log/checkpoint").await.unwrap());
            notes.push(checkpoint.note);
        }
        let overlay = node_of(&mesh, "east-1")["overlay_ips"][0].as_str().unwrap().to_owned();
        let from = node_of(&mesh, "west-1")["overlay_ips"][0].as_str().unwrap().to_owned();
        let teller = mesh.nodes[WEST].host.udp_bind(format!("{from}:0").parse().unwrap()).unwrap();
        let asked = Instant::now();
        for note in &notes {
            let sent = traffic.0[0].sent();
            teller.send_to(note.as_bytes(), format!("{overlay}:51821")).unwrap();
            // So that an answer to the last one would be there by now.
            wait_for("a moment", || (traffic.0[0].sent() > sent + 20).then_some(()));
        }
        assert!(asked.elapsed() < Duration::from_secs(60), "this machine is too slow for this test");
        let coordinator = mesh.coordinator.as_ref().unwrap();
        assert!(!coordinator.output().contains("too often"), "{}", coordinator.output());
        let node = mesh.nodes[EAST].process.as_ref().unwrap().output();
        assert!(!node.contains("no session with the coordinator"), "{node}");
        traffic.assert_unbroken();
    });
}
