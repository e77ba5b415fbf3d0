//! `/v1/tokens`.

use std::{sync::Arc, time::Duration};

use axum::{
    Json as Answer,
    extract::{Path, State, rejection::PathRejection},
};
use carrick_attest::token::Capability;
use carrick_types::{JoinToken, OperatorPin, TokenId, TokenSeed, UnixTime, check_named_prefix_claim};
use carrick_wire::api::{CreateToken, CreatedToken, Problem, RegisterToken, RegisteredToken, Token};
use http::StatusCode;

use super::{ApiError, body::Json};
use crate::{
    app::{App, now},
    refusal::MAX_PREFIXES,
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
    (status = 409, description = "The coordinator does not hold the operator's key, or has too many tokens", body = Problem, content_type = "application/problem+json"),
    (status = 507, description = "The disk is full", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn create(
    State(app): State<Arc<App>>,
    Json(CreateToken { cluster, ttl_seconds, uses, prefixes }): Json<CreateToken>,
) -> Result<(StatusCode, Answer<CreatedToken>), ApiError> {
    let ttl = ttl_seconds.unwrap_or(DEFAULT_TTL_SECONDS);
    if !(1..=MAX_TTL_SECONDS).contains(&ttl) {
        return Err(ApiError::bad_request(format!("ttl_seconds is {ttl}: give 1 to {MAX_TTL_SECONDS}")));
    }
    let now = now();
    let fail = |error: crate::StartError| ApiError::internal(error.to_string());
    let seed = TokenSeed::from_bytes(random().map_err(fail)?);
    let capability = Capability {
        mesh: app.id,
        token: TokenId::from_bytes(random().map_err(fail)?),
        key: seed.public(),
        cluster: cluster.clone(),
        uses: uses.unwrap_or(1),
        expires_at: now.saturating_add(Duration::from_secs(ttl)),
        prefixes,
    };
    check(&capability, now)?;
    let state = app.mesh.state();
    let operator = state.bundle.trusted.operator();
    let signed = app.operator.sign_token(&operator, &capability).ok_or_else(ApiError::no_operator_key)?;
    let (id, uses, expires_at) = (capability.token, capability.uses, capability.expires_at);
    add(&app, TokenRecord { signed, capability, created_at: now, used: 0, revoked: false }).await?;
    let token = JoinToken {
        id,
        mesh: app.id,
        cluster: cluster.clone(),
        ca: app.ca,
        operator: OperatorPin::of(&operator),
        policy_version: state.policy().version,
        seed,
        urls: app.urls.clone(),
    };
    Ok((
        StatusCode::CREATED,
        Answer(CreatedToken { id, token: token.to_string(), cluster, expires_at, uses }),
    ))
}

/// Takes a join token that the operator signed elsewhere. Its secret stays with the operator.
#[utoipa::path(post, path = "/v1/tokens/signed", request_body = RegisterToken, responses(
    (status = 201, description = "What belongs into the token's text beside its secret", body = RegisteredToken),
    (status = 400, description = "A bad request", body = Problem, content_type = "application/problem+json"),
    (status = 401, description = "No valid credential", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The credential may only read", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "There are too many tokens, or this one is known already", body = Problem, content_type = "application/problem+json"),
    (status = 507, description = "The disk is full", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn register(
    State(app): State<Arc<App>>,
    Json(RegisterToken { capability: signed }): Json<RegisterToken>,
) -> Result<(StatusCode, Answer<RegisteredToken>), ApiError> {
    let now = now();
    let operator = app.mesh.state().bundle.trusted.operator();
    let opened = signed.open(&operator).map_err(|error| ApiError::bad_request(format!("the token: {error}")));
    let capability = opened?;
    check(&capability, now)?;
    let id = capability.token;
    add(&app, TokenRecord { signed, capability, created_at: now, used: 0, revoked: false }).await?;
    let answer = RegisteredToken { id, urls: app.urls.clone(), operator: OperatorPin::of(&operator) };
    Ok((StatusCode::CREATED, Answer(answer)))
}

/// The bounds of what a token may allow.
fn check(capability: &Capability, now: UnixTime) -> Result<(), ApiError> {
    let (uses, longest) = (capability.uses, now.saturating_add(Duration::from_secs(MAX_TTL_SECONDS)));
    if !(1..=MAX_USES).contains(&uses) {
        return Err(ApiError::bad_request(format!("uses is {uses}: give 1 to {MAX_USES}")));
    }
    if capability.expires_at <= now || capability.expires_at > longest {
        return Err(ApiError::bad_request(format!("a token expires within {MAX_TTL_SECONDS} seconds")));
    }
    let prefixes = capability.prefixes.as_deref().unwrap_or_default();
    if prefixes.len() > MAX_PREFIXES {
        return Err(ApiError::bad_request(format!("a token names at most {MAX_PREFIXES} prefixes")));
    }
    check_named_prefix_claim(prefixes, &[]).map_err(|error| ApiError::bad_request(error.to_string()))
}

async fn add(app: &App, record: TokenRecord) -> Result<(), ApiError> {
    let Capability { token, cluster, uses, expires_at, .. } = record.capability.clone();
    app.mesh.add_token(record, now()).await?;
    tracing::info!(%token, %cluster, uses, %expires_at, "join token made");
    Ok(())
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
