//! Tokens of the API server of the cluster that this agent runs in as a pod.
//!
//! The pod's own token, which the kubelet mounts and renews, says who the pod is, and lets the agent ask TokenRequest for another:
//! for one audience, the transcript, and bound to this pod.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use carrick_attest::{
    Evidence, Kind, Transcript,
    kubernetes::{self, CompactJws, ServiceAccount, audience},
};
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Request, StatusCode,
    body::Bytes,
    client::conn::http1,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use serde::Deserialize;
use tokio::{fs::File, io::AsyncReadExt as _, net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::task::AbortOnDropHandle;

use super::Attester;

/// Where a pod finds its token and its API server's authority.
const MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// How long the API server may take: a coordinator waits ten seconds for a node that joins.
const PATIENCE: Duration = Duration::from_secs(8);

/// How long the token is to live, in seconds: API servers make none that live shorter.
const TTL: u32 = 600;

/// The longest mounted token, in bytes.
const MAX_MOUNTED: u64 = 16 * 1024;

/// The longest file of authorities, in bytes.
const MAX_AUTHORITIES: u64 = 1024 * 1024;

/// The longest answer that is read, in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// The longest message of an API server that is passed on, in characters.
const MAX_MESSAGE: usize = 300;

/// Which API server to ask, and as whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubernetesSource {
    /// The API server's name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The authorities that it may have its certificate from, in PEM.
    pub ca_file: PathBuf,
    /// The token of the pod's service account. It is read each time: the kubelet renews it.
    pub token_file: PathBuf,
    /// The pod's name, where the token does not say.
    pub pod: Option<String>,
}

/// Why there is no token, and what to do.
#[derive(Debug, thiserror::Error)]
enum TokenError {
    #[error("cannot read {}: {source}; mount the service account's token into the pod", path.display())]
    Mount { path: PathBuf, source: io::Error },
    #[error("{} holds no bound service-account token: mount one by a projected volume", .0.display())]
    NotBound(PathBuf),
    #[error("{} holds no certificate in PEM", .0.display())]
    NoAuthority(PathBuf),
    #[error("cannot reach the API server at {api}: {source}")]
    Unreachable { api: String, source: io::Error },
    #[error("TLS with the API server at {api} failed: {source}; its certificate has to be of an authority in {}", ca_file.display())]
    Tls { api: String, ca_file: PathBuf, source: io::Error },
    #[error("the API server at {api} did not answer within {} s", PATIENCE.as_secs())]
    Silent { api: String },
    #[error("the connection to the API server broke: {0}")]
    Broken(#[from] hyper::Error),
    #[error("the API server does not know the token in {}: {message}", token_file.display())]
    Unauthorized { token_file: PathBuf, message: String },
    #[error(
        "service account {account} may not make tokens for itself; allow it: `kubectl create role carrick-attest --namespace {} --verb=create --resource=serviceaccounts/token --resource-name={}` and `kubectl create rolebinding carrick-attest --namespace {} --role=carrick-attest --serviceaccount={}:{}` ({message})",
        account.namespace(), account.name(), account.namespace(), account.namespace(), account.name()
    )]
    Forbidden { account: ServiceAccount, message: String },
    #[error(
        "the API server does not know pod {pod} or service account {account}: name the pod in the environment variable POD_NAME, by the downward API ({message})"
    )]
    UnknownPod { account: ServiceAccount, pod: String, message: String },
    #[error("the API server answered with HTTP {status}: {message}")]
    Refused { status: StatusCode, message: String },
    #[error("the API server answered with HTTP {0} and something that is not understood")]
    NotUnderstood(StatusCode),
}

impl KubernetesSource {
    /// That of the pod that this process runs in; `None` where it runs in none that has a token mounted.
    pub(super) fn of_this_pod() -> Option<Self> {
        let environment = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let mount = Path::new(MOUNT);
        let token_file = mount.join("token");
        let host = environment("KUBERNETES_SERVICE_HOST").filter(|_| token_file.exists())?;
        // A pod has its name as its host's, unless it is on the network of a host.
        let hostname = || nix::unistd::gethostname().ok()?.into_string().ok();
        Some(Self {
            host,
            port: environment("KUBERNETES_SERVICE_PORT").and_then(|port| port.parse().ok()).unwrap_or(443),
            ca_file: mount.join("ca.crt"),
            token_file,
            pod: environment("POD_NAME").or_else(hostname),
        })
    }

    /// A token with this one audience.
    async fn token(&self, audience: &str) -> Result<CompactJws, TokenError> {
        let mounted = read(&self.token_file, MAX_MOUNTED).await?;
        let mounted = String::from_utf8(mounted).unwrap_or_default().trim().to_owned();
        let not_bound = || TokenError::NotBound(self.token_file.clone());
        let claims = MountedClaims::read(&mounted).ok_or_else(not_bound)?;
        let account = claims.account().ok_or_else(not_bound)?;
        let pod = claims.pod().or(self.pod.as_deref().map(|name| Pod { name: name.to_owned(), uid: None }));
        let pod = pod.ok_or_else(not_bound)?;
        let request = self.request(&mounted, &account, &pod, audience).ok_or_else(not_bound)?;

        let (mut sender, driver) = http1::handshake(TokioIo::new(self.connect().await?)).await?;
        let _driver = AbortOnDropHandle::new(tokio::spawn(driver));
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|_| TokenError::NotUnderstood(status))?.to_bytes();
        if status.is_success() {
            let token = serde_json::from_slice::<TokenRequest>(&body).map(|answer| answer.status.token);
            return token.map_err(|_| TokenError::NotUnderstood(status));
        }
        let message = message(&body);
        Err(match status {
            StatusCode::UNAUTHORIZED => {
                TokenError::Unauthorized { token_file: self.token_file.clone(), message }
            }
            StatusCode::FORBIDDEN => TokenError::Forbidden { account, message },
            StatusCode::NOT_FOUND => TokenError::UnknownPod { account, pod: pod.name, message },
            _ => TokenError::Refused { status, message },
        })
    }

    /// `None` where the mounted token is nothing that a header can hold.
    fn request(
        &self,
        mounted: &str,
        account: &ServiceAccount,
        pod: &Pod,
        audience: &str,
    ) -> Option<Request<Full<Bytes>>> {
        let mut pod_reference = serde_json::json!({"apiVersion": "v1", "kind": "Pod", "name": pod.name});
        if let Some(uid) = &pod.uid {
            pod_reference["uid"] = uid.as_str().into();
        }
        let body = serde_json::json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"audiences": [audience], "expirationSeconds": TTL, "boundObjectRef": pod_reference},
        });
        let (namespace, name) = (account.namespace(), account.name());
        Request::post(format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"))
            .header(HOST, self.api())
            .header(USER_AGENT, "carrick-node")
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/json")
            .header(AUTHORIZATION, format!("Bearer {mounted}"))
            .body(Full::new(body.to_string().into()))
            .ok()
    }

    async fn connect(&self) -> Result<TlsStream<TcpStream>, TokenError> {
        let authorities = read(&self.ca_file, MAX_AUTHORITIES).await?;
        let no_authority = || TokenError::NoAuthority(self.ca_file.clone());
        let authorities: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&authorities).collect();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(authorities.map_err(|_| no_authority())?);
        if roots.is_empty() {
            return Err(no_authority());
        }
        let tls = |source| TokenError::Tls { api: self.api(), ca_file: self.ca_file.clone(), source };
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| tls(io::Error::other(error)))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(self.host.clone()).map_err(|error| tls(io::Error::other(error)))?;
        let unreachable = |source| TokenError::Unreachable { api: self.api(), source };
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(unreachable)?;
        TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map_err(tls)
    }

    /// Host and port, as they stand in a URL.
    fn api(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// The attester.
#[derive(Debug)]
pub(super) struct Kubernetes(pub(super) KubernetesSource);

impl Attester for Kubernetes {
    fn kind(&self) -> Kind {
        Kind::Kubernetes
    }

    fn attest<'a>(&'a mut self, transcript: &'a Transcript) -> BoxFuture<'a, Result<Evidence, String>> {
        Box::pin(async {
            let audience = audience(transcript);
            let token = timeout(PATIENCE, self.0.token(&audience)).await;
            match token.unwrap_or_else(|_| Err(TokenError::Silent { api: self.0.api() })) {
                Ok(token) => Ok(Evidence::Kubernetes(kubernetes::Evidence { token })),
                Err(error) => Err(error.to_string()),
            }
        })
    }
}

/// What a pod's own token says of the pod. It came from the kubelet, and is not verified.
#[derive(Deserialize)]
struct MountedClaims {
    #[serde(rename = "kubernetes.io")]
    private: PrivateClaims,
}

#[derive(Deserialize)]
struct PrivateClaims {
    namespace: String,
    serviceaccount: Object,
    pod: Option<Object>,
}

#[derive(Deserialize)]
struct Object {
    name: String,
    uid: String,
}

/// A pod to bind a token to.
#[derive(Debug, PartialEq, Eq)]
struct Pod {
    name: String,
    /// Without it, the API server takes the pod that has the name now.
    uid: Option<String>,
}

impl MountedClaims {
    fn read(token: &str) -> Option<Self> {
        let payload = token.split('.').nth(1)?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
    }

    fn account(&self) -> Option<ServiceAccount> {
        ServiceAccount::new(&self.private.namespace, &self.private.serviceaccount.name).ok()
    }

    fn pod(&self) -> Option<Pod> {
        let Object { name, uid } = self.private.pod.as_ref()?;
        Some(Pod { name: name.clone(), uid: Some(uid.clone()) })
    }
}

/// The answer of TokenRequest, as far as it is of interest.
#[derive(Deserialize)]
struct TokenRequest {
    status: TokenRequestStatus,
}

#[derive(Deserialize)]
struct TokenRequestStatus {
    token: CompactJws,
}

/// What an API server says when it refuses.
fn message(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Status {
        message: String,
    }
    let message = serde_json::from_slice(body)
        .map_or_else(|_| "no reason given".to_owned(), |Status { message }| message);
    message.chars().filter(|c| !c.is_control()).take(MAX_MESSAGE).collect()
}

/// Reads a file that is not longer than it may be.
async fn read(path: &Path, most: u64) -> Result<Vec<u8>, TokenError> {
    let mount = |source| TokenError::Mount { path: path.to_owned(), source };
    let mut content = Vec::new();
    File::open(path).await.map_err(mount)?.take(most + 1).read_to_end(&mut content).await.map_err(mount)?;
    if u64::try_from(content.len()).unwrap_or(u64::MAX) > most {
        return Err(mount(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it is longer than {most} bytes"),
        )));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(claims: &str) -> String {
        format!("{}.{}.{}", URL_SAFE_NO_PAD.encode("{}"), URL_SAFE_NO_PAD.encode(claims), "AAAA")
    }

    #[test]
    fn a_mounted_token_says_which_pod_this_is() {
        let bound = token(
            r#"{"aud":["x"],"kubernetes.io":{"namespace":"a","pod":{"name":"p","uid":"1"},"serviceaccount":{"name":"b","uid":"2"},"warnafter":3}}"#,
        );
        let claims = MountedClaims::read(&bound).unwrap();
        assert_eq!(claims.account().unwrap().to_string(), "a/b");
        assert_eq!(claims.pod().unwrap(), Pod { name: "p".to_owned(), uid: Some("1".to_owned()) });
        let unbound = token(r#"{"kubernetes.io":{"namespace":"a","serviceaccount":{"name":"b","uid":"2"}}}"#);
        assert_eq!(MountedClaims::read(&unbound).unwrap().pod(), None);
        let path = token(r#"{"kubernetes.io":{"namespace":"../a","serviceaccount":{"name":"b","uid":"2"}}}"#);
        assert!(MountedClaims::read(&path).unwrap().account().is_none());
        for bad in ["", "a", "a.b.c", &token("{}"), &token("[]"), &token(r#"{"kubernetes.io":{}}"#)] {
            assert!(MountedClaims::read(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn an_api_server_is_called_as_urls_write_it() {
        let api = |host: &str| {
            let (ca_file, token_file) = (PathBuf::new(), PathBuf::new());
            KubernetesSource { host: host.to_owned(), port: 443, ca_file, token_file, pod: None }.api()
        };
        assert_eq!(api("10.96.0.1"), "10.96.0.1:443");
        assert_eq!(api("fd00::1"), "[fd00::1]:443");
    }
}
