//! STUN over real sockets.

#![allow(clippy::unwrap_used, reason = "an unwrap in a test is the assertion that the value is there")]

mod support;

use std::net::{IpAddr, SocketAddr};

use carrick_coordinator::{Config, Coordinator};
use support::{PATIENCE, config, run};
use tokio::{net::UdpSocket, time::timeout};

const REQUEST: [u8; 20] = [0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];

#[tokio::test]
async fn both_families_are_told_where_they_come_from_and_junk_of_every_length_stops_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { udp: "[::]:0".parse().unwrap(), ..config(dir.path()) };
    let coordinator = run(Coordinator::start(config).await.unwrap());
    let v4 = client("127.0.0.1", coordinator.stun_port).await;
    let v6 = client("::1", coordinator.stun_port).await;
    assert_eq!(ask(&v4).await, v4.local_addr().unwrap());
    assert_eq!(ask(&v6).await, v6.local_addr().unwrap());

    let junk = vec![0xa5; 65_507];
    for length in 0..=junk.len() {
        v4.send(&junk[..length]).await.unwrap();
        if length % 4096 == 0 {
            assert_eq!(ask(&v4).await, v4.local_addr().unwrap(), "after junk of {length} bytes");
        }
    }
    assert_eq!(ask(&v6).await, v6.local_addr().unwrap());
    coordinator.stop().await;
}

async fn client(loopback: &str, port: u16) -> UdpSocket {
    let ip: IpAddr = loopback.parse().unwrap();
    let socket = UdpSocket::bind(SocketAddr::new(ip, 0)).await.unwrap();
    socket.connect(SocketAddr::new(ip, port)).await.unwrap();
    socket
}

/// Asks until there is an answer: datagrams may be lost under load.
async fn ask(socket: &UdpSocket) -> SocketAddr {
    let mut buffer = [0; 100];
    let answer = async {
        loop {
            socket.send(&REQUEST).await.unwrap();
            let wait = timeout(std::time::Duration::from_millis(200), socket.recv(&mut buffer)).await;
            if let Ok(length) = wait {
                return length.unwrap();
            }
        }
    };
    let length = timeout(PATIENCE, answer).await.unwrap();
    assert!(length < 3 * REQUEST.len());
    assert_eq!(buffer[8..20], REQUEST[8..20], "the transaction is the same");
    let port = u16::from_be_bytes([buffer[26] ^ 0x21, buffer[27] ^ 0x12]);
    let ip: Vec<u8> = buffer[28..length].iter().zip(&REQUEST[4..]).map(|(byte, mask)| byte ^ mask).collect();
    match <[u8; 4]>::try_from(ip.as_slice()) {
        Ok(v4) => SocketAddr::new(v4.into(), port),
        Err(_) => SocketAddr::new(<[u8; 16]>::try_from(ip).unwrap().into(), port),
    }
}
