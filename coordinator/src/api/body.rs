//! Reads request bodies: JSON of a known shape, or a problem.

use std::time::Duration;

use axum::{
    body::Body,
    extract::{FromRequest, Request},
};
use futures_util::StreamExt as _;
use http::header;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::ApiError;

/// The longest body that most requests may have, in bytes.
pub(super) const MAX_BODY: usize = 64 * 1024;

/// The longest policy bundle, in bytes: with the collateral of a vendor, as JSON in JSON.
pub(super) const MAX_BUNDLE: usize = 4 * 1024 * 1024;

/// The most that is read of a body that is too long, in bytes.
const MAX_READ: usize = 16 * 1024 * 1024;

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

/// The body; `None` where it is longer than `max`, or broken off. Some of what is too much is read all the same: were the connection closed
/// upon it, the answer would be lost.
async fn collect(body: Body, max: usize) -> Option<Vec<u8>> {
    let (mut bytes, mut length) = (Vec::new(), 0_usize);
    let mut stream = body.into_data_stream();
    while let Some(data) = stream.next().await {
        let data = data.ok()?;
        length = length.saturating_add(data.len());
        if length > MAX_READ {
            return None;
        } else if length > max {
            bytes = Vec::new();
        } else {
            bytes.extend_from_slice(&data);
        }
    }
    (length <= max).then_some(bytes)
}

async fn read<T: DeserializeOwned>(request: Request, max: usize) -> Result<Option<T>, ApiError> {
    let is_json = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok()?.split(';').next())
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"));
    let declared = request.headers().get(header::CONTENT_LENGTH);
    let declared = declared.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let too_long = declared.is_some_and(|length| length > max as u64);
    // Whoever asks first whether it may send a body is told so, and sends none.
    if too_long && request.headers().contains_key(header::EXPECT) {
        return Err(ApiError::too_large(max));
    }
    let bytes = timeout(MAX_WAIT, collect(request.into_body(), if too_long { 0 } else { max }))
        .await
        .map_err(|_| ApiError::timeout())?
        .ok_or_else(|| ApiError::too_large(max))?;
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
