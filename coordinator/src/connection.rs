//! Who is connected, and how many may be. One source cannot crowd the others out; several together can, until their time is up.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use carrick_types::Cidr;

/// How many connections there may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) total: u32,
    /// Of those, from one source: an IPv4 address or an IPv6 /64.
    pub(crate) per_source: u32,
    /// Of those, by whoever has shown neither credential nor membership.
    pub(crate) strangers: u32,
    pub(crate) strangers_per_source: u32,
}

impl Bounds {
    /// What a process with so many file descriptors can serve.
    pub(crate) fn of(file_descriptors: u64) -> Self {
        let spare = u32::try_from(file_descriptors).unwrap_or(u32::MAX).saturating_sub(64).max(64);
        let total = spare.min(10_000);
        Self {
            total,
            per_source: total.min(4096),
            strangers: (total / 4).clamp(16, 1024),
            strangers_per_source: (total / 8).clamp(16, 256),
        }
    }
}

/// Counts connections. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    bounds: Bounds,
    counts: Arc<Mutex<Counts>>,
}

#[derive(Debug, Default)]
struct Counts {
    all: Count,
    by_source: HashMap<Cidr, Count>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Count {
    connections: u32,
    strangers: u32,
}

/// A connection's place. Gives it up when dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    gate: Gate,
    source: Cidr,
    stranger: Mutex<bool>,
}

/// What a request handler knows of the connection that the request came by.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) slot: Slot,
    /// The other end; an IPv4 address is never written as IPv6.
    pub(crate) peer: SocketAddr,
    /// Keying material exported from the TLS session (RFC 5705).
    pub(crate) exporter: [u8; 32],
}

impl Gate {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { bounds, counts: Arc::default() }
    }

    /// Takes a place for a stranger; `None` where there are too many.
    pub(crate) fn enter(&self, ip: IpAddr) -> Option<Slot> {
        let length = if ip.is_ipv4() { 32 } else { 64 };
        let source = Cidr::containing(ip, length)?;
        let mut counts = self.lock();
        let here = counts.by_source.get(&source).copied().unwrap_or_default();
        let full = counts.all.connections >= self.bounds.total
            || counts.all.strangers >= self.bounds.strangers
            || here.connections >= self.bounds.per_source
            || here.strangers >= self.bounds.strangers_per_source;
        if full {
            return None;
        }
        for count in counts.of(source) {
            count.connections += 1;
            count.strangers += 1;
        }
        Some(Slot { gate: self.clone(), source, stranger: Mutex::new(true) })
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        // The counts are changed in places that cannot panic.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn of(&mut self, source: Cidr) -> [&mut Count; 2] {
        [&mut self.all, self.by_source.entry(source).or_default()]
    }
}

impl Slot {
    /// The other end has shown who it is.
    pub(crate) fn known(&self) {
        let mut stranger = self.stranger.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut *stranger) {
            for count in self.gate.lock().of(self.source) {
                count.strangers -= 1;
            }
        }
    }

    pub(crate) fn is_stranger(&self) -> bool {
        *self.stranger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.known();
        let mut counts = self.gate.lock();
        for count in counts.of(self.source) {
            count.connections -= 1;
        }
        if counts.by_source.get(&self.source).is_some_and(|count| count.connections == 0) {
            counts.by_source.remove(&self.source);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { total: 5, per_source: 4, strangers: 3, strangers_per_source: 2 };

    fn ip(n: u8) -> IpAddr {
        [192, 0, 2, n].into()
    }

    #[test]
    fn strangers_of_one_source_leave_room_for_another() {
        let gate = Gate::new(BOUNDS);
        let first: Vec<_> = (0..9).filter_map(|_| gate.enter(ip(1))).collect();
        assert_eq!(first.len(), 2);
        let second = gate.enter(ip(2)).unwrap();
        assert!(gate.enter(ip(3)).is_none(), "three strangers are all");
        second.known();
        gate.enter(ip(3)).unwrap();
    }

    #[test]
    fn a_place_is_free_again_when_its_connection_is_gone() {
        let gate = Gate::new(BOUNDS);
        for _ in 0..100 {
            let slot = gate.enter("2001:db8::1".parse().unwrap()).unwrap();
            slot.known();
        }
        let counts = gate.lock();
        assert!(counts.by_source.is_empty());
        assert_eq!((counts.all.connections, counts.all.strangers), (0, 0));
    }
}
