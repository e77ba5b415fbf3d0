//! Carrick and other implementations of WireGuard are peers of each other like any two WireGuard devices.

#![allow(clippy::unwrap_used, reason = "in a test it is the assertion that the value is there")]

#[path = "interop/device.rs"]
mod device;
#[path = "interop/node.rs"]
mod node;
#[allow(dead_code, reason = "each test program uses its part")]
#[path = "support/wireguard.rs"]
mod wireguard;
