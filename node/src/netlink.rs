//! Makes the interface and the routes what a [`Plan`] says, through rtnetlink. Idempotent; makes no choices.
//!
//! Routes live in a table of their own, which one rule for each family consults for every packet that the agent has not
//! marked as its own. Routes and addresses go with the interface; the rules are taken back when the agent leaves, and those
//! of an agent that was killed when the next one starts.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use carrick_dataplane::{MAX_DATAGRAM, MAX_SEGMENTS, OVERHEAD};
use carrick_types::Cidr;
use futures_util::TryStreamExt as _;
use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage},
    link::{LinkAttribute, LinkFlags},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteType},
    rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage},
};
use rtnetlink::{Handle, IpVersion, LinkUnspec, RouteMessageBuilder};
use tokio::task::JoinHandle;

use crate::{host, plan::Plan};

/// The table that holds the routes.
pub(crate) const TABLE: u32 = 51_780;

/// The mark of the agent's own packets, which must not use the table. It has none of the bits that kube-proxy drops or masquerades by
/// (0x8000, 0x4000), that Cilium reads (0x0f00) or that Calico takes (0xffff0000).
pub(crate) const MARK: u32 = 0x1044;

/// Before the main table (32,766), so that a default route there does not hide a peer.
const RULE_PRIORITY: u32 = 5_178;

/// `rtm_protocol` of what the agent adds; from the range that the kernel leaves to daemons.
const PROTOCOL: u8 = 178;

/// What the kernel takes off the limit for the headers of TCP, `MAX_TCP_HEADER` + 1, in bytes.
const TCP_HEADROOM: usize = 321;

/// The headers of IPv4 and of TCP with timestamps, in bytes.
const TCP_HEADERS: usize = 52;

/// Why the kernel was not told.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No netlink socket.
    #[error("cannot open a netlink socket: {0}")]
    Socket(#[source] io::Error),
    /// The table has somebody else's routes.
    #[error("another carrick node runs on this host: stop it first, since a host can be one node only")]
    OtherNode,
    /// A request was refused.
    #[error("cannot {0}: {1}")]
    Refused(String, #[source] rtnetlink::Error),
}

/// The longest super-packet whose packets fit into one call once they are sealed, in bytes.
fn longest_superpacket(mtu: u16) -> u32 {
    let mtu = usize::from(mtu);
    let count = (MAX_DATAGRAM / (mtu + OVERHEAD)).min(MAX_SEGMENTS);
    let longest = count * (mtu - TCP_HEADERS) + TCP_HEADROOM;
    u32::try_from(longest.min(u16::MAX.into())).unwrap_or(u16::MAX.into())
}

/// Makes super-packets no longer than what goes to the network in one call. Without it they go in two, and all goes on.
pub(crate) async fn limit_superpackets(handle: &Handle, index: u32, mtu: u16) {
    let longest = longest_superpacket(mtu);
    let link = LinkUnspec::new_with_index(index)
        .append_extra_attribute(LinkAttribute::GsoMaxSize(longest))
        .append_extra_attribute(LinkAttribute::GsoIpv4MaxSize(longest))
        .build();
    if let Err(error) = handle.link().set(link).execute().await {
        tracing::debug!(%error, "the length of super-packets is as the kernel likes");
    }
}

/// The interface that this agent owns, and what it has done to it so far.
#[derive(Debug)]
pub(crate) struct Interface {
    handle: Handle,
    connection: JoinHandle<()>,
    index: u32,
    families: Vec<IpVersion>,
    applied: Plan,
}

impl Interface {
    /// Brings the interface up and points the rules at the table.
    pub(crate) async fn up(index: u32, mtu: u16) -> Result<Self, NetlinkError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(NetlinkError::Socket)?;
        let connection = tokio::spawn(connection);
        let mut families = vec![IpVersion::V4];
        if host::has_ipv6() {
            families.push(IpVersion::V6);
        }
        let interface = Self { handle, connection, index, families, applied: Plan::default() };
        let link = LinkUnspec::new_with_index(index).mtu(mtu.into()).up().build();
        let set = interface.handle.link().set(link).execute().await;
        set.map_err(|error| NetlinkError::Refused("bring the interface up".to_owned(), error))?;
        limit_superpackets(&interface.handle, index, mtu).await;
        if interface.has_routes().await? {
            return Err(NetlinkError::OtherNode);
        }
        if let Err(error) = interface.point_rules().await {
            // Half of them would be worse than none. The first error is the one to tell.
            let _ = interface.down().await;
            return Err(error);
        }
        Ok(interface)
    }

    /// Makes addresses and routes what the plan says. Goes on where one of them fails, and reports the first failure.
    pub(crate) async fn apply(&mut self, plan: &Plan) -> Result<(), NetlinkError> {
        let mut first = Ok(());
        let Plan { mut routes, mut addresses, .. } = std::mem::take(&mut self.applied);
        let stale = routes.extract_if(.., |prefix, source| plan.routes.get(prefix) != Some(source));
        for (prefix, source) in stale.collect::<Vec<_>>() {
            first = first.and(self.remove_route(prefix, source).await);
        }
        let stale = addresses.extract_if(.., |address| !plan.addresses.contains(address));
        for address in stale.collect::<Vec<_>>() {
            first = first.and(self.remove_address(address).await);
        }
        for &address in plan.addresses.iter().filter(|address| self.speaks(**address)) {
            if addresses.insert(address)
                && let Err(error) = self.add_address(address).await
            {
                addresses.remove(&address);
                first = first.and(Err(error));
            }
        }
        for (&prefix, &source) in plan.routes.iter().filter(|(prefix, _)| self.speaks(prefix.address())) {
            if routes.insert(prefix, source).is_none()
                && let Err(error) = self.add_route(prefix, source).await
            {
                routes.remove(&prefix);
                first = first.and(Err(error));
            }
        }
        self.applied = Plan { routes, addresses, ..Plan::default() };
        first
    }

    /// Puts back what somebody else has taken away: setting the interface down, for one, removes every route into it. An interface
    /// that is down is left alone, since that is somebody's wish.
    pub(crate) async fn repair(&mut self, plan: &Plan) -> Result<(), NetlinkError> {
        let refused = |error| NetlinkError::Refused("read the state of the interface".to_owned(), error);
        let mut links = self.handle.link().get().match_index(self.index).execute();
        let link = links.try_next().await.map_err(refused)?;
        if link.is_none_or(|link| !link.header.flags.contains(LinkFlags::Up)) {
            return Ok(());
        }
        let addresses = self.handle.address().get().set_link_index_filter(self.index).execute();
        let addresses: Vec<AddressMessage> = addresses.try_collect().await.map_err(refused)?;
        let here = |address: &IpAddr| {
            let attribute = AddressAttribute::Address(*address);
            addresses.iter().any(|message| message.attributes.contains(&attribute))
        };
        self.applied.addresses.retain(here);
        let mut routes = BTreeSet::new();
        for family in &self.families {
            let every = match family {
                IpVersion::V4 => RouteMessageBuilder::<Ipv4Addr>::new().build(),
                IpVersion::V6 => RouteMessageBuilder::<Ipv6Addr>::new().build(),
            };
            let found: Vec<RouteMessage> =
                self.handle.route().get(every).execute().try_collect().await.map_err(refused)?;
            routes.extend(found.iter().filter_map(|route| self.destination_of(route)));
            if self.rules_of(family).await?.len() != 1 {
                self.point_rules().await?;
            }
        }
        self.applied.routes.retain(|prefix, _| routes.contains(prefix));
        self.apply(plan).await
    }

    /// Where a route leads, if it is one of this interface's.
    fn destination_of(&self, route: &RouteMessage) -> Option<Cidr> {
        let ours = route.attributes.contains(&RouteAttribute::Table(TABLE))
            && route.attributes.contains(&RouteAttribute::Oif(self.index));
        let destination = route.attributes.iter().find_map(|attribute| {
            if let RouteAttribute::Destination(RouteAddress::Inet(address)) = attribute {
                Some(IpAddr::V4(*address))
            } else if let RouteAttribute::Destination(RouteAddress::Inet6(address)) = attribute {
                Some(IpAddr::V6(*address))
            } else {
                None
            }
        });
        Cidr::containing(destination.filter(|_| ours)?, route.header.destination_prefix_length)
    }

    /// Takes the rules back. Addresses and routes go with the interface.
    pub(crate) async fn down(self) -> Result<(), NetlinkError> {
        let removed = self.remove_rules().await;
        self.connection.abort();
        removed
    }

    fn speaks(&self, address: IpAddr) -> bool {
        address.is_ipv4() || self.families.contains(&IpVersion::V6)
    }

    async fn point_rules(&self) -> Result<(), NetlinkError> {
        self.remove_rules().await?;
        for family in &self.families {
            let mut request = self.handle.rule().add();
            *request.message_mut() = rule(family);
            let added = request.execute().await;
            added.map_err(|error| {
                NetlinkError::Refused(format!("add the routing rule for {family:?}"), error)
            })?;
        }
        Ok(())
    }

    /// Whether the table has routes. They go with the interface of an agent, so that one runs where there are any.
    async fn has_routes(&self) -> Result<bool, NetlinkError> {
        for family in &self.families {
            let request = match family {
                IpVersion::V4 => RouteMessageBuilder::<Ipv4Addr>::new().table_id(TABLE).build(),
                IpVersion::V6 => RouteMessageBuilder::<Ipv6Addr>::new().table_id(TABLE).build(),
            };
            let refused = |error| NetlinkError::Refused(format!("read the routes of {family:?}"), error);
            let routes: Vec<RouteMessage> =
                self.handle.route().get(request).execute().try_collect().await.map_err(refused)?;
            // The kernel heeds the table of a request only where asked to check it strictly.
            if routes.iter().any(|route| route.attributes.contains(&RouteAttribute::Table(TABLE))) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn remove_rules(&self) -> Result<(), NetlinkError> {
        for family in &self.families {
            for rule in self.rules_of(family).await? {
                let removed = self.handle.rule().del(rule).execute().await;
                removed.map_err(|error| NetlinkError::Refused("remove a routing rule".to_owned(), error))?;
            }
        }
        Ok(())
    }

    /// The rules that an agent has added.
    async fn rules_of(&self, family: &IpVersion) -> Result<Vec<RuleMessage>, NetlinkError> {
        let refused = |error| NetlinkError::Refused(format!("read the routing rules of {family:?}"), error);
        let rules: Vec<RuleMessage> =
            self.handle.rule().get(family.clone()).execute().try_collect().await.map_err(refused)?;
        Ok(rules.into_iter().filter(is_ours).collect())
    }

    async fn add_address(&self, address: IpAddr) -> Result<(), NetlinkError> {
        let length = if address.is_ipv4() { 32 } else { 128 };
        let mut request = self.handle.address().add(self.index, address, length).replace();
        // Nobody else is on this link who could have the address already.
        let message = request.message_mut();
        message.header.flags |= AddressHeaderFlags::Nodad;
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad | AddressFlags::Noprefixroute));
        let added = request.execute().await;
        added.map_err(|error| NetlinkError::Refused(format!("add the address {address}"), error))
    }

    async fn remove_address(&self, address: IpAddr) -> Result<(), NetlinkError> {
        let addresses =
            self.handle.address().get().set_link_index_filter(self.index).set_address_filter(address);
        let refused = |error| NetlinkError::Refused(format!("remove the address {address}"), error);
        let messages: Vec<_> = addresses.execute().try_collect().await.map_err(refused)?;
        for message in messages {
            self.handle.address().del(message).execute().await.map_err(refused)?;
        }
        Ok(())
    }

    async fn add_route(&self, prefix: Cidr, source: IpAddr) -> Result<(), NetlinkError> {
        let request = self.handle.route().add(self.route(prefix, source)).replace();
        let added = request.execute().await;
        added.map_err(|error| NetlinkError::Refused(format!("add the route to {prefix}"), error))
    }

    async fn remove_route(&self, prefix: Cidr, source: IpAddr) -> Result<(), NetlinkError> {
        match self.handle.route().del(self.route(prefix, source)).execute().await {
            Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::ESRCH => Ok(()),
            removed => {
                removed.map_err(|error| NetlinkError::Refused(format!("remove the route to {prefix}"), error))
            }
        }
    }

    /// The plan gives each prefix a source address of its own family.
    fn route(&self, prefix: Cidr, source: IpAddr) -> RouteMessage {
        let builder = RouteMessageBuilder::<IpAddr>::new()
            .table_id(TABLE)
            .protocol(RouteProtocol::from(PROTOCOL))
            .kind(RouteType::Unicast)
            .output_interface(self.index);
        let builder = builder.destination_prefix(prefix.address(), prefix.length());
        let mut message = builder.expect("a parsed prefix is no longer than its address").build();
        message.attributes.push(RouteAttribute::PrefSource(source.into()));
        message
    }
}

fn rule(family: &IpVersion) -> RuleMessage {
    let mut rule = RuleMessage::default();
    rule.header.family = match family {
        IpVersion::V4 => AddressFamily::Inet,
        IpVersion::V6 => AddressFamily::Inet6,
    };
    rule.header.action = RuleAction::ToTable;
    rule.header.flags = RuleFlags::Invert;
    rule.attributes = vec![
        RuleAttribute::Table(TABLE),
        RuleAttribute::Priority(RULE_PRIORITY),
        RuleAttribute::FwMark(MARK),
        RuleAttribute::Protocol(RouteProtocol::from(PROTOCOL)),
    ];
    rule
}

/// By table and protocol, whatever else an older version may have put into it.
fn is_ours(rule: &RuleMessage) -> bool {
    rule.attributes.contains(&RuleAttribute::Table(TABLE))
        && rule.attributes.contains(&RuleAttribute::Protocol(RouteProtocol::from(PROTOCOL)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_superpacket_fills_one_call() {
        let packets = |mtu: u16| {
            (longest_superpacket(mtu) as usize - TCP_HEADROOM).div_ceil(usize::from(mtu) - TCP_HEADERS)
        };
        assert_eq!(packets(1420), 45);
        for mtu in 576..=9_000 {
            let (packets, sealed) = (packets(mtu), usize::from(mtu) + OVERHEAD);
            assert!(packets <= MAX_SEGMENTS && packets * sealed <= MAX_DATAGRAM, "{mtu}");
            assert!(packets == MAX_SEGMENTS || (packets + 1) * sealed > MAX_DATAGRAM, "{mtu}");
        }
    }
}
