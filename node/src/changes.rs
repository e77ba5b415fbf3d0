//! What the kernel tells of its network by itself.

use std::io;

use futures_util::{FutureExt as _, StreamExt as _, stream::BoxStream};
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::{
    Handle, MulticastGroup,
    packet_core::{NetlinkMessage, NetlinkPayload},
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
    connection: Connection,
    backoff: Backoff,
}

struct Connection {
    task: JoinHandle<()>,
    handle: Handle,
    messages: BoxStream<'static, NetlinkMessage<RouteNetlinkMessage>>,
}

impl Changes {
    /// From here on.
    pub(crate) fn follow(groups: &'static [MulticastGroup]) -> io::Result<Self> {
        Ok(Self { groups, connection: Connection::open(groups)?, backoff: Backoff::new() })
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
                    return;
                }
                Err(error) => tracing::warn!(%error, "the kernel tells nothing of its network"),
            }
        }
    }
}

impl Connection {
    fn open(groups: &[MulticastGroup]) -> io::Result<Self> {
        let (connection, handle, messages) = rtnetlink::new_multicast_connection(groups)?;
        let messages = messages.map(|(message, _)| message).boxed();
        Ok(Self { task: tokio::spawn(connection), handle, messages })
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
