//! WireGuard's configuration protocol (<https://www.wireguard.com/xplatform/>): what `wg` and `wg-quick` say to a userspace device.
//!
//! `parse` and `print` are pure. `server` owns the socket and asks the packet path by commands, some hundred peers or prefixes at a time, so
//! that packets pass in between; `configure` is what the packet path then does to its device.

mod at_rest;
mod configure;
mod lines;
mod low_order;
mod parse;
mod print;
mod server;
mod set;
mod socket;

pub(crate) use at_rest::AtRest;
#[doc(hidden)]
pub use configure::answer;
pub(crate) use configure::{About, Question, configure, describe, errno};
pub(crate) use server::{Access, Server};
pub(crate) use set::Set;
pub use socket::UapiError;
