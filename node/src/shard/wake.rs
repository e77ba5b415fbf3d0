//! What makes a shard look at what it is told.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, poll},
    sys::eventfd::{EfdFlags, EventFd},
};

use crate::readiness::rounded;

/// An eventfd(2), for as many as may wake the shard.
#[derive(Debug, Clone)]
pub(super) struct Wake(Arc<EventFd>);

impl Wake {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?)))
    }

    /// Wakes the shard, now or when it would next sleep.
    pub(super) fn call(&self) {
        // One that is full wakes as well as one that is not.
        let _ = self.0.write(1);
    }

    /// The shard is awake.
    pub(super) fn clear(&self) {
        // Nobody may have called.
        let _ = self.0.read();
    }

    /// Sleeps until somebody calls, or for so long; `None`: for ever.
    pub(super) fn wait(&self, timeout: Option<Duration>) -> io::Result<()> {
        match poll(&mut [PollFd::new(self.as_fd(), PollFlags::POLLIN)], rounded(timeout)) {
            Ok(_) | Err(Errno::EINTR) => {
                self.clear();
                Ok(())
            }
            Err(errno) => Err(errno.into()),
        }
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
