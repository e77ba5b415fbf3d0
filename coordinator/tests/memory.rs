//! What an idle coordinator costs.

#![allow(clippy::unwrap_used, reason = "an unwrap in a test is the assertion that the value is there")]

mod support;

use support::{Node, start};

#[tokio::test]
async fn a_coordinator_with_four_nodes_fits_in_60_mib() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = start(dir.path()).await;
    let token = coordinator.token("east", 4).await;
    let mut members = vec![];
    for n in 1..=4 {
        members.push(coordinator.join(&Node::new(n, &format!("n{n}")), Some(&token)).await.unwrap());
    }
    assert_eq!(coordinator.get::<carrick_wire::api::Topology>("/v1/topology").await.links, []);
    // The nodes' ends are in this process, too.
    let resident = resident_kib();
    assert!(resident < 60 * 1024, "{resident} KiB");
    drop(members);
    coordinator.stop().await;
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
