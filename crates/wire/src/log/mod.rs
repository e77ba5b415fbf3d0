//! The log: everything that ever decided who belongs to the mesh, append-only, in a Merkle tree whose head the coordinator signs.
//!
//! Whoever has seen one head can check that a later log still begins with it ([`tree::verify_consistency`]), and that a
//! decision is in it ([`tree::verify_inclusion`]). Start at [`Entry`].

mod audit;
mod bundles;
mod checkpoint;
mod entry;
pub mod tree;

pub use audit::{AuditError, Auditor, Breach};
pub use bundles::{Bundles, BundlesError};
pub use checkpoint::{Checkpoint, CheckpointError, Origin, SignedCheckpoint};
pub use entry::{Decision, Entry, MAX_ENTRY};
