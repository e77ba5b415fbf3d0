//! A device without a mesh: an administrator sets its key and its peers, one thing at a time, as WireGuard's configuration
//! protocol does (<https://www.wireguard.com/xplatform/>).

use std::{
    collections::{BTreeSet, btree_map::Entry},
    net::SocketAddr,
    time::{Duration, Instant},
};

use carrick_types::{Cidr, WireGuardKey, WireGuardSecret};
use carrick_wireguard::PresharedKey;

use super::Device;
use crate::{
    endpoint::Endpoint,
    forwarder::{Own, Update},
    outside::Outside,
    own_keys::OwnKeys,
    peer::{Peer, PeerConfig},
    tunnel::Tunnel,
};

/// What a device without a mesh has beside its peers.
#[derive(Default)]
pub(crate) struct StandAlone {
    /// Its key, once it is set. Before that no peer is admitted.
    pub(super) secret: Option<WireGuardSecret>,
}

/// What an administrator says of a peer, and what is kept of it from tunnel to tunnel.
#[derive(Default)]
pub(crate) struct Settings {
    pub(crate) preshared_key: PresharedKey,
    pub(crate) persistent_keepalive: Option<Duration>,
    /// Where the peer was said to be, or was last heard of in a tunnel that is over.
    pub(crate) endpoint: Option<Endpoint>,
    pub(crate) allowed_ips: BTreeSet<Cidr>,
    /// Of tunnels that are over.
    pub(crate) last_handshake: Option<Instant>,
    /// Whether there is never to be a tunnel.
    pub(crate) mute: bool,
}

impl Settings {
    /// Makes a new tunnel heed them.
    pub(super) fn apply(&self, tunnel: &mut Tunnel, now: Instant) {
        tunnel.set_preshared_key(self.preshared_key.clone());
        if self.persistent_keepalive.is_some() {
            tunnel.set_persistent_keepalive(self.persistent_keepalive, now);
        }
    }
}

impl Device {
    /// A device without key and peers, which speaks for every address: what comes in is held against the allowed IPs of whoever it is
    /// from, and against nothing else.
    pub fn stand_alone(mut outside: impl Outside + 'static) -> Self {
        let secret = stand_in(&mut |bytes| outside.random(bytes));
        let mut device = Self::new(&secret, outside);
        device.stand_alone = Some(StandAlone::default());
        device.update(Update::Own(Own::Everything));
        device
    }

    /// Makes a key the device's at once, or takes it away. Sessions and handshakes of another key end here, and the peer that has
    /// this key is gone.
    pub fn set_secret(&mut self, secret: Option<&WireGuardSecret>, now: Instant) {
        let Some(stand_alone) = &mut self.stand_alone else { return };
        if stand_alone.secret.as_ref() == secret {
            return;
        }
        stand_alone.secret = secret.cloned();
        let surroundings = &mut self.surroundings;
        self.keys = OwnKeys::new(
            &secret.cloned().unwrap_or_else(|| stand_in(&mut |bytes| surroundings.random(bytes))),
        );
        self.remove_peer(&self.keys.current.public.clone());
        let mut admitted = Vec::new();
        for (key, peer) in &mut self.peers {
            peer.cut(&mut self.slots, |_| true);
            let mute = peer.settings.as_ref().is_some_and(|settings| settings.mute);
            let admits_new = secret.is_some() && !mute;
            if std::mem::replace(&mut peer.config.admits_new, admits_new) != admits_new {
                admitted.push((*key, admits_new));
            }
        }
        admitted.into_iter().for_each(|(key, admits)| self.admit(key, admits));
        self.publish_all();
        self.begin_wanted(now);
        self.keep_alive(now);
    }

    /// Whether there is such a peer.
    pub fn has_peer(&self, key: &WireGuardKey) -> bool {
        self.peers.contains_key(key)
    }

    /// Adds a peer of which nothing is known but its key. Nothing happens where it is known already, or is this device itself.
    pub fn add_peer(&mut self, key: WireGuardKey) {
        self.add(key, false);
    }

    /// Adds a peer that has settings and prefixes like any other, but is sent nothing and heard by nobody.
    pub fn add_mute_peer(&mut self, key: WireGuardKey) {
        self.add(key, true);
    }

    fn add(&mut self, key: WireGuardKey, mute: bool) {
        let Some(stand_alone) = &self.stand_alone else { return };
        if key == self.keys.current.public {
            return;
        }
        let admits_new = stand_alone.secret.is_some() && !mute;
        let Entry::Vacant(place) = self.peers.entry(key) else { return };
        place.insert(Peer {
            config: PeerConfig { admits_new, ..Peer::unknown().config },
            settings: Some(Box::new(Settings { mute, ..Settings::default() })),
            ..Peer::unknown()
        });
        if admits_new {
            self.admit(key, true);
        }
    }

    /// Forgets every peer.
    pub fn remove_peers(&mut self) {
        for key in self.peers.keys().copied().collect::<Vec<_>>() {
            self.remove_peer(&key);
        }
    }

    /// Shares a secret with a peer. Handshakes that are not through yet are made with it; sessions go on.
    pub fn set_preshared_key(&mut self, key: &WireGuardKey, preshared_key: PresharedKey) {
        let Some(Peer { settings: Some(settings), current, .. }) = self.peers.get_mut(key) else { return };
        if let Some(tunnel) = current {
            tunnel.set_preshared_key(preshared_key.clone());
        }
        settings.preshared_key = preshared_key;
    }

    /// Keeps a tunnel with the peer open in middleboxes, beginning now; `None` leaves that to packets.
    pub fn set_persistent_keepalive(&mut self, key: &WireGuardKey, interval: Option<Duration>, now: Instant) {
        let Some(Peer { settings: Some(settings), current, .. }) = self.peers.get_mut(key) else { return };
        if settings.persistent_keepalive == interval {
            return;
        }
        settings.persistent_keepalive = interval;
        if let Some(tunnel) = current {
            tunnel.set_persistent_keepalive(interval, now);
        }
        self.keep_alive_of(*key, now);
    }

    /// Says where a peer is: what goes to it goes there from here on, from wherever the routing table says, until it is heard of elsewhere.
    pub fn set_endpoint(&mut self, key: &WireGuardKey, endpoint: SocketAddr, now: Instant) {
        let Some(peer) = self.peers.get_mut(key) else { return };
        let Some(settings) = &mut peer.settings else { return };
        settings.endpoint = Some(endpoint.into());
        for tunnel in peer.tunnels_mut() {
            // An initiation that went elsewhere, or nowhere, will hardly be answered.
            let before = tunnel.place.set(endpoint.into());
            if before.map(|before| before.remote) != Some(endpoint) && !tunnel.has_keys() {
                tunnel.look_for_peer();
            }
        }
        self.keep_alive_of(*key, now);
    }

    /// Gives a prefix to a peer. Whoever had it has it no longer.
    pub fn allow(&mut self, key: &WireGuardKey, prefix: Cidr) {
        let Some(Peer { settings: Some(settings), .. }) = self.peers.get_mut(key) else { return };
        settings.allowed_ips.insert(prefix);
        let before = self.forwarder.allow(prefix, *key).filter(|owner| owner != key);
        self.announce(Update::Allow(prefix, *key));
        let before = before.and_then(|owner| self.peers.get_mut(&owner)?.settings.as_mut());
        if let Some(settings) = before {
            settings.allowed_ips.remove(&prefix);
        }
    }

    /// Takes a prefix from a peer, if that peer has it.
    pub fn disallow(&mut self, key: &WireGuardKey, prefix: Cidr) {
        let Some(Peer { settings: Some(settings), .. }) = self.peers.get_mut(key) else { return };
        if settings.allowed_ips.remove(&prefix) {
            self.update(Update::Disallow(prefix, *key));
        }
    }

    /// Takes every prefix from a peer.
    pub fn disallow_all(&mut self, key: &WireGuardKey) {
        let Some(Peer { settings: Some(settings), .. }) = self.peers.get_mut(key) else { return };
        for prefix in std::mem::take(&mut settings.allowed_ips) {
            self.update(Update::Disallow(prefix, *key));
        }
    }

    /// Sees to it that every tunnel that is to be kept open is there.
    pub(super) fn keep_alive(&mut self, now: Instant) {
        if self.stand_alone.is_none() {
            return;
        }
        let lost = |peer: &Peer| peer.current.is_none() && keeps_alive(peer);
        let lost: Vec<_> = self.peers.iter().filter(|(_, peer)| lost(peer)).map(|(key, _)| *key).collect();
        for key in lost {
            self.ensure_current(key, now);
            // The one before it gave up: the next attempt is not due at once.
            if let Some(Peer { current: Some(tunnel), settings: Some(settings), .. }) =
                self.peers.get_mut(&key)
                && let Some(interval) = settings.persistent_keepalive
            {
                tunnel.set_persistent_keepalive(Some(interval), now + interval);
            }
        }
    }

    fn keep_alive_of(&mut self, key: WireGuardKey, now: Instant) {
        if self.peers.get(&key).is_some_and(keeps_alive) {
            self.ensure_current(key, now);
        }
    }
}

/// Whether there is to be a tunnel even if nothing goes through it.
fn keeps_alive(peer: &Peer) -> bool {
    let keeps = peer.settings.as_ref().is_some_and(|settings| settings.persistent_keepalive.is_some());
    keeps && peer.config.admits_new && peer.endpoint().is_some()
}

/// A key that nobody is told of, until there is one.
fn stand_in(random: &mut dyn FnMut(&mut [u8])) -> WireGuardSecret {
    let mut bytes = [0; 32];
    random(&mut bytes);
    WireGuardSecret::from_bytes(bytes)
}

#[cfg(test)]
mod tests;
