//! Which descriptors of the packet path are readable.

use std::{io, os::fd::AsFd, time::Duration};

use nix::{
    errno::Errno,
    poll::PollTimeout,
    sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags},
};

/// A descriptor that the packet path waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// The control side has something to say.
    Commands,
    /// Datagrams over IPv4.
    V4,
    /// Datagrams over IPv6.
    V6,
    /// Packets in a queue of the interface.
    Queue(usize),
}

impl Source {
    /// The queue, if it is one.
    pub(crate) const fn queue(self) -> Option<usize> {
        if let Self::Queue(queue) = self { Some(queue) } else { None }
    }

    const fn to_u64(self) -> u64 {
        match self {
            Self::Commands => 0,
            Self::V4 => 1,
            Self::V6 => 2,
            Self::Queue(queue) => 3 + queue as u64,
        }
    }

    const fn from_u64(number: u64) -> Self {
        match number {
            0 => Self::Commands,
            1 => Self::V4,
            2 => Self::V6,
            3.. => Self::Queue((number - 3) as usize),
        }
    }
}

/// An epoll(7) of the packet path's descriptors.
#[derive(Debug)]
pub(crate) struct Readiness {
    epoll: Epoll,
    events: Vec<EpollEvent>,
}

impl Readiness {
    /// Watches nothing yet; says so many sources at once at most.
    pub(crate) fn new(sources: usize) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(Self { epoll, events: vec![EpollEvent::empty(); sources] })
    }

    /// Watches a descriptor, for as long as it is open.
    pub(crate) fn watch(&self, descriptor: impl AsFd, source: Source) -> io::Result<()> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, source.to_u64());
        match self.epoll.add(descriptor, event) {
            Ok(()) | Err(Errno::EEXIST) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Watches a descriptor no longer, though somebody may have it open still.
    pub(crate) fn forget(&self, descriptor: impl AsFd) {
        // One that was not watched is none to forget.
        let _ = self.epoll.delete(descriptor);
    }

    /// Waits until something is readable, or for so long; `None`: for ever. Says what is.
    pub(crate) fn wait(
        &mut self,
        timeout: Option<Duration>,
    ) -> io::Result<impl Iterator<Item = Source> + use<'_>> {
        let count = match self.epoll.wait(&mut self.events, rounded(timeout)) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(errno) => return Err(errno.into()),
        };
        Ok(self.events.iter().take(count).map(|event| Source::from_u64(event.data())))
    }
}

/// A wait in whole milliseconds, rounded up, so that what is waited for is due when the wait is over; `None`: for ever.
pub(crate) fn rounded(timeout: Option<Duration>) -> PollTimeout {
    timeout.map_or(PollTimeout::NONE, |wait| {
        let millisecond = if wait.is_zero() { Duration::ZERO } else { Duration::from_millis(1) };
        PollTimeout::try_from(wait + millisecond).unwrap_or(PollTimeout::MAX)
    })
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn what_is_readable_is_said_until_it_is_read_and_a_closed_descriptor_is_no_source() {
        let [one, two] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        let mut readiness = Readiness::new(4).unwrap();
        readiness.watch(&one, Source::V4).unwrap();
        readiness.watch(&two, Source::Queue(7)).unwrap();
        readiness.watch(&two, Source::Queue(7)).expect("twice is once");
        let mut ready = || readiness.wait(Some(Duration::ZERO)).unwrap().collect::<Vec<_>>();
        assert_eq!(ready(), []);
        one.send_to(b"x", two.local_addr().unwrap()).unwrap();
        assert_eq!(ready(), [Source::Queue(7)]);
        assert_eq!(ready(), [Source::Queue(7)]);
        two.recv(&mut [0; 4]).unwrap();
        assert_eq!(ready(), []);
        one.send_to(b"x", two.local_addr().unwrap()).unwrap();
        drop(two);
        assert_eq!(ready(), []);
    }

    #[test]
    fn what_is_forgotten_is_no_source_though_it_is_open() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut readiness = Readiness::new(1).unwrap();
        readiness.watch(&socket, Source::V4).unwrap();
        socket.send_to(b"x", socket.local_addr().unwrap()).unwrap();
        assert_eq!(readiness.wait(None).unwrap().count(), 1);
        readiness.forget(&socket);
        readiness.forget(&socket);
        assert_eq!(readiness.wait(Some(Duration::ZERO)).unwrap().count(), 0);
    }
}
