//! The web page: the live topology, from three files that are part of the binary.

use axum::response::{Html, IntoResponse};
use http::header;

/// Nothing but what this server sends itself, and nothing inline.
pub(crate) const CONTENT_SECURITY_POLICY: &str =
    "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// `/`.
pub(crate) async fn index() -> Html<&'static str> {
    Html(include_str!("index.html"))
}

/// `/app.js`.
pub(crate) async fn script() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/javascript; charset=utf-8")], include_str!("app.js"))
}

/// `/style.css`.
pub(crate) async fn style() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], include_str!("style.css"))
}
