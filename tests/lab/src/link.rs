use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Doing as _, Result};
use crate::host::Host;
use crate::netlink::RootQdisc;

/// A cable between two interfaces. Clones are the same cable; it stays when the last of them is dropped.
#[derive(Clone, Debug)]
pub struct Link(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    ends: [(Host, String); 2],
    condition: Mutex<Condition>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Condition {
    cut: bool,
    bits_per_second: Option<u64>,
}

impl Link {
    pub(crate) fn new(ends: [(Host, String); 2]) -> Self {
        Self(Arc::new(Inner { ends, condition: Mutex::default() }))
    }

    /// The two ends: host and interface name.
    pub fn ends(&self) -> &[(Host, String); 2] {
        &self.0.ends
    }

    /// Drops every frame in both directions from now on, silently, as a break somewhere in the network does: the
    /// interfaces stay up and keep their addresses and routes.
    pub fn cut(&self) -> Result<()> {
        self.change(|condition| condition.cut = true)
    }

    /// Undoes [`Link::cut`].
    pub fn restore(&self) -> Result<()> {
        self.change(|condition| condition.cut = false)
    }

    /// Limits each direction to a rate, with 50 ms of queue.
    pub fn limit(&self, bits_per_second: u64) -> Result<()> {
        self.change(|condition| condition.bits_per_second = Some(bits_per_second))
    }

    /// Undoes [`Link::limit`].
    pub fn unlimit(&self) -> Result<()> {
        self.change(|condition| condition.bits_per_second = None)
    }

    /// Sets the MTU of both ends. A switch takes the smallest MTU of its ports.
    pub fn set_mtu(&self, mtu: u32) -> Result<()> {
        for (host, interface) in self.ends() {
            let mut netlink = host.netlink();
            let index = netlink.index(interface);
            let set = index.and_then(|index| netlink.set_mtu(index, mtu));
            set.doing(|| format!("set the MTU of {interface} of {} to {mtu}", host.name()))?;
        }
        Ok(())
    }

    fn change(&self, change: impl FnOnce(&mut Condition)) -> Result<()> {
        let mut condition = self.0.condition.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut condition);
        let qdisc = match *condition {
            Condition { cut: true, .. } => RootQdisc::Blackhole,
            Condition { bits_per_second: Some(rate), .. } => RootQdisc::TokenBucket(rate),
            Condition { .. } => RootQdisc::Default,
        };
        for (host, interface) in self.ends() {
            let mut netlink = host.netlink();
            let index = netlink.index(interface);
            let set = index.and_then(|index| netlink.set_root_qdisc(index, qdisc));
            set.doing(|| format!("make the queue of {interface} of {} {qdisc:?}", host.name()))?;
        }
        Ok(())
    }
}
