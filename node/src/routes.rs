//! Whether what goes to a peer still leaves by the interface that the peer's datagrams came in by.
//!
//! The address that a peer spoke to is no good as a source once the way to the peer leads over another interface: routers there drop
//! what is from elsewhere. The kernel's WireGuard sees that when it looks a route up; here the kernel tells when routes change.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use carrick_dataplane::{Endpoint, Source};
use futures_util::StreamExt as _;
use netlink_packet_route::{
    AddressFamily,
    route::{RouteAttribute, RouteMessage},
};
use rtnetlink::{Handle, MulticastGroup};
use tokio::{sync::oneshot, time::sleep};

use crate::{
    changes::Changes,
    shard::{Command, Commands, Ended},
};

/// What changes the way that something goes.
const CHANGES: [MulticastGroup; 7] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv6Rule,
];

/// Changes come several at once.
const SETTLES: Duration = Duration::from_millis(20);

/// At least so long passes from one look at every peer's route to the next.
const PAUSE: Duration = Duration::from_millis(200);

/// What a peer sent before it heard from elsewhere brings the wrong source back: so often it is looked again until none is wrong.
const LOOKS: usize = 10;

/// What the packet path sends with.
#[derive(Debug)]
pub(crate) struct Outgoing {
    /// The firewall mark.
    pub(crate) mark: u32,
    /// The port.
    pub(crate) port: u16,
    /// The places that are sent to from a certain address.
    pub(crate) endpoints: BTreeSet<Endpoint>,
}

/// Makes the packet path forget each source that is wrong after a change of routes. Ends with the packet path.
pub(crate) async fn follow(commands: Commands) {
    let mut changes = match Changes::follow(&CHANGES) {
        Ok(changes) => changes,
        // Sources are forgotten later then, when a peer no longer answers.
        Err(error) => return tracing::warn!(%error, "changes of routes are not followed"),
    };
    loop {
        changes.next().await;
        if settle(&mut changes, || look(&commands)).await.is_err() {
            return;
        }
    }
}

/// Looks after a change until nothing is wrong: once for all that has changed by then.
async fn settle<L: Future<Output = Result<bool, Ended>>>(
    changes: &mut Changes,
    look: impl Fn() -> L,
) -> Result<(), Ended> {
    for _ in 0..LOOKS {
        sleep(SETTLES).await;
        changes.skip();
        let wrong = look().await?;
        sleep(PAUSE).await;
        if !wrong {
            break;
        }
    }
    Ok(())
}

/// Whether a source was wrong. It is forgotten.
async fn look(commands: &Commands) -> Result<bool, Ended> {
    // Not by the socket that changes come by: where they fill it, answers get lost.
    let (connection, handle, _) = match rtnetlink::new_connection() {
        Ok(opened) => opened,
        Err(error) => {
            tracing::warn!(%error, "routes cannot be looked up");
            return Ok(false);
        }
    };
    tokio::spawn(connection);
    let (answer, outgoing) = oneshot::channel();
    commands.send(Command::Outgoing(answer)).await?;
    let outgoing = outgoing.await.map_err(|_| Ended)?;
    let mut wrong = BTreeSet::new();
    for endpoint in &outgoing.endpoints {
        if let Some(source) = endpoint.source
            && !is_tied(endpoint.remote.ip())
            && !is_tied(source.address)
            && leads_elsewhere(&handle, &outgoing, endpoint, source).await
        {
            tracing::debug!(to = %endpoint.remote, source = %source.address, "the way leads elsewhere");
            wrong.insert(*endpoint);
        }
    }
    if wrong.is_empty() {
        return Ok(false);
    }
    commands.send(Command::ForgetSources(wrong)).await?;
    Ok(true)
}

/// Whether an address has a meaning on one interface only.
const fn is_tied(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// Whether there is a way, but not from this source, or by another interface. Where there is none, all may come back as it was.
async fn leads_elsewhere(handle: &Handle, outgoing: &Outgoing, endpoint: &Endpoint, source: Source) -> bool {
    match interface(handle, outgoing, endpoint, Some(source.address)).await {
        Some(interface) => interface != source.interface,
        None => interface(handle, outgoing, endpoint, None).await.is_some(),
    }
}

/// The interface that a datagram would leave by.
async fn interface(handle: &Handle, outgoing: &Outgoing, to: &Endpoint, from: Option<IpAddr>) -> Option<u32> {
    let mut message = RouteMessage::default();
    let length = if to.remote.is_ipv4() { 32 } else { 128 };
    message.header.address_family =
        if to.remote.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.destination_prefix_length = length;
    message.attributes.extend([
        RouteAttribute::Destination(to.remote.ip().into()),
        RouteAttribute::Mark(outgoing.mark),
        RouteAttribute::IpProto(libc::IPPROTO_UDP as u8),
        RouteAttribute::Sport(outgoing.port),
        RouteAttribute::Dport(to.remote.port()),
    ]);
    if let Some(from) = from {
        message.header.source_prefix_length = length;
        message.attributes.push(RouteAttribute::Source(from.into()));
    }
    let mut answers = Box::pin(handle.route().get(message).execute());
    let route = answers.next().await?.ok()?;
    route.attributes.iter().find_map(|attribute| {
        if let RouteAttribute::Oif(interface) = attribute { Some(*interface) } else { None }
    })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures_util::{FutureExt as _, stream};
    use tokio::sync::mpsc::unbounded_channel;

    use super::*;
    use crate::changes::tests::{changes, told};

    #[tokio::test]
    async fn whatever_changes_during_a_look_is_one_more_look() {
        let (tell, mut told_by) = unbounded_channel();
        let mut changes = changes(stream::poll_fn(move |context| told_by.poll_recv(context)));
        let looks = Cell::new(0);
        let look = async || {
            looks.set(looks.get() + 1);
            // Something is wrong at first, and much changes meanwhile.
            (0..50).filter(|_| looks.get() <= 3).for_each(|_| tell.send(told()).unwrap());
            Ok(looks.get() == 1)
        };
        tell.send(told()).unwrap();
        for expected in [2, 3, 4] {
            assert!(changes.next().now_or_never().is_some());
            settle(&mut changes, &look).await.unwrap();
            assert_eq!(looks.get(), expected);
        }
        assert!(changes.next().now_or_never().is_none());
    }

    #[tokio::test]
    async fn looks_end_with_the_packet_path_and_when_it_stays_wrong_for_long() {
        let mut changes = changes(stream::pending());
        settle(&mut changes, async || Err(Ended)).await.unwrap_err();
        let looks = Cell::new(0);
        let wrong = async || {
            looks.set(looks.get() + 1);
            Ok(true)
        };
        settle(&mut changes, wrong).await.unwrap();
        assert_eq!(looks.get(), LOOKS);
    }
}
