//! `carrick device`: what `wg`, `wg-quick` and an administrator expect of a WireGuard device.

#![expect(clippy::unwrap_used, reason = "in a test it is the assertion that the value is there")]

mod bad_input;
mod churn;
mod down;
mod dropped;
mod faults;
mod integrity;
mod lifetime;
mod moved;
mod netns;
mod node;
mod order;
mod relay;
mod tools;
#[allow(dead_code, reason = "each test program uses its part")]
#[path = "../support/wireguard.rs"]
mod wireguard;
