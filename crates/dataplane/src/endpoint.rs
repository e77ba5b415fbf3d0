//! Where a peer is, and from where this host speaks to it.

use std::net::{IpAddr, SocketAddr};

/// The two ends of what goes to a peer, as they were in what came from it.
///
/// A host with several addresses answers from the one that was asked: who asked, and every middlebox on the way, expects nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// Where the peer is.
    pub remote: SocketAddr,
    /// What it spoke to; `None`: the routing table says what to speak from.
    pub source: Option<Source>,
}

/// An address of this host that a peer spoke to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    /// The address.
    pub address: IpAddr,
    /// The index of the interface that the peer's datagrams came in by.
    pub interface: u32,
}

impl From<SocketAddr> for Endpoint {
    fn from(remote: SocketAddr) -> Self {
        Self { remote, source: None }
    }
}
