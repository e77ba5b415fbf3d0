use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::panic::resume_unwind;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use nix::sched::{CloneFlags, setns, unshare};

use crate::capture::Capture;
use crate::error::{Doing as _, Result, invalid};
use crate::harness::eventually;
use crate::netlink::{Netlink, Route};
use crate::process::{Process, die_with_parent};
use crate::state::NetworkState;

/// How long the kernel may take to bring up an interface or an address.
const SETTLE: Duration = Duration::from_secs(5);

/// A host of the lab: a network namespace. Clones are the same host; the last one takes the namespace with it.
#[derive(Clone)]
pub struct Host(Arc<Inner>);

struct Inner {
    name: String,
    namespace: OwnedFd,
    netlink: Mutex<Netlink>,
}

impl Host {
    /// Makes a namespace with its loopback interface up, IPv6 addresses that work at once, and no forwarding.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let made = thread::scope(|scope| scope.spawn(new_namespace).join());
        let (namespace, netlink) = made
            .unwrap_or_else(|panic| resume_unwind(panic))
            .doing(|| format!("make a network namespace for {name}"))?;
        let host = Self(Arc::new(Inner { name: name.to_owned(), namespace, netlink: Mutex::new(netlink) }));
        for (key, value) in QUIET {
            host.sysctl(key, value)?;
        }
        let mut netlink = host.netlink();
        let up = netlink.index("lo").and_then(|lo| netlink.set_up(lo, true));
        drop(netlink);
        up.doing(|| format!("bring up lo of {name}"))?;
        Ok(host)
    }

    /// The name that the lab gave it.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// A command whose child runs in this host, and dies with the thread that spawns it.
    ///
    /// [`Host::spawn`] spawns on a thread that lives as long as the program.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        self.prepare(&mut command);
        command
    }

    /// Runs a command in this host, with its output collected under `name`.
    pub fn spawn(&self, name: &str, mut command: Command) -> Result<Process> {
        self.prepare(&mut command);
        Process::start(&format!("{name} on {}", self.name()), command)
    }

    /// Runs `work` on a new thread in this host. Sockets which it opens stay in this host for good; processes
    /// which it starts by [`Host::command`] end with it.
    ///
    /// # Panics
    /// With the panic of `work`, or when the namespace cannot be entered (the lab's own user namespace was left).
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let enter_and_work = || {
            setns(&self.0.namespace, CloneFlags::CLONE_NEWNET)
                .unwrap_or_else(|errno| panic!("cannot enter the namespace of {}: {errno}", self.name()));
            work()
        };
        thread::scope(|scope| {
            let worker = thread::Builder::new().name(format!("in {}", self.name()));
            let worker = worker.spawn_scoped(scope, enter_and_work).expect("a thread can be started");
            worker.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// Sets a kernel parameter of this host: `sysctl("net.ipv4.ip_forward", "1")`.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/{}", key.replace('.', "/"));
        self.within(|| fs::write(path, value)).doing(|| format!("set {key}={value} on {}", self.name()))
    }

    /// Turns on forwarding of IPv4 and IPv6.
    pub fn forward(&self) -> Result<()> {
        self.sysctl("net.ipv4.ip_forward", "1")?;
        self.sysctl("net.ipv6.conf.all.forwarding", "1")
    }

    /// Adds an address (`10.1.0.5/24`), and the route to its prefix, to an interface.
    pub fn add_address(&self, interface: &str, address: &str) -> Result<()> {
        self.add_address_to(interface, parse(address)?, true)
    }

    /// Removes an address from an interface.
    pub fn del_address(&self, interface: &str, address: &str) -> Result<()> {
        let address = parse(address)?;
        let mut netlink = self.netlink();
        let index = netlink.index(interface);
        let deleted = index.and_then(|index| netlink.del_address(index, address));
        deleted.doing(|| format!("remove {address} from {interface} of {}", self.name()))
    }

    /// Adds a route: `add_route("10.2.0.0/16", "192.0.2.3")`.
    pub fn add_route(&self, destination: &str, gateway: IpAddr) -> Result<()> {
        let route = Route { destination: parse(destination)?, gateway: Some(gateway), interface: None };
        self.add_route_to(&route)
    }

    /// Removes a route that [`Host::add_route`] added.
    pub fn del_route(&self, destination: &str, gateway: IpAddr) -> Result<()> {
        let route = Route { destination: parse(destination)?, gateway: Some(gateway), interface: None };
        let deleted = self.netlink().del_route(&route);
        deleted.doing(|| format!("remove the route to {destination} via {gateway} from {}", self.name()))
    }

    /// Adds an IPv4 rule of this priority that looks into `table`.
    pub fn add_rule(&self, priority: u32, table: u32) -> Result<()> {
        let added = self.netlink().add_rule(AddressFamily::Inet, priority, table);
        added.doing(|| format!("add rule {priority} for table {table} to {}", self.name()))
    }

    /// Removes a rule that [`Host::add_rule`] added.
    pub fn del_rule(&self, priority: u32, table: u32) -> Result<()> {
        let deleted = self.netlink().del_rule(AddressFamily::Inet, priority, table);
        deleted.doing(|| format!("remove rule {priority} for table {table} from {}", self.name()))
    }

    /// A TCP listener in this host.
    pub fn tcp_listen(&self, address: SocketAddr) -> Result<TcpListener> {
        self.within(|| TcpListener::bind(address))
            .doing(|| format!("listen on {address}/tcp of {}", self.name()))
    }

    /// A TCP connection from this host.
    pub fn tcp_connect(&self, address: SocketAddr, timeout: Duration) -> Result<TcpStream> {
        self.within(|| TcpStream::connect_timeout(&address, timeout))
            .doing(|| format!("connect from {} to {address}/tcp", self.name()))
    }

    /// A UDP socket in this host.
    pub fn udp_bind(&self, address: SocketAddr) -> Result<UdpSocket> {
        self.within(|| UdpSocket::bind(address)).doing(|| format!("bind {address}/udp of {}", self.name()))
    }

    /// Links, addresses, routes of all tables, rules and forwarding parameters, as they are now.
    pub fn network_state(&self) -> Result<NetworkState> {
        let read = NetworkState::read(&mut self.netlink());
        let mut state = read.doing(|| format!("read the network state of {}", self.name()))?;
        self.within(|| state.read_sysctls()).doing(|| format!("read the sysctls of {}", self.name()))?;
        Ok(state)
    }

    /// Captures every frame that passes an interface, both ways, and keeps the first 64 MiB.
    pub fn capture(&self, interface: &str) -> Result<Capture> {
        Capture::start(self, interface, &[])
    }

    /// Like [`Host::capture`], and looks for `markers` in every frame, kept or not.
    pub fn capture_for(&self, interface: &str, markers: &[&[u8]]) -> Result<Capture> {
        Capture::start(self, interface, markers)
    }

    pub(crate) fn add_address_to(&self, interface: &str, address: IpNet, with_route: bool) -> Result<()> {
        let index = self.index(interface)?;
        let added = self.netlink().add_address(index, address, with_route);
        added.doing(|| format!("add {address} to {interface} of {}", self.name()))?;
        let is_settled = || self.netlink().is_settled(index, address).ok()?.then_some(());
        eventually(SETTLE, &format!("{address} on {interface} of {}", self.name()), is_settled)
    }

    pub(crate) fn add_route_to(&self, route: &Route) -> Result<()> {
        let added = self.netlink().add_route(route);
        added.doing(|| format!("add the route to {} to {}", route.destination, self.name()))
    }

    pub(crate) fn index(&self, interface: &str) -> Result<u32> {
        self.netlink().index(interface).doing(|| format!("find {interface} of {}", self.name()))
    }

    /// Brings an interface up.
    pub fn set_up(&self, interface: &str) -> Result<()> {
        let mut netlink = self.netlink();
        let index = netlink.index(interface);
        let up = index.and_then(|index| netlink.set_up(index, true));
        up.doing(|| format!("bring up {interface} of {}", self.name()))
    }

    /// Takes an interface down; the kernel removes the routes into it.
    pub fn set_down(&self, interface: &str) -> Result<()> {
        let mut netlink = self.netlink();
        let index = netlink.index(interface);
        let down = index.and_then(|index| netlink.set_up(index, false));
        down.doing(|| format!("take down {interface} of {}", self.name()))
    }

    /// Moves an interface to another host; it is down there, and has lost its addresses.
    pub fn move_interface(&self, interface: &str, to: &Self) -> Result<()> {
        let mut netlink = self.netlink();
        let index = netlink.index(interface);
        let moved = index.and_then(|index| netlink.set_namespace(index, to.namespace()));
        moved.doing(|| format!("move {interface} of {} to {}", self.name(), to.name()))
    }

    /// Waits until an interface that was brought up passes frames; until then the kernel drops some.
    pub(crate) fn wait_until_up(&self, interface: &str) -> Result<()> {
        let is_up = || self.netlink().is_ready(interface).ok()?.then_some(());
        eventually(SETTLE, &format!("{interface} of {} to come up", self.name()), is_up)
    }

    pub(crate) fn netlink(&self) -> MutexGuard<'_, Netlink> {
        self.0.netlink.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn namespace(&self) -> RawFd {
        self.0.namespace.as_raw_fd()
    }

    fn prepare(&self, command: &mut Command) {
        let host = self.clone();
        let parent = std::process::id();
        // SAFETY: the closure only makes system calls, neither allocating nor locking.
        unsafe {
            command.pre_exec(move || {
                setns(&host.0.namespace, CloneFlags::CLONE_NEWNET)?;
                die_with_parent(parent)
            });
        }
    }
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Host({})", self.name())
    }
}

pub(crate) fn parse(address: &str) -> Result<IpNet> {
    address
        .parse()
        .map_err(|error| invalid(format!("read {address:?} as address/length"), format!("{error}")))
}

/// Addresses work without duplicate detection, nobody asks for routers, and replies may come another way.
const QUIET: [(&str, &str); 9] = [
    ("net.ipv6.conf.all.accept_dad", "0"),
    ("net.ipv6.conf.default.accept_dad", "0"),
    ("net.ipv6.conf.default.dad_transmits", "0"),
    ("net.ipv6.conf.all.accept_ra", "0"),
    ("net.ipv6.conf.default.accept_ra", "0"),
    ("net.ipv6.conf.default.router_solicitations", "0"),
    ("net.ipv4.ip_forward", "0"),
    ("net.ipv4.conf.all.rp_filter", "0"),
    ("net.ipv4.conf.default.rp_filter", "0"),
];

fn new_namespace() -> io::Result<(OwnedFd, Netlink)> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    Ok((File::open("/proc/thread-self/ns/net")?.into(), Netlink::open()?))
}
