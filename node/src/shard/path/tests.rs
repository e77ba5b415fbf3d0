use std::{fs::File, os::fd::OwnedFd};

use super::*;
use crate::shard::{
    testing::{path, sockets},
    wake,
};

#[test]
fn sockets_that_were_exchanged_wake_nobody_though_another_has_them_still() {
    let (former, new) = (sockets(), sockets());
    let mut path = path(former.clone(), wake().unwrap());
    path.set_sockets(new.clone()).unwrap();
    send_to(&former);
    assert!(!is_ready(&mut path));
    send_to(&new);
    assert!(is_ready(&mut path));
    path.set_sockets(new).unwrap();
    assert!(is_ready(&mut path), "the same once more");
}

#[test]
fn sockets_that_cannot_be_waited_for_are_refused_and_the_former_ones_are_read_on() {
    let former = sockets();
    let mut path = path(former.clone(), wake().unwrap());
    let odd = unwatchable();
    path.set_sockets(odd.clone()).unwrap_err();
    send_to(&odd);
    assert!(!is_ready(&mut path));
    send_to(&former);
    assert!(is_ready(&mut path));
}

/// Nothing is ever readable, or not, about a file.
fn unwatchable() -> Arc<UdpSockets> {
    let mut sockets = UdpSockets::bind(0, 0).unwrap();
    sockets.v6 = Some(UdpSocket::from(OwnedFd::from(File::open("/dev/null").unwrap())));
    Arc::new(sockets)
}

fn send_to(sockets: &UdpSockets) {
    sockets.v4.send_to(b"x", ("127.0.0.1", sockets.port())).unwrap();
}

fn is_ready(path: &mut Path) -> bool {
    path.wait(Some(Duration::ZERO)).unwrap().v4
}
