//! `/v1/topology`: the whole mesh, once or as it changes.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Json,
    extract::State,
    response::{
        Sse,
        sse::{Event, KeepAlive},
    },
};
use carrick_wire::api::{Problem, Topology};
use futures_util::{Stream, stream};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{ApiError, clusters, links, nodes};
use crate::{app::App, state::MeshState};

/// The shortest time between two events of one watcher.
const PACE: Duration = Duration::from_millis(500);
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The whole mesh.
#[utoipa::path(get, path = "/v1/topology", responses(
    (status = 200, description = "The whole mesh at this moment", body = Topology),
    (status = 401, description = "No valid credential", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn show(State(app): State<Arc<App>>) -> Json<Topology> {
    Json(topology(&app))
}

/// The whole mesh, at once and then after each change, at most twice a second: server-sent events named `topology`.
#[utoipa::path(get, path = "/v1/topology/watch", responses(
    (status = 200, description = "Events named `topology`, each with the whole mesh", body = Topology,
     content_type = "text/event-stream"),
    (status = 401, description = "No valid credential", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn watch(
    State(app): State<Arc<App>>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ApiError> {
    let mut watcher =
        Watcher { states: app.mesh.watch(), presence: app.presence.watch(), next: Instant::now(), app };
    watcher.states.mark_changed();
    let events = stream::unfold(watcher, |mut watcher| async {
        let topology = watcher.next().await?;
        let event = Event::default().event("topology").json_data(&topology).ok()?;
        Some((Ok(event), watcher))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

/// The mesh as the API shows it.
pub(super) fn topology(app: &App) -> Topology {
    let state = app.mesh.state();
    let online = app.presence.online();
    Topology {
        mesh: state.mesh,
        revision: state.revision,
        clusters: clusters::of(&state),
        nodes: nodes::of(&state, &app.leases, &online.keys().map(|id| (*id, ())).collect::<BTreeMap<_, _>>()),
        workloads: vec![],
        links: links::of(&state, online),
    }
}

struct Watcher {
    app: Arc<App>,
    states: watch::Receiver<Arc<MeshState>>,
    presence: watch::Receiver<u64>,
    next: Instant,
}

impl Watcher {
    /// Waits for a change and for its turn; `None` when the coordinator stops.
    async fn next(&mut self) -> Option<Topology> {
        let shutdown = self.app.shutdown.clone();
        let change = async {
            tokio::select! {
                changed = self.states.changed() => changed.ok()?,
                changed = self.presence.changed() => changed.ok()?,
            }
            sleep_until(self.next).await;
            Some(())
        };
        tokio::select! {
            () = shutdown.cancelled() => return None,
            changed = change => changed?,
        }
        self.states.mark_unchanged();
        self.presence.mark_unchanged();
        self.next = Instant::now() + PACE;
        Some(topology(&self.app))
    }
}
