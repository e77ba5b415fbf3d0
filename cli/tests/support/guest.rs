//! A member that is all protocol: it joins and leaves, and touches no interface.

use std::{
    hash::{BuildHasher as _, RandomState},
    io,
};

use carrick_attest::Bytes;
use carrick_client::{Connection, CoordinatorUrl, connect};
use carrick_lab::Host;
use carrick_types::{IdentitySecret, JoinToken, WireGuardSecret};
use carrick_wire::{
    hello::{Have, Introduction, Trust},
    session::{PATH, Refusal, ToCoordinator, ToNode, Welcome, decode, encode},
};
use futures_util::{SinkExt as _, Stream, StreamExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{self, Message},
};

/// An open WebSocket with a coordinator.
pub(crate) type Socket = WebSocketStream<TlsStream<TcpStream>>;

/// Runs something asynchronous on a host of the lab.
pub(crate) fn on<T: Send>(host: &Host, work: impl AsyncFnOnce() -> T + Send) -> T {
    host.within(|| {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work())
    })
}

/// Connects to the coordinator that a token names, and makes sure that it is the one.
pub(crate) async fn call(token: &JoinToken) -> io::Result<Connection> {
    let url: CoordinatorUrl = token.urls[0].parse().unwrap();
    connect(&url, token.ca, None).await.map_err(io::Error::other)
}

/// Opens a session, and says nothing yet.
pub(crate) async fn open(token: &JoinToken) -> io::Result<(Socket, [u8; 32])> {
    let Connection { stream, exporter, .. } = call(token).await?;
    let request = format!("wss://{}{PATH}", token.urls[0].trim_start_matches("https://"));
    let (socket, _) = client_async(request, stream).await.map_err(io::Error::other)?;
    Ok((socket, exporter))
}

/// What the coordinator says next.
pub(crate) async fn next(
    socket: &mut (impl Stream<Item = tungstenite::Result<Message>> + Unpin),
) -> io::Result<ToNode> {
    loop {
        let message = socket.next().await.ok_or(io::ErrorKind::UnexpectedEof)?.map_err(io::Error::other)?;
        match message {
            Message::Binary(bytes) => return decode(&bytes).map_err(io::Error::other),
            Message::Ping(_) | Message::Pong(_) => {}
            other @ (Message::Text(_) | Message::Close(_) | Message::Frame(_)) => {
                return Err(io::Error::other(format!("{other:?}")));
            }
        }
    }
}

/// Joins with keys of its own, made for this, and gives the session in which it was told of it.
///
/// # Errors
/// Where the connection broke, so that nobody knows whether it joined.
pub(crate) async fn join(token: &JoinToken, name: &str) -> io::Result<Result<(Welcome, Socket), Refusal>> {
    let (mut socket, exporter) = open(token).await?;
    let ToNode::Challenge(challenge) = next(&mut socket).await? else {
        return Err(io::Error::other("no challenge"));
    };
    let (identity, wireguard) = (IdentitySecret::from_bytes(random()), WireGuardSecret::from_bytes(random()));
    let introduction = Introduction {
        name: name.parse().unwrap(),
        cluster: token.cluster.clone(),
        prefixes: Vec::new(),
        version: "test".to_owned(),
        have: Have::default(),
        trust: Trust::Coordinator,
        identity: &identity,
        wireguard: &wireguard,
        token: Some((token.id, &token.seed)),
        evidence: Vec::new(),
    };
    let moment = challenge.request.moment(&exporter, 1, Bytes([1; 32]));
    let hello = introduction.answer(&challenge.request, &moment);
    say(&mut socket, &ToCoordinator::Hello(Box::new(hello))).await?;
    let answer = next(&mut socket).await?;
    if let ToNode::Welcome(welcome) = answer {
        Ok(Ok((welcome, socket)))
    } else if let ToNode::Refused(refusal) = answer {
        Ok(Err(refusal))
    } else {
        Err(io::Error::other(format!("{answer:?}")))
    }
}

/// Says something to the coordinator.
pub(crate) async fn say(socket: &mut Socket, message: &ToCoordinator) -> io::Result<()> {
    socket.send(Message::Binary(encode(message).into())).await.map_err(io::Error::other)
}

/// Nobody's secret but a test's.
fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes
        .chunks_mut(8)
        .for_each(|chunk| chunk.copy_from_slice(&RandomState::new().hash_one(0).to_ne_bytes()));
    bytes
}
