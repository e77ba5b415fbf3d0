//! What was dropped, and why.

use std::ops::AddAssign;

/// What was dropped, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets from this host whose destination belongs to no peer.
    pub no_peer: u64,
    /// Packets from this host for a peer that admits no new tunnel and has none.
    pub not_admitted: u64,
    /// Packets from this host that waited for a handshake and made room for newer ones.
    pub crowded_out: u64,
    /// Packets from this host that waited for a handshake that did not come about.
    pub unanswered: u64,
    /// Packets from this host whose key ended before they were sealed.
    pub no_key: u64,
    /// Packets, from this host or authentic ones of a peer, that are not what they say they are.
    pub malformed: u64,
    /// Datagrams that are no WireGuard message, or of no peer, or not authentic.
    pub refused: u64,
    /// Authentic packets from a peer with a source address that is not the peer's.
    pub spoofed: u64,
    /// Authentic packets from a peer for somebody this node does not speak for.
    pub not_for_us: u64,
    /// Packets of either direction that the filter did not let pass.
    pub filtered: u64,
    /// Packets from this host that are longer than the path to the peer takes.
    pub too_big: u64,
    /// This host's own datagrams to peers that a route leads back into the interface.
    pub looped: u64,
    /// Packets of senders that do not know congestion marks, in datagrams that have one.
    pub congested: u64,
}

impl AddAssign for Counters {
    fn add_assign(&mut self, other: Self) {
        let Self {
            no_peer,
            not_admitted,
            crowded_out,
            unanswered,
            no_key,
            malformed,
            refused,
            spoofed,
            not_for_us,
            filtered,
            too_big,
            looped,
            congested,
        } = other;
        self.no_peer += no_peer;
        self.not_admitted += not_admitted;
        self.crowded_out += crowded_out;
        self.unanswered += unanswered;
        self.no_key += no_key;
        self.malformed += malformed;
        self.refused += refused;
        self.spoofed += spoofed;
        self.not_for_us += not_for_us;
        self.filtered += filtered;
        self.too_big += too_big;
        self.looped += looped;
        self.congested += congested;
    }
}
