//! A mesh that works: what its nodes, its coordinator and the demo promise, with the real processes in network namespaces.

#![expect(clippy::unwrap_used, reason = "in a test it is the assertion that the value is there")]

mod bundle;
mod coordinator;
mod demo;
mod gossip;
mod host;
mod leases;
mod membership;
mod mesh;
mod operator;
mod outages;
mod page;
#[path = "../support/mod.rs"]
mod support;
mod tpm;
mod tunnels;
