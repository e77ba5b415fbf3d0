//! What a device says of what it drops.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

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
        // An idle device looks at its counters with the next datagram.
        let line = eventually(PATIENCE, "a line", || {
            junk.send_to(b"junk", (Ipv4Addr::LOCALHOST, PORT)).unwrap();
            device.process.wait_for_line("packets dropped", Duration::from_millis(100)).ok()
        })
        .unwrap();
        let reasons = line.split("reasons=").nth(1).unwrap();
        let refused = reasons.strip_prefix("refused ").unwrap().parse::<u32>().unwrap();
        assert!(refused > 0, "{line}");
    });
}
