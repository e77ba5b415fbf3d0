//! `/v1/workloads`. No node reports workloads yet.

use axum::Json;
use carrick_wire::api::{Problem, Workload};

/// Every workload, by cluster, namespace and name.
#[utoipa::path(get, path = "/v1/workloads", responses(
    (status = 200, description = "Every workload, by cluster, namespace and name", body = Vec<Workload>),
    (status = 401, description = "No valid credential", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn list() -> Json<Vec<Workload>> {
    Json(vec![])
}
