//! A coordinator on loopback, and the least that can talk to it: an HTTP client and a node.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "an unwrap in a test is the assertion that the value is there")]

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use axum::body::Bytes as Body;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use carrick_attest::{Bytes, Evidence, Moment, Subject};
use carrick_coordinator::{Config, Coordinator, RunError};
use carrick_trust::{Memory, Myself, View, Witness};
use carrick_types::{CaPin, Cidr, Credential, IdentitySecret, JoinToken, OperatorPin, WireGuardSecret};
use carrick_wire::{
    api::{CreatedToken, Problem},
    hello::{Have, Introduction, Trust},
    session::{Challenge, EXPORTER_LABEL, PATH, Refusal, ToCoordinator, ToNode, Welcome, decode, encode},
};
use futures_util::{SinkExt as _, StreamExt as _};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use serde::de::DeserializeOwned;
use tokio::{net::TcpStream, task::JoinHandle, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};
use tokio_util::sync::CancellationToken;

/// Longer than anything takes here, so that a test which waits in vain fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A running coordinator.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) stun_port: u16,
    pub(crate) admin: Credential,
    pub(crate) viewer: Credential,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), RunError>>,
}

/// A configuration that takes free ports of loopback.
pub(crate) fn config(dir: &Path) -> Config {
    Config {
        data_dir: dir.to_owned(),
        listen: "127.0.0.1:0".parse().unwrap(),
        listen_fd: None,
        udp: "127.0.0.1:0".parse().unwrap(),
        public_url: None,
        overlay: None,
        version: "0.0.0-test".to_owned(),
        profile: None,
    }
}

pub(crate) async fn start(dir: &Path) -> Running {
    run(Coordinator::start(config(dir)).await.unwrap())
}

pub(crate) fn run(coordinator: Coordinator) -> Running {
    let read = |path: &Path| std::fs::read_to_string(path).unwrap().parse::<Credential>().unwrap();
    let shutdown = CancellationToken::new();
    Running {
        address: coordinator.listening(),
        stun_port: coordinator.stun_port(),
        admin: read(coordinator.admin_credential_file()),
        viewer: read(coordinator.viewer_credential_file()),
        task: tokio::spawn(coordinator.run(shutdown.clone())),
        shutdown,
    }
}

/// An answer of the API.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Body,
}

impl Answer {
    pub(crate) fn json<T: DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    /// The problem that this is; fails where it is none.
    pub(crate) fn problem(&self) -> Problem {
        assert_eq!(self.headers["content-type"], "application/problem+json", "{:?}", self.body);
        let problem: Problem = self.json();
        assert_eq!(problem.status, self.status.as_u16());
        assert!(problem.kind.starts_with("urn:carrick:problem:"), "{}", problem.kind);
        problem
    }
}

impl Running {
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        timeout(PATIENCE, self.task).await.unwrap().unwrap().unwrap();
    }

    /// Asks as an admin.
    pub(crate) async fn ask(&self, method: &str, path: &str, body: Option<&str>) -> Answer {
        self.ask_as(&format!("Bearer {}", self.admin), method, path, body).await
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> T {
        let answer = self.ask("GET", path, None).await;
        assert_eq!(answer.status, 200, "{path}: {:?}", answer.body);
        answer.json()
    }

    /// Asks with an `Authorization` of one's own; none where it is empty.
    pub(crate) async fn ask_as(
        &self,
        authorization: &str,
        method: &str,
        path: &str,
        body: Option<&str>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if !authorization.is_empty() {
            request = request.header("authorization", authorization);
        }
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        self.send(request.body(body.unwrap_or_default().to_owned()).unwrap()).await
    }

    pub(crate) async fn send(&self, request: Request<String>) -> Answer {
        let response = self.open(request).await;
        let (parts, body) = response.into_parts();
        let body = timeout(PATIENCE, body.collect()).await.unwrap().unwrap().to_bytes();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    /// Sends a request, and reads the head of the answer.
    pub(crate) async fn open(&self, request: Request<String>) -> Response<Incoming> {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(self.connect().await)).await.unwrap();
        tokio::spawn(connection);
        let mut request = request.map(|body| Full::new(Body::from(body)));
        request.headers_mut().entry("host").or_insert("coordinator.carrick.internal".parse().unwrap());
        timeout(PATIENCE, sender.send_request(request)).await.unwrap().unwrap()
    }

    /// `Authorization` as a browser sends it.
    pub(crate) fn basic(credential: &Credential) -> String {
        format!("Basic {}", STANDARD.encode(format!("me:{credential}")))
    }

    pub(crate) async fn token(&self, cluster: &str, uses: u32) -> JoinToken {
        let body = serde_json::json!({"cluster": cluster, "uses": uses}).to_string();
        let answer = self.ask("POST", "/v1/tokens", Some(&body)).await;
        assert_eq!(answer.status, 201, "{:?}", answer.body);
        answer.json::<CreatedToken>().token.parse().unwrap()
    }

    /// A TLS connection, verified by name and pin.
    pub(crate) async fn connect(&self) -> TlsStream<TcpStream> {
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("coordinator.carrick.internal").unwrap();
        let tls = TlsConnector::from(Arc::new(client_config(self.admin.ca()))).connect(name, tcp);
        timeout(PATIENCE, tls).await.unwrap().unwrap()
    }

    /// A session up to its challenge.
    pub(crate) async fn session(&self) -> Session {
        let tls = self.connect().await;
        let exporter = tls.get_ref().1.export_keying_material([0; 32], EXPORTER_LABEL, None).unwrap();
        let (socket, _) =
            client_async(format!("wss://coordinator.carrick.internal{PATH}"), tls).await.unwrap();
        let mut session = Session { socket, exporter, challenge: None };
        let ToNode::Challenge(challenge) = session.next().await.unwrap() else { panic!("no challenge") };
        session.challenge = Some(challenge);
        session
    }
}

/// A node's end of a session.
pub(crate) struct Session {
    pub(crate) socket: WebSocketStream<TlsStream<TcpStream>>,
    pub(crate) exporter: [u8; 32],
    pub(crate) challenge: Option<Challenge>,
}

/// Who a node is, and what it asks for.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) identity: IdentitySecret,
    pub(crate) wireguard: WireGuardSecret,
    pub(crate) name: String,
    pub(crate) cluster: String,
    pub(crate) prefixes: Vec<&'static str>,
    pub(crate) have: Have,
}

impl Node {
    /// A node whose keys follow from a number.
    pub(crate) fn new(n: u8, name: &str) -> Self {
        Self {
            identity: IdentitySecret::from_bytes([n; 32]),
            wireguard: WireGuardSecret::from_bytes([n; 32]),
            name: name.to_owned(),
            cluster: "east".to_owned(),
            prefixes: vec![],
            have: Have::default(),
        }
    }

    pub(crate) fn id(&self) -> carrick_types::NodeId {
        carrick_types::NodeId::of(&self.identity.public())
    }
}

/// A session that was welcomed, with the netmap so far.
pub(crate) struct Member {
    pub(crate) session: Session,
    pub(crate) welcome: Welcome,
    /// Believes what is proven, as a node would.
    pub(crate) witness: Witness,
}

impl Session {
    pub(crate) async fn say(&mut self, message: &ToCoordinator) {
        self.socket.send(Message::Binary(encode(message).into())).await.unwrap();
    }

    /// The next message; `None` when the session was closed.
    pub(crate) async fn next(&mut self) -> Option<ToNode> {
        loop {
            match timeout(PATIENCE, self.socket.next()).await.expect("a message in time") {
                Some(Ok(Message::Binary(bytes))) => return Some(decode(&bytes).unwrap()),
                Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                Some(Ok(_)) => {}
            }
        }
    }

    /// The refusal that comes, after whatever else comes; the session ends with it.
    pub(crate) async fn refused(&mut self) -> Refusal {
        loop {
            if let ToNode::Refused(refusal) = self.next().await.expect("a refusal") {
                assert_eq!(self.next().await, None, "the session ends with a refusal");
                return refusal;
            }
        }
    }

    pub(crate) fn answer(&self, node: &Node, token: Option<&JoinToken>) -> ToCoordinator {
        self.answer_with(node, token, 1, vec![])
    }

    /// An answer with evidence beside identity and token, made for the moment and the subject.
    pub(crate) fn answer_showing(
        &self,
        node: &Node,
        token: Option<&JoinToken>,
        show: impl FnOnce(&Moment, &Subject) -> Vec<Evidence>,
    ) -> ToCoordinator {
        let challenge = self.challenge.as_ref().unwrap();
        let moment = challenge.request.moment(&self.exporter, 1, RUNTIME);
        let subject = Subject {
            mesh: challenge.request.mesh,
            cluster: node.cluster.parse().unwrap(),
            identity_key: node.identity.public(),
            wireguard_key: node.wireguard.public(),
        };
        self.answer_with(node, token, 1, show(&moment, &subject))
    }

    /// An answer under some version of the policy bundle, with evidence beside the identity.
    pub(crate) fn answer_with(
        &self,
        node: &Node,
        token: Option<&JoinToken>,
        policy_version: u64,
        evidence: Vec<Evidence>,
    ) -> ToCoordinator {
        let challenge = self.challenge.as_ref().unwrap();
        let moment = challenge.request.moment(&self.exporter, policy_version, RUNTIME);
        let introduction = Introduction {
            name: node.name.parse().unwrap(),
            cluster: node.cluster.parse().unwrap(),
            prefixes: node.prefixes.iter().map(|text| text.parse::<Cidr>().unwrap()).collect(),
            version: "test".to_owned(),
            have: node.have,
            trust: Trust::Evidence,
            identity: &node.identity,
            wireguard: &node.wireguard,
            token: token.map(|token| (token.id, &token.seed)),
            evidence,
        };
        ToCoordinator::Hello(Box::new(introduction.answer(&challenge.request, &moment)))
    }
}

/// The digest of what these nodes say that they run.
pub(crate) const RUNTIME: Bytes<32> = Bytes([1; 32]);

/// Any moment under the coordinator's first policy bundle.
fn now() -> carrick_types::UnixTime {
    std::time::SystemTime::now().into()
}

impl Running {
    /// Joins, or says why not.
    pub(crate) async fn join(&self, node: &Node, token: Option<&JoinToken>) -> Result<Member, Refusal> {
        self.join_showing(node, token, |_, _| vec![]).await
    }

    /// Joins with evidence beside identity and token, or says why not.
    pub(crate) async fn join_showing(
        &self,
        node: &Node,
        token: Option<&JoinToken>,
        show: impl FnOnce(&Moment, &Subject) -> Vec<Evidence>,
    ) -> Result<Member, Refusal> {
        let mut session = self.session().await;
        let hello = session.answer_showing(node, token, show);
        session.say(&hello).await;
        let answer = session.next().await.expect("an answer");
        if let ToNode::Refused(refusal) = answer {
            return Err(refusal);
        }
        let ToNode::Welcome(welcome) = answer else { panic!("no welcome: {answer:?}") };
        let netmap = session.next().await.expect("a netmap");
        let ToNode::Netmap(netmap) = netmap else { panic!("no netmap: {netmap:?}") };
        let challenge = session.challenge.as_ref().unwrap();
        let bundle = &challenge.bundle;
        let operator = OperatorPin::of(&bundle.operator);
        let myself = Myself {
            id: node.id(),
            wireguard_key: node.wireguard.public(),
            prefixes: node.prefixes.iter().map(|text| text.parse().unwrap()).collect(),
        };
        let mut witness =
            Witness::new(challenge.request.mesh, myself, Trust::Evidence, Memory::new(operator, 0));
        witness.handle_bundle(bundle, now()).unwrap();
        witness.handle_netmap(netmap, now()).unwrap();
        Ok(Member { session, welcome, witness })
    }
}

impl Member {
    /// What is believed of the mesh.
    pub(crate) fn view(&self) -> &View {
        self.witness.view().unwrap()
    }

    /// Applies deltas until the netmap is as awaited.
    pub(crate) async fn until(&mut self, what: &str, awaited: impl Fn(&View) -> bool) {
        while !awaited(self.view()) {
            match self.session.next().await {
                Some(ToNode::Delta(delta)) => self.witness.handle_delta(delta, now()).unwrap(),
                other => panic!("while waiting for {what}: {other:?}"),
            }
        }
    }
}

/// Waits until a predicate holds.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut predicate: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !predicate().await {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn client_config(pin: CaPin) -> ClientConfig {
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned(pin)))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

/// Verifies the chain up to the authority of this pin, and the name.
#[derive(Debug)]
struct Pinned(CaPin);

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let authority = intermediates.last().filter(|authority| CaPin::of(authority) == self.0);
        let authority = authority.ok_or_else(|| rustls::Error::General("another authority".to_owned()))?;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(
            Arc::new(roots),
            Arc::new(aws_lc_rs::default_provider()),
        )
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
        verifier.verify_server_cert(end_entity, &[], name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
