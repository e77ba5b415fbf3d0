//! What is in the way of a start, and what a first start leaves.

#![allow(clippy::unwrap_used, reason = "an unwrap in a test is the assertion that the value is there")]

mod support;

use std::{net::TcpListener, os::unix::fs::MetadataExt as _};

use carrick_coordinator::{Config, Coordinator, StartError};
use support::{PATIENCE, config, run, start};

#[tokio::test]
async fn a_second_coordinator_on_the_same_directory_is_told_who_runs_there() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = start(dir.path()).await;
    let why = refused(config(dir.path())).await;
    assert!(why.starts_with("another coordinator runs on "), "{why}");
    assert!(why.contains(&format!("(pid {})", std::process::id())), "{why}");
    coordinator.stop().await;
    start(dir.path()).await.stop().await;
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = other.local_addr().unwrap();
    let why = refused(Config { listen, ..config(dir.path()) }).await;
    assert_eq!(why, format!("{listen} is already in use: stop the other process or choose another --listen"));

    let other = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let udp = other.local_addr().unwrap();
    let why = refused(Config { udp, ..config(dir.path()) }).await;
    assert_eq!(why, format!("{udp} is already in use: stop the other process or choose another --udp"));
}

#[tokio::test]
async fn a_socket_that_was_handed_over_is_served_too() {
    let dir = tempfile::tempdir().unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let config = Config { listen_fd: Some(socket.into()), ..config(dir.path()) };
    let mut coordinator = run(Coordinator::start(config).await.unwrap());
    coordinator.address = address;
    assert_eq!(coordinator.ask("GET", "/healthz", None).await.status, 200);
    coordinator.stop().await;

    let file = std::fs::File::open("/dev/null").unwrap();
    let why = refused(Config { listen_fd: Some(file.into()), ..support::config(dir.path()) }).await;
    assert!(why.contains("no listening TCP socket"), "{why}");
}

#[tokio::test]
async fn a_first_start_writes_the_profile_and_a_later_one_leaves_it() {
    let (dir, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let profile = home.path().join("carrick/profile.json");
    let config = || Config { profile: Some(profile.clone()), ..config(dir.path()) };
    let coordinator = Coordinator::start(config()).await.unwrap();
    assert!(coordinator.first_start());
    let written: serde_json::Value = serde_json::from_slice(&std::fs::read(&profile).unwrap()).unwrap();
    assert_eq!(written["coordinator"], format!("https://{}", coordinator.listening()));
    assert_eq!(written["credential"], coordinator.admin_credential_file().to_str().unwrap());
    assert_eq!(std::fs::metadata(&profile).unwrap().mode() & 0o777, 0o600);
    drop(coordinator);

    std::fs::write(&profile, "{}").unwrap();
    // The thread that owns the store lets go of the directory in a moment.
    let patience = std::time::Instant::now() + PATIENCE;
    let again = loop {
        match Coordinator::start(config()).await {
            Err(StartError::Locked { .. }) if std::time::Instant::now() < patience => {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            started => break started.unwrap(),
        }
    };
    assert!(!again.first_start());
    assert_eq!(std::fs::read(&profile).unwrap(), b"{}");
}

#[tokio::test]
async fn a_directory_that_is_a_file_and_a_url_that_is_none_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let why = refused(config(&file)).await;
    assert!(why.contains("is not a directory"), "{why}");
    let public_url = Some("http://mesh.example".to_owned());
    let why = refused(Config { public_url, ..config(dir.path()) }).await;
    assert!(why.contains("write it as https://host:port"), "{why}");
}

#[tokio::test]
async fn a_corrupt_database_is_named_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    start(dir.path()).await.stop().await;
    let database = dir.path().join("carrick.db");
    std::fs::write(&database, [0x42; 9000]).unwrap();
    let why = refused(config(dir.path())).await;
    assert!(why.contains("carrick.db is corrupt") && why.contains("restore it from a backup"), "{why}");
    assert_eq!(std::fs::read(&database).unwrap(), [0x42; 9000]);
}

async fn refused(config: Config) -> String {
    let error: StartError = Coordinator::start(config).await.err().expect("a reason not to start");
    let text = error.to_string();
    assert!(!text.contains('\n'), "{text}");
    text
}
