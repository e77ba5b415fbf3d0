//! What a device says of what it drops.

use std::net::{Ipv4Addr, SocketAddr};

use carrick_lab::{eventually, in_lab};

use crate::{
    down::is_bound,
    wireguard::{Device, Implementation, PATIENCE, PORT, own_run},
};

#[test]
fn what_is_dropped_is_told_by_its_reason() {
    in_lab(|lab| {
        let one = lab.host("one").unwrap();
        own_run();
        // The kernel looks for routers by every interface.
        one.sysctl("net.ipv6.conf.default.disable_ipv6", "1").unwrap();
        let device = Device::start(Implementation::Carrick, &one, "wg-one");
        one.set_up("wg-one").unwrap();
        eventually(PATIENCE, "an open port", || is_bound(&one, PORT).then_some(())).unwrap();
        let junk = one.udp_bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        junk.send_to(b"junk", (Ipv4Addr::LOCALHOST, PORT)).unwrap();
        let line = device.process.wait_for_line("packets dropped", PATIENCE).unwrap();
        assert!(line.ends_with("reasons=refused 1"), "{line}");
    });
}
