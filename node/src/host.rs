//! What this host has: its networks, its addresses, and whether it forwards.

use std::{
    fs, io,
    net::IpAddr,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener},
    },
};

use carrick_types::Cidr;
use nix::{ifaddrs::getifaddrs, net::if_::InterfaceFlags, sys::socket::SockaddrStorage};

/// An address of an interface that is up, with its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LocalAddress {
    pub(crate) ip: IpAddr,
    pub(crate) network: Cidr,
}

/// Every address of this host that others can use: not on `except`, not loopback, not link-local, not multicast.
pub(crate) fn local_addresses(except: &str) -> Vec<LocalAddress> {
    let Ok(interfaces) = getifaddrs() else { return Vec::new() };
    let mut found: Vec<LocalAddress> = interfaces
        .filter(|interface| interface.interface_name != except)
        .filter(|interface| interface.flags.contains(InterfaceFlags::IFF_UP))
        .filter_map(|interface| {
            let ip = ip_of(interface.address.as_ref()?)?;
            let mask = ip_of(interface.netmask.as_ref()?)?;
            let length = match mask {
                IpAddr::V4(mask) => mask.to_bits().leading_ones(),
                IpAddr::V6(mask) => mask.to_bits().leading_ones(),
            };
            Some(LocalAddress { ip, network: Cidr::containing(ip, u8::try_from(length).ok()?)? })
        })
        .filter(|address| is_global(address.ip))
        .collect();
    // IPv4 first, then in the order of the kernel's interfaces.
    found.sort_by_key(|address| address.ip.is_ipv6());
    found
}

/// Whether an address is this host's.
pub(crate) fn has_address(ip: IpAddr) -> bool {
    // Where the kernel does not tell, nothing is known to have changed.
    getifaddrs().map_or(true, |mut interfaces| {
        interfaces.any(|interface| interface.address.as_ref().and_then(ip_of) == Some(ip))
    })
}

/// Claims this host, that is its network namespace, for one agent: two would take each other's rules away. Held until the socket
/// is dropped, however the process ends.
pub(crate) fn claim() -> io::Result<UnixListener> {
    UnixListener::bind_addr(&SocketAddr::from_abstract_name("carrick/node")?)
}

/// Whether packets for others pass through this host, per family.
pub(crate) fn forwards() -> (bool, bool) {
    let is_one = |path| fs::read_to_string(path).is_ok_and(|text| text.trim() == "1");
    (is_one("/proc/sys/net/ipv4/ip_forward"), is_one("/proc/sys/net/ipv6/conf/all/forwarding"))
}

/// Whether this host speaks IPv6 at all.
pub(crate) fn has_ipv6() -> bool {
    fs::read_to_string("/proc/sys/net/ipv6/conf/all/disable_ipv6").is_ok_and(|text| text.trim() == "0")
}

fn ip_of(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
}

fn is_global(ip: IpAddr) -> bool {
    let local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !(local || ip.is_loopback() || ip.is_unspecified() || ip.is_multicast())
}
