//! One session with the coordinator, from the connection to the netmap.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use carrick_client::{ConnectError, Connection, CoordinatorUrl, connect};
use carrick_types::{JoinToken, Revision};
use carrick_wire::{
    hello::Introduction,
    netmap::NetmapView,
    session::{
        DecodeError, MAX_TO_NODE, PATH, Refusal, RefusalCode, ToCoordinator, ToNode, Welcome, decode, encode,
    },
};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{self, Message, protocol::WebSocketConfig},
};

use crate::{
    netlink::TABLE,
    state::{Keys, Membership},
};

/// A coordinator pings every 10 seconds; after so much silence it is gone.
const SILENCE: Duration = Duration::from_secs(30);

/// How long each step of the opening may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A session in which the node is welcome.
#[derive(Debug)]
pub(crate) struct Session {
    socket: WebSocketStream<TlsStream<TcpStream>>,
    /// What the coordinator says of this node.
    pub(crate) welcome: Welcome,
    /// The coordinator's address.
    pub(crate) remote: SocketAddr,
    /// The address of this host that the session stands on.
    pub(crate) local: IpAddr,
    /// When the coordinator last said anything.
    heard: Instant,
}

/// Why there is no session, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// No URL of the coordinator could be used.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A URL makes no sense.
    #[error(transparent)]
    Url(#[from] carrick_client::ParseUrlError),
    /// The WebSocket broke.
    #[error("the session with the coordinator broke: {0}")]
    Broken(#[from] Box<tungstenite::Error>),
    /// The coordinator said nothing for too long.
    #[error("the coordinator has been silent for too long")]
    Silent,
    /// The address that the session stood on is no longer this host's.
    #[error("{0} is no longer an address of this host")]
    Moved(IpAddr),
    /// The coordinator closed the session.
    #[error("the coordinator closed the session")]
    Closed,
    /// The coordinator said something that is not understood.
    #[error("the coordinator is not understood: {0}")]
    NotUnderstood(#[from] DecodeError),
    /// The coordinator said something out of turn.
    #[error("the coordinator did not say what the protocol asks for: expected {0}")]
    OutOfTurn(&'static str),
    /// The coordinator refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl SessionError {
    /// Whether trying again may help without anybody changing anything.
    pub(crate) const fn is_transient(&self) -> bool {
        match self {
            Self::Refused(refusal) => refusal.code.is_transient(),
            Self::Connect(ConnectError::WrongCertificate { .. })
            | Self::Url(_)
            | Self::NotUnderstood(DecodeError::UnknownVersion(_)) => false,
            Self::Connect(_)
            | Self::Broken(_)
            | Self::Silent
            | Self::Moved(_)
            | Self::Closed
            | Self::NotUnderstood(_)
            | Self::OutOfTurn(_) => true,
        }
    }
}

impl From<tungstenite::Error> for SessionError {
    fn from(error: tungstenite::Error) -> Self {
        Self::Broken(Box::new(error))
    }
}

/// What a node brings to a session.
#[derive(Debug)]
pub(crate) struct Opening<'a> {
    pub(crate) membership: &'a Membership,
    pub(crate) keys: &'a Keys,
    pub(crate) token: Option<&'a JoinToken>,
    pub(crate) have: Option<Revision>,
    pub(crate) version: &'a str,
    /// Whether this process may mark its packets, so that they stay out of the tunnels.
    pub(crate) mark: bool,
}

impl Session {
    /// Connects to the first URL that answers, proves who this is, and is welcome.
    pub(crate) async fn open(opening: Opening<'_>) -> Result<Self, SessionError> {
        let Opened { mut socket, exporter, remote, local } = connect_any(&opening).await?;
        let mut heard = Instant::now();
        let challenge = match next(&mut socket, &mut heard, PATIENCE).await? {
            ToNode::Challenge(challenge) => challenge,
            ToNode::Refused(refusal) => return Err(refusal.into()),
            ToNode::Welcome(_) | ToNode::Netmap(_) | ToNode::Delta(_) => {
                return Err(SessionError::OutOfTurn("a challenge"));
            }
        };
        if challenge.mesh != opening.membership.mesh {
            return Err(Refusal {
                code: RefusalCode::WrongMesh,
                detail: format!(
                    "the token or state is of mesh {}, this coordinator serves mesh {}: get a token from the right one",
                    opening.membership.mesh, challenge.mesh
                ),
            }
            .into());
        }
        let hello = Introduction {
            name: opening.membership.name.clone(),
            cluster: opening.membership.cluster.clone(),
            prefixes: opening.membership.prefixes.clone(),
            version: opening.version.to_owned(),
            have: opening.have,
            identity: &opening.keys.identity,
            wireguard: &opening.keys.wireguard,
            token: opening.token.map(|token| (token.id, &token.seed)),
        }
        .answer(&challenge, &exporter);
        send(&mut socket, &ToCoordinator::Hello(Box::new(hello))).await?;
        match next(&mut socket, &mut heard, PATIENCE).await? {
            ToNode::Welcome(welcome) => Ok(Self { socket, welcome, remote, local, heard }),
            ToNode::Refused(refusal) => Err(refusal.into()),
            ToNode::Challenge(_) | ToNode::Netmap(_) | ToNode::Delta(_) => {
                Err(SessionError::OutOfTurn("a welcome"))
            }
        }
    }

    /// Waits for the next change and brings the view up to date. Cancel-safe.
    pub(crate) async fn update(&mut self, view: &mut Option<NetmapView>) -> Result<(), SessionError> {
        match next(&mut self.socket, &mut self.heard, SILENCE).await? {
            ToNode::Netmap(netmap) => {
                tracing::debug!(revision = %netmap.revision, "whole netmap");
                *view = Some(netmap.into());
            }
            ToNode::Delta(delta) => {
                tracing::debug!(from = %delta.from, to = %delta.to, "netmap changes");
                let applied = view.as_mut().map(|view| view.apply(delta));
                if !matches!(applied, Some(Ok(()))) {
                    *view = None;
                    return Err(SessionError::OutOfTurn("a delta that builds on the netmap at hand"));
                }
            }
            ToNode::Refused(refusal) => return Err(refusal.into()),
            ToNode::Challenge(_) | ToNode::Welcome(_) => {
                return Err(SessionError::OutOfTurn("a netmap or delta"));
            }
        }
        Ok(())
    }

    /// Tells the coordinator something.
    pub(crate) async fn send(&mut self, message: &ToCoordinator) -> Result<(), SessionError> {
        send(&mut self.socket, message).await
    }

    /// Says good-bye.
    pub(crate) async fn close(mut self) {
        let _ = timeout(Duration::from_secs(1), self.socket.close(None)).await;
    }
}

/// A WebSocket on which nothing was said yet.
struct Opened {
    socket: WebSocketStream<TlsStream<TcpStream>>,
    exporter: [u8; 32],
    remote: SocketAddr,
    local: IpAddr,
}

async fn connect_any(opening: &Opening<'_>) -> Result<Opened, SessionError> {
    let mut last = SessionError::Closed;
    for url in &opening.membership.urls {
        match connect_one(&url.parse()?, opening).await {
            Ok(opened) => return Ok(opened),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn connect_one(url: &CoordinatorUrl, opening: &Opening<'_>) -> Result<Opened, SessionError> {
    let mark = opening.mark.then_some(TABLE);
    let Connection { stream, exporter, remote, local } = connect(url, opening.membership.ca, mark).await?;
    let config =
        WebSocketConfig::default().max_message_size(Some(MAX_TO_NODE)).max_frame_size(Some(MAX_TO_NODE));
    let request = format!("wss://{}{PATH}", url.to_string().trim_start_matches("https://"));
    let upgrade = timeout(PATIENCE, client_async_with_config(request, stream, Some(config)));
    let (socket, _) = upgrade.await.map_err(|_| SessionError::Silent)??;
    Ok(Opened { socket, exporter, remote, local: local.ip() })
}

/// The next message; pings are answered on the way. Fails when nothing was heard for `patience`, however often it was called
/// since.
async fn next(
    socket: &mut WebSocketStream<TlsStream<TcpStream>>,
    heard: &mut Instant,
    patience: Duration,
) -> Result<ToNode, SessionError> {
    loop {
        let message = timeout_at(*heard + patience, socket.next()).await.map_err(|_| SessionError::Silent)?;
        *heard = Instant::now();
        match message.ok_or(SessionError::Closed)?? {
            Message::Binary(bytes) => return Ok(decode(&bytes)?),
            Message::Close(_) => return Err(SessionError::Closed),
            Message::Ping(_) | Message::Pong(_) => {}
            Message::Text(_) | Message::Frame(_) => return Err(SessionError::OutOfTurn("a binary message")),
        }
    }
}

async fn send(
    socket: &mut WebSocketStream<TlsStream<TcpStream>>,
    message: &ToCoordinator,
) -> Result<(), SessionError> {
    let sent = timeout(PATIENCE, socket.send(Message::Binary(encode(message).into()))).await;
    Ok(sent.map_err(|_| SessionError::Silent)??)
}
