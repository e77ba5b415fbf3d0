//! What it takes to exchange packets with a peer: keys, and sight of where the peer is. The device makes it anew whenever a handshake, a timer or
//! the control side changes something; every [`crate::Forwarder`] has one like it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use carrick_wireguard::{ReceiveKey, SendKey};

use crate::{endpoint::Endpoint, place::Sight};

/// The link to a peer. A key that is over seals and opens nothing, whoever still has this.
#[derive(Clone)]
pub struct Link {
    /// How packets go there: by the first of these that may seal.
    pub(crate) sending: Vec<Sending>,
    /// How messages from there are opened.
    pub(crate) receiving: Vec<Receiving>,
    /// How long a packet to it may be, where the interface takes longer ones.
    pub(crate) path_mtu: Option<u16>,
    /// What went to and fro.
    pub(crate) transfer: Arc<Transfer>,
}

/// How packets go to a peer.
#[derive(Clone)]
pub(crate) struct Sending {
    /// The slot of the tunnel that the key is of.
    pub(crate) tunnel: u32,
    pub(crate) key: Arc<SendKey>,
    /// Whether the peer was known to have the session when this was made.
    pub(crate) was_confirmed: bool,
    pub(crate) to: Sight,
}

/// How messages of one session are opened.
#[derive(Clone)]
pub(crate) struct Receiving {
    pub(crate) key: Arc<ReceiveKey>,
    /// Where they come from.
    pub(crate) from: Sight,
}

impl Link {
    /// Whether there are keys that may seal, unless they have been over since.
    pub(crate) fn has_keys(&self) -> bool {
        self.sending.iter().any(|sending| sending.was_confirmed)
    }

    /// How long a packet may be, either way.
    pub(crate) fn mtu(&self, interface: usize) -> usize {
        self.path_mtu.map_or(interface, |path| interface.min(path.into()))
    }
}

/// How a packet goes now, and where to; `None` where there are no keys for it.
pub(crate) fn way(sending: &mut [Sending], now: Instant) -> Option<(&Sending, Endpoint)> {
    sending.iter_mut().find_map(|sending| {
        sending.key.check(now).ok()?;
        let to = sending.to.get()?;
        Some((&*sending, to))
    })
}

impl PartialEq for Link {
    /// Whether they are made of the very same keys.
    fn eq(&self, other: &Self) -> bool {
        let same_keys = |(ours, theirs): (&Receiving, &Receiving)| Arc::ptr_eq(&ours.key, &theirs.key);
        self.sending == other.sending
            && self.receiving.len() == other.receiving.len()
            && self.receiving.iter().zip(&other.receiving).all(same_keys)
            && self.path_mtu == other.path_mtu
            && Arc::ptr_eq(&self.transfer, &other.transfer)
    }
}

impl PartialEq for Sending {
    fn eq(&self, other: &Self) -> bool {
        self.tunnel == other.tunnel
            && Arc::ptr_eq(&self.key, &other.key)
            && self.was_confirmed == other.was_confirmed
    }
}

/// Bytes that went to a peer and came from it, counted by everyone who moves some.
#[derive(Debug, Default)]
pub(crate) struct Transfer {
    /// Of inner packets.
    pub(crate) packets: Tally,
    /// Of authentic messages, of whatever kind, without the headers of UDP and IP.
    pub(crate) messages: Tally,
}

/// Bytes both ways.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    received: AtomicU64,
    sent: AtomicU64,
}

impl Transfer {
    /// Counts what another one has counted, too.
    pub(crate) fn add(&self, other: &Self) {
        for (ours, theirs) in [(&self.packets, &other.packets), (&self.messages, &other.messages)] {
            ours.receive(theirs.received());
            ours.send(theirs.sent());
        }
    }
}

impl Tally {
    pub(crate) fn receive(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn send(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}
