//! Segmentation and coalescing: one super-packet of the kernel is many packets of a tunnel, and the other way round.
//!
//! The kernel hands a TUN interface with offloads packets of up to 64 KiB, each behind a [`VnetHeader`] that says how to cut it
//! up: those are [`Segments`]. Packets that came through a tunnel one behind the other are handed to the kernel as one again:
//! [`Coalescer`]. Splitting followed by coalescing is the identity; every checksum is exact.
//!
//! Sources: `struct virtio_net_hdr` (Virtio 1.3, section 5.1.6), `Documentation/networking/segmentation-offloads.rst` of Linux.

mod checksum;
mod coalesce;
mod header;
pub(crate) mod headers;
mod split;
#[cfg(test)]
mod tests;

pub(crate) use checksum::{Sum, replace_word};
pub use coalesce::{Coalesced, Coalescer, MAX_PARTS};
pub use header::{Gso, VnetHeader};
pub(crate) use headers::{Headers, SYN, TCP, TCP_FLAGS, UDP, Upper, write_u16, write_u32};
pub use split::{Malformed, Segments};
