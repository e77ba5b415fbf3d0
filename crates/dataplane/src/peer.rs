//! A peer with its tunnels: the one under the keys that both sides have now, and those under keys that one of them had before.
//!
//! Packets go through the newest tunnel that has keys, so that a change of keys on either side loses none: the former tunnel goes on
//! until a handshake with the new keys is through. What comes out of a former tunnel is taken for as long as that tunnel lives.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use carrick_types::{Cidr, WireGuardKey};
use carrick_wireguard::Tai64N;

use crate::{slots::Slots, tunnel::Tunnel};

/// For so long packets of a key are taken, and sent where there is no newer session, after another key has replaced it.
pub(crate) const REPLACED_KEY_LIFE: Duration = Duration::from_secs(60);

/// Former tunnels that a peer may have: what several changes of keys in a row leave. The oldest goes first.
const MAX_FORMER: usize = 4;

/// What is known of a peer before there is a tunnel to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerConfig {
    /// The prefixes that belong to it.
    pub allowed_ips: Vec<Cidr>,
    /// Where it may be reached, best first.
    pub endpoints: Vec<SocketAddr>,
    /// Whether a tunnel is made where none is up. One that is up goes on without it, with its rekeys and through changes of keys,
    /// until it is over; a handshake that has not come to keys is over at once.
    pub admits_new: bool,
}

/// A tunnel under a key that one side has no longer.
pub(crate) struct Former {
    pub(crate) tunnel: Tunnel,
    /// When it ends, whatever goes through it.
    pub(crate) until: Instant,
}

/// A peer.
pub(crate) struct Peer {
    pub(crate) config: PeerConfig,
    /// The tunnel under the keys that both sides have now.
    pub(crate) current: Option<Tunnel>,
    /// The tunnels under other keys, newest first.
    pub(crate) former: Vec<Former>,
    /// When the last initiation that was taken was made, and for which key of this node: a tunnel takes none that is older, though
    /// another one took it.
    pub(crate) heard: Option<(WireGuardKey, Tai64N)>,
    pub(crate) rx_bytes: u64,
    pub(crate) tx_bytes: u64,
}

impl Peer {
    /// A peer of which nothing is known.
    pub(crate) const fn unknown() -> Self {
        let config = PeerConfig { allowed_ips: Vec::new(), endpoints: Vec::new(), admits_new: false };
        Self { config, current: None, former: Vec::new(), heard: None, rx_bytes: 0, tx_bytes: 0 }
    }

    /// Every tunnel, in the order in which they are preferred.
    pub(crate) fn tunnels(&self) -> impl Iterator<Item = &Tunnel> {
        self.current.iter().chain(self.former.iter().map(|former| &former.tunnel))
    }

    /// Every tunnel, in the order in which they are preferred.
    pub(crate) fn tunnels_mut(&mut self) -> impl Iterator<Item = &mut Tunnel> {
        self.current.iter_mut().chain(self.former.iter_mut().map(|former| &mut former.tunnel))
    }

    /// When the last initiation was made that was taken for a key of this node.
    pub(crate) fn heard(&self, own: &WireGuardKey) -> Option<Tai64N> {
        self.heard.filter(|(key, _)| key == own).map(|(_, when)| when)
    }

    /// Whether there is a tunnel to send through.
    pub(crate) fn has_keys(&self) -> bool {
        self.tunnels().any(Tunnel::has_keys)
    }

    /// Whether a handshake may be begun or answered.
    pub(crate) fn may_shake_hands(&self) -> bool {
        self.config.admits_new || self.has_keys()
    }

    /// The tunnel to send through.
    pub(crate) fn sending(&mut self, now: Instant) -> Option<&mut Tunnel> {
        self.tunnels_mut().find_map(|tunnel| {
            tunnel.refresh(now);
            tunnel.has_keys().then_some(tunnel)
        })
    }

    /// Where the peer was last heard of.
    pub(crate) fn endpoint(&self) -> Option<SocketAddr> {
        let sending = self.tunnels().find(|tunnel| tunnel.has_keys()).and_then(|tunnel| tunnel.endpoint);
        sending.or_else(|| self.tunnels().find_map(|tunnel| tunnel.endpoint))
    }

    /// The keys of the current tunnel are no longer those that both sides have.
    pub(crate) fn retire_current(&mut self, until: Instant) {
        if let Some(tunnel) = self.current.take() {
            self.former.insert(0, Former { tunnel, until });
        }
    }

    /// Takes over the former tunnels of the peer that this one was.
    pub(crate) fn succeed(&mut self, predecessor: Self) {
        self.former.extend(predecessor.former);
        self.rx_bytes += predecessor.rx_bytes;
        self.tx_bytes += predecessor.tx_bytes;
    }

    /// Ends the former tunnels that are too many.
    pub(crate) fn bound_former(&mut self, slots: &mut Slots) {
        for former in self.former.drain(self.former.len().min(MAX_FORMER)..) {
            slots.release(former.tunnel.slot);
        }
    }

    /// Ends the tunnels that `which` says.
    pub(crate) fn cut(&mut self, slots: &mut Slots, which: impl Fn(&Tunnel) -> bool) {
        let mut ends = |tunnel: &Tunnel| {
            let ends = which(tunnel);
            if ends {
                slots.release(tunnel.slot);
            }
            ends
        };
        self.current.take_if(|tunnel| ends(tunnel));
        self.former.retain(|former| !ends(&former.tunnel));
    }
}
