//! The WireGuard device: which peer an address belongs to, and the tunnels to those peers, made when they are first needed.
//!
//! Pure: packets, datagrams and time come in as arguments. Transmits go out through `poll_*`, and packets to whoever is passed to take them.
//! Start at [`Device`]. Sockets and the TUN interface live in `carrick_node::shard`.
//!
//! The protocol is `carrick_wireguard`'s; what it takes from outside comes in by [`Outside`].

#![forbid(unsafe_code)]

mod allowed_ips;
mod counters;
mod device;
mod ecn;
mod endpoint;
mod filter;
mod forwarder;
mod link;
mod mss;
pub mod offload;
mod outbox;
mod outside;
mod own_keys;
mod packet;
mod peer;
mod place;
mod rate;
mod report;
mod slots;
mod too_big;
mod tunnel;
mod waiting;

pub use allowed_ips::AllowedIps;
pub use carrick_wireguard::{OVERHEAD, PresharedKey, message::MessageType};
pub use counters::Counters;
pub use device::{Device, LinkState, PeerState, Timer};
pub use ecn::{Arrival, Ecn};
pub use endpoint::{Endpoint, Source};
pub use filter::{Direction, Filter};
pub use forwarder::{Forwarder, Own, Update};
pub use link::Link;
pub use outbox::{MAX_DATAGRAM, MAX_SEGMENTS, Transmit};
pub use outside::Outside;
pub use packet::{Addresses, addresses, flow_hash};
pub use peer::PeerConfig;
pub use report::Report;
