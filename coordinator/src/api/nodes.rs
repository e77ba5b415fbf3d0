//! `/v1/nodes`.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json,
    extract::{Path, State, rejection::PathRejection},
};
use carrick_types::NodeId;
use carrick_wire::api::{Node, NodeState, Problem, RevokeNode};

use super::{ApiError, body::OptionalJson};
use crate::{
    app::{App, now},
    state::{Membership, MeshState, NodeRecord},
};

const MAX_REASON: usize = 500;

/// Every node that ever joined, by cluster and name.
#[utoipa::path(get, path = "/v1/nodes", responses(
    (status = 200, description = "Every node, by cluster and name; revoked ones included", body = Vec<Node>),
    (status = 401, description = "No valid credential", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn list(State(app): State<Arc<App>>) -> Json<Vec<Node>> {
    Json(of(&app.mesh.state(), &app.presence.online()))
}

/// One node.
#[utoipa::path(get, path = "/v1/nodes/{node}",
    params(("node" = String, Path, description = "The node's id, or its name")),
    responses(
        (status = 200, description = "The node", body = Node),
        (status = 401, description = "No valid credential", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "No such node", body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn show(
    State(app): State<Arc<App>>,
    node: Result<Path<String>, PathRejection>,
) -> Result<Json<Node>, ApiError> {
    let state = app.mesh.state();
    let node = find(&state, node)?;
    Ok(Json(shown(&state, node, app.presence.online().contains_key(&node.id))))
}

/// Cuts a node off for good: its peers forget it at once, its session ends, and its keys never come back.
#[utoipa::path(post, path = "/v1/nodes/{node}/revoke",
    params(("node" = String, Path, description = "The node's id, or its name")),
    request_body(content = Option<RevokeNode>, description = "May be left out"),
    responses(
        (status = 200, description = "The node, which is revoked now; also if it was before", body = Node),
        (status = 400, description = "A bad request", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No valid credential", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The credential may only read", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "No such node", body = Problem, content_type = "application/problem+json"),
        (status = 507, description = "The disk is full", body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn revoke(
    State(app): State<Arc<App>>,
    node: Result<Path<String>, PathRejection>,
    OptionalJson(RevokeNode { reason }): OptionalJson<RevokeNode>,
) -> Result<Json<Node>, ApiError> {
    if reason.as_ref().is_some_and(|reason| reason.len() > MAX_REASON) {
        return Err(ApiError::bad_request(format!(
            "the reason has more than {MAX_REASON} bytes: shorten it"
        )));
    }
    let id = find(&app.mesh.state(), node)?.id;
    let revoked = app.mesh.revoke(id, reason, now()).await?;
    let revoked = revoked.ok_or_else(|| ApiError::not_found(format!("there is no node {id}")))?;
    Ok(Json(shown(&app.mesh.state(), &revoked, false)))
}

/// The nodes as the API shows them, by cluster and name; `online` holds those that have a session.
pub(super) fn of<T>(state: &MeshState, online: &BTreeMap<NodeId, T>) -> Vec<Node> {
    let mut nodes: Vec<_> =
        state.nodes.values().map(|node| shown(state, node, online.contains_key(&node.id))).collect();
    nodes.sort_by(|a, b| {
        (&a.cluster, &a.name, a.joined_at, a.id).cmp(&(&b.cluster, &b.name, b.joined_at, b.id))
    });
    nodes
}

fn find(state: &MeshState, node: Result<Path<String>, PathRejection>) -> Result<&Arc<NodeRecord>, ApiError> {
    let Path(node) = node.map_err(|error| ApiError::bad_request(error.body_text()))?;
    state.find(&node).ok_or_else(|| {
        let name: String = node.chars().take(80).collect();
        ApiError::not_found(format!("there is no node {name:?}: `carrick nodes` lists them"))
    })
}

fn shown(state: &MeshState, node: &NodeRecord, online: bool) -> Node {
    let (v4, v6) = state.overlay.addresses(node.overlay_index);
    let (node_state, revoked) = match &node.membership {
        Membership::Active => (NodeState::Active, None),
        Membership::Revoked(revocation) => (NodeState::Revoked, Some(revocation.clone())),
    };
    Node {
        id: node.id,
        name: node.name.clone(),
        cluster: node.cluster.clone(),
        state: node_state,
        online: online && node.is_active(),
        public_key: node.wireguard_key,
        prefixes: node.prefixes.clone(),
        overlay_ips: vec![v4.into(), v6.into()],
        endpoints: node.endpoints.clone(),
        evidence: node.evidence.clone(),
        lease_expires: None,
        joined_at: node.joined_at,
        revoked,
        version: node.version.clone(),
    }
}
