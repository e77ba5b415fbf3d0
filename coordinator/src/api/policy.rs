//! `/v1/appraisal-policy` and `/v1/operator`: the policy bundle, and who signs it.

use std::sync::Arc;

use axum::{
    Json as Answer,
    extract::{Query, State, rejection::QueryRejection},
};
use carrick_attest::Bundle;
use carrick_wire::api::{
    AppraisalPolicy, NameOperator, NamedOperator, Problem, PutAppraisalPolicy, SuspendedNode,
};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    ApiError,
    body::{Json, MAX_BUNDLE},
};
use crate::{
    app::{App, now},
    bundle::{self, Judged},
    state::{MeshState, NodeRecord},
};

/// How to put a bundle.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Put {
    /// Only answers which nodes the bundle would suspend, and changes nothing.
    #[serde(default)]
    dry_run: bool,
}

/// The policy bundle in force.
#[utoipa::path(get, path = "/v1/appraisal-policy", responses(
    (status = 200, description = "The policy bundle in force", body = AppraisalPolicy),
    (status = 401, description = "No valid credential", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn show(State(app): State<Arc<App>>) -> Answer<AppraisalPolicy> {
    Answer(shown(&app))
}

/// Puts a policy bundle into force. Nodes whose evidence is not enough under it are suspended.
#[utoipa::path(put, path = "/v1/appraisal-policy", params(Put), request_body = PutAppraisalPolicy, responses(
    (status = 200, description = "The policy bundle in force now, and the nodes that it suspends", body = AppraisalPolicy),
    (status = 400, description = "A bad request", body = Problem, content_type = "application/problem+json"),
    (status = 401, description = "No valid credential", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The credential may only read", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "The bundle is older, expired, or not signed by the operator", body = Problem, content_type = "application/problem+json"),
    (status = 507, description = "The disk is full", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn put(
    State(app): State<Arc<App>>,
    query: Result<Query<Put>, QueryRejection>,
    Json(asked): Json<PutAppraisalPolicy, MAX_BUNDLE>,
) -> Result<Answer<AppraisalPolicy>, ApiError> {
    let Query(Put { dry_run }) = query.map_err(|error| ApiError::bad_request(error.body_text()))?;
    if dry_run {
        // A whole mesh takes its time, and other requests are not to wait for it.
        let state = app.mesh.state();
        let rehearsed = tokio::task::spawn_blocking(move || rehearsed(&state, asked)).await;
        let suspends =
            rehearsed.map_err(|_| ApiError::busy("the coordinator is stopping: try again later"))??;
        return Ok(Answer(AppraisalPolicy { suspends, ..shown(&app) }));
    }
    let signed = match (asked.signed, asked.draft) {
        (Some(signed), None) => signed,
        (None, Some(draft)) => {
            check_draft(&draft)?;
            let before = app.mesh.state().bundle.clone();
            app.operator.sign_bundle(&before, &draft).ok_or_else(ApiError::no_operator_key)?
        }
        (Some(_), Some(_)) | (None, None) => {
            return Err(ApiError::bad_request("give either `signed` or `draft`"));
        }
    };
    let suspends = app.mesh.publish(signed, now()).await?;
    app.operator.retire(&app.mesh.state().bundle.trusted.operator());
    Ok(Answer(AppraisalPolicy { suspends: suspended(suspends), ..shown(&app) }))
}

/// The nodes that a bundle would suspend. A draft needs nobody's signature for that.
fn rehearsed(state: &MeshState, asked: PutAppraisalPolicy) -> Result<Vec<SuspendedNode>, ApiError> {
    let now = now();
    let coordinator = state.policy().coordinator_key;
    let trusted = match (asked.signed, asked.draft) {
        (Some(signed), None) => bundle::follow(state, signed, coordinator, now)?.trusted,
        (None, Some(draft)) => {
            check_draft(&draft)?;
            bundle::rehearse(state, *draft, coordinator, now)?
        }
        (Some(_), Some(_)) | (None, None) => {
            return Err(ApiError::bad_request("give either `signed` or `draft`"));
        }
    };
    Ok(suspended(bundle::cut_off(state, &trusted, &Judged::default(), now)))
}

/// A draft that makes no sense is a bad request, whether it is put or only tried.
fn check_draft(draft: &Bundle) -> Result<(), ApiError> {
    draft.check().map_err(|error| ApiError::bad_request(format!("the draft: {error}")))
}

fn suspended(nodes: Vec<(Arc<NodeRecord>, String)>) -> Vec<SuspendedNode> {
    let show = |(node, why): (Arc<NodeRecord>, String)| SuspendedNode {
        id: node.id,
        name: node.name.clone(),
        cluster: node.cluster.clone(),
        why,
    };
    nodes.into_iter().map(show).collect()
}

/// Signs, with the operator's key that the coordinator holds, that another operator follows. It does once its first bundle is put.
#[utoipa::path(post, path = "/v1/operator", request_body = NameOperator, responses(
    (status = 200, description = "The former operator's word", body = NamedOperator),
    (status = 400, description = "A bad request", body = Problem, content_type = "application/problem+json"),
    (status = 401, description = "No valid credential", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "The credential may only read", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "The coordinator does not hold the operator's key", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn name_operator(
    State(app): State<Arc<App>>,
    Json(NameOperator { operator }): Json<NameOperator>,
) -> Result<Answer<NamedOperator>, ApiError> {
    let from = app.mesh.state().bundle.trusted.operator();
    let succession = app.operator.name(app.id, from, operator).ok_or_else(ApiError::no_operator_key)?;
    Ok(Answer(NamedOperator { succession }))
}

fn shown(app: &App) -> AppraisalPolicy {
    let bundle = app.mesh.state().bundle.clone();
    let operator_key_held = app.operator.holds(&bundle.trusted.operator());
    AppraisalPolicy { signed: bundle.signed.clone(), operator_key_held, suspends: vec![] }
}
