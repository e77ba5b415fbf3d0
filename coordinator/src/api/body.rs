//! Reads request bodies: JSON of a known shape, or a problem.

use std::time::Duration;

use axum::{
    body::to_bytes,
    extract::{FromRequest, Request},
};
use http::header;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::ApiError;

/// The longest body that most requests may have, in bytes.
pub(super) const MAX_BODY: usize = 64 * 1024;

/// The longest policy bundle, in bytes: with the collateral of a vendor, as JSON in JSON.
pub(super) const MAX_BUNDLE: usize = 4 * 1024 * 1024;

const MAX_WAIT: Duration = Duration::from_secs(10);

/// A JSON body of at most `MAX` bytes.
pub(super) struct Json<T, const MAX: usize = MAX_BODY>(pub(super) T);

/// A JSON body that may be left out.
pub(super) struct OptionalJson<T>(pub(super) T);

impl<S: Sync, T: DeserializeOwned, const MAX: usize> FromRequest<S> for Json<T, MAX> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        read(request, MAX)
            .await?
            .map(Self)
            .ok_or_else(|| ApiError::bad_request("the body is missing: send JSON"))
    }
}

impl<S: Sync, T: DeserializeOwned + Default> FromRequest<S> for OptionalJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        Ok(Self(read(request, MAX_BODY).await?.unwrap_or_default()))
    }
}

async fn read<T: DeserializeOwned>(request: Request, max: usize) -> Result<Option<T>, ApiError> {
    let is_json = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok()?.split(';').next())
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"));
    let bytes = timeout(MAX_WAIT, to_bytes(request.into_body(), max))
        .await
        .map_err(|_| ApiError::timeout())?
        .map_err(|_| ApiError::too_large(max))?;
    if bytes.is_empty() {
        return Ok(None);
    }
    if !is_json {
        return Err(ApiError::not_json());
    }
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| ApiError::bad_request(format!("in the body: {error}")))
}
