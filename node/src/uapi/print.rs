//! What a client is told.

use std::{
    fmt::{self, Write as _},
    time::Duration,
};

use carrick_dataplane::PeerState;
use carrick_types::WireGuardSecret;
use nix::errno::Errno;
use zeroize::Zeroizing;

use super::low_order;

/// What a peer takes at most without its prefixes, in bytes.
const PEER: usize = 512;

/// What a prefix takes at most, in bytes.
const ALLOWED_IP: usize = 64;

/// Of the device itself.
pub(crate) fn device(secret: Option<&WireGuardSecret>, port: u16, fwmark: u32) -> Zeroizing<String> {
    let mut text = room(PEER);
    if let Some(secret) = secret {
        line(&mut text, "private_key", Hex(secret.expose()));
    }
    line(&mut text, "listen_port", port);
    if fwmark != 0 {
        line(&mut text, "fwmark", fwmark);
    }
    text
}

/// Of some of its peers. `since_epoch` says when something was, by the wall clock.
pub(crate) fn peers(
    peers: &[PeerState],
    since_epoch: impl Fn(std::time::Instant) -> Duration,
) -> Zeroizing<String> {
    let prefixes: usize = peers.iter().map(|peer| peer.allowed_ips.len()).sum();
    let mut text = room(peers.len() * PEER + prefixes * ALLOWED_IP);
    for peer in peers {
        line(&mut text, "public_key", Hex(&low_order::called(&peer.key)));
        line(&mut text, "preshared_key", Hex(peer.preshared_key.expose()));
        line(&mut text, "protocol_version", 1);
        if let Some(endpoint) = peer.endpoint {
            line(&mut text, "endpoint", endpoint);
        }
        let last_handshake = peer.last_handshake.map_or(Duration::ZERO, &since_epoch);
        line(&mut text, "last_handshake_time_sec", last_handshake.as_secs());
        line(&mut text, "last_handshake_time_nsec", last_handshake.subsec_nanos());
        line(&mut text, "tx_bytes", peer.tx_bytes);
        line(&mut text, "rx_bytes", peer.rx_bytes);
        let interval = peer.persistent_keepalive.map_or(0, |interval| interval.as_secs());
        line(&mut text, "persistent_keepalive_interval", interval);
        for prefix in &peer.allowed_ips {
            line(&mut text, "allowed_ip", prefix);
        }
    }
    text
}

/// How an operation ended: the last line of every answer, and the empty one behind it.
pub(crate) fn outcome(outcome: Result<(), Errno>) -> String {
    format!("errno={}\n\n", outcome.err().map_or(0, |errno| -(errno as i32)))
}

/// Text that does not move as it grows: what has keys in it is to be in one place, which is wiped.
fn room(bytes: usize) -> Zeroizing<String> {
    String::with_capacity(bytes).into()
}

fn line(text: &mut String, key: &str, value: impl fmt::Display) {
    // A `String` takes everything.
    let _ = writeln!(text, "{key}={value}");
}

struct Hex<'a>(&'a [u8; 32]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
