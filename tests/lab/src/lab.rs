use std::net::IpAddr;

use ipnet::IpNet;

use crate::error::{Doing as _, Result, invalid};
use crate::host::{Host, parse};
use crate::link::Link;
use crate::netlink::Route;

/// Longest name of an interface, in bytes.
const INTERFACE_NAME: usize = 15;

/// Makes hosts and what joins them. Names of hosts are unique within one lab.
#[derive(Debug, Default)]
pub struct Lab {
    hosts: Vec<Host>,
    ports: usize,
}

/// A bridge in a router: every host attached to it is on one segment, with the router as gateway.
#[derive(Clone, Debug)]
pub struct Switch {
    router: Host,
    bridge: String,
    gateways: Vec<IpNet>,
}

impl Lab {
    /// An empty lab. It needs the privileges that [`crate::sandbox`] gives.
    pub fn new() -> Result<Self> {
        Host::new("probe").map(|_| Self::default())
    }

    /// Every host so far, in the order in which they were made.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// A host with nothing but a loopback interface.
    pub fn host(&mut self, name: &str) -> Result<Host> {
        if self.hosts.iter().any(|host| host.name() == name) {
            return Err(invalid(format!("make the host {name}"), "there is one of this name"));
        }
        let host = Host::new(name)?;
        self.hosts.push(host.clone());
        Ok(host)
    }

    /// A host that forwards IPv4 and IPv6.
    pub fn router(&mut self, name: &str) -> Result<Host> {
        let router = self.host(name)?;
        router.forward()?;
        Ok(router)
    }

    /// A segment behind `router`, which is its gateway under the given addresses (`192.0.2.1/24`, `2001:db8::1/64`).
    pub fn switch(&mut self, router: &Host, name: &str, gateways: &[&str]) -> Result<Switch> {
        let gateways = gateways.iter().map(|gateway| parse(gateway)).collect::<Result<Vec<_>>>()?;
        let bridge = cut_name(name);
        router
            .netlink()
            .add_bridge(&bridge)
            .doing(|| format!("make the bridge {bridge} on {}", router.name()))?;
        for gateway in &gateways {
            router.add_address_to(&bridge, *gateway, true)?;
        }
        router.set_up(&bridge)?;
        Ok(Switch { router: router.clone(), bridge, gateways })
    }

    /// Plugs a host into a switch: an interface with addresses, and default routes via the switch's gateways of
    /// the same families.
    pub fn attach(
        &mut self,
        host: &Host,
        switch: &Switch,
        interface: &str,
        addresses: &[&str],
    ) -> Result<Link> {
        let addresses = addresses.iter().map(|address| parse(address)).collect::<Result<Vec<_>>>()?;
        self.ports += 1;
        let port = cut_name(&format!("p{}-{}", self.ports, host.name()));
        let link = join((host, interface), (&switch.router, &port))?;
        let bridge = switch.router.index(&switch.bridge)?;
        let index = switch.router.index(&port)?;
        let plugged = switch.router.netlink().set_master(index, bridge);
        plugged.doing(|| format!("plug {port} into {} of {}", switch.bridge, switch.router.name()))?;
        switch.router.wait_until_up(&switch.bridge)?;
        for address in &addresses {
            host.add_address_to(interface, *address, true)?;
        }
        for gateway in switch.gateways.iter().map(IpNet::addr) {
            if addresses.iter().any(|address| address.addr().is_ipv4() == gateway.is_ipv4()) {
                host.add_route_to(&Route {
                    destination: any(gateway),
                    gateway: Some(gateway),
                    interface: None,
                })?;
            }
        }
        Ok(link)
    }

    /// A pod of `node`, as a point-to-point network plugin makes one: `eth0` in a namespace of its own, everything
    /// beyond it by way of the node, which has the first address of each prefix on its end, `veth-NAME`.
    pub fn pod(&mut self, node: &Host, name: &str, addresses: &[&str]) -> Result<Host> {
        let addresses = addresses.iter().map(|address| parse(address)).collect::<Result<Vec<_>>>()?;
        let pod = self.host(name)?;
        let veth = cut_name(&format!("veth-{name}"));
        join((&pod, "eth0"), (node, &veth))?;
        let (inside, outside) = (pod.index("eth0")?, node.index(&veth)?);
        for address in addresses {
            let gateway = first(address);
            if gateway == address.addr() {
                return Err(invalid(format!("make the pod {name}"), format!("{gateway} is the gateway's")));
            }
            pod.add_address_to("eth0", address, false)?;
            node.add_address_to(&veth, single(gateway), true)?;
            pod.add_route_to(&Route {
                destination: single(gateway),
                gateway: None,
                interface: Some(inside),
            })?;
            pod.add_route_to(&Route {
                destination: any(gateway),
                gateway: Some(gateway),
                interface: Some(inside),
            })?;
            let to_pod = single(address.addr());
            node.add_route_to(&Route { destination: to_pod, gateway: None, interface: Some(outside) })?;
        }
        node.forward()?;
        Ok(pod)
    }

    /// A cable between two hosts, without routes beyond the addresses' own prefixes.
    pub fn wire(
        &mut self,
        a: &Host,
        a_interface: &str,
        a_addresses: &[&str],
        b: &Host,
        b_interface: &str,
        b_addresses: &[&str],
    ) -> Result<Link> {
        let link = join((a, a_interface), (b, b_interface))?;
        for (host, interface, addresses) in [(a, a_interface, a_addresses), (b, b_interface, b_addresses)] {
            for address in addresses {
                host.add_address(interface, address)?;
            }
        }
        Ok(link)
    }
}

impl Switch {
    /// The host that holds the bridge.
    pub fn router(&self) -> &Host {
        &self.router
    }

    /// The name of the bridge's interface.
    pub fn interface(&self) -> &str {
        &self.bridge
    }
}

fn join(a: (&Host, &str), b: (&Host, &str)) -> Result<Link> {
    let made = a.0.netlink().add_veth(a.1, b.1, b.0.namespace());
    made.doing(|| format!("join {} of {} and {} of {}", a.1, a.0.name(), b.1, b.0.name()))?;
    a.0.set_up(a.1)?;
    b.0.set_up(b.1)?;
    a.0.wait_until_up(a.1)?;
    b.0.wait_until_up(b.1)?;
    Ok(Link::new([(a.0.clone(), a.1.to_owned()), (b.0.clone(), b.1.to_owned())]))
}

fn cut_name(name: &str) -> String {
    let end = (0..=INTERFACE_NAME.min(name.len())).rev().find(|end| name.is_char_boundary(*end)).unwrap_or(0);
    name[..end].to_owned()
}

fn any(family_of: IpAddr) -> IpNet {
    IpNet::new_assert(if family_of.is_ipv4() { [0; 4].into() } else { [0; 16].into() }, 0)
}

fn single(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

/// The first address of the prefix: `10.1.1.1` of `10.1.1.10/24`.
fn first(address: IpNet) -> IpAddr {
    match address.network() {
        IpAddr::V4(network) => IpAddr::V4((u32::from(network) | 1).into()),
        IpAddr::V6(network) => IpAddr::V6((u128::from(network) | 1).into()),
    }
}
