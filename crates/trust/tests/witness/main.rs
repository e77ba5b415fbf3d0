//! What a witness believes of a coordinator that tells the truth, and of one that has the signing key and lies.

#![expect(clippy::unwrap_used, reason = "in a test it is the assertion that the value is there")]

mod bundles;
mod evidence;
mod freshness;
mod gossip;
mod grants;
mod log;
mod mesh;
mod netmaps;
mod properties;
mod tpm;
