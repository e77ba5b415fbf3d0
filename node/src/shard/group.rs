//! The sockets of all shards: on one port, and each datagram comes to the shard that its receiver index names.

use std::{io, sync::Arc};

use socket2::SockRef;

use crate::udp::UdpSockets;

/// A pair of sockets for each shard.
#[derive(Debug)]
pub(crate) struct SocketGroup {
    /// In the order in which the kernel knows them. There is one at least.
    sockets: Vec<Arc<UdpSockets>>,
}

impl SocketGroup {
    /// Sockets for so many shards on one port. Where the kernel cannot tell whose a datagram is, there is one pair only.
    pub(crate) fn new(first: UdpSockets, shards: usize) -> io::Result<Self> {
        let mut sockets = vec![first];
        if shards > 1 {
            for _ in 1..shards {
                sockets.push(sockets[0].join()?);
            }
            if let Err(error) = sockets[0].steer(shards) {
                tracing::info!(%error, "the kernel does not steer datagrams; one shard moves all packets");
                sockets.truncate(1);
            }
        }
        Ok(Self { sockets: sockets.into_iter().map(Arc::new).collect() })
    }

    /// The pairs.
    pub(crate) fn sockets(&self) -> &[Arc<UdpSockets>] {
        &self.sockets
    }

    /// The port of all.
    pub(crate) fn port(&self) -> u16 {
        self.sockets[0].port()
    }

    /// The firewall mark of all.
    pub(crate) fn mark(&self) -> io::Result<u32> {
        self.sockets[0].mark()
    }

    /// Gives all datagrams another firewall mark.
    pub(crate) fn set_mark(&self, mark: u32) -> io::Result<()> {
        for sockets in &self.sockets {
            for socket in [Some(&sockets.v4), sockets.v6.as_ref()].into_iter().flatten() {
                SockRef::from(socket).set_mark(mark)?;
            }
        }
        Ok(())
    }

    /// As many sockets on another port.
    pub(crate) fn on_port(&self, port: u16, mark: u32) -> io::Result<Self> {
        Self::new(UdpSockets::bind(port, mark)?, self.sockets.len())
    }
}
