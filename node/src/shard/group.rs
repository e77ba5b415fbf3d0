//! The sockets of all shards: on one port, and each datagram comes to the shard that its receiver index names.

use std::{io, sync::Arc};

use nix::errno::Errno;
use socket2::SockRef;

use crate::udp::UdpSockets;

/// A pair of sockets for each shard, or none at all, while the interface of a device is down; and what they are, or are to be, like.
#[derive(Debug)]
pub(crate) struct SocketGroup {
    /// In the order in which the kernel knows them.
    sockets: Vec<Arc<UdpSockets>>,
    shards: usize,
    port: u16,
    mark: u32,
}

/// Makes data messages come to so many sockets.
type Steer = fn(&UdpSockets, usize) -> io::Result<()>;

impl SocketGroup {
    /// Sockets for so many shards on one port. Where the kernel cannot tell whose a datagram is, it is one shard only.
    pub(crate) fn new(first: UdpSockets, shards: usize) -> io::Result<Self> {
        Self::steered_by(UdpSockets::steer, first, shards)
    }

    fn steered_by(steer: Steer, first: UdpSockets, shards: usize) -> io::Result<Self> {
        let (port, mark) = (first.port(), first.mark()?);
        let mut sockets = vec![first];
        if shards > 1 {
            for _ in 1..shards {
                sockets.push(sockets[0].join()?);
            }
            if let Err(error) = steer(&sockets[0], shards) {
                tracing::info!(%error, "the kernel does not steer datagrams; one shard can move packets");
                sockets.truncate(1);
            }
        }
        let sockets: Vec<_> = sockets.into_iter().map(Arc::new).collect();
        Ok(Self { shards: sockets.len(), sockets, port, mark })
    }

    /// For so many shards there are sockets, or will be.
    pub(crate) const fn shards(&self) -> usize {
        self.shards
    }

    /// Those of a shard; `None` while there are none.
    pub(crate) fn of(&self, shard: usize) -> Option<Arc<UdpSockets>> {
        self.sockets.get(shard).cloned()
    }

    /// Whether there are sockets.
    pub(crate) const fn is_open(&self) -> bool {
        !self.sockets.is_empty()
    }

    /// The port of all. While there are none, that which they will have; 0: any that is free.
    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// The firewall mark of all.
    pub(crate) const fn mark(&self) -> u32 {
        self.mark
    }

    /// Gives all datagrams another firewall mark, or where that cannot be, none of them.
    pub(crate) fn set_mark(&mut self, mark: u32) -> io::Result<()> {
        let sockets: Vec<_> = self.sockets.iter().flat_map(|sockets| sockets.both()).collect();
        change_all(&sockets, self.mark, mark, |socket, mark| SockRef::from(*socket).set_mark(mark))?;
        self.mark = mark;
        Ok(())
    }

    /// As many sockets on another port, or on the same one where there are none now.
    ///
    /// # Errors
    /// Also where the kernel no longer tells whose a datagram is: there are threads by now that would be left without.
    pub(crate) fn opened(&self, port: u16, mark: u32) -> io::Result<Self> {
        self.opened_and_steered_by(UdpSockets::steer, port, mark)
    }

    fn opened_and_steered_by(&self, steer: Steer, port: u16, mark: u32) -> io::Result<Self> {
        let group = Self::steered_by(steer, UdpSockets::bind(port, mark)?, self.shards)?;
        if group.shards < self.shards {
            return Err(Errno::EOPNOTSUPP.into());
        }
        Ok(group)
    }

    /// No sockets, until they are opened.
    pub(crate) const fn closed(&self, port: u16, mark: u32) -> Self {
        Self { sockets: Vec::new(), shards: self.shards, port, mark }
    }

    #[cfg(test)]
    pub(crate) const fn among(sockets: Vec<Arc<UdpSockets>>) -> Self {
        Self { shards: sockets.len(), sockets, port: 0, mark: 0 }
    }
}

/// Changes a value of all, or where one of them refuses it, of none.
fn change_all<T, V: Copy>(
    all: &[T],
    from: V,
    to: V,
    mut set: impl FnMut(&T, V) -> io::Result<()>,
) -> io::Result<()> {
    for (number, one) in all.iter().enumerate() {
        if let Err(error) = set(one, to) {
            // They had it a moment ago.
            all.iter().take(number).try_for_each(|one| set(one, from))?;
            return Err(error);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_that_one_refuses_is_taken_back_from_the_others() {
        for refuses in 0..5 {
            let values = [const { std::cell::Cell::new(1) }; 4];
            let numbered: Vec<_> = values.iter().enumerate().collect();
            let changed = change_all(&numbered, 1, 2, |(number, value), to| {
                if *number == refuses {
                    return Err(Errno::EPERM.into());
                }
                value.set(to);
                Ok(())
            });
            assert_eq!(changed.is_err(), refuses < 4);
            let expected = if refuses < 4 { 1 } else { 2 };
            assert!(values.iter().all(|value| value.get() == expected), "{values:?}");
        }
    }

    #[test]
    fn where_the_kernel_does_not_steer_one_shard_starts_and_several_that_run_keep_their_port() {
        const NONE: Steer = |_, _| Err(Errno::EINVAL.into());
        let bind = || UdpSockets::bind(0, 0).unwrap();
        assert_eq!(SocketGroup::steered_by(NONE, bind(), 3).unwrap().shards(), 1);
        let group = SocketGroup::new(bind(), 3).unwrap();
        for group in [group.closed(0, 0), group] {
            assert_eq!(group.opened(0, 0).unwrap().sockets.len(), 3);
            let refused = group.opened_and_steered_by(NONE, 0, 0).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(Errno::EOPNOTSUPP as i32));
        }
        let one = SocketGroup::new(bind(), 1).unwrap();
        assert_eq!(one.opened_and_steered_by(NONE, 0, 0).unwrap().shards(), 1);
    }
}
