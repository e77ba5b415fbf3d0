//! A lab of network namespaces: hosts, routers, switches, links and pods on one machine.
//!
//! Start at [`Lab`]; a test starts at [`in_lab`], a program at [`sandbox::reexec`]. Everything is done through the
//! kernel's own interfaces, without external programs, as root or in a user namespace. Namespaces have no names in
//! the file system: they are file descriptors, so that a lab leaves nothing behind however it ends.
//!
//! The API blocks; traffic, captures and processes run on threads of their own.

mod capture;
mod error;
mod harness;
mod host;
mod lab;
mod link;
pub mod mesh;
mod netlink;
mod packet;
mod process;
pub mod sandbox;
mod state;
mod swtpm;
pub mod traffic;

pub use capture::Capture;
pub use error::{Error, Result};
pub use harness::{eventually, in_lab, in_lab_for};
pub use host::Host;
pub use lab::{Lab, Switch};
pub use link::Link;
pub use nix::sys::signal::Signal;
pub use packet::{Ip, Packet};
pub use process::Process;
pub use sandbox::{Missing, inside, preflight, reexec};
pub use state::NetworkState;
pub use swtpm::{Certified, Swtpm};
