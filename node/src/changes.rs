//! What the kernel tells of its network by itself.

use std::{
    io,
    os::fd::{AsFd as _, FromRawFd as _, IntoRawFd as _},
};

use futures_util::{FutureExt as _, StreamExt as _, stream::BoxStream};
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::{
    Handle, MulticastGroup,
    packet_core::{NetlinkMessage, NetlinkPayload},
    sys::{AsyncSocket as _, Socket},
};
use tokio::{task::JoinHandle, time::sleep};

use crate::backoff::Backoff;

/// Something has changed.
#[derive(Debug)]
pub(crate) enum Notice {
    /// This.
    Told(Box<RouteNetlinkMessage>),
    /// Whatever it was: the kernel had no room for it, or nobody listened.
    Missed,
}

/// Changes of some kinds. Where the kernel tells no more, it is asked anew.
pub(crate) struct Changes {
    groups: &'static [MulticastGroup],
    /// Whether those of other network namespaces are among them.
    everywhere: bool,
    connection: Connection,
    backoff: Backoff,
}

struct Connection {
    task: JoinHandle<()>,
    /// The same socket that the task reads.
    socket: Socket,
    handle: Handle,
    messages: BoxStream<'static, NetlinkMessage<RouteNetlinkMessage>>,
}

impl Changes {
    /// From here on.
    pub(crate) fn follow(groups: &'static [MulticastGroup]) -> io::Result<Self> {
        Ok(Self { groups, everywhere: false, connection: Connection::open(groups)?, backoff: Backoff::new() })
    }

    /// From now on changes in other network namespaces are told, too, or no longer: in those that have a number in this one, and as far as
    /// this process may hear of them. What they are about is not told apart from what has the same number here.
    pub(crate) fn listen_everywhere(&mut self, everywhere: bool) {
        self.everywhere = everywhere;
        self.connection.listen_everywhere(everywhere);
    }

    /// A way to ask the kernel, until the next change that was [missed](Notice::Missed). What has changed before the kernel answers, and was
    /// told, has been told when the answer comes. An answer may get lost where much changes.
    pub(crate) const fn handle(&self) -> &Handle {
        &self.connection.handle
    }

    /// The next change.
    pub(crate) async fn next(&mut self) -> Notice {
        loop {
            let Some(message) = self.connection.messages.next().await else {
                tracing::warn!(groups = ?self.groups, "the kernel tells no more of its network; it is asked anew");
                self.begin_anew().await;
                return Notice::Missed;
            };
            if let NetlinkPayload::InnerMessage(change) = message.payload {
                self.backoff = Backoff::new();
                return Notice::Told(Box::new(change));
            } else if let NetlinkPayload::Overrun(_) = message.payload {
                return Notice::Missed;
            }
        }
    }

    /// Passes over what has been told by now; whether that was something.
    pub(crate) fn skip(&mut self) -> bool {
        let mut told = || self.connection.messages.next().now_or_never().flatten();
        let some = told().is_some();
        while told().is_some() {}
        some
    }

    /// Listens by another socket. What changes meanwhile is missed.
    pub(crate) async fn begin_anew(&mut self) {
        loop {
            let mut random = [0; 4];
            // Without randomness, the longest wait.
            let random = getrandom::fill(&mut random).map_or(u32::MAX, |()| u32::from_ne_bytes(random));
            sleep(self.backoff.next(random)).await;
            match Connection::open(self.groups) {
                Ok(connection) => {
                    self.connection = connection;
                    return self.listen_everywhere(self.everywhere);
                }
                Err(error) => tracing::warn!(%error, "the kernel tells nothing of its network"),
            }
        }
    }
}

impl Connection {
    fn open(groups: &[MulticastGroup]) -> io::Result<Self> {
        let (mut connection, handle, messages) = rtnetlink::new_multicast_connection(groups)?;
        let socket = connection.socket_mut().socket_ref().as_fd().try_clone_to_owned()?;
        // SAFETY: nobody else has this descriptor, and it is that of a netlink socket.
        let socket = unsafe { Socket::from_raw_fd(socket.into_raw_fd()) };
        let messages = messages.map(|(message, _)| message).boxed();
        Ok(Self { task: tokio::spawn(connection), socket, handle, messages })
    }

    fn listen_everywhere(&self, everywhere: bool) {
        if let Err(error) = self.socket.set_listen_all_namespaces(everywhere) {
            tracing::debug!(%error, everywhere, "changes in other network namespaces");
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use futures_util::{TryStreamExt as _, stream};
    use netlink_packet_route::link::LinkMessage;
    use rtnetlink::packet_core::NetlinkHeader;
    use tokio::time::timeout;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// These messages and no more; another connection is a real one.
    pub(crate) fn changes(
        messages: impl stream::Stream<Item = NetlinkPayload<RouteNetlinkMessage>> + Send + 'static,
    ) -> Changes {
        let mut changes = Changes::follow(&[MulticastGroup::Link]).unwrap();
        let whole = |payload| NetlinkMessage::new(NetlinkHeader::default(), payload);
        changes.connection.messages = messages.map(whole).boxed();
        changes
    }

    pub(crate) fn told() -> NetlinkPayload<RouteNetlinkMessage> {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(LinkMessage::default()))
    }

    #[tokio::test]
    async fn where_the_kernel_tells_no_more_it_is_asked_anew_and_something_may_have_been_missed() {
        let mut changes = Changes::follow(&[MulticastGroup::Link]).unwrap();
        changes.connection.task.abort();
        let next = timeout(PATIENCE, changes.next()).await.unwrap();
        assert!(matches!(next, Notice::Missed), "{next:?}");
        let loopback = changes.handle().link().get().match_name("lo".to_owned()).execute().try_next().await;
        assert!(loopback.unwrap().is_some(), "the kernel can be asked");
        assert!(!changes.connection.task.is_finished(), "and is listened to");
    }

    #[tokio::test]
    async fn what_the_kernel_has_no_room_for_is_missed() {
        let acknowledgement = NetlinkPayload::Noop;
        let messages = [told(), acknowledgement, NetlinkPayload::Overrun(Vec::new()), told(), told()];
        let mut changes = changes(stream::iter(messages).chain(stream::pending()));
        assert!(matches!(changes.next().await, Notice::Told(_)));
        assert!(matches!(changes.next().await, Notice::Missed));
        assert!(changes.skip());
        assert!(!changes.skip());
        assert!(changes.next().now_or_never().is_none());
    }
}
