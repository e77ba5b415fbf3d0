//! One session with the coordinator, from the connection to the netmap.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use carrick_attest::{Evidence, tpm};
use carrick_client::{ConnectError, Connection, CoordinatorUrl, connect};
use carrick_trust::Distrust;
use carrick_types::{CaPin, ClusterName, NodeName};
use carrick_wire::{
    hello::Hello,
    session::{
        Challenge, DecodeError, MAX_TO_NODE, PATH, Refusal, ToCoordinator, ToNode, Welcome, decode, encode,
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
    attester::AttesterError,
    identity::{Progress, Question},
    netlink::MARK,
};

/// A coordinator pings every 5 seconds; after so much silence it is gone. Less than the longest lease, so that a coordinator
/// that vanished is told from one that vouches no more.
const SILENCE: Duration = Duration::from_secs(15);

/// How long each step of the opening may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A session that the coordinator has begun, and in which the node has not said who it is.
#[derive(Debug)]
pub(crate) struct Opening {
    socket: WebSocketStream<TlsStream<TcpStream>>,
    /// What the node must answer.
    pub(crate) challenge: Challenge,
    /// What both ends exported of the TLS session.
    pub(crate) exporter: [u8; 32],
    remote: SocketAddr,
    local: IpAddr,
    heard: Instant,
}

/// A session in which the node is welcome.
#[derive(Debug)]
pub(crate) struct Session {
    socket: WebSocketStream<TlsStream<TcpStream>>,
    /// What the coordinator says of this node.
    pub(crate) welcome: Welcome,
    /// What both ends exported of the TLS session.
    pub(crate) exporter: [u8; 32],
    /// When the hello was sent, that the welcome answers.
    pub(crate) since: std::time::Instant,
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
    /// The coordinator calls this node something that it did not ask to be.
    #[error(
        "the coordinator calls this node {} in {}, and it asked to be {} in {}: join by the name that it was taken in with (--name), or with \
         an empty state directory",
        is.0, is.1, asked.0, asked.1
    )]
    Renamed {
        /// Its name and its cluster, as the coordinator says.
        is: (NodeName, ClusterName),
        /// As they are here.
        asked: (NodeName, ClusterName),
    },
    /// The coordinator refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The coordinator is not believed.
    #[error(transparent)]
    Distrusted(#[from] Distrust),
    /// There is no evidence to show.
    #[error(transparent)]
    Evidence(#[from] AttesterError),
}

impl SessionError {
    /// Whether trying again may help without anybody changing anything.
    pub(crate) const fn is_transient(&self) -> bool {
        match self {
            Self::Refused(refusal) => refusal.code.is_transient(),
            Self::Connect(ConnectError::WrongCertificate { .. })
            | Self::Url(_)
            | Self::NotUnderstood(DecodeError::UnknownVersion(_))
            | Self::Distrusted(_)
            | Self::Renamed { .. }
            | Self::Evidence(AttesterError::Missing { .. }) => false,
            Self::Connect(_)
            | Self::Broken(_)
            | Self::Silent
            | Self::Moved(_)
            | Self::Closed
            | Self::NotUnderstood(_)
            | Self::Evidence(AttesterError::Device { .. })
            | Self::OutOfTurn(_) => true,
        }
    }
}

impl From<tungstenite::Error> for SessionError {
    fn from(error: tungstenite::Error) -> Self {
        Self::Broken(Box::new(error))
    }
}

/// Where a coordinator is, and how it is known.
#[derive(Debug, Clone)]
pub(crate) struct Coordinates {
    pub(crate) urls: Vec<String>,
    pub(crate) ca: CaPin,
    /// Whether this process may mark its packets, so that they stay out of the tunnels.
    pub(crate) mark: bool,
}

impl Opening {
    /// Connects to the first URL that answers, and is challenged.
    pub(crate) async fn connect(coordinates: Coordinates) -> Result<Self, SessionError> {
        let Opened { mut socket, exporter, remote, local } = connect_any(&coordinates).await?;
        let mut heard = Instant::now();
        let ToNode::Challenge(challenge) = next(&mut socket, &mut heard, PATIENCE).await? else {
            return Err(SessionError::OutOfTurn("a challenge"));
        };
        Ok(Self { socket, challenge, exporter, remote, local, heard })
    }

    /// Gathers what is to be shown, with the coordinator's help where a TPM takes it.
    pub(crate) async fn gather(
        &mut self,
        question: Question,
    ) -> Result<(Question, Vec<Evidence>), SessionError> {
        let mut progress = question.begin().await?;
        loop {
            match progress {
                Progress::Done(question, evidence) => return Ok((question, evidence)),
                Progress::Waiting(question, keys) => {
                    let credential = self.credential(*keys).await?;
                    progress = question.resume(&credential).await?;
                }
            }
        }
    }

    async fn credential(&mut self, keys: tpm::Keys) -> Result<tpm::Credential, SessionError> {
        send(&mut self.socket, &ToCoordinator::Activate(Box::new(keys))).await?;
        // It was heard before the keys were made, which may have taken a while.
        self.heard = self.heard.max(Instant::now());
        let ToNode::Credential(credential) = next(&mut self.socket, &mut self.heard, PATIENCE).await? else {
            return Err(SessionError::OutOfTurn("a credential"));
        };
        Ok(*credential)
    }

    /// Says who this is, and is welcome or not.
    pub(crate) async fn introduce(self, hello: Hello) -> Result<Session, SessionError> {
        let Self { mut socket, exporter, remote, local, mut heard, .. } = self;
        let since = std::time::Instant::now();
        send(&mut socket, &ToCoordinator::Hello(Box::new(hello))).await?;
        // It was heard before the evidence was made, which may have taken a while.
        heard = heard.max(Instant::now());
        let ToNode::Welcome(welcome) = next(&mut socket, &mut heard, PATIENCE).await? else {
            return Err(SessionError::OutOfTurn("a welcome"));
        };
        Ok(Session { socket, welcome, exporter, since, remote, local, heard })
    }
}

impl Session {
    /// Waits for the next message. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<ToNode, SessionError> {
        let news = next(&mut self.socket, &mut self.heard, SILENCE).await?;
        if matches!(news, ToNode::Challenge(_) | ToNode::Welcome(_)) {
            return Err(SessionError::OutOfTurn("news"));
        }
        Ok(news)
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

async fn connect_any(coordinates: &Coordinates) -> Result<Opened, SessionError> {
    let mut last = SessionError::Closed;
    for url in &coordinates.urls {
        match connect_one(&url.parse()?, coordinates).await {
            Ok(opened) => return Ok(opened),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn connect_one(url: &CoordinatorUrl, coordinates: &Coordinates) -> Result<Opened, SessionError> {
    let mark = coordinates.mark.then_some(MARK);
    let Connection { stream, exporter, remote, local } = connect(url, coordinates.ca, mark).await?;
    let config =
        WebSocketConfig::default().max_message_size(Some(MAX_TO_NODE)).max_frame_size(Some(MAX_TO_NODE));
    let request = format!("wss://{}{PATH}", url.to_string().trim_start_matches("https://"));
    let upgrade = timeout(PATIENCE, client_async_with_config(request, stream, Some(config)));
    let (socket, _) = upgrade.await.map_err(|_| SessionError::Silent)??;
    Ok(Opened { socket, exporter, remote, local: local.ip() })
}

/// The next message that is no refusal; pings are answered on the way. Fails when nothing was heard for `patience`, however often it was called
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
            Message::Binary(bytes) => {
                let said = decode(&bytes)?;
                return if let ToNode::Refused(refusal) = said { Err(refusal.into()) } else { Ok(said) };
            }
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
