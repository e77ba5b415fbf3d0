//! A full disk under the coordinator.

#![allow(clippy::unwrap_used, reason = "an unwrap in a test is the assertion that the value is there")]

mod support;

use std::{fs, path::Path, process::Command};

use carrick_wire::{api::Token, session::RefusalCode};
use support::{Node, eventually, start};

#[test]
fn a_full_disk_is_said_loses_nothing_and_passes() {
    // In a mount namespace of its own, as root or in a user namespace, so that the small disk is gone with the process.
    let output = Command::new("unshare")
        .args(["--map-root-user", "--mount"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "on_a_small_disk", "--ignored", "--nocapture"])
        .output()
        .expect("unshare, of util-linux");
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[tokio::test]
#[ignore = "run by a_full_disk_is_said_loses_nothing_and_passes, which makes the namespace that this mounts in"]
async fn on_a_small_disk() {
    let dir = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m,mode=700", "carrick"])
        .arg(dir.path())
        .status();
    assert!(mounted.unwrap().success());
    let coordinator = start(dir.path()).await;
    let kept = coordinator.token("east", 9).await;
    let mut member = coordinator.join(&Node::new(1, "a"), Some(&kept)).await.unwrap();

    let ballast = dir.path().join("ballast");
    fill(&ballast);
    let mut acknowledged = 1;
    let problem = loop {
        let answer = coordinator.ask("POST", "/v1/tokens", Some(r#"{"cluster":"east"}"#)).await;
        if answer.status != 201 {
            assert_eq!(answer.status, 507, "{:?}", answer.body);
            break answer.problem();
        }
        acknowledged += 1;
        assert!(acknowledged < 1000, "the disk never fills");
    };
    assert!(problem.detail.contains("disk is full: free space on"), "{}", problem.detail);
    assert!(problem.detail.contains("nothing acknowledged was lost"));
    let Err(refusal) = coordinator.join(&Node::new(2, "b"), Some(&kept)).await else { panic!("let in") };
    assert_eq!(refusal.code, RefusalCode::Unavailable, "{refusal}");
    eventually("not ready", || async { coordinator.ask("GET", "/readyz", None).await.status == 503 }).await;
    assert_eq!(coordinator.ask("GET", "/healthz", None).await.status, 200);
    assert_eq!(coordinator.get::<Vec<Token>>("/v1/tokens").await.len(), acknowledged);

    fs::remove_file(&ballast).unwrap();
    eventually("ready again", || async { coordinator.ask("GET", "/readyz", None).await.status == 200 }).await;
    let b = coordinator.join(&Node::new(2, "b"), Some(&kept)).await.unwrap();
    member.until("the peer that joined after", |view| view.members.contains_key(&b.welcome.node)).await;
    coordinator.stop().await;

    let coordinator = start(dir.path()).await;
    let tokens: Vec<Token> = coordinator.get("/v1/tokens").await;
    assert_eq!(tokens.len(), acknowledged);
    assert_eq!(tokens.iter().find(|token| token.id == kept.id).unwrap().used, 2);
    coordinator.stop().await;
}

/// Takes what space is left.
fn fill(path: &Path) {
    use std::io::Write as _;
    let mut file = fs::File::create(path).unwrap();
    while file.write_all(&[0x5a; 512]).is_ok() {}
}
