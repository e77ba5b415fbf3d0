//! What a client wants to be different.

use std::net::SocketAddr;

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

impl SetPeer {
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
