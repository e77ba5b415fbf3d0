//! Where a device listens: nowhere while its interface is down, as the kernel's own WireGuard, so that the port is free meanwhile.

use std::{io, time::Instant};

use nix::errno::Errno;

use super::{First, Further, Path, SocketGroup};
use crate::uapi::{self, AtRest};

impl First {
    /// The interface was brought up, or taken down.
    pub(super) fn set_up(&mut self, up: bool) {
        self.is_up = up;
        let (port, mark) = (self.group.port(), self.group.mark());
        if !up {
            self.close();
        } else if !self.group.is_open()
            && let Err(error) = self.open(port, mark)
        {
            tracing::warn!(
                port,
                %error,
                "the interface is up, but its UDP port cannot be opened: it is tried again each second"
            );
        }
    }

    /// Whether the interface is up, and somebody else has its port.
    pub(super) fn lacks_sockets(&self) -> bool {
        self.is_up && !self.group.is_open()
    }

    /// Tries again to open the port, if there is none yet.
    pub(super) fn retry(&mut self) {
        let (port, mark) = (self.group.port(), self.group.mark());
        if self.lacks_sockets() && self.open_late(port, mark).is_ok() {
            tracing::info!(port, "the UDP port is open now");
        }
    }

    /// Makes the device what a client wants. Where sockets cannot be what they are to be, nothing is different.
    pub(super) fn configure(&mut self, set: uapi::Set) -> Result<(), Errno> {
        let now = Instant::now();
        let before = (self.group.port(), self.group.mark());
        self.set_sockets(&set).map_err(uapi::errno)?;
        if before != (self.group.port(), self.group.mark()) {
            self.leader.device.forget_sources(|_| true);
        }
        uapi::configure(&mut self.leader.device, self.at_rest.as_mut(), set, now);
        Ok(())
    }

    fn set_sockets(&mut self, set: &uapi::Set) -> io::Result<()> {
        let port = set.listen_port.unwrap_or(self.group.port());
        let mark = set.fwmark.unwrap_or(self.group.mark());
        // One that could not be opened is tried again when it is said once more.
        let opens = port != self.group.port() || (set.listen_port.is_some() && !self.group.is_open());
        if self.lacks_sockets() && opens {
            self.open_late(port, mark)
        } else if self.is_up && opens {
            self.open(port, mark)
        } else if opens {
            self.group = self.group.closed(port, mark);
            Ok(())
        } else {
            self.group.set_mark(mark)
        }
    }

    fn open(&mut self, port: u16, mark: u32) -> io::Result<()> {
        let group = self.group.opened(port, mark)?;
        self.begin(group)
    }

    /// The same, when the interface has been up for a while: what waited in it until the port was free is of another time.
    fn open_late(&mut self, port: u16, mark: u32) -> io::Result<()> {
        let group = self.group.opened(port, mark)?;
        self.change_sockets(self.group.closed(self.group.port(), self.group.mark()))?;
        self.begin(group)
    }

    /// Listens from here on.
    fn begin(&mut self, group: SocketGroup) -> io::Result<()> {
        self.change_sockets(group)?;
        if let Some(at_rest) = self.at_rest.take() {
            at_rest.end(&mut self.leader.device, Instant::now());
        }
        Ok(())
    }

    fn close(&mut self) {
        let device = &mut self.leader.device;
        self.at_rest.get_or_insert_with(|| AtRest::begin(device, Instant::now()));
        let closed = self.group.closed(self.group.port(), self.group.mark());
        if let Err(error) = self.change_sockets(closed) {
            tracing::warn!(%error, "the sockets stay open");
        }
        // It is not to be sent when there are sockets again.
        self.path.send(&mut self.leader);
    }

    /// Gives every shard its sockets of a group, or where one cannot use them, each those that it had.
    fn change_sockets(&mut self, group: SocketGroup) -> io::Result<()> {
        let given = give(&self.leader.others, &mut self.path, &group);
        if given.is_ok() {
            self.group = group;
        } else if let Err(error) = give(&self.leader.others, &mut self.path, &self.group) {
            tracing::warn!(%error, "a shard cannot use the sockets that it had");
            self.leader.is_broken = true;
        }
        given
    }
}

fn give(others: &[Further], path: &mut Path, group: &SocketGroup) -> io::Result<()> {
    for (other, shard) in others.iter().zip(1..) {
        other.set_sockets(group.of(shard))?;
    }
    path.set_sockets(group.of(0))
}

#[cfg(test)]
mod tests;
