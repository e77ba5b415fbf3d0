//! `/v1/log`: what was decided about the mesh, and proofs that none of it was changed.

use std::sync::Arc;

use axum::{
    Json,
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use carrick_attest::SignedBundle;
use carrick_wire::{
    api::{LogCheckpoint, LogPage, LogProof, Problem},
    log::tree::{Hash, Tree},
};
use serde::Deserialize;
use utoipa::IntoParams;

use super::ApiError;
use crate::app::App;

/// The most entries in one answer.
const MAX_PAGE: u32 = 1000;

/// Which entries.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    /// The position of the first one; 0 where it is left out.
    #[serde(default)]
    start: u64,
    /// How many at the most: 1 to 1,000; 1,000 where it is left out.
    #[serde(default = "max_page")]
    limit: u32,
}

/// Which entry of which tree.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Inclusion {
    /// The entry's position.
    index: u64,
    /// The size of the tree.
    size: u64,
}

/// Which two trees.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Consistency {
    /// The size of the smaller one.
    old: u64,
    /// The size of the larger one.
    new: u64,
}

const fn max_page() -> u32 {
    MAX_PAGE
}

/// The head of the log, signed.
#[utoipa::path(get, path = "/v1/log/checkpoint", responses(
    (status = 200, description = "The head of the log, signed", body = LogCheckpoint),
    (status = 401, description = "No valid credential", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn checkpoint(State(app): State<Arc<App>>) -> Json<LogCheckpoint> {
    let state = app.mesh.state();
    Json(LogCheckpoint { note: state.log.checkpoint.to_string(), key: state.policy().coordinator_key })
}

/// Entries of the log, in order.
#[utoipa::path(get, path = "/v1/log/entries", params(Page), responses(
    (status = 200, description = "Entries of the log, in order", body = LogPage),
    (status = 400, description = "A bad request", body = Problem, content_type = "application/problem+json"),
    (status = 401, description = "No valid credential", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn entries(
    State(app): State<Arc<App>>,
    page: Result<Query<Page>, QueryRejection>,
) -> Result<Json<LogPage>, ApiError> {
    let Page { start, limit } = asked(page)?;
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(ApiError::bad_request(format!("limit is {limit}: give 1 to {MAX_PAGE}")));
    }
    Ok(Json(app.mesh.log_page(start, limit).await?))
}

/// A policy bundle that the log says came into force, as its operator signed it.
#[utoipa::path(get, path = "/v1/log/bundles/{version}",
    params(("version" = u64, Path, description = "Its version")),
    responses(
        (status = 200, description = "The bundle, its signer, and how that one came to be the operator", body = serde_json::Value),
        (status = 400, description = "A bad request", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No valid credential", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There was none of this version", body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn bundle(
    State(app): State<Arc<App>>,
    version: Result<Path<u64>, PathRejection>,
) -> Result<Json<SignedBundle>, ApiError> {
    let Path(version) = version.map_err(|error| ApiError::bad_request(error.body_text()))?;
    let bundle = app.mesh.bundle_of_version(version).await?;
    bundle.map(Json).ok_or_else(|| ApiError::not_found(format!("no policy bundle had version {version}")))
}

/// Proof that an entry is in the log.
#[utoipa::path(get, path = "/v1/log/inclusion", params(Inclusion), responses(
    (status = 200, description = "Proof that an entry is in the log", body = LogProof),
    (status = 400, description = "There is no such entry or tree", body = Problem, content_type = "application/problem+json"),
    (status = 401, description = "No valid credential", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn inclusion(
    State(app): State<Arc<App>>,
    query: Result<Query<Inclusion>, QueryRejection>,
) -> Result<Json<LogProof>, ApiError> {
    let Inclusion { index, size } = asked(query)?;
    prove(&app, |tree| tree.inclusion(index, size))
}

/// Proof that the log only grew.
#[utoipa::path(get, path = "/v1/log/consistency", params(Consistency), responses(
    (status = 200, description = "Proof that the log only grew", body = LogProof),
    (status = 400, description = "There were no such trees", body = Problem, content_type = "application/problem+json"),
    (status = 401, description = "No valid credential", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn consistency(
    State(app): State<Arc<App>>,
    query: Result<Query<Consistency>, QueryRejection>,
) -> Result<Json<LogProof>, ApiError> {
    let Consistency { old, new } = asked(query)?;
    prove(&app, |tree| tree.consistency(old, new))
}

fn prove(app: &App, find: impl FnOnce(&Tree) -> Option<Vec<Hash>>) -> Result<Json<LogProof>, ApiError> {
    let proof = find(&app.mesh.state().log.tree.read()).ok_or_else(|| {
        ApiError::bad_request("the log has no such entry or size: `/v1/log/checkpoint` tells its size")
    })?;
    Ok(Json(LogProof { hashes: proof.iter().map(|hash| STANDARD.encode(hash)).collect() }))
}

fn asked<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, ApiError> {
    query.map(|Query(query)| query).map_err(|error| ApiError::bad_request(error.body_text()))
}
