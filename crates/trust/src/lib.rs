//! What a node believes, and why: the operator's bundle, the log, the grants of its peers with their evidence, and leases.
//!
//! A node believes the operator whose pin its token carried, and nobody else. The coordinator's word is checked: a peer's key is
//! accepted where the operator's bundle names the coordinator's key, that key signed the head of the log, the head continues
//! the last one seen, the grant is in the log, and its evidence holds under the bundle.
//!
//! Pure: time comes in as an argument. Start at [`Witness`]; [`Leases`] says how long a belief lasts.

mod doubt;
mod heads;
mod leases;
mod memory;
mod witness;

pub use doubt::{Distrust, Doubt};
pub use heads::Question;
pub use leases::{Deadlines, Leases};
pub use memory::Memory;
pub use witness::{Member, Myself, View, Witness};
