//! Junk where a session should be.

use std::{io, net::SocketAddr, time::Duration};

use carrick_lab::in_lab;
use carrick_types::JoinToken;
use carrick_wire::session::{MAX_ENDPOINTS, ToCoordinator, ToNode};
use futures_util::{
    SinkExt as _, Stream, StreamExt as _,
    future::{join_all, try_join_all},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_tungstenite::tungstenite::{self, Message};

use crate::{
    bystanders::Bystanders,
    support::guest::{self, call, join, next, open, say},
};

/// The coordinator gives everything ten seconds, and then a moment to say goodbye.
const HANGS_UP_WITHIN: Duration = Duration::from_secs(15);

#[test]
fn messages_that_make_no_sense_are_refused_by_name() {
    in_lab(|lab| {
        let mut net = Bystanders::start(lab);
        let token = parsed(&net);
        let junk = [
            (Message::Text("{}".into()), "a text frame: session messages are binary"),
            (binary(b""), "empty session message"),
            (
                binary(b"\x09{}"),
                "the other side speaks session version 9, this carrick speaks 1: upgrade the older of the two",
            ),
            (binary(b"\x01{\"type\":\"hello\"}"), "malformed session message"),
            (binary(b"\x01\xff\xfe\xfd"), "malformed session message"),
            (binary(b"\x01{\"type\":\"links\",\"links\":[]}"), "the first message of a session is a hello"),
            (binary(&vec![1; 300 << 10]), "a message is longer than 256 KiB"),
        ];
        guest::on(&net.newcomer().host, async || {
            for (message, expected) in junk {
                let (mut socket, _) = open(&token).await.unwrap();
                assert!(matches!(next(&mut socket).await.unwrap(), ToNode::Challenge(_)));
                // The answer to a message that is too long comes before its end.
                let (mut to, mut from) = socket.split();
                let (_, detail) = tokio::join!(to.send(message), refusal(&mut from));
                assert_eq!(detail, expected);
            }
        });
        net.assert_newcomer_is_welcome();
        net.assert_unharmed();
    });
}

#[test]
fn a_member_that_says_nonsense_loses_its_session_and_nobody_else_does() {
    in_lab(|lab| {
        let net = Bystanders::start(lab);
        let token: JoinToken = net.mesh.token("east", 9).unwrap().parse().unwrap();
        let endpoint: SocketAddr = "192.0.2.250:1".parse().unwrap();
        let multicast: SocketAddr = "224.0.0.1:1".parse().unwrap();
        let endpoints = |candidates| ToCoordinator::Endpoints { candidates };
        let nonsense = [
            (endpoints(vec![endpoint; MAX_ENDPOINTS + 1]), 1, "too many endpoints: report at most 16"),
            (endpoints(vec![multicast]), 1, "an endpoint has port 0, or an address that no peer can reach"),
            (endpoints(vec![endpoint]), 30, "endpoints change too often"),
            (ToCoordinator::Links { links: Vec::new() }, 30, "links are reported too often"),
        ];
        guest::on(&net.newcomer().host, async || {
            for (number, (message, times, expected)) in nonsense.into_iter().enumerate() {
                let (_, mut socket) = join(&token, &format!("guest-{number}")).await.unwrap().unwrap();
                for _ in 0..times {
                    // It may have hung up before the last one.
                    let _ = say(&mut socket, &message).await;
                }
                assert_eq!(refusal(&mut socket).await, expected);
            }
        });
        net.assert_unharmed();
    });
}

#[test]
fn whoever_is_slow_or_speaks_no_websocket_is_hung_up_on() {
    in_lab(|lab| {
        let mut net = Bystanders::start(lab);
        let token = parsed(&net);
        let address = net.mesh.coordinator_address();
        guest::on(&net.newcomer().host, async || {
            let frames: [&[u8]; 4] = [
                // A message of 2^63 - 1 bytes.
                b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff\0\0\0\0",
                // Not masked; an unknown opcode; reserved bits.
                b"\x82\x05hello",
                b"\x8f\x80\0\0\0\0",
                b"\xf2\x80\0\0\0\0",
            ];
            for frame in frames {
                let mut stream = raw(&token).await.unwrap();
                stream.write_all(frame).await.unwrap();
                hangs_up(stream).await;
            }
            let mut stream = call(&token).await.unwrap().stream;
            stream.write_all(&[0x55; 4096]).await.unwrap();
            hangs_up(stream).await;

            // All of these at the same time, since each lasts as long as the coordinator's patience.
            let silent = join_all((0..8).map(async |_| hangs_up(raw(&token).await.unwrap()).await));
            let slow = join_all((0..8).map(async |_| slowly(raw(&token).await.unwrap()).await));
            let half_tls =
                join_all((0..8).map(async |_| hangs_up(TcpStream::connect(address).await.unwrap()).await));
            let half_http = join_all((0..8).map(async |_| {
                let mut stream = call(&token).await.unwrap().stream;
                stream.write_all(b"GET /v1/session HTTP/1.1\r\nHost: x\r\n").await.unwrap();
                hangs_up(stream).await;
            }));
            tokio::join!(silent, slow, half_tls, half_http);
        });
        net.assert_newcomer_is_welcome();
        net.assert_unharmed();
    });
}

#[test]
fn a_crowd_of_strangers_keeps_nobody_out() {
    in_lab(|lab| {
        let mut net = Bystanders::start(lab);
        let address = net.mesh.coordinator_address();
        // From the hosts of the members themselves, since each source has a share of its own.
        let crowd = guest::on(&net.mesh.internet, async || {
            try_join_all((0..2000).map(|_| TcpStream::connect(address))).await.map(|streams| {
                streams.into_iter().map(|stream| stream.into_std().unwrap()).collect::<Vec<_>>()
            })
        });
        assert_eq!(crowd.as_ref().unwrap().len(), 2000);
        net.assert_newcomer_is_welcome();
        net.assert_unharmed();
        drop(crowd);
    });
}

fn parsed(net: &Bystanders) -> JoinToken {
    net.mesh.token("east", 1).unwrap().parse().unwrap()
}

fn binary(bytes: &[u8]) -> Message {
    Message::Binary(bytes.to_vec().into())
}

/// The reason that the coordinator gives, after which it hangs up.
async fn refusal(socket: &mut (impl Stream<Item = tungstenite::Result<Message>> + Unpin)) -> String {
    let detail = timeout(HANGS_UP_WITHIN, async {
        loop {
            if let ToNode::Refused(refusal) = next(socket).await.unwrap() {
                break refusal.detail;
            }
        }
    });
    let detail = detail.await.unwrap();
    let end = async { while next(socket).await.is_ok() {} };
    timeout(HANGS_UP_WITHIN, end).await.unwrap();
    detail
}

/// A session in which the coordinator has said its first word, without the framing.
async fn raw(token: &JoinToken) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let (mut socket, _) = open(token).await?;
    next(&mut socket).await?;
    Ok(socket.into_inner())
}

/// Waits until the other end has closed, whatever it says before.
async fn hangs_up(mut stream: impl AsyncRead + Unpin) {
    let mut said = Vec::new();
    let closed = timeout(HANGS_UP_WITHIN, stream.read_to_end(&mut said)).await;
    // A connection that breaks is over, too.
    drop(closed.expect("the coordinator hangs up"));
}

/// Sends a message byte by byte, each soon after the other, and never comes to its end.
async fn slowly(stream: tokio_rustls::client::TlsStream<TcpStream>) {
    let (reader, mut writer) = tokio::io::split(stream);
    let drip = async {
        writer.write_all(b"\x82\xfe\xff\xff\0\0\0\0").await?;
        loop {
            writer.write_all(b"a").await?;
            writer.flush().await?;
            sleep(Duration::from_millis(50)).await;
        }
        #[expect(unreachable_code, reason = "gives the block its type")]
        Ok::<(), io::Error>(())
    };
    tokio::select! {
        () = hangs_up(reader) => {}
        Err(_) = drip => {}
    }
}
