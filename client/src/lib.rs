//! How everything that calls a coordinator reaches it: TLS whose authority is pinned, and the HTTP API on top.
//!
//! A name or an address in a URL says where to connect, never whom to trust: that is the pin's part, which came with a join
//! token or a credential. Start at [`connect`] or at [`Api`].

mod api;
mod tls;
mod url;

pub use api::{Api, ApiError};
pub use tls::{ConnectError, Connection, connect};
pub use url::{CoordinatorUrl, ParseUrlError};
