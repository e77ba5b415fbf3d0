//! `/healthz`, `/readyz` and `/metrics`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use carrick_wire::api::Problem;
use http::header;

use super::ApiError;
use crate::app::{App, now};

/// Anybody may ask, so the store is not tried more often than this.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// Answers as long as the process does.
#[utoipa::path(get, path = "/healthz", security(()), responses((status = 200, description = "The process lives", body = String)))]
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Answers whether the store can be written.
#[utoipa::path(get, path = "/readyz", security(()), responses(
    (status = 200, description = "Nodes and operators can be served", body = String),
    (status = 503, description = "Changes cannot be stored", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn readyz(State(app): State<Arc<App>>) -> Result<&'static str, ApiError> {
    if store_works(&app).await {
        Ok("ready\n")
    } else {
        Err(ApiError::busy("the store cannot be written: look at the coordinator's log and its disk"))
    }
}

/// Counters in Prometheus' text format.
#[utoipa::path(get, path = "/metrics", responses(
    (status = 200, description = "Prometheus text exposition format", body = String),
    (status = 401, description = "No valid credential", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn metrics(State(app): State<Arc<App>>) -> Response {
    let text = app.metrics.render(&app.mesh.state(), &app.presence);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

async fn store_works(app: &App) -> bool {
    let mut last = app.last_check.lock().await;
    if let Some((at, works)) = *last
        && at.elapsed() < CHECK_EVERY
    {
        return works;
    }
    let checked = app.mesh.check(now()).await;
    if let Err(error) = &checked {
        tracing::warn!(%error, "not ready");
    }
    *last = Some((Instant::now(), checked.is_ok()));
    checked.is_ok()
}
