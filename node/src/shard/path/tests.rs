use super::*;
use crate::shard::{
    testing::{path, sockets, unwatchable},
    wake::Wake,
};

#[test]
fn sockets_that_were_exchanged_wake_nobody_though_another_has_them_still() {
    let (former, new) = (sockets(), sockets());
    let mut path = path(Some(former.clone()), Wake::new().unwrap());
    path.set_sockets(Some(new.clone())).unwrap();
    send_to(&former);
    assert!(!is_ready(&mut path));
    send_to(&new);
    assert!(is_ready(&mut path));
    path.set_sockets(Some(new.clone())).unwrap();
    assert!(is_ready(&mut path), "the same once more");
    path.set_sockets(None).unwrap();
    assert!(!is_ready(&mut path), "none at all");
}

#[test]
fn sockets_that_cannot_be_waited_for_are_refused_and_the_former_ones_are_read_on() {
    let former = sockets();
    let mut path = path(Some(former.clone()), Wake::new().unwrap());
    let odd = unwatchable();
    path.set_sockets(Some(odd.clone())).unwrap_err();
    send_to(&odd);
    assert!(!is_ready(&mut path));
    send_to(&former);
    assert!(is_ready(&mut path));
}

fn send_to(sockets: &UdpSockets) {
    sockets.v4.send_to(b"x", ("127.0.0.1", sockets.port())).unwrap();
}

fn is_ready(path: &mut Path) -> bool {
    path.wait(Some(Duration::ZERO)).unwrap().v4
}
