//! A node's session: the shell around `carrick_wire::session`, one task each.
//!
//! The task holds no queue. It remembers the revision that it sent last, and sends the difference to whatever state is current
//! when the socket takes more, so that a slow node costs no more than a fast one.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use carrick_attest::{
    Bytes, Kind, Subject,
    tpm::{Activation, Keys},
};
use carrick_types::{ChallengeKey, MeshId, NodeId, Revision, UnixTime, WireGuardSecret};
use carrick_wire::{
    hello::{Head, Heartbeat, Hello, Proof, Request},
    session::{
        Beat, Challenge, Demand, LinkReport, MAX_TO_COORDINATOR, MAX_TO_NODE, Proven, Refusal, RefusalCode,
        ToCoordinator, ToNode, Welcome, decode, encode,
    },
};
use futures_util::StreamExt as _;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, timeout, timeout_at},
};
use tokio_tungstenite::tungstenite;
use tracing::{debug, info, warn};

use crate::{
    activation,
    admission::{self, ProvenHello},
    app::{App, now},
    connection::Connection,
    leases::EVIDENCE,
    mesh::Mesh,
    netmap,
    presence::Place,
    rate::Rate,
    refusal::Refused,
    state::{MeshState, NodeRecord, Suspension},
};

/// How long a node may take to answer the challenge.
const HELLO: Duration = Duration::from_secs(10);
/// How long one write may take.
const WRITE: Duration = Duration::from_secs(10);
/// How long a session may wait for somebody to look after leases.
const VOUCH: Duration = Duration::from_secs(5);
const PING: Duration = Duration::from_secs(5);
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
    let mut session = Session {
        socket,
        connection,
        app,
        node: None,
        bundle: 0,
        known: None,
        asked: None,
        activation: None,
        heard: Instant::now(),
    };
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
    /// The version of the policy bundle that the node was told last.
    bundle: u64,
    /// What the node was told last, once it was told anything.
    known: Option<Known>,
    /// What the node was asked to prove itself against, and has not answered yet.
    asked: Option<Asked>,
    /// The credential that the node was given, and has not used yet.
    activation: Option<Activation>,
    heard: Instant,
}

/// What a node has been told.
#[derive(Debug, Clone, Copy)]
struct Known {
    revision: Revision,
    /// The head of the log that it has seen.
    log: Option<Head>,
}

/// A request for evidence.
struct Asked {
    request: Request,
    secret: WireGuardSecret,
    /// The demand that it passes on, where there was one.
    demand: Option<UnixTime>,
    until: Instant,
}

impl Asked {
    /// Whether an answer is in time.
    fn is_open(&self, now: Instant) -> bool {
        now < self.until
    }
}

/// What a session keeps of its node.
struct Member {
    id: NodeId,
    place: Place,
    rates: Rates,
    /// Endpoints that could not be stored yet.
    unstored: Option<Vec<SocketAddr>>,
    /// The number of the last heartbeat.
    heartbeat: Option<u64>,
}

/// How often a node may say what.
struct Rates {
    messages: Rate,
    endpoints: Rate,
    links: Rate,
    proofs: Rate,
}

impl Session {
    async fn serve(&mut self) -> Result<Never, End> {
        let (node, hello) = self.greet().await?;
        let place = self.app.presence.enter(node.id);
        let mut states = self.app.mesh.watch();
        self.app.leases.heard(node.id);
        let welcome = Welcome {
            node: node.id,
            name: node.name.clone(),
            cluster: node.cluster.clone(),
            observed_ip: self.connection.peer.ip(),
            stun_port: Some(self.app.stun_port),
        };
        self.send(&ToNode::Welcome(welcome)).await?;
        let sent = self.first_netmap(&mut states, node.id, &hello).await?;
        info!(node = %node.id, name = %node.name, peer = %self.connection.peer, revision = %sent, "session opened");

        let mut member = Member {
            id: node.id,
            place,
            rates: Rates {
                messages: Rate::new(100, 20.0),
                endpoints: Rate::new(10, 2.0),
                links: Rate::new(10, 2.0),
                proofs: Rate::new(10, 0.1),
            },
            unstored: None,
            heartbeat: None,
        };
        let mut pings = interval(PING);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let shutdown = self.app.shutdown.clone();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Err(End::Stopping),
                () = member.place.superseded.cancelled() => return Err(Refused::Superseded.into()),
                changed = states.changed() => {
                    changed.map_err(|_| End::Stopping)?;
                    self.tell_changes(&mut states, member.id).await?;
                }
                () = member.place.wanted.notified() => self.ask(member.id).await?,
                message = self.socket.next() => {
                    if !member.rates.messages.allows(Instant::now()) {
                        return Err(Refused::Protocol("too many messages").into());
                    }
                    if let Some(message) = self.understand(message)? {
                        self.handle(message, &mut member, &mut states).await?;
                    }
                }
                _ = pings.tick() => {
                    if self.heard.elapsed() > SILENCE {
                        return Err(End::Silent);
                    }
                    self.write(Message::Ping(Default::default())).await?;
                    store_endpoints(&self.app.mesh, member.id, &mut member.unstored).await;
                    self.ask_where_due(member.id).await?;
                }
            }
        }
    }

    /// Challenge, hello, and whether the node is let in.
    async fn greet(&mut self) -> Result<(Arc<NodeRecord>, Hello), End> {
        let state = self.app.mesh.state();
        let (request, secret) = request(state.mesh, state.log.head)?;
        // Whoever calls gets the bundle before it proves anything: it says what there is to prove, and its version is part of the
        // transcript. Nothing in it is a secret.
        let bundle = state.bundle.signed.clone();
        self.send(&ToNode::Challenge(Challenge { request: request.clone(), bundle })).await?;
        self.bundle = state.policy().version;

        let tpms = takes_tpms(&state);
        let deadline = Instant::now() + if tpms { EVIDENCE } else { HELLO };
        let hello = loop {
            let message = timeout_at(deadline, self.socket.next()).await.map_err(|_| End::Silent)?;
            match self.understand(message)? {
                Some(ToCoordinator::Hello(hello)) => break *hello,
                // Once: making a credential costs about as much as the handshake that brought the node here.
                Some(ToCoordinator::Activate(keys)) if tpms && self.activation.is_none() => {
                    self.activate(*keys).await?;
                }
                Some(_) => return Err(Refused::Protocol("the first message of a session is a hello").into()),
                None => {}
            }
        };
        let subject = Subject {
            mesh: self.app.id,
            cluster: hello.cluster.clone(),
            identity_key: hello.identity_key,
            wireguard_key: hello.proof.wireguard_key,
        };
        let verified = hello.proof.verify(&subject, &request, &secret, &self.connection.exporter, now());
        let joined = match verified {
            Ok(statements) => {
                self.node = Some(NodeId::of(&hello.identity_key));
                match activation::confirm(self.activation.take(), &subject, &statements) {
                    Ok(()) => {
                        let proven = ProvenHello { hello: hello.clone(), subject, statements };
                        self.join(proven).await
                    }
                    Err(refused) => Err(refused),
                }
            }
            Err(unproven) => Err(unproven.into()),
        };
        match joined {
            Ok(node) => {
                self.connection.slot.known();
                Ok((node, hello))
            }
            Err(refused) => {
                // Nobody who proves nothing is called a node.
                let refusal = refused.shown(self.node, &hello.name, &hello.cluster, now());
                if self.app.refusals.lock().await.allows(Instant::now()) {
                    self.app.mesh.note_refusal(refusal).await;
                }
                Err(refused.into())
            }
        }
    }

    /// Asks the mesh, unless evidence that is no good can be refused without it.
    async fn join(&mut self, mut proven: ProvenHello) -> Result<Arc<NodeRecord>, Refused> {
        let state = self.app.mesh.state();
        if admission::is_of_a_stranger(&state, &proven) {
            let _turn = self.app.strangers.acquire().await.map_err(|_| Refused::Stopping)?;
            let previewed = tokio::task::spawn_blocking(move || {
                admission::preview(&state, &proven, now()).map(|()| proven)
            });
            proven = previewed.await.map_err(|_| Refused::Stopping)??;
        }
        self.app.mesh.join(proven, now()).await
    }

    /// Makes a node a credential that only the TPM with its keys can open.
    async fn activate(&mut self, keys: Keys) -> Result<(), End> {
        let (activation, credential) = activation::begin(keys)?;
        self.send(&ToNode::Credential(Box::new(credential))).await?;
        self.activation = Some(activation);
        Ok(())
    }

    /// Sends what the node missed where it can build on what it has, else everything.
    async fn first_netmap(
        &mut self,
        states: &mut watch::Receiver<Arc<MeshState>>,
        id: NodeId,
        hello: &Hello,
    ) -> Result<Revision, End> {
        // It vouches for the netmap, as the answer to a heartbeat does.
        timeout(VOUCH, self.app.leases.vouching()).await.map_err(|_| Refused::Stopping)?;
        let state = states.borrow_and_update().clone();
        check_member(&state, id)?;
        let changed = self.tell_bundle(&state).await?;
        let have = hello.have;
        let same_log = have.log.is_some_and(|log| netmap::is_of_this_log(&state, log));
        let log = match have.revision.filter(|revision| same_log && !changed && *revision <= state.revision) {
            Some(revision) => self.send_delta(&state, id, revision, have.log).await?,
            None => self.send_netmap(&state, id, have.log).await?,
        };
        self.known = Some(Known { revision: state.revision, log });
        Ok(state.revision)
    }

    /// Tells the node what changed since it was told last.
    async fn tell_changes(
        &mut self,
        states: &mut watch::Receiver<Arc<MeshState>>,
        id: NodeId,
    ) -> Result<(), End> {
        let state = states.borrow_and_update().clone();
        check_member(&state, id)?;
        let Some(known) = self.known else { return Ok(()) };
        let mut log = known.log;
        if self.tell_bundle(&state).await? {
            // Peers that were not good enough may be so now, and the other way round.
            log = self.send_netmap(&state, id, log).await?;
        } else if state.revision > known.revision {
            log = self.send_delta(&state, id, known.revision, log).await?;
        }
        self.known = Some(Known { revision: state.revision, log });
        Ok(())
    }

    /// Sends the policy bundle where it is newer than the one that the node has. Whether it is.
    async fn tell_bundle(&mut self, state: &MeshState) -> Result<bool, End> {
        let newer = state.policy().version > self.bundle;
        if newer {
            self.send(&ToNode::Bundle(Box::new(state.bundle.signed.clone()))).await?;
            self.bundle = state.policy().version;
        }
        Ok(newer)
    }

    /// The head of the log that the node has seen then.
    async fn send_netmap(
        &mut self,
        state: &MeshState,
        id: NodeId,
        seen: Option<Head>,
    ) -> Result<Option<Head>, End> {
        let netmap = netmap::whole(state, id, seen).ok_or(Refused::Stopping)?;
        self.send(&ToNode::Netmap(netmap)).await?;
        Ok(Some(state.log.head))
    }

    /// The head of the log that the node has seen then.
    async fn send_delta(
        &mut self,
        state: &MeshState,
        id: NodeId,
        since: Revision,
        seen: Option<Head>,
    ) -> Result<Option<Head>, End> {
        let delta = netmap::delta(state, id, since, seen).ok_or(Refused::Stopping)?;
        let seen = if delta.log.is_some() { Some(state.log.head) } else { seen };
        self.send(&ToNode::Delta(delta)).await?;
        Ok(seen)
    }

    async fn handle(
        &mut self,
        message: ToCoordinator,
        member: &mut Member,
        states: &mut watch::Receiver<Arc<MeshState>>,
    ) -> Result<(), End> {
        match message {
            ToCoordinator::Hello(_) => Err(Refused::Protocol("a second hello").into()),
            ToCoordinator::Activate(keys) => {
                // A later one takes the place of the earlier one.
                if self.asked.is_none() || !member.rates.proofs.allows(Instant::now()) {
                    return Err(Refused::Protocol("a node wants credentials unasked, or too often").into());
                }
                self.activate(*keys).await
            }
            ToCoordinator::Endpoints { candidates } => {
                if !member.rates.endpoints.allows(Instant::now()) {
                    return Err(Refused::Protocol("endpoints change too often").into());
                }
                member.unstored = Some(admission::endpoints(&candidates)?);
                store_endpoints(&self.app.mesh, member.id, &mut member.unstored).await;
                Ok(())
            }
            ToCoordinator::Links { links } => {
                if !member.rates.links.allows(Instant::now()) {
                    return Err(Refused::Protocol("links are reported too often").into());
                }
                member.place.report(known_links(&self.app.mesh.state(), member.id, links));
                Ok(())
            }
            ToCoordinator::Heartbeat(heartbeat) => self.beat(&heartbeat, member, states).await,
            ToCoordinator::Renew => {
                if !member.rates.proofs.allows(Instant::now()) {
                    return Err(Refused::Protocol("a node asks to be asked too often").into());
                }
                self.ask(member.id).await
            }
            ToCoordinator::Attested(proof) => self.renew(&proof, member.id).await,
            ToCoordinator::Prove { old, new } => {
                if !member.rates.proofs.allows(Instant::now()) {
                    return Err(Refused::Protocol("proofs are asked for too often").into());
                }
                let proof = netmap::consistency(&self.app.mesh.state(), old, new).unwrap_or_default();
                self.send(&ToNode::Proven(Proven { old, new, proof })).await
            }
        }
    }

    /// A node runs on: it is told what it missed, and that all of it is current.
    async fn beat(
        &mut self,
        heartbeat: &Heartbeat,
        member: &mut Member,
        states: &mut watch::Receiver<Arc<MeshState>>,
    ) -> Result<(), End> {
        let state = self.app.mesh.state();
        let node = check_member(&state, member.id)?;
        heartbeat.verify(&node.identity_key, &self.connection.exporter).map_err(Refused::from)?;
        if member.heartbeat.is_some_and(|last| heartbeat.sequence <= last) {
            return Err(Refused::Protocol("a heartbeat that was sent before").into());
        }
        member.heartbeat = Some(heartbeat.sequence);
        let granted = node.statements().iter().find(|statement| statement.evidence.kind() == Kind::Identity);
        if granted.is_some_and(|statement| statement.moment.runtime_digest != heartbeat.runtime_digest) {
            let why = "its agent is not the one that it was granted a key for".to_owned();
            self.app
                .mesh
                .suspend(member.id, Suspension::Evidence { why }, now())
                .await
                .map_err(Refused::from)?;
            return Err(Refused::Protocol("the agent's executable changed while it ran").into());
        }
        self.app.leases.heard(member.id);
        // Read after it was heard: whoever suspends it for its silence now looks again, and finds that it was heard.
        if self.app.mesh.state().nodes.get(&member.id).is_some_and(|node| !node.is_active()) {
            self.app.mesh.resume(member.id, now()).await.map_err(Refused::from)?;
        }
        self.tell_changes(states, member.id).await?;
        let Some(known) = self.known.filter(|_| self.app.leases.vouches()) else { return Ok(()) };
        self.send(&ToNode::Beat(Beat { sequence: heartbeat.sequence, revision: known.revision })).await
    }

    /// Asks the node to show what it is, unless it was asked already.
    async fn ask(&mut self, id: NodeId) -> Result<(), End> {
        if self.asked.as_ref().is_some_and(|asked| asked.is_open(Instant::now())) {
            return Ok(());
        }
        let state = self.app.mesh.state();
        let demand = check_member(&state, id)?.demanded_at;
        // Under a bundle that the node does not have yet it cannot check the log; it is told the bundle next, and asked then.
        let Some(known) = self.known.filter(|_| self.bundle == state.policy().version) else { return Ok(()) };
        let (request, secret) = request(state.mesh, state.log.head)?;
        let log = netmap::log_news(&state, known.log);
        self.send(&ToNode::Attest(Demand { request: request.clone(), log })).await?;
        self.known = Some(Known { log: Some(state.log.head), ..known });
        self.asked = Some(Asked { request, secret, demand, until: Instant::now() + EVIDENCE });
        self.activation = None;
        Ok(())
    }

    async fn ask_where_due(&mut self, id: NodeId) -> Result<(), End> {
        let state = self.app.mesh.state();
        let node = check_member(&state, id)?;
        let after = state.policy_of(node).reattest_after();
        let due = node.evidence_since().is_some_and(|since| now().saturating_since(since) >= after);
        if due || node.lacks_evidence() || node.demanded_at.is_some() { self.ask(id).await } else { Ok(()) }
    }

    /// New evidence: a new grant, or none any more.
    async fn renew(&mut self, proof: &Proof, id: NodeId) -> Result<(), End> {
        let asked = self.asked.take().ok_or(Refused::Protocol("evidence that nobody asked for"))?;
        // It says what the node was when it was asked. Whoever holds it back may be something else by now.
        if !asked.is_open(Instant::now()) {
            return self.ask(id).await;
        }
        let state = self.app.mesh.state();
        let node = check_member(&state, id)?;
        let subject = Subject { wireguard_key: proof.wireguard_key, ..node.subject(state.mesh) };
        let exporter = &self.connection.exporter;
        let verified = proof.verify(&subject, &asked.request, &asked.secret, exporter, now());
        let statements = verified.map_err(Refused::from)?;
        let renewed = match activation::confirm(self.activation.take(), &subject, &statements) {
            Ok(()) => self.app.mesh.renew(id, proof.wireguard_key, statements, asked.demand, now()).await,
            Err(refused) => Err(refused),
        };
        match renewed {
            // A demand that came after the request is not answered yet.
            Ok(_) => self.ask_where_due(id).await,
            Err(refused) => {
                let shown = refused.shown(Some(id), &node.name, &node.cluster, now());
                let suspended = if let Refused::Evidence(rejection) = &refused {
                    // Whoever is not what it was is cut off at once, and may show something better.
                    warn!(node = %id, why = %rejection.why, "evidence refused");
                    let why = Suspension::Evidence { why: rejection.why.clone() };
                    self.app.mesh.suspend(id, why, now()).await.map_err(Refused::from)
                } else {
                    Err(refused)
                };
                self.app.mesh.note_refusal(shown).await;
                Ok(suspended?)
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

/// Whether some cluster takes evidence of a TPM.
fn takes_tpms(state: &MeshState) -> bool {
    let bundle = state.policy();
    let mut accepted = bundle.clusters.values().chain([&bundle.default]).flat_map(|policy| &policy.accept);
    accepted.any(|set| set.contains(&Kind::Tpm))
}

/// Something fresh that a node must prove itself against.
fn request(mesh: MeshId, head: Head) -> Result<(Request, WireGuardSecret), Refused> {
    let mut random = [0; 64];
    getrandom::fill(&mut random).map_err(|_| Refused::Stopping)?;
    let (salt, secret) = random.split_at(32);
    let secret = WireGuardSecret::from_bytes(secret.try_into().map_err(|_| Refused::Stopping)?);
    let request = Request {
        mesh,
        log_size: head.size,
        log_head: head.head,
        salt: Bytes(salt.try_into().map_err(|_| Refused::Stopping)?),
        // An X25519 public key of an honest secret is never of low order.
        challenge_key: ChallengeKey::from_bytes(*secret.public().as_bytes())
            .map_err(|_| Refused::Stopping)?,
    };
    Ok((request, secret))
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

fn check_member(state: &MeshState, id: NodeId) -> Result<&Arc<NodeRecord>, Refused> {
    state.nodes.get(&id).filter(|node| !node.is_revoked()).ok_or(Refused::Revoked)
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const HEAD: Head = Head { size: 1, head: Bytes([1; 32]) };

    #[test]
    fn of_a_hundred_thousand_requests_no_two_have_the_same_nonce() {
        let mut nonces = BTreeSet::new();
        for n in 0..100_000 {
            let (request, _) = request(MeshId::from_bytes([1; 16]), HEAD).unwrap();
            let moment = request.moment(&[2; 32], 1, Bytes([3; 32]));
            assert!(nonces.insert(moment.nonce()), "number {n}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn evidence_that_is_held_back_is_too_late() {
        let (request, secret) = request(MeshId::from_bytes([1; 16]), HEAD).unwrap();
        let asked = Asked { request, secret, demand: None, until: Instant::now() + EVIDENCE };
        assert!(asked.is_open(Instant::now()));
        tokio::time::advance(EVIDENCE).await;
        assert!(!asked.is_open(Instant::now()));
    }
}
