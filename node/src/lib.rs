//! The node agent: TUN, UDP, netlink and the session with the coordinator.
