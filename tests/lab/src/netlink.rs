//! A synchronous rtnetlink socket. It stays in the network namespace of the thread that opened it.

use std::io::{self, Read as _};
use std::net::IpAddr;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ipnet::IpNet;
use netlink_packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL, NLM_F_REPLACE,
    NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::link::{
    InfoBridge, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use socket2::{Domain, Protocol, Socket, Type};

/// The queueing discipline at the root of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RootQdisc {
    /// What the kernel gives an interface by itself.
    Default,
    /// Drops every frame without a word.
    Blackhole,
    /// A token bucket of so many bits per second.
    TokenBucket(u64),
}

/// A route of the main table.
pub(crate) struct Route {
    pub(crate) destination: IpNet,
    pub(crate) gateway: Option<IpAddr>,
    pub(crate) interface: Option<u32>,
}

pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket in the network namespace of the calling thread.
    pub(crate) fn open() -> io::Result<Self> {
        let socket = Socket::new(
            Domain::from(libc::AF_NETLINK),
            Type::RAW,
            Some(Protocol::from(libc::NETLINK_ROUTE)),
        )?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        Ok(Self { socket, sequence: 0 })
    }

    pub(crate) fn links(&mut self) -> io::Result<Vec<LinkMessage>> {
        let answers = self.dump(Message::GetLink(LinkMessage::default()))?;
        Ok(answers
            .into_iter()
            .filter_map(|m| if let Message::NewLink(link) = m { Some(link) } else { None })
            .collect())
    }

    pub(crate) fn addresses(&mut self) -> io::Result<Vec<AddressMessage>> {
        let answers = self.dump(Message::GetAddress(AddressMessage::default()))?;
        Ok(answers
            .into_iter()
            .filter_map(|m| if let Message::NewAddress(a) = m { Some(a) } else { None })
            .collect())
    }

    pub(crate) fn routes(&mut self) -> io::Result<Vec<RouteMessage>> {
        let answers = self.dump(Message::GetRoute(RouteMessage::default()))?;
        Ok(answers
            .into_iter()
            .filter_map(|m| if let Message::NewRoute(r) = m { Some(r) } else { None })
            .collect())
    }

    pub(crate) fn rules(&mut self) -> io::Result<Vec<RuleMessage>> {
        let answers = self.dump(Message::GetRule(RuleMessage::default()))?;
        Ok(answers
            .into_iter()
            .filter_map(|m| if let Message::NewRule(r) = m { Some(r) } else { None })
            .collect())
    }

    pub(crate) fn link(&mut self, name: &str) -> io::Result<LinkMessage> {
        self.links()?
            .into_iter()
            .find(|link| link_name(link) == Some(name))
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("there is no interface {name}")))
    }

    /// Whether an interface is up to IPv6: the kernel gives it a link-local address when it is.
    pub(crate) fn is_ready(&mut self, name: &str) -> io::Result<bool> {
        let index = self.index(name)?;
        let is_ready = |address: &AddressMessage| {
            address.header.index == index
                && address.header.scope == AddressScope::Link
                && !address.header.flags.contains(AddressHeaderFlags::Tentative)
        };
        Ok(self.addresses()?.iter().any(is_ready))
    }

    /// Whether an interface answers for an address. Even without duplicate detection an IPv6 address is tentative
    /// until the interface has joined its multicast group.
    pub(crate) fn is_settled(&mut self, index: u32, address: IpNet) -> io::Result<bool> {
        let is_it = |attribute: &AddressAttribute| matches!(attribute, AddressAttribute::Local(ip) | AddressAttribute::Address(ip) if *ip == address.addr());
        Ok(self.addresses()?.iter().any(|message| {
            message.header.index == index
                && !message.header.flags.contains(AddressHeaderFlags::Tentative)
                && message.attributes.iter().any(is_it)
        }))
    }

    pub(crate) fn index(&mut self, name: &str) -> io::Result<u32> {
        Ok(self.link(name)?.header.index)
    }

    /// Makes a veth pair: `name` here and `peer` in the namespace behind the descriptor `peer_namespace`.
    pub(crate) fn add_veth(&mut self, name: &str, peer: &str, peer_namespace: RawFd) -> io::Result<()> {
        // Chosen by the kernel, both indices could be the same. It then takes the pair for one device that is not
        // stacked on another, and leaves the news of its carrier lying for up to a second (net/core/link_watch.c).
        static NEXT_INDEX: AtomicU32 = AtomicU32::new(1000);
        let index = NEXT_INDEX.fetch_add(2, Ordering::Relaxed);
        let mut other = LinkMessage::default();
        other.header.index = index + 1;
        other.attributes =
            vec![LinkAttribute::IfName(peer.to_owned()), LinkAttribute::NetNsFd(peer_namespace)];
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(other))),
            ]),
        ];
        self.change(Message::NewLink(link), NLM_F_CREATE | NLM_F_EXCL)
    }

    pub(crate) fn add_bridge(&mut self, name: &str) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Bridge),
                LinkInfo::Data(InfoData::Bridge(vec![InfoBridge::MulticastSnooping(false)])),
            ]),
        ];
        self.change(Message::NewLink(link), NLM_F_CREATE | NLM_F_EXCL)
    }

    pub(crate) fn set_up(&mut self, index: u32, up: bool) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        link.header.change_mask = LinkFlags::Up;
        self.change(Message::SetLink(link), 0)
    }

    pub(crate) fn set_master(&mut self, index: u32, master: u32) -> io::Result<()> {
        self.set_link(index, LinkAttribute::Controller(master))
    }

    pub(crate) fn set_mtu(&mut self, index: u32, mtu: u32) -> io::Result<()> {
        self.set_link(index, LinkAttribute::Mtu(mtu))
    }

    pub(crate) fn set_namespace(&mut self, index: u32, namespace: RawFd) -> io::Result<()> {
        self.set_link(index, LinkAttribute::NetNsFd(namespace))
    }

    /// Adds an address; `with_route` also adds the route to its prefix.
    pub(crate) fn add_address(&mut self, index: u32, address: IpNet, with_route: bool) -> io::Result<()> {
        let mut message = address_message(index, address);
        if !with_route {
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Noprefixroute));
        }
        if let (IpNet::V4(net), true) = (address, address.prefix_len() < 31) {
            message.attributes.push(AddressAttribute::Broadcast(net.broadcast()));
        }
        self.change(Message::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    pub(crate) fn del_address(&mut self, index: u32, address: IpNet) -> io::Result<()> {
        self.change(Message::DelAddress(address_message(index, address)), 0)
    }

    pub(crate) fn add_route(&mut self, route: &Route) -> io::Result<()> {
        self.change(Message::NewRoute(route_message(route)), NLM_F_CREATE | NLM_F_EXCL)
    }

    pub(crate) fn del_route(&mut self, route: &Route) -> io::Result<()> {
        self.change(Message::DelRoute(route_message(route)), 0)
    }

    pub(crate) fn add_rule(&mut self, family: AddressFamily, priority: u32, table: u32) -> io::Result<()> {
        self.change(Message::NewRule(rule_message(family, priority, table)), NLM_F_CREATE | NLM_F_EXCL)
    }

    pub(crate) fn del_rule(&mut self, family: AddressFamily, priority: u32, table: u32) -> io::Result<()> {
        self.change(Message::DelRule(rule_message(family, priority, table)), 0)
    }

    pub(crate) fn set_root_qdisc(&mut self, index: u32, qdisc: RootQdisc) -> io::Result<()> {
        let mut message = TcMessage::default();
        message.header.index = index.cast_signed();
        message.header.parent = TcHandle::ROOT;
        let attributes = match qdisc {
            RootQdisc::Default => {
                return match self.change(Message::DelQueueDiscipline(message), 0) {
                    // There was none but the default.
                    Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) => Ok(()),
                    other => other,
                };
            }
            RootQdisc::Blackhole => vec![TcAttribute::Kind("blackhole".to_owned())],
            RootQdisc::TokenBucket(bits_per_second) => {
                vec![TcAttribute::Kind("tbf".to_owned()), TcAttribute::Options(token_bucket(bits_per_second))]
            }
        };
        message.attributes = attributes;
        self.change(Message::NewQueueDiscipline(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    fn set_link(&mut self, index: u32, attribute: LinkAttribute) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.attributes = vec![attribute];
        self.change(Message::SetLink(link), 0)
    }

    fn change(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.request(message, NLM_F_ACK | flags).map(drop)
    }

    fn dump(&mut self, message: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        const ATTEMPTS: usize = 10;
        for _ in 0..ATTEMPTS {
            let (answers, interrupted) = self.request(message.clone(), NLM_F_DUMP)?;
            if !interrupted {
                return Ok(answers);
            }
        }
        Err(io::Error::new(io::ErrorKind::ResourceBusy, "the tables changed during every dump"))
    }

    /// Sends a request; returns the answers, and whether the tables changed while they were read.
    fn request(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<(Vec<RouteNetlinkMessage>, bool)> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes)?;

        let mut buffer = vec![0; 1 << 17];
        let mut answers = Vec::new();
        let mut interrupted = false;
        loop {
            let length = (&self.socket).read(&mut buffer)?;
            let mut rest = &buffer[..length];
            while !rest.is_empty() {
                let answer =
                    NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(io::Error::other)?;
                let length = answer.header.length as usize;
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
                if answer.header.sequence_number != self.sequence {
                    continue;
                }
                interrupted |= answer.header.flags & NLM_F_DUMP_INTR != 0;
                match answer.payload {
                    NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(io::Error::from_raw_os_error(-done.code));
                    }
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok((answers, interrupted)),
                    NetlinkPayload::Noop | NetlinkPayload::Overrun(_) | _ => {}
                }
            }
        }
    }
}

pub(crate) fn link_name(link: &LinkMessage) -> Option<&str> {
    link.attributes
        .iter()
        .find_map(|a| if let LinkAttribute::IfName(name) = a { Some(name.as_str()) } else { None })
}

pub(crate) fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn address_message(index: u32, address: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address.addr());
    message.header.prefix_len = address.prefix_len();
    message.header.scope = AddressScope::Universe;
    message.header.index = index;
    message.attributes =
        vec![AddressAttribute::Local(address.addr()), AddressAttribute::Address(address.addr())];
    message
}

fn route_message(route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(route.destination.addr());
    message.header.destination_prefix_length = route.destination.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.kind = RouteType::Unicast;
    let direct = route.gateway.is_none() && route.destination.addr().is_ipv4();
    message.header.scope = if direct { RouteScope::Link } else { RouteScope::Universe };
    if route.destination.prefix_len() > 0 {
        message.attributes.push(RouteAttribute::Destination(route.destination.network().into()));
    }
    message.attributes.extend(route.gateway.map(|gateway| RouteAttribute::Gateway(gateway.into())));
    message.attributes.extend(route.interface.map(RouteAttribute::Oif));
    message
}

fn rule_message(family: AddressFamily, priority: u32, table: u32) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family;
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![RuleAttribute::Priority(priority), RuleAttribute::Table(table)];
    message
}

/// The options of a token bucket (`tc_tbf_qopt` in `linux/pkt_sched.h`) with 10 ms of burst and 50 ms of queue.
fn token_bucket(bits_per_second: u64) -> Vec<TcOption> {
    const TCA_TBF_PARMS: u16 = 1;
    const TCA_TBF_RATE64: u16 = 4;
    const TCA_TBF_BURST: u16 = 6;
    const LINKLAYER_ETHERNET: u8 = 1;

    let bytes_per_second = (bits_per_second / 8).max(1);
    let bytes =
        |milliseconds: u64| u32::try_from(bytes_per_second * milliseconds / 1000).unwrap_or(u32::MAX / 2);
    let burst = bytes(10).max(16 << 10);
    let queue = bytes(50).max(64 << 10);
    let rate = u32::try_from(bytes_per_second).unwrap_or(u32::MAX);

    let mut parameters = Vec::with_capacity(36);
    // struct tc_ratespec: cell_log, linklayer, overhead, cell_align, mpu, rate.
    parameters.extend([0, LINKLAYER_ETHERNET, 0, 0, 0, 0, 0, 0]);
    parameters.extend(rate.to_ne_bytes());
    parameters.extend([0; 12]); // no peak rate
    parameters.extend((queue + burst).to_ne_bytes());
    parameters.extend([0; 8]); // buffer and mtu: TCA_TBF_BURST says it in bytes

    let mut options = vec![TcOption::Other(DefaultNla::new(TCA_TBF_PARMS, parameters))];
    if bytes_per_second > u64::from(u32::MAX) {
        options
            .push(TcOption::Other(DefaultNla::new(TCA_TBF_RATE64, bytes_per_second.to_ne_bytes().to_vec())));
    }
    options.push(TcOption::Other(DefaultNla::new(TCA_TBF_BURST, burst.to_ne_bytes().to_vec())));
    options
}
