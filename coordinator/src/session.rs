//! A node's session: the shell around `carrick_wire::session`, one task each.
//!
//! The task holds no queue. It remembers the revision that it sent last, and sends the difference to whatever state is current
//! when the socket takes more, so that a slow node costs no more than a fast one.

mod rate;

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use carrick_types::{ChallengeKey, NodeId, Revision, WireGuardSecret};
use carrick_wire::session::{
    Challenge, LinkReport, MAX_TO_COORDINATOR, MAX_TO_NODE, Refusal, RefusalCode, ToCoordinator, ToNode,
    Welcome, decode, encode,
};
use futures_util::StreamExt as _;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, timeout, timeout_at},
};
use tokio_tungstenite::tungstenite;
use tracing::{debug, info, warn};

use self::rate::Rate;
use crate::{
    admission,
    app::{App, now},
    connection::Connection,
    mesh::Mesh,
    netmap,
    presence::Place,
    refusal::Refused,
    state::{Membership, MeshState, NodeRecord},
};

/// How long a node may take to answer the challenge.
const HELLO: Duration = Duration::from_secs(10);
/// How long one write may take.
const WRITE: Duration = Duration::from_secs(10);
const PING: Duration = Duration::from_secs(10);
/// How long a node may say nothing, not even answer a ping.
const SILENCE: Duration = Duration::from_secs(30);
/// How long the last message may take to be read by the other end.
const LINGER: Duration = Duration::from_secs(3);

/// Why a session ended.
#[derive(Debug)]
enum End {
    Refused(Refused),
    /// The node said goodbye or its connection broke.
    Closed,
    /// The node did not read or did not write for too long.
    Silent,
    Stopping,
}

impl<R: Into<Refused>> From<R> for End {
    fn from(refused: R) -> Self {
        Self::Refused(refused.into())
    }
}

/// Serves one node until its session ends.
pub(crate) async fn run(socket: WebSocket, connection: Arc<Connection>, app: Arc<App>) {
    let mut session = Session { socket, connection, app, node: None, heard: Instant::now() };
    let end = match session.serve().await {
        Ok(never) => match never {},
        Err(end) => end,
    };
    session.finish(end).await;
}

enum Never {}

struct Session {
    socket: WebSocket,
    connection: Arc<Connection>,
    app: Arc<App>,
    /// Once the node has proven who it is.
    node: Option<NodeId>,
    heard: Instant,
}

/// How often a node may say what.
struct Rates {
    messages: Rate,
    endpoints: Rate,
    links: Rate,
}

impl Session {
    async fn serve(&mut self) -> Result<Never, End> {
        let (node, have) = self.greet().await?;
        let mut place = self.app.presence.enter(node.id);
        let mut states = self.app.mesh.watch();
        let welcome = Welcome {
            node: node.id,
            name: node.name.clone(),
            cluster: node.cluster.clone(),
            observed_ip: self.connection.peer.ip(),
            stun_port: Some(self.app.stun_port),
        };
        self.send(&ToNode::Welcome(welcome)).await?;
        let mut sent = self.first_netmap(&mut states, node.id, have).await?;
        info!(node = %node.id, name = %node.name, peer = %self.connection.peer, revision = %sent, "session opened");

        let mut rates = Rates {
            messages: Rate::new(100, 20.0),
            endpoints: Rate::new(10, 2.0),
            links: Rate::new(10, 2.0),
        };
        let mut unstored = None;
        let mut pings = interval(PING);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let shutdown = self.app.shutdown.clone();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Err(End::Stopping),
                () = place.superseded.cancelled() => return Err(Refused::Superseded.into()),
                changed = states.changed() => {
                    changed.map_err(|_| End::Stopping)?;
                    sent = self.next_delta(&mut states, node.id, sent).await?;
                }
                message = self.socket.next() => {
                    if !rates.messages.allows(Instant::now()) {
                        return Err(Refused::Protocol("too many messages").into());
                    }
                    if let Some(message) = self.understand(message)? {
                        self.handle(message, node.id, &mut place, &mut rates, &mut unstored).await?;
                    }
                }
                _ = pings.tick() => {
                    if self.heard.elapsed() > SILENCE {
                        return Err(End::Silent);
                    }
                    self.write(Message::Ping(Default::default())).await?;
                    store_endpoints(&self.app.mesh, node.id, &mut unstored).await;
                }
            }
        }
    }

    /// Challenge, hello, and whether the node is let in.
    async fn greet(&mut self) -> Result<(Arc<NodeRecord>, Option<Revision>), End> {
        let mut random = [0; 64];
        getrandom::fill(&mut random).map_err(|_| Refused::Stopping)?;
        let (nonce, secret) = random.split_at(32);
        let secret = WireGuardSecret::from_bytes(secret.try_into().map_err(|_| Refused::Stopping)?);
        let challenge = Challenge {
            mesh: self.app.id,
            nonce: nonce.try_into().map_err(|_| Refused::Stopping)?,
            // An X25519 public key of an honest secret is never of low order.
            challenge_key: ChallengeKey::from_bytes(*secret.public().as_bytes())
                .map_err(|_| Refused::Stopping)?,
        };
        self.send(&ToNode::Challenge(challenge.clone())).await?;

        let deadline = Instant::now() + HELLO;
        let hello = loop {
            let message = timeout_at(deadline, self.socket.next()).await.map_err(|_| End::Silent)?;
            match self.understand(message)? {
                Some(ToCoordinator::Hello(hello)) => break hello,
                Some(ToCoordinator::Endpoints { .. } | ToCoordinator::Links { .. }) => {
                    return Err(Refused::Protocol("the first message of a session is a hello").into());
                }
                None => {}
            }
        };
        let have = hello.have;
        let proven = hello.verify(&challenge, &secret, &self.connection.exporter).map_err(Refused::from)?;
        self.node = Some(NodeId::of(&proven.get().identity_key));
        let node = self.app.mesh.join(proven, now()).await?;
        self.connection.slot.known();
        Ok((node, have))
    }

    /// Sends what the node missed where it can build on what it has, else everything.
    async fn first_netmap(
        &mut self,
        states: &mut watch::Receiver<Arc<MeshState>>,
        id: NodeId,
        have: Option<Revision>,
    ) -> Result<Revision, End> {
        let state = states.borrow_and_update().clone();
        check_active(&state, id)?;
        match have.filter(|have| *have <= state.revision) {
            Some(have) => {
                let delta = netmap::delta(&state, id, have).ok_or(Refused::Stopping)?;
                self.send(&ToNode::Delta(delta)).await?;
            }
            None => {
                let netmap = netmap::whole(&state, id).ok_or(Refused::Stopping)?;
                self.send(&ToNode::Netmap(netmap)).await?;
            }
        }
        Ok(state.revision)
    }

    async fn next_delta(
        &mut self,
        states: &mut watch::Receiver<Arc<MeshState>>,
        id: NodeId,
        sent: Revision,
    ) -> Result<Revision, End> {
        let state = states.borrow_and_update().clone();
        check_active(&state, id)?;
        if state.revision > sent {
            let delta = netmap::delta(&state, id, sent).ok_or(Refused::Stopping)?;
            self.send(&ToNode::Delta(delta)).await?;
        }
        Ok(state.revision)
    }

    async fn handle(
        &mut self,
        message: ToCoordinator,
        id: NodeId,
        place: &mut Place,
        rates: &mut Rates,
        unstored: &mut Option<Vec<SocketAddr>>,
    ) -> Result<(), End> {
        match message {
            ToCoordinator::Hello(_) => Err(Refused::Protocol("a second hello").into()),
            ToCoordinator::Endpoints { candidates } => {
                if !rates.endpoints.allows(Instant::now()) {
                    return Err(Refused::Protocol("endpoints change too often").into());
                }
                *unstored = Some(admission::endpoints(&candidates)?);
                store_endpoints(&self.app.mesh, id, unstored).await;
                Ok(())
            }
            ToCoordinator::Links { links } => {
                if !rates.links.allows(Instant::now()) {
                    return Err(Refused::Protocol("links are reported too often").into());
                }
                place.report(known_links(&self.app.mesh.state(), id, links));
                Ok(())
            }
        }
    }

    fn understand(
        &mut self,
        message: Option<Result<Message, axum::Error>>,
    ) -> Result<Option<ToCoordinator>, End> {
        self.heard = Instant::now();
        match message {
            None | Some(Ok(Message::Close(_))) => Err(End::Closed),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(None),
            Some(Ok(Message::Text(_))) => {
                Err(Refused::Protocol("a text frame: session messages are binary").into())
            }
            Some(Ok(Message::Binary(bytes))) if bytes.len() > MAX_TO_COORDINATOR => {
                Err(Refused::Protocol("a message is longer than 256 KiB").into())
            }
            Some(Ok(Message::Binary(bytes))) => Ok(Some(decode(&bytes).map_err(Refused::from)?)),
            Some(Err(error)) => Err(broken(error)),
        }
    }

    async fn send(&mut self, message: &ToNode) -> Result<(), End> {
        let bytes = encode(message);
        if bytes.len() > MAX_TO_NODE {
            return Err(Refused::Protocol("the mesh is too large for one netmap").into());
        }
        self.write(Message::Binary(bytes.into())).await
    }

    async fn write(&mut self, message: Message) -> Result<(), End> {
        match timeout(WRITE, self.socket.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Closed),
            Err(_) => Err(End::Silent),
        }
    }

    /// Says why, says goodbye, and waits a moment for the other end to have read it.
    async fn finish(&mut self, end: End) {
        let peer = self.connection.peer;
        let node = self.node.map(tracing::field::display);
        let close = match end {
            End::Closed => {
                debug!(node, %peer, "session closed by the node");
                return;
            }
            End::Silent => {
                info!(node, %peer, "session closed: nothing heard");
                CloseFrame { code: close_code::POLICY, reason: "nothing heard".into() }
            }
            End::Stopping => {
                CloseFrame { code: close_code::AWAY, reason: "the coordinator is stopping".into() }
            }
            End::Refused(refused) => {
                let refusal = Refusal::from(&refused);
                if refusal.code == RefusalCode::Protocol {
                    warn!(node, %peer, reason = %refused, "session not understood");
                } else {
                    info!(node, %peer, code = ?refusal.code, reason = %refused, "session refused");
                }
                self.app.metrics.refused(refusal.code);
                let code = refusal.code;
                if self.send(&ToNode::Refused(refusal)).await.is_err() {
                    return;
                }
                CloseFrame { code: close_code::POLICY, reason: format!("{code:?}").into() }
            }
        };
        let goodbye = async {
            self.write(Message::Close(Some(close))).await?;
            loop {
                match self.socket.next().await {
                    Some(Ok(_)) => {}
                    None => return Ok::<(), End>(()),
                    // What the node still sends cannot be read. Were the socket closed now, the answer could be lost with it.
                    Some(Err(_)) => std::future::pending().await,
                }
            }
        };
        let _ = timeout(LINGER, goodbye).await;
    }
}

/// Stores the endpoints that are not stored yet. Where the store cannot write, they wait for the next ping.
async fn store_endpoints(mesh: &Mesh, id: NodeId, unstored: &mut Option<Vec<SocketAddr>>) {
    if let Some(endpoints) = unstored.as_ref() {
        match mesh.set_endpoints(id, endpoints.clone()).await {
            Ok(()) => *unstored = None,
            Err(error) => debug!(node = %id, %error, "endpoints not stored yet"),
        }
    }
}

fn check_active(state: &MeshState, id: NodeId) -> Result<(), Refused> {
    match state.nodes.get(&id).map(|node| &node.membership) {
        Some(Membership::Active) => Ok(()),
        Some(Membership::Revoked(_)) | None => Err(Refused::Revoked),
    }
}

/// The reports on tunnels to peers that exist, one each.
fn known_links(state: &MeshState, id: NodeId, links: Vec<LinkReport>) -> Vec<LinkReport> {
    let known = |link: &LinkReport| {
        link.peer != id && state.nodes.get(&link.peer).is_some_and(|peer| peer.is_active())
    };
    let links: BTreeMap<_, _> = links.into_iter().filter(known).map(|link| (link.peer, link)).collect();
    links.into_values().collect()
}

/// What a broken stream means: junk from the node, or the end of its connection.
fn broken(error: axum::Error) -> End {
    use tungstenite::error::ProtocolError;
    match error.into_inner().downcast_ref::<tungstenite::Error>() {
        Some(tungstenite::Error::Capacity(_)) => Refused::Protocol("a message is longer than 256 KiB").into(),
        Some(tungstenite::Error::Protocol(error))
            if *error != ProtocolError::ResetWithoutClosingHandshake =>
        {
            Refused::Protocol("the WebSocket framing is broken").into()
        }
        Some(tungstenite::Error::Utf8(_)) => {
            Refused::Protocol("a text frame: session messages are binary").into()
        }
        Some(_) | None => End::Closed,
    }
}
