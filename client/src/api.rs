//! The coordinator's HTTP API.

use std::time::Duration;

use carrick_types::{CaPin, Credential, Role};
use carrick_wire::api::Problem;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, StatusCode,
    body::Bytes,
    client::conn::http1,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::timeout;

use crate::{
    tls::{ConnectError, connect},
    url::CoordinatorUrl,
};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The longest answer taken, in bytes.
const MAX_ANSWER: usize = 256 * 1024 * 1024;

/// A coordinator's HTTP API, with a credential for it. Each call makes a connection of its own.
#[derive(Debug, Clone)]
pub struct Api {
    url: CoordinatorUrl,
    credential: Credential,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// No answer.
    #[error("the coordinator did not answer in time; what was asked for may have happened all the same")]
    Silent,
    /// The connection broke.
    #[error("the connection to the coordinator broke: {0}")]
    Broken(#[from] hyper::Error),
    /// The coordinator refused, and says why.
    #[error("{} (HTTP {})", .0.detail, .0.status)]
    Refused(Problem),
    /// The answer is not what the API promises.
    #[error(
        "the coordinator answered {method} {path} with HTTP {status} and something that this carrick does not understand: upgrade the older of the two"
    )]
    NotUnderstood {
        /// Of the request.
        method: Method,
        /// Of the request.
        path: String,
        /// Of the answer.
        status: StatusCode,
    },
}

impl Api {
    /// The API at `url`, as the holder of `credential`.
    pub const fn new(url: CoordinatorUrl, credential: Credential) -> Self {
        Self { url, credential }
    }

    /// Where it is.
    pub const fn url(&self) -> &CoordinatorUrl {
        &self.url
    }

    /// The authority that the coordinator's TLS chain ends in.
    pub const fn ca(&self) -> CaPin {
        self.credential.ca()
    }

    /// What the credential allows.
    pub const fn role(&self) -> Role {
        self.credential.role()
    }

    /// Reads a resource.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn get<A: DeserializeOwned>(&self, path: &str) -> Result<A, ApiError> {
        self.call(Method::GET, path, Bytes::new()).await
    }

    /// Sends a JSON body to a resource.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn post<B: Serialize, A: DeserializeOwned>(&self, path: &str, body: &B) -> Result<A, ApiError> {
        let body = serde_json::to_vec(body).expect("requests of the API are plain data");
        self.call(Method::POST, path, body.into()).await
    }

    /// Puts a JSON body in place of a resource.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn put<B: Serialize, A: DeserializeOwned>(&self, path: &str, body: &B) -> Result<A, ApiError> {
        let body = serde_json::to_vec(body).expect("requests of the API are plain data");
        self.call(Method::PUT, path, body.into()).await
    }

    /// Deletes a resource.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn delete(&self, path: &str) -> Result<(), ApiError> {
        self.call(Method::DELETE, path, Bytes::new()).await
    }

    async fn call<A: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<A, ApiError> {
        timeout(PATIENCE, self.try_call(method, path, body)).await.map_err(|_| ApiError::Silent)?
    }

    async fn try_call<A: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<A, ApiError> {
        let connection = connect(&self.url, self.credential.ca(), None).await?;
        let (mut sender, driver) = http1::handshake(TokioIo::new(connection.stream)).await?;
        let driver = tokio::spawn(driver);
        let mut request = Request::builder()
            .method(&method)
            .uri(path)
            .header(HOST, self.url.host())
            .header(ACCEPT, "application/json")
            .header(AUTHORIZATION, format!("Bearer {}", self.credential));
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let not_understood =
            |status| ApiError::NotUnderstood { method: method.clone(), path: path.to_owned(), status };
        let request = request.body(Full::new(body)).map_err(|_| not_understood(StatusCode::BAD_REQUEST))?;
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        driver.abort();
        let body = body.map_err(|_| not_understood(status))?.to_bytes();
        if status.is_success() {
            let json: &[u8] = if body.is_empty() { b"null" } else { &body };
            serde_json::from_slice(json).map_err(|_| not_understood(status))
        } else {
            Err(serde_json::from_slice(&body).map_or_else(|_| not_understood(status), ApiError::Refused))
        }
    }
}
