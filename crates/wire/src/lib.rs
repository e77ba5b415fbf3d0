//! What coordinator, node and operator say to each other, versioned.
//!
//! - [`session`]: the messages of the WebSocket between a node and its coordinator, and how they are framed.
//! - [`hello`]: what a node proves when a session opens and whenever it is asked, bound to that session.
//! - [`netmap`]: what one node is told of its mesh, whole once and then as deltas.
//! - [`log`]: what was decided about the mesh, in a Merkle tree, and its signed heads.
//! - [`api`]: the JSON of the HTTP API.
//!
//! Pure: bytes in, values out. Start at [`session`].

pub mod api;
pub mod hello;
pub mod log;
pub mod netmap;
pub mod session;
