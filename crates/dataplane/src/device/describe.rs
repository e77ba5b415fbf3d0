//! What a device says of itself to whoever administers it.

use std::{
    net::SocketAddr,
    ops::Bound,
    time::{Duration, Instant},
};

use carrick_types::{Cidr, WireGuardKey, WireGuardSecret};
use carrick_wireguard::PresharedKey;

use super::Device;

/// A peer, as its administrator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerState {
    /// Whose.
    pub key: WireGuardKey,
    /// The secret that is shared with it; all zero where there is none.
    pub preshared_key: PresharedKey,
    /// Where datagrams to it go.
    pub endpoint: Option<SocketAddr>,
    /// How often the tunnel is kept open in middleboxes.
    pub persistent_keepalive: Option<Duration>,
    /// The prefixes that belong to it.
    pub allowed_ips: Vec<Cidr>,
    /// When the last handshake completed.
    pub last_handshake: Option<Instant>,
    /// Bytes of authentic messages received, of whatever kind, without the headers of UDP and IP.
    pub rx_bytes: u64,
    /// Bytes of messages sent, likewise.
    pub tx_bytes: u64,
}

impl Device {
    /// The key of a device without a mesh. That of a mesh's node is told nobody.
    pub fn secret(&self) -> Option<&WireGuardSecret> {
        self.stand_alone.as_ref()?.secret.as_ref()
    }

    /// Every peer in the order of their keys, or those whose keys come after one.
    pub fn peers(&self, after: Option<&WireGuardKey>) -> impl Iterator<Item = PeerState> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.peers.range((from, Bound::Unbounded)).map(|(&key, peer)| {
            let settings = peer.settings.as_deref();
            let prefixes = settings.into_iter().flat_map(|settings| &settings.allowed_ips);
            let remembered = settings.and_then(|settings| settings.last_handshake);
            let live = peer.tunnels().filter_map(|tunnel| tunnel.last_handshake).max();
            PeerState {
                key,
                preshared_key: settings.map(|settings| settings.preshared_key.clone()).unwrap_or_default(),
                endpoint: peer
                    .endpoint()
                    .map(|endpoint| endpoint.remote)
                    .or_else(|| peer.config.endpoints.first().copied()),
                persistent_keepalive: settings.and_then(|settings| settings.persistent_keepalive),
                allowed_ips: peer.config.allowed_ips.iter().chain(prefixes).copied().collect(),
                last_handshake: live.max(remembered),
                rx_bytes: peer.transfer.messages.received(),
                tx_bytes: peer.transfer.messages.sent(),
            }
        })
    }
}
