//! `/openapi.json`: the API, described from the code that serves it.

use axum::{Json, extract::State};
use carrick_wire::api;
use std::sync::Arc;
use utoipa::{
    Modify, OpenApi,
    openapi::{
        self,
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

use super::{clusters, health, links, log, nodes, policy, tokens, topology, workloads};
use crate::app::App;

/// This document.
#[utoipa::path(get, path = "/openapi.json", responses(
    (status = 200, description = "This document", body = serde_json::Value),
    (status = 401, description = "No valid credential", body = api::Problem, content_type = "application/problem+json"),
))]
pub(super) async fn document(State(app): State<Arc<App>>) -> Json<openapi::OpenApi> {
    let mut document = Api::openapi();
    document.info.version.clone_from(&app.version);
    Json(document)
}

#[derive(OpenApi)]
#[openapi(
    info(title = "Carrick coordinator", description = "Nodes, tunnels and join tokens of one mesh."),
    paths(
        topology::show,
        topology::watch,
        clusters::list,
        nodes::list,
        nodes::show,
        nodes::statements,
        nodes::attest,
        nodes::revoke,
        nodes::refusals,
        policy::show,
        policy::put,
        policy::name_operator,
        workloads::list,
        links::list,
        log::checkpoint,
        log::entries,
        log::bundle,
        log::inclusion,
        log::consistency,
        tokens::list,
        tokens::create,
        tokens::register,
        tokens::revoke,
        health::healthz,
        health::readyz,
        health::metrics,
        document,
    ),
    components(schemas(api::Problem)),
    security(("credential" = [])),
    modifiers(&Credential)
)]
struct Api;

struct Credential;

impl Modify for Credential {
    fn modify(&self, document: &mut openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("The text of admin.credential, or of viewer.credential to read."))
            .build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("credential", SecurityScheme::Http(scheme));
    }
}
