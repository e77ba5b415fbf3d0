//! Errors as RFC 9457 problem details.

use axum::{
    extract::Request,
    response::{IntoResponse, Response},
};
use carrick_wire::api::Problem;
use http::{HeaderValue, StatusCode, header};

use crate::{
    mesh::{PublishError, TokenError},
    store::StoreError,
};

/// An error that is answered as a problem.
#[derive(Debug)]
pub(crate) struct ApiError(Problem);

impl ApiError {
    fn new(status: StatusCode, kind: &str, title: &str, detail: impl Into<String>) -> Self {
        Self(Problem {
            kind: format!("urn:carrick:problem:{kind}"),
            title: title.to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
        })
    }

    pub(crate) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", "The request makes no sense", detail)
    }

    pub(crate) fn unauthorized() -> Self {
        let detail = "send the credential as `Authorization: Bearer …`; it is in the file admin.credential or \
                      viewer.credential of the coordinator's data directory";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", "No valid credential", detail)
    }

    pub(crate) fn forbidden() -> Self {
        let detail =
            "this credential may only read: send the one from admin.credential as `Authorization: Bearer …`";
        Self::new(StatusCode::FORBIDDEN, "forbidden", "Not allowed", detail)
    }

    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "Not found", detail)
    }

    pub(crate) fn too_large(limit: usize) -> Self {
        let detail = format!("a request body has at most {limit} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "The request is too large", detail)
    }

    pub(crate) fn not_json() -> Self {
        let detail = "send JSON, with `Content-Type: application/json`";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not-json", "The request is not JSON", detail)
    }

    pub(crate) fn timeout() -> Self {
        let detail = "the request's body did not arrive in time: send it again";
        Self::new(StatusCode::REQUEST_TIMEOUT, "timeout", "The request took too long", detail)
    }

    pub(crate) fn busy(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Not available at the moment", detail)
    }

    /// What was asked for does not fit how things stand.
    pub(crate) fn conflict(kind: &str, title: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, kind, title, detail)
    }

    pub(crate) fn no_operator_key() -> Self {
        let detail = "the coordinator does not hold the operator's key: sign with it, --key-file FILE";
        Self::conflict("no-operator-key", "The coordinator cannot sign this", detail)
    }

    pub(crate) fn internal(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "The coordinator failed", detail)
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let detail = error.to_string();
        match error {
            StoreError::Full(_) => Self::new(
                StatusCode::INSUFFICIENT_STORAGE,
                "disk-full",
                "The coordinator's disk is full",
                detail,
            ),
            StoreError::Io { .. } => Self::new(
                StatusCode::INSUFFICIENT_STORAGE,
                "disk",
                "The coordinator cannot write its disk",
                detail,
            ),
            StoreError::Conflict(_) => {
                Self::new(StatusCode::CONFLICT, "conflict", "Somebody else changed this meanwhile", detail)
            }
            StoreError::Stopping => Self::busy(detail),
            StoreError::Corrupt { .. } | StoreError::Newer { .. } | StoreError::Older(_) => {
                Self::internal(detail)
            }
        }
    }
}

impl From<TokenError> for ApiError {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::TooMany => {
                Self::new(StatusCode::CONFLICT, "too-many", "Too many join tokens", error.to_string())
            }
            TokenError::Known(_) => {
                Self::conflict("known", "The join token is known already", error.to_string())
            }
            TokenError::Forged => Self::bad_request(error.to_string()),
            TokenError::Store(error) => error.into(),
        }
    }
}

impl From<PublishError> for ApiError {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Bundle(_) | PublishError::OtherCoordinator(_) => {
                Self::conflict("policy-bundle", "The policy bundle is refused", error.to_string())
            }
            PublishError::Store(error) => error.into(),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, axum::Json(self.0)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"carrick\""));
        }
        response
    }
}

/// Answers a path that is not there.
pub(super) async fn not_found(request: Request) -> ApiError {
    ApiError::not_found(format!("there is no {}; /openapi.json lists what there is", request.uri().path()))
}

/// Answers a method that a path does not take.
pub(super) async fn method_not_allowed(request: Request) -> ApiError {
    let detail = format!("{} does not take {}", request.uri().path(), request.method());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "Method not allowed", detail)
}
