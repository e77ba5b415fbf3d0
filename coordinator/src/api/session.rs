//! `/v1/session`: where nodes come in. The session itself is in [`crate::session`].

use std::sync::Arc;

use axum::{
    Extension,
    extract::{State, WebSocketUpgrade, ws::rejection::WebSocketUpgradeRejection},
    response::Response,
};
use carrick_wire::session::{MAX_TO_COORDINATOR, MAX_TO_NODE};

use super::ApiError;
use crate::{app::App, connection::Connection, session};

/// A message that is somewhat too long is read to its end all the same: a socket that is closed while it holds unread bytes takes
/// the refusal with it.
const MAX_READ: usize = 4 * MAX_TO_COORDINATOR;

/// Bytes that one read takes from the socket. The default, 128 KiB a session, is meant for bulk.
const READ_BUFFER: usize = 8 * 1024;

/// Opens a session: a WebSocket in which the node proves who it is.
pub(super) async fn open(
    State(app): State<Arc<App>>,
    Extension(connection): Extension<Arc<Connection>>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let upgrade = upgrade.map_err(|error| ApiError::bad_request(error.body_text()))?;
    if app.shutdown.is_cancelled() {
        return Err(ApiError::busy("the coordinator is stopping: try again later"));
    }
    let token = app.sessions.token();
    Ok(upgrade
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_write_buffer_size(2 * MAX_TO_NODE)
        .max_message_size(MAX_READ)
        .max_frame_size(MAX_READ)
        .on_upgrade(move |socket| async move {
            let _token = token;
            session::run(socket, connection, app).await;
        }))
}
