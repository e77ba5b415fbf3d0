//! Bad input: whatever it is, it is refused in one clear line, nothing acknowledged is lost, and nothing else stops.
//!
//! In every test two nodes exchange traffic all the time, and are asked at the end whether they noticed anything
//! ([`bystanders`]).

#![expect(clippy::unwrap_used, reason = "in a test it is the assertion that the value is there")]

mod bystanders;
mod claims;
mod coordinator;
mod datagrams;
mod disk;
mod frames;
mod host;
mod impostor;
#[path = "../support/mod.rs"]
mod support;
mod tokens;
