//! Somebody else's say in which packets pass.

/// Which way a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From this host to a peer, before it is sealed.
    Out,
    /// From a peer to this host, after it was opened and found to be from an address of that peer.
    In,
}

/// Looks at each packet that would pass otherwise. A super-packet is looked at once: its packets differ in nothing that a filter of headers asks.
/// All who move packets share it.
pub trait Filter: Send + Sync {
    /// Whether a packet passes. It has its IP header, and its padding no more; its checksums may be unfinished.
    fn passes(&self, direction: Direction, packet: &[u8]) -> bool;
}

impl<F: Fn(Direction, &[u8]) -> bool + Send + Sync> Filter for F {
    fn passes(&self, direction: Direction, packet: &[u8]) -> bool {
        self(direction, packet)
    }
}
