//! What a client wants to be different.

use std::{iter, mem, net::SocketAddr};

use carrick_dataplane::PresharedKey;
use carrick_types::{Cidr, WireGuardKey, WireGuardSecret};

/// A `set` operation. What is `None` stays as it is.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Set {
    /// The device's key; `Some(None)` takes it away.
    pub(crate) private_key: Option<Option<WireGuardSecret>>,
    /// The UDP port; 0 is any that is free.
    pub(crate) listen_port: Option<u16>,
    /// The mark of datagrams; 0 is none.
    pub(crate) fwmark: Option<u32>,
    /// Whether peers that are not named are removed.
    pub(crate) replace_peers: bool,
    /// In the order in which they are to be dealt with.
    pub(crate) peers: Vec<SetPeer>,
}

/// What is to be different about a peer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SetPeer {
    pub(crate) public_key: WireGuardKey,
    pub(crate) remove: bool,
    /// Whether a peer that is not there is left alone.
    pub(crate) update_only: bool,
    /// All zero is none.
    pub(crate) preshared_key: Option<PresharedKey>,
    pub(crate) endpoint: Option<SocketAddr>,
    /// In seconds; 0 is never.
    pub(crate) persistent_keepalive: Option<u16>,
    /// Whether prefixes that are not named are taken away.
    pub(crate) replace_allowed_ips: bool,
    /// In the order in which they are to be dealt with.
    pub(crate) allowed_ips: Vec<AllowedIp>,
}

/// A prefix that a peer gets or loses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AllowedIp {
    Allow(Cidr),
    Disallow(Cidr),
}

/// Peers and prefixes that are configured between two packets.
const AT_ONCE: usize = 256;

impl Set {
    /// The same in pieces that are short for the thread that moves packets, to be dealt with one after the other. There is always one.
    pub(crate) fn pieces(mut self) -> impl Iterator<Item = Self> {
        let mut peers = mem::take(&mut self.peers).into_iter().flat_map(SetPeer::pieces).peekable();
        let mut first = Some(self);
        iter::from_fn(move || {
            let mut piece = first.take().or_else(|| peers.peek().map(|_| Self::default()))?;
            let mut room = AT_ONCE;
            while let Some(peer) = peers.next_if(|peer| peer.size() <= room) {
                room -= peer.size();
                piece.peers.push(peer);
            }
            Some(piece)
        })
    }
}

impl SetPeer {
    /// The same in pieces, of which the first has everything but the prefixes that are too many.
    fn pieces(mut self) -> impl Iterator<Item = Self> {
        let rest = self.allowed_ips.split_off(self.allowed_ips.len().min(AT_ONCE - 1));
        let key = self.public_key;
        let more = (0..rest.len().div_ceil(AT_ONCE - 1)).map(move |piece| {
            let allowed_ips = rest.iter().skip(piece * (AT_ONCE - 1)).take(AT_ONCE - 1).copied().collect();
            Self { update_only: true, allowed_ips, ..Self::new(key) }
        });
        iter::once(self).chain(more)
    }

    const fn size(&self) -> usize {
        1 + self.allowed_ips.len()
    }

    /// A peer about which nothing is to be different.
    pub(crate) const fn new(public_key: WireGuardKey) -> Self {
        Self {
            public_key,
            remove: false,
            update_only: false,
            preshared_key: None,
            endpoint: None,
            persistent_keepalive: None,
            replace_allowed_ips: false,
            allowed_ips: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u8, prefixes: u32) -> SetPeer {
        let key = WireGuardSecret::from_bytes([number; 32]).public();
        let prefix = |n: u32| Cidr::host(std::net::Ipv4Addr::from_bits(n).into());
        SetPeer {
            endpoint: Some(([192, 0, 2, 1], 7).into()),
            replace_allowed_ips: true,
            allowed_ips: (0..prefixes).map(|n| AllowedIp::Allow(prefix(n))).collect(),
            ..SetPeer::new(key)
        }
    }

    #[test]
    fn pieces_are_short_and_say_the_same_together() {
        let peers = || vec![peer(1, 3), peer(2, 1000), peer(3, 255), peer(4, 0), peer(5, 255), peer(6, 256)];
        let set = Set { listen_port: Some(7), replace_peers: true, peers: peers(), ..Set::default() };
        let pieces: Vec<_> = set.pieces().collect();
        assert!(pieces.iter().all(|piece| piece.peers.iter().map(SetPeer::size).sum::<usize>() <= AT_ONCE));
        let is_first = |piece: &Set| piece.listen_port == Some(7) && piece.replace_peers;
        assert_eq!(pieces.iter().position(is_first), Some(0));
        assert_eq!(pieces.iter().filter(|piece| is_first(piece)).count(), 1);
        let mut together = Vec::<SetPeer>::new();
        for piece in pieces.into_iter().flat_map(|piece| piece.peers) {
            match together.last_mut().filter(|last| last.public_key == piece.public_key) {
                Some(last) => {
                    assert!(piece.update_only && !piece.replace_allowed_ips);
                    last.allowed_ips.extend(piece.allowed_ips);
                }
                None => together.push(piece),
            }
        }
        assert_eq!(together, peers());
    }

    #[test]
    fn what_names_no_peer_is_one_piece() {
        let set = || Set { fwmark: Some(1), ..Set::default() };
        assert_eq!(set().pieces().collect::<Vec<_>>(), [set()]);
    }
}
