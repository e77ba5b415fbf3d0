//! `/v1/nodes`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
};
use carrick_attest::{Kind, Verdict, appraise};
use carrick_types::NodeId;
use carrick_wire::{
    api::{Evidence, Node, NodeEvidence, NodeState, Problem, Refusal, RevokeNode},
    session::RefusalCode,
};
use serde::Deserialize;
use tokio::time::timeout;
use utoipa::IntoParams;

use super::{ApiError, body::OptionalJson};
use crate::{
    app::{App, now},
    leases::{EVIDENCE, Leases},
    refusal::evidence,
    state::{Membership, MeshState, NodeRecord, Suspension},
};

/// How many.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Newest {
    /// At the most; all where it is left out.
    limit: Option<u16>,
}

const MAX_REASON: usize = 500;

/// How long somebody who demands evidence waits for it. The node may take longer.
const WAIT: Duration = Duration::from_secs(20);

/// Every node that ever joined, by cluster and name.
#[utoipa::path(get, path = "/v1/nodes", responses(
    (status = 200, description = "Every node, by cluster and name; revoked ones included", body = Vec<Node>),
    (status = 401, description = "No valid credential", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn list(State(app): State<Arc<App>>) -> Json<Vec<Node>> {
    Json(of(&app.mesh.state(), &app.leases, &app.presence.online()))
}

/// One node, with every claim of its evidence.
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
    Ok(Json(in_detail(&app, &state, node)))
}

/// What one node showed for its grant, as it is kept: what reference values are learnt from.
#[utoipa::path(get, path = "/v1/nodes/{node}/evidence",
    params(("node" = String, Path, description = "The node's id, or its name")),
    responses(
        (status = 200, description = "The text of each statement", body = NodeEvidence),
        (status = 401, description = "No valid credential", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "No such node", body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn statements(
    State(app): State<Arc<App>>,
    node: Result<Path<String>, PathRejection>,
) -> Result<Json<NodeEvidence>, ApiError> {
    let state = app.mesh.state();
    let node = find(&state, node)?;
    Ok(Json(NodeEvidence {
        id: node.id,
        name: node.name.clone(),
        cluster: node.cluster.clone(),
        state: state_of(node),
        statements: node.statements.texts().to_vec(),
    }))
}

/// The nodes that were refused, the last first.
#[utoipa::path(get, path = "/v1/refusals", params(Newest), responses(
    (status = 200, description = "The last refusals, the last first; at most 1,000 are kept", body = Vec<Refusal>),
    (status = 400, description = "A bad request", body = Problem, content_type = "application/problem+json"),
    (status = 401, description = "No valid credential", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn refusals(
    State(app): State<Arc<App>>,
    newest: Result<Query<Newest>, QueryRejection>,
) -> Result<Json<Vec<Refusal>>, ApiError> {
    let Query(Newest { limit }) = newest.map_err(|error| ApiError::bad_request(error.body_text()))?;
    let mut refusals = app.mesh.refusals().await?;
    refusals.truncate(limit.unwrap_or(u16::MAX).into());
    Ok(Json(refusals))
}

/// Demands new evidence of a node, and waits for the appraisal. A node that shows none within a minute is suspended.
#[utoipa::path(post, path = "/v1/nodes/{node}/attest",
    params(("node" = String, Path, description = "The node's id, or its name")),
    responses(
        (status = 200, description = "The node, with every claim of its new evidence", body = Node),
        (status = 401, description = "No valid credential", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The credential may only read", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "No such node", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The node is not online, shows nothing in time, after which it is suspended, or its evidence is refused", body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn attest(
    State(app): State<Arc<App>>,
    node: Result<Path<String>, PathRejection>,
) -> Result<Json<Node>, ApiError> {
    let (mut states, mut refusals) = (app.mesh.watch(), app.mesh.watch_refusals());
    let state = states.borrow_and_update().clone();
    let before = find(&state, node)?.clone();
    let refused = |detail: String| ApiError::conflict("evidence", "There is no new evidence", detail);
    if before.is_revoked() {
        return Err(refused(format!(
            "node {} is revoked: nothing that it shows lets it in again",
            before.name
        )));
    }
    app.mesh.demand(before.id, now()).await?;
    let otherwise = if before.lacks_evidence() {
        "it stays suspended until it shows new evidence".to_owned()
    } else {
        format!("it is suspended unless it shows new evidence within {} s", EVIDENCE.as_secs())
    };
    if !app.presence.want_evidence(before.id) {
        return Err(refused(format!(
            "node {} is not online, and {otherwise}: start its agent, or look at its log",
            before.name
        )));
    }
    let answered = async {
        loop {
            tokio::select! {
                changed = states.changed() => {
                    changed.ok()?;
                    let state = states.borrow_and_update().clone();
                    let node = state.nodes.get(&before.id)?;
                    let answered = node.logged != before.logged && node.demanded_at.is_none();
                    if answered || node.is_revoked() || node.lacks_evidence() != before.lacks_evidence() {
                        return Some(Ok((state.clone(), node.clone())));
                    }
                }
                // Nothing changes where a node that is suspended is refused again. One that is not will be in a moment.
                changed = refusals.changed() => {
                    changed.ok()?;
                    let last = refusals.borrow_and_update().clone();
                    if let Some(refusal) = last.filter(|refusal| refusal.node == Some(before.id)) {
                        let suspends = refusal.code == RefusalCode::Evidence;
                        if !suspends || app.mesh.state().nodes.get(&before.id)?.lacks_evidence() {
                            return Some(Err(refusal));
                        }
                    }
                }
            }
        }
    };
    let (state, node) = match timeout(WAIT, answered).await {
        Ok(Some(Ok(answer))) => answer,
        Ok(Some(Err(refusal))) => return Err(refused(refusal.detail.clone())),
        Ok(None) => return Err(ApiError::busy("the coordinator is stopping: try again later")),
        Err(_) => {
            return Err(refused(format!(
                "node {} shows nothing yet, and {otherwise}: look at its log",
                before.name
            )));
        }
    };
    match &node.membership {
        Membership::Active => Ok(Json(in_detail(&app, &state, &node))),
        Membership::Suspended(why) => Err(refused(format!("node {} is suspended: {}", node.name, why.why()))),
        Membership::Revoked(_) => Err(refused(format!("node {} was revoked meanwhile", node.name))),
    }
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
    Ok(Json(shown(&app.mesh.state(), &app.leases, &revoked, false)))
}

/// The nodes as the API shows them, by cluster and name; `online` holds those that have a session.
pub(super) fn of<T>(state: &MeshState, leases: &Leases, online: &BTreeMap<NodeId, T>) -> Vec<Node> {
    let show = |node: &Arc<NodeRecord>| shown(state, leases, node, online.contains_key(&node.id));
    let mut nodes: Vec<_> = state.nodes.values().map(show).collect();
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

/// A node with every claim of its evidence, as it is appraised now.
fn in_detail(app: &App, state: &MeshState, node: &NodeRecord) -> Node {
    let online = app.presence.online().contains_key(&node.id);
    let statements = node.statements();
    let appraised = appraise(&node.subject(state.mesh), statements, &state.bundle.trusted, now());
    let appraisals = match &appraised {
        Ok(result) => result.appraisals(),
        Err(rejection) => &rejection.appraisals,
    };
    let pairs = appraisals.iter().zip(statements);
    let mut evidence: Vec<_> =
        pairs.map(|(appraisal, statement)| evidence(appraisal, statement.appraised_at)).collect();
    // What every node shows comes last.
    evidence.sort_by_key(|evidence| evidence.kind == Kind::Identity);
    Node { evidence, ..shown(state, &app.leases, node, online) }
}

fn shown(state: &MeshState, leases: &Leases, node: &NodeRecord, online: bool) -> Node {
    let (v4, v6) = state.overlay.addresses(node.overlay_index);
    let (suspended, revoked) = match &node.membership {
        Membership::Active => (None, None),
        Membership::Suspended(suspension) => (Some(suspension), None),
        Membership::Revoked(revocation) => (None, Some(revocation.clone())),
    };
    // Without the claims: they are worked out where one node is asked for.
    let decision = match suspended {
        Some(Suspension::Evidence { .. }) => Verdict::Refused,
        Some(Suspension::Silent) | None => Verdict::Accepted,
    };
    let shown = node.statements().iter().filter(|statement| statement.evidence.kind() != Kind::Identity);
    let evidence = shown.map(|statement| Evidence {
        kind: statement.evidence.kind(),
        appraised_at: statement.appraised_at,
        decision,
        claims: vec![],
    });
    Node {
        id: node.id,
        name: node.name.clone(),
        cluster: node.cluster.clone(),
        state: state_of(node),
        online: online && !node.is_revoked(),
        public_key: node.wireguard_key,
        prefixes: node.prefixes.clone(),
        overlay_ips: vec![v4.into(), v6.into()],
        endpoints: node.endpoints.clone(),
        evidence: evidence.collect(),
        lease: state.policy_of(node).lease,
        lease_expires: node.is_active().then(|| leases.expires(state, node)),
        suspended: suspended.map(|suspension| suspension.why().to_owned()),
        trust: node.trust,
        joined_at: node.joined_at,
        revoked,
        version: node.version.clone(),
    }
}

const fn state_of(node: &NodeRecord) -> NodeState {
    match node.membership {
        Membership::Active => NodeState::Active,
        Membership::Suspended(_) => NodeState::Suspended,
        Membership::Revoked(_) => NodeState::Revoked,
    }
}
