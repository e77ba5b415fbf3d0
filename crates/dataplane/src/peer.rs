//! A peer with its tunnels: the one under the keys that both sides have now, and those under keys that one of them had before.
//!
//! Packets go through the newest tunnel that has keys, so that a change of keys on either side loses none: the former tunnel goes on
//! until a handshake with the new keys is through. What comes out of a former tunnel is taken for as long as that tunnel lives.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use carrick_types::{Cidr, WireGuardKey};
use carrick_wireguard::Tai64N;

use crate::{
    device::Settings,
    endpoint::Endpoint,
    link::{Link, Receiving, Sending, Transfer},
    place::Sight,
    slots::Slots,
    tunnel::Tunnel,
};

/// For so long packets of a key are taken, and sent where there is no newer session, after another key has replaced it.
pub(crate) const REPLACED_KEY_LIFE: Duration = Duration::from_secs(60);

/// Former tunnels that a peer may have: what several changes of keys in a row leave. The oldest goes first.
const MAX_FORMER: usize = 4;

/// For so many keys of this node it is known when a peer was last heard of: an administrator may take a former one again.
const MAX_HEARD: usize = 8;

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
    /// When the last initiation that was taken was made, for each of the last keys of this node, newest first: a tunnel takes none that is
    /// older, though another one took it.
    pub(crate) heard: Vec<(WireGuardKey, Tai64N)>,
    /// What went to and fro, under whichever key.
    pub(crate) transfer: Arc<Transfer>,
    /// How long a packet to it may be, where the interface takes longer ones.
    pub(crate) path_mtu: Option<u16>,
    /// What an administrator says of it; none of a peer that [`crate::Device::set_peer`] tells of.
    pub(crate) settings: Option<Box<Settings>>,
}

impl Peer {
    /// A peer of which nothing is known.
    pub(crate) fn unknown() -> Self {
        let config = PeerConfig { allowed_ips: Vec::new(), endpoints: Vec::new(), admits_new: false };
        Self {
            config,
            current: None,
            former: Vec::new(),
            heard: Vec::new(),
            transfer: Arc::default(),
            path_mtu: None,
            settings: None,
        }
    }

    /// What it takes to exchange packets with it, by all its tunnels, in the order in which they are preferred; `None` where nothing can be
    /// exchanged.
    pub(crate) fn link(&self) -> Option<Link> {
        let sending: Vec<_> = self.tunnels().flat_map(sending).collect();
        let receiving: Vec<_> = self.tunnels().flat_map(receiving).collect();
        let is_something = !sending.is_empty() || !receiving.is_empty() || self.path_mtu.is_some();
        is_something.then(|| Link {
            sending,
            receiving,
            path_mtu: self.path_mtu,
            transfer: self.transfer.clone(),
        })
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
        self.heard.iter().find(|(key, _)| key == own).map(|(_, when)| *when)
    }

    /// An initiation was taken for a key of this node.
    pub(crate) fn note_heard(&mut self, own: WireGuardKey, when: Tai64N) {
        self.heard.retain(|(key, _)| *key != own);
        self.heard.insert(0, (own, when));
        self.heard.truncate(MAX_HEARD);
    }

    /// Whether there is a tunnel to send through.
    pub(crate) fn has_keys(&self) -> bool {
        self.tunnels().any(Tunnel::has_keys)
    }

    /// Whether a handshake may be begun or answered.
    pub(crate) fn may_shake_hands(&self) -> bool {
        self.config.admits_new || self.has_keys()
    }

    /// Whether keys have changed since the last call.
    pub(crate) fn take_changed(&mut self) -> bool {
        self.tunnels_mut().fold(false, |changed, tunnel| changed | tunnel.take_changed())
    }

    /// Where the peer was last heard of.
    pub(crate) fn endpoint(&self) -> Option<Endpoint> {
        let sending = self.tunnels().find(|tunnel| tunnel.has_keys()).and_then(Tunnel::endpoint);
        sending
            .or_else(|| self.tunnels().find_map(Tunnel::endpoint))
            .or_else(|| self.settings.as_ref().and_then(|settings| settings.endpoint))
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
        self.transfer.add(&predecessor.transfer);
    }

    /// Ends the former tunnels that are too many.
    pub(crate) fn bound_former(&mut self, slots: &mut Slots) {
        let ended: Vec<_> = self.former.drain(self.former.len().min(MAX_FORMER)..).collect();
        for former in ended {
            slots.release(former.tunnel.slot);
            self.remember(&former.tunnel);
        }
    }

    /// Ends the tunnels that `which` says.
    pub(crate) fn cut(&mut self, slots: &mut Slots, which: impl Fn(&Tunnel) -> bool) {
        let former = self.former.extract_if(.., |former| which(&former.tunnel)).map(|former| former.tunnel);
        let ended: Vec<_> = self.current.take_if(|tunnel| which(tunnel)).into_iter().chain(former).collect();
        for tunnel in ended {
            slots.release(tunnel.slot);
            self.remember(&tunnel);
        }
    }

    /// Keeps what is to be known of a tunnel that is over.
    pub(crate) fn remember(&mut self, tunnel: &Tunnel) {
        if let Some(settings) = &mut self.settings {
            settings.endpoint = tunnel.endpoint().or(settings.endpoint);
            settings.last_handshake = tunnel.last_handshake.max(settings.last_handshake);
        }
    }
}

/// How packets go by a tunnel.
fn sending(tunnel: &Tunnel) -> impl Iterator<Item = Sending> {
    let to = Sight::new(tunnel.place.clone());
    tunnel.keys().map(move |key| Sending {
        tunnel: tunnel.slot,
        key: key.clone(),
        was_confirmed: key.is_confirmed(),
        to: to.clone(),
    })
}

/// How the messages of a tunnel are opened.
fn receiving(tunnel: &Tunnel) -> impl Iterator<Item = Receiving> {
    let from = Sight::new(tunnel.place.clone());
    tunnel.receiving().map(move |key| Receiving { key: key.clone(), from: from.clone() })
}
