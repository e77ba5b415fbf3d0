//! Which peer's a receiver index is.

use std::collections::BTreeMap;

use carrick_types::WireGuardKey;

/// Receiver indices have 24 bits for the tunnel; the tunnel numbers its sessions with the other 8.
const SLOTS: u32 = 1 << 24;

/// The peer of each tunnel, by the upper 24 bits of the receiver indices that the tunnel hands out.
#[derive(Debug)]
pub(crate) struct Slots {
    taken: BTreeMap<u32, WireGuardKey>,
    /// The last slot that was taken: it comes again last.
    last: u32,
}

impl Slots {
    /// The slots of a device: the first one that it takes is anywhere, so that strangers do not know which ones it has.
    pub(crate) fn new(anywhere: u32) -> Self {
        Self { taken: BTreeMap::new(), last: anywhere % SLOTS }
    }

    /// A slot for a tunnel with a peer; `None` where all are taken.
    pub(crate) fn take(&mut self, peer: WireGuardKey) -> Option<u32> {
        let next = (self.last + 1) % SLOTS;
        let slot = (next..SLOTS).chain(0..next).find(|slot| !self.taken.contains_key(slot))?;
        self.taken.insert(slot, peer);
        self.last = slot;
        Some(slot)
    }

    /// Hands a tunnel over to another peer.
    pub(crate) fn give(&mut self, slot: u32, peer: WireGuardKey) {
        self.taken.insert(slot, peer);
    }

    /// The tunnel is gone.
    pub(crate) fn release(&mut self, slot: u32) {
        self.taken.remove(&slot);
    }

    /// Whose the tunnel is.
    pub(crate) fn peer(&self, slot: u32) -> Option<WireGuardKey> {
        self.taken.get(&slot).copied()
    }

    /// How many tunnels there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.taken.len()
    }

    /// Whether there is no tunnel at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.taken.is_empty()
    }
}
