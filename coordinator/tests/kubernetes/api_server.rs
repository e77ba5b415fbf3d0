//! As much of an API server as an agent talks to: TLS, and TokenRequest.

use std::{
    convert::Infallible,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::SystemTime,
};

use axum::body::Bytes;
use carrick_node::KubernetesSource;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer as Authority, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::issuer::{ISSUER, Issuer, claims};

const NAMESPACE: &str = "carrick-system";
const ACCOUNT: &str = "carrick-node";

/// A fake API server with one pod, whose token it has mounted.
pub(crate) struct ApiServer {
    address: SocketAddr,
    dir: PathBuf,
    shared: Arc<Shared>,
}

struct Shared {
    issuer: Issuer,
    /// The pod's own token, the last one that was mounted.
    mounted: Mutex<String>,
    manner: Mutex<Manner>,
    /// How many tokens were made.
    made: Mutex<u64>,
}

/// How it answers TokenRequest.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Manner {
    /// As it should.
    Honest,
    /// With an id that it has used before.
    SameId,
    /// With a value changed, at a path into the claims.
    Altered(&'static str, Value),
    /// With this status.
    Status(u16),
    /// With success, and this.
    Nonsense(String),
    /// Not at all.
    Silent,
}

impl ApiServer {
    /// Starts one on loopback, on the runtime of the caller. `dir` is where the pod finds its token.
    pub(crate) async fn start(dir: &Path, issuer: Issuer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (config, ca) = tls();
        std::fs::write(dir.join("ca.crt"), ca).unwrap();
        let shared = Arc::new(Shared {
            issuer,
            mounted: Mutex::default(),
            manner: Mutex::new(Manner::Honest),
            made: Mutex::new(0),
        });
        let server = Self { address, dir: dir.to_owned(), shared: shared.clone() };
        server.renew_mounted();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, shared) = (acceptor.clone(), shared.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let serve = service_fn(move |request| {
                        let shared = shared.clone();
                        async move { Ok::<_, Infallible>(shared.answer(request).await) }
                    });
                    let connection = hyper::server::conn::http1::Builder::new();
                    let _ = connection.serve_connection(TokioIo::new(stream), serve).await;
                });
            }
        });
        server
    }

    /// How the agent reaches it.
    pub(crate) fn source(&self) -> KubernetesSource {
        KubernetesSource {
            host: self.address.ip().to_string(),
            port: self.address.port(),
            ca_file: self.dir.join("ca.crt"),
            token_file: self.dir.join("token"),
            pod: None,
        }
    }

    /// What an operator puts into the policy bundle.
    pub(crate) fn policy(&self) -> Value {
        json!({
            "issuer": ISSUER,
            "jwks": self.shared.issuer.jwks(),
            "service_accounts": [format!("{NAMESPACE}/{ACCOUNT}")],
            "bound_to_node": true,
        })
    }

    /// Mounts a new token into the pod, as a kubelet does. The former one is good no more.
    pub(crate) fn renew_mounted(&self) {
        self.mount(claims("https://kubernetes.default.svc", seconds()));
    }

    /// Mounts a token that does not say for which pod it is.
    pub(crate) fn mount_unbound(&self) {
        let mut mounted = claims("https://kubernetes.default.svc", seconds());
        mounted["kubernetes.io"].as_object_mut().unwrap().remove("pod");
        self.mount(mounted);
    }

    fn mount(&self, mut mounted: Value) {
        mounted["jti"] = json!(self.shared.count());
        let mounted = self.shared.issuer.token(&mounted);
        std::fs::write(self.dir.join("token"), format!("{mounted}\n")).unwrap();
        *self.shared.mounted.lock().unwrap() = mounted;
    }

    pub(crate) fn set(&self, manner: Manner) {
        *self.shared.manner.lock().unwrap() = manner;
    }

    /// How many tokens it has made, the mounted ones included.
    pub(crate) fn made(&self) -> u64 {
        *self.shared.made.lock().unwrap()
    }
}

impl Shared {
    /// The number of a new token.
    fn count(&self) -> String {
        let mut made = self.made.lock().unwrap();
        *made += 1;
        format!("token-{made}")
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let bearer = format!("Bearer {}", self.mounted.lock().unwrap());
        if parts.headers.get("authorization").is_none_or(|given| given != bearer.as_str()) {
            return refusal(401, "Unauthorized");
        }
        let path = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{ACCOUNT}/token");
        if parts.method != Method::POST || parts.uri.path() != path {
            return refusal(404, "the server could not find the requested resource");
        }
        let audience = match audience_of(&body) {
            Ok(audience) => audience,
            Err(why) => return refusal(422, &why),
        };
        let manner = self.manner.lock().unwrap().clone();
        let mut claims = claims(&audience, seconds());
        claims["jti"] = json!(self.count());
        match manner {
            Manner::Honest => {}
            Manner::SameId => claims["jti"] = json!("token-0"),
            Manner::Altered(path, value) => *claims.pointer_mut(path).unwrap() = value,
            Manner::Status(status) => return refusal(status, "for a test"),
            Manner::Nonsense(text) => return Response::new(Full::new(text.into())),
            Manner::Silent => std::future::pending().await,
        }
        let answer = json!({
            "kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1",
            "status": {"token": self.issuer.token(&claims), "expirationTimestamp": "2026-01-01T00:00:00Z"},
        });
        let mut response = Response::new(Full::new(answer.to_string().into()));
        *response.status_mut() = StatusCode::CREATED;
        response
    }
}

/// The audience that a request asks for; refuses whatever is not bound to the pod, as a real server refuses what is not there.
fn audience_of(body: &[u8]) -> Result<String, String> {
    let request: Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let pod = &claims("", 0)["kubernetes.io"]["pod"];
    let mut bound = json!({"apiVersion": "v1", "kind": "Pod", "name": pod["name"]});
    if let Some(uid) = request["spec"]["boundObjectRef"].get("uid").filter(|uid| **uid == pod["uid"]) {
        bound["uid"] = uid.clone();
    }
    let audience = request["spec"]["audiences"][0].as_str().unwrap_or_default().to_owned();
    let expected = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"audiences": [audience], "expirationSeconds": 600, "boundObjectRef": bound},
    });
    if request == expected { Ok(audience) } else { Err(format!("{request} is not {expected}")) }
}

fn refusal(status: u16, message: &str) -> Response<Full<Bytes>> {
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": status});
    let mut response = Response::new(Full::new(body.to_string().into()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

/// A certificate for loopback, and the authority that it is from.
fn tls() -> (ServerConfig, String) {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(vec![]).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = ca.self_signed(&ca_key).unwrap().pem();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned(), "kubernetes".to_owned()]).unwrap();
    let certificate = certificate.signed_by(&key, &Authority::from_params(&ca, &ca_key)).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    (config, pem)
}

fn seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}
