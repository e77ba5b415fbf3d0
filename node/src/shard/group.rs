//! The sockets of all shards: on one port, and each datagram comes to the shard that its receiver index names.

use std::{io, sync::Arc};

use nix::errno::Errno;
use socket2::SockRef;

use crate::udp::UdpSockets;

/// A pair of sockets for each shard.
#[derive(Debug)]
pub(crate) struct SocketGroup {
    /// In the order in which the kernel knows them. There is one at least.
    sockets: Vec<Arc<UdpSockets>>,
    mark: u32,
}

/// Makes data messages come to so many sockets.
type Steer = fn(&UdpSockets, usize) -> io::Result<()>;

impl SocketGroup {
    /// Sockets for so many shards on one port. Where the kernel cannot tell whose a datagram is, there is one pair only.
    pub(crate) fn new(first: UdpSockets, shards: usize) -> io::Result<Self> {
        Self::steered_by(UdpSockets::steer, first, shards)
    }

    fn steered_by(steer: Steer, first: UdpSockets, shards: usize) -> io::Result<Self> {
        let mark = first.mark()?;
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
        Ok(Self { sockets: sockets.into_iter().map(Arc::new).collect(), mark })
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

    /// As many sockets on another port.
    ///
    /// # Errors
    /// Also where the kernel no longer tells whose a datagram is: there are threads by now that would be left without.
    pub(crate) fn on_port(&self, port: u16, mark: u32) -> io::Result<Self> {
        self.on_port_steered_by(UdpSockets::steer, port, mark)
    }

    fn on_port_steered_by(&self, steer: Steer, port: u16, mark: u32) -> io::Result<Self> {
        let group = Self::steered_by(steer, UdpSockets::bind(port, mark)?, self.sockets.len())?;
        if group.sockets.len() < self.sockets.len() {
            return Err(Errno::EOPNOTSUPP.into());
        }
        Ok(group)
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
        assert_eq!(SocketGroup::steered_by(NONE, bind(), 3).unwrap().sockets().len(), 1);
        let group = SocketGroup::new(bind(), 3).unwrap();
        assert_eq!(group.on_port(0, 0).unwrap().sockets().len(), 3);
        let refused = group.on_port_steered_by(NONE, 0, 0).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(Errno::EOPNOTSUPP as i32));
        let one = SocketGroup::new(bind(), 1).unwrap();
        assert_eq!(one.on_port_steered_by(NONE, 0, 0).unwrap().sockets().len(), 1);
    }
}
