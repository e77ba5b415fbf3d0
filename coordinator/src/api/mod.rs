//! The HTTP API: one module for each resource. What is said is in `carrick_wire::api`; here is who may ask, and what is answered.

mod auth;
mod body;
mod clusters;
mod health;
mod links;
mod log;
mod nodes;
mod openapi;
mod policy;
mod problem;
mod session;
mod tokens;
mod topology;
mod workloads;

use std::sync::Arc;

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State},
    middleware::{self, Next},
    response::Response,
    routing::{delete, get, post},
};
use http::{HeaderValue, header};

pub(crate) use self::problem::ApiError;
use crate::{app::App, web};

/// Everything that is served over HTTPS. Only health and sessions, which prove themselves, are open without a credential;
/// whatever else is asked, even for a path that is not there, has to show one first.
pub(crate) fn router(app: Arc<App>) -> Router {
    let open = Router::new()
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route(carrick_wire::session::PATH, get(session::open))
        .method_not_allowed_fallback(problem::method_not_allowed);
    let closed = Router::new()
        .route("/", get(web::index))
        .route("/app.js", get(web::script))
        .route("/style.css", get(web::style))
        .route("/openapi.json", get(openapi::document))
        .route("/metrics", get(health::metrics))
        .route("/v1/topology", get(topology::show))
        .route("/v1/topology/watch", get(topology::watch))
        .route("/v1/clusters", get(clusters::list))
        .route("/v1/nodes", get(nodes::list))
        .route("/v1/nodes/{node}", get(nodes::show))
        .route("/v1/nodes/{node}/evidence", get(nodes::statements))
        .route("/v1/nodes/{node}/attest", post(nodes::attest))
        .route("/v1/nodes/{node}/revoke", post(nodes::revoke))
        .route("/v1/refusals", get(nodes::refusals))
        .route("/v1/appraisal-policy", get(policy::show).put(policy::put))
        .route("/v1/operator", post(policy::name_operator))
        .route("/v1/workloads", get(workloads::list))
        .route("/v1/links", get(links::list))
        .route("/v1/log/checkpoint", get(log::checkpoint))
        .route("/v1/log/entries", get(log::entries))
        .route("/v1/log/bundles/{version}", get(log::bundle))
        .route("/v1/log/inclusion", get(log::inclusion))
        .route("/v1/log/consistency", get(log::consistency))
        .route("/v1/tokens", get(tokens::list).post(tokens::create))
        .route("/v1/tokens/signed", post(tokens::register))
        .route("/v1/tokens/{id}", delete(tokens::revoke))
        .fallback(problem::not_found)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(middleware::from_fn_with_state(app.clone(), auth::require));
    open.merge(closed)
        .layer(DefaultBodyLimit::max(body::MAX_BUNDLE))
        .layer(middleware::from_fn_with_state(app.clone(), finish))
        .with_state(app)
}

/// Counts the answer, and tells browsers to keep it to themselves.
async fn finish(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    app.metrics.request(response.status());
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(web::CONTENT_SECURITY_POLICY));
    response
}
