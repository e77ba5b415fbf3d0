//! The coordinator: HTTP API, sessions with nodes, netmaps, store and web page.
//!
//! One thread owns the mesh: every change is committed to the store there and only then published, as an immutable
//! `MeshState`, to whoever answers nodes and operators. What a change leads to is decided by pure
//! functions (`admission`, `netmap`); the rest moves bytes.
//!
//! Start at [`Coordinator::start`]. Path relays, evidence beyond join tokens and a replicated store are not here yet.

mod activation;
mod address;
mod admission;
mod api;
mod app;
mod bundle;
mod capacity;
mod config;
mod connection;
mod coordinator;
mod error;
mod files;
mod leases;
mod mesh;
mod metrics;
mod netmap;
mod operator;
mod presence;
mod rate;
mod refusal;
mod serve;
mod session;
mod setup;
mod state;
mod statements;
mod store;
mod stun;
mod tls;
mod web;

pub use config::Config;
pub use coordinator::Coordinator;
pub use error::{RunError, StartError};
pub use store::StoreError;
