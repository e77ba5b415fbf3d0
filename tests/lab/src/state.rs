#![expect(clippy::wildcard_enum_match_arm, reason = "the kernel may add to what it says of a link or route")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io;

use netlink_packet_route::address::AddressAttribute;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkInfo};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage};
use netlink_packet_route::rule::{RuleAttribute, RuleMessage};

use crate::netlink::{Netlink, link_name};

/// The network configuration of a host at one moment, without what the kernel changes by itself (counters, cached
/// routes, timers, carrier). Equal states mean that nothing was left behind.
#[derive(Clone, PartialEq, Eq)]
pub struct NetworkState(BTreeSet<String>);

type Names = BTreeMap<u32, String>;

impl NetworkState {
    pub(crate) fn read(netlink: &mut Netlink) -> io::Result<Self> {
        let links = netlink.links()?;
        let names: Names =
            links.iter().filter_map(|link| Some((link.header.index, link_name(link)?.to_owned()))).collect();
        let mut lines = BTreeSet::new();
        for link in &links {
            let up = if link.header.flags.contains(LinkFlags::Up) { "up" } else { "down" };
            let mut line = format!("link {} {up}", name_of(&names, link.header.index));
            for attribute in &link.attributes {
                match attribute {
                    LinkAttribute::Mtu(mtu) => line += &format!(" mtu {mtu}"),
                    LinkAttribute::Qdisc(qdisc) => line += &format!(" qdisc {qdisc}"),
                    LinkAttribute::Controller(master) => {
                        line += &format!(" master {}", name_of(&names, *master))
                    }
                    LinkAttribute::LinkInfo(infos) => {
                        for info in infos {
                            if let LinkInfo::Kind(kind) = info {
                                line += &format!(" kind {kind}");
                            }
                        }
                    }
                    _ => {}
                }
            }
            lines.insert(line);
        }
        for address in netlink.addresses()? {
            let find = |local| {
                address.attributes.iter().find_map(|attribute| match attribute {
                    AddressAttribute::Local(ip) if local => Some(*ip),
                    AddressAttribute::Address(ip) if !local => Some(*ip),
                    _ => None,
                })
            };
            let Some(ip) = find(true).or_else(|| find(false)) else { continue };
            let dev = name_of(&names, address.header.index);
            lines.insert(format!("address {ip}/{} dev {dev}", address.header.prefix_len));
        }
        let routes = netlink.routes()?;
        lines.extend(
            routes
                .iter()
                .filter(|r| !r.header.flags.contains(RouteFlags::Cloned))
                .map(|r| route_line(r, &names)),
        );
        lines.extend(netlink.rules()?.iter().map(rule_line));
        Ok(Self(lines))
    }

    /// Adds the parameters of the calling thread's namespace that an agent may have set.
    pub(crate) fn read_sysctls(&mut self) -> io::Result<()> {
        for (family, keys) in [
            ("ipv4", ["forwarding", "rp_filter", "src_valid_mark", "accept_local"].as_slice()),
            ("ipv6", ["forwarding", "disable_ipv6", "accept_ra"].as_slice()),
        ] {
            for interface in fs::read_dir(format!("/proc/sys/net/{family}/conf"))? {
                let interface = interface?;
                for key in keys {
                    if let Ok(value) = fs::read_to_string(interface.path().join(key)) {
                        let name = interface.file_name();
                        let name = name.to_string_lossy();
                        self.0.insert(format!("sysctl net.{family}.conf.{name}.{key} = {}", value.trim()));
                    }
                }
            }
        }
        Ok(())
    }

    /// One line each for what `later` has and this has not (`+`), and the other way round (`-`); empty if equal.
    pub fn diff(&self, later: &Self) -> String {
        let gone = self.0.difference(&later.0).map(|line| format!("- {line}\n"));
        let come = later.0.difference(&self.0).map(|line| format!("+ {line}\n"));
        gone.chain(come).collect()
    }

    /// Everything, one line each: `route ipv4 table 254 unicast 10.2.0.0/16 via 192.0.2.3 dev eth0 …`.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

impl fmt::Display for NetworkState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

impl fmt::Debug for NetworkState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(&self.0).finish()
    }
}

fn route_line(route: &RouteMessage, names: &Names) -> String {
    let header = &route.header;
    let mut table = u32::from(header.table);
    let mut destination = "any".to_owned();
    let mut details = Vec::new();
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Destination(address) => destination = address_text(address),
            RouteAttribute::Source(address) => {
                details.push(format!("from {}/{}", address_text(address), header.source_prefix_length));
            }
            RouteAttribute::Gateway(address) => details.push(format!("via {}", address_text(address))),
            RouteAttribute::PrefSource(address) => details.push(format!("src {}", address_text(address))),
            RouteAttribute::Oif(index) => details.push(format!("dev {}", name_of(names, *index))),
            RouteAttribute::Iif(index) => details.push(format!("iif {}", name_of(names, *index))),
            RouteAttribute::Priority(metric) => details.push(format!("metric {metric}")),
            RouteAttribute::CacheInfo(_) | RouteAttribute::Expires(_) | RouteAttribute::Preference(_) => {}
            other => details.push(format!("{other:?}")),
        }
    }
    format!(
        "route {:?} table {table} {:?} {destination}/{} {} proto {} scope {}",
        header.address_family,
        header.kind,
        header.destination_prefix_length,
        details.join(" "),
        header.protocol,
        header.scope,
    )
    .to_lowercase()
}

fn rule_line(rule: &RuleMessage) -> String {
    let header = &rule.header;
    let mut table = u32::from(header.table);
    let mut priority = 0;
    let mut details = Vec::new();
    for attribute in &rule.attributes {
        match attribute {
            RuleAttribute::Table(number) => table = *number,
            RuleAttribute::Priority(number) => priority = *number,
            // "Nothing is suppressed", which the kernel says of every rule.
            RuleAttribute::SuppressPrefixLen(u32::MAX) => {}
            RuleAttribute::Source(address) => details.push(format!("from {address}/{}", header.src_len)),
            RuleAttribute::Destination(address) => details.push(format!("to {address}/{}", header.dst_len)),
            RuleAttribute::Protocol(protocol) => details.push(format!("proto {protocol}")),
            other => details.push(format!("{other:?}")),
        }
    }
    let flags = header.flags.bits();
    format!(
        "rule {:?} {priority} {:?} table {table} flags {flags:#x} {}",
        header.family,
        header.action,
        details.join(" ")
    )
    .to_lowercase()
}

fn address_text(address: &RouteAddress) -> String {
    match address {
        RouteAddress::Inet(address) => address.to_string(),
        RouteAddress::Inet6(address) => address.to_string(),
        other => format!("{other:?}"),
    }
}

fn name_of(names: &Names, index: u32) -> String {
    names.get(&index).cloned().unwrap_or_else(|| format!("#{index}"))
}
