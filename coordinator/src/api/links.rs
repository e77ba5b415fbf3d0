//! `/v1/links`.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, extract::State};
use carrick_types::NodeId;
use carrick_wire::{
    api::{Link, LinkPath, Problem},
    session::LinkReport,
};

use crate::{app::App, state::MeshState};

/// Every tunnel that is up, once from each end.
#[utoipa::path(get, path = "/v1/links", responses(
    (status = 200, description = "Every tunnel that is up, once from each end", body = Vec<Link>),
    (status = 401, description = "No valid credential", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn list(State(app): State<Arc<App>>) -> Json<Vec<Link>> {
    Json(of(&app.mesh.state(), app.presence.online()))
}

/// What the nodes that are online report of tunnels to peers that are still active.
pub(super) fn of(state: &MeshState, online: BTreeMap<NodeId, Vec<LinkReport>>) -> Vec<Link> {
    let active = |id: &NodeId| state.nodes.get(id).is_some_and(|node| node.is_active());
    online
        .into_iter()
        .filter(|(from, _)| active(from))
        .flat_map(|(from, links)| links.into_iter().map(move |link| (from, link)))
        .filter(|(_, link)| active(&link.peer))
        .map(|(from, link)| Link {
            from,
            to: link.peer,
            path: LinkPath::Direct,
            endpoint: link.endpoint,
            rtt_ms: link.rtt_ms,
            last_handshake: link.last_handshake,
            rx_bytes: link.rx_bytes,
            tx_bytes: link.tx_bytes,
        })
        .collect()
}
