//! What was dropped, and why.

use std::ops::AddAssign;

/// Makes [`Counters`] of a list of reasons.
macro_rules! counters {
    ($($(#[$meaning:meta])* $reason:ident,)*) => {
        /// What was dropped, by reason.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[$meaning])* pub $reason: u64,)*
        }

        impl Counters {
            /// Each reason by its name, and how much was dropped for it.
            pub fn by_reason(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($reason), self.$reason)),*].into_iter()
            }
        }

        impl AddAssign for Counters {
            fn add_assign(&mut self, other: Self) {
                $(self.$reason += other.$reason;)*
            }
        }
    };
}

counters! {
    /// Packets from this host whose destination belongs to no peer.
    no_peer,
    /// Packets from this host for a peer that admits no new tunnel and has none.
    not_admitted,
    /// Packets from this host that waited for a handshake and made room for newer ones.
    crowded_out,
    /// Packets from this host that waited for a handshake that did not come about.
    unanswered,
    /// Packets from this host whose key ended before they were sealed.
    no_key,
    /// Packets, from this host or authentic ones of a peer, that are not what they say they are.
    malformed,
    /// Datagrams that are no WireGuard message, or of no peer, or not authentic.
    refused,
    /// Authentic packets from a peer with a source address that is not the peer's.
    spoofed,
    /// Authentic packets from a peer for somebody this node does not speak for.
    not_for_us,
    /// Packets of either direction that the filter did not let pass.
    filtered,
    /// Packets from this host that are longer than the path to the peer takes.
    too_big,
    /// This host's own datagrams to peers that a route leads back into the interface.
    looped,
    /// Packets of senders that do not know congestion marks, in datagrams that have one.
    congested,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_name_and_its_own_number() {
        let mut counters = Counters { no_peer: 2, congested: 3, ..Counters::default() };
        counters += Counters { no_peer: 5, ..Counters::default() };
        let dropped: Vec<_> = counters.by_reason().filter(|(_, count)| *count > 0).collect();
        assert_eq!(dropped, [("no_peer", 7), ("congested", 3)]);
        assert_eq!(counters.by_reason().count() * size_of::<u64>(), size_of::<Counters>());
    }
}
