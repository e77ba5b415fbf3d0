//! `/v1/clusters`.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, extract::State};
use carrick_wire::api::{Cluster, Problem};

use crate::{app::App, state::MeshState};

/// Every cluster, by name.
#[utoipa::path(get, path = "/v1/clusters", responses(
    (status = 200, description = "Every cluster, by name", body = Vec<Cluster>),
    (status = 401, description = "No valid credential", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn list(State(app): State<Arc<App>>) -> Json<Vec<Cluster>> {
    Json(of(&app.mesh.state()))
}

/// The clusters of all nodes that ever joined, with how many are active.
pub(super) fn of(state: &MeshState) -> Vec<Cluster> {
    let mut clusters = BTreeMap::new();
    for node in state.nodes.values() {
        *clusters.entry(&node.cluster).or_default() += u64::from(node.is_active());
    }
    clusters.into_iter().map(|(name, nodes)| Cluster { name: name.clone(), nodes }).collect()
}
