//! `/v1/tokens`.

use std::{sync::Arc, time::Duration};

use axum::{
    Json as Answer,
    extract::{Path, State, rejection::PathRejection},
};
use carrick_types::{JoinToken, TokenId, TokenSeed};
use carrick_wire::api::{CreateToken, CreatedToken, Problem, Token};
use http::StatusCode;

use super::{ApiError, body::Json};
use crate::{
    app::{App, now},
    setup::random,
    store::TokenRecord,
};

const DEFAULT_TTL_SECONDS: u64 = 3600;
const MAX_TTL_SECONDS: u64 = 31_536_000;
const MAX_USES: u32 = 100_000;

/// Every join token, the newest first, without its secret.
#[utoipa::path(get, path = "/v1/tokens", responses(
    (status = 200, description = "Every join token, the newest first, without its secret", body = Vec<Token>),
    (status = 401, description = "No valid credential", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn list(State(app): State<Arc<App>>) -> Result<Answer<Vec<Token>>, ApiError> {
    Ok(Answer(app.mesh.tokens(now()).await?))
}

/// Makes a join token. Its secret is shown this once and kept nowhere.
#[utoipa::path(post, path = "/v1/tokens", request_body = CreateToken, responses(
    (status = 201, description = "The token with its secret", body = CreatedToken),
    (status = 400, description = "A bad request", body = Problem, content_type = "application/problem+json"),
    (status = 401, description = "No valid credential", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The credential may only read", body = Problem, content_type = "application/problem+json"),
    (status = 507, description = "The disk is full", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn create(
    State(app): State<Arc<App>>,
    Json(CreateToken { cluster, ttl_seconds, uses }): Json<CreateToken>,
) -> Result<(StatusCode, Answer<CreatedToken>), ApiError> {
    let ttl = ttl_seconds.unwrap_or(DEFAULT_TTL_SECONDS);
    if !(1..=MAX_TTL_SECONDS).contains(&ttl) {
        return Err(ApiError::bad_request(format!("ttl_seconds is {ttl}: give 1 to {MAX_TTL_SECONDS}")));
    }
    let uses = uses.unwrap_or(1);
    if !(1..=MAX_USES).contains(&uses) {
        return Err(ApiError::bad_request(format!("uses is {uses}: give 1 to {MAX_USES}")));
    }
    let now = now();
    let fail = |error: crate::StartError| ApiError::internal(error.to_string());
    let seed = TokenSeed::from_bytes(random().map_err(fail)?);
    let record = TokenRecord {
        id: TokenId::from_bytes(random().map_err(fail)?),
        cluster: cluster.clone(),
        key_hash: TokenRecord::hash(&seed.public()),
        created_at: now,
        expires_at: now.saturating_add(Duration::from_secs(ttl)),
        uses,
        used: 0,
        revoked: false,
    };
    let (id, expires_at) = (record.id, record.expires_at);
    app.mesh.add_token(record, now).await?;
    let token =
        JoinToken { id, mesh: app.id, cluster: cluster.clone(), ca: app.ca, seed, urls: app.urls.clone() };
    tracing::info!(token = %id, %cluster, uses, %expires_at, "join token made");
    Ok((
        StatusCode::CREATED,
        Answer(CreatedToken { id, token: token.to_string(), cluster, expires_at, uses }),
    ))
}

/// Takes a join token back: nobody joins with it any more. Nodes that did stay.
#[utoipa::path(delete, path = "/v1/tokens/{id}",
    params(("id" = String, Path, description = "The token's id")),
    responses(
        (status = 204, description = "The token is revoked now; also if it was before"),
        (status = 400, description = "No token id", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No valid credential", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The credential may only read", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "No such token", body = Problem, content_type = "application/problem+json"),
        (status = 507, description = "The disk is full", body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn revoke(
    State(app): State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, ApiError> {
    let Path(id) = id.map_err(|error| ApiError::bad_request(error.body_text()))?;
    let id: TokenId =
        id.parse().map_err(|error: carrick_types::ParseIdError| ApiError::bad_request(error.to_string()))?;
    if !app.mesh.revoke_token(id, now()).await? {
        return Err(ApiError::not_found(format!(
            "there is no join token {id}: `carrick token list` lists them"
        )));
    }
    tracing::info!(token = %id, "join token revoked");
    Ok(StatusCode::NO_CONTENT)
}
