use std::{
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
        mpsc::SyncSender,
    },
};

use carrick_dataplane::Device;
use carrick_types::WireGuardSecret;
use tokio::sync::mpsc;

use super::*;
use crate::{
    shard::{
        Command,
        report::{Reporter, Word, reports},
        testing::{Nothing, path, sockets, unwatchable},
        wake::Wake,
    },
    udp::UdpSockets,
};

#[test]
fn where_one_shard_cannot_use_its_sockets_every_shard_keeps_those_that_it_had() {
    let former = [sockets(), sockets(), sockets()];
    let mut first = start(SocketGroup::among(former.to_vec())).first;
    for odd in 0..3 {
        let mut new = [sockets(), sockets(), sockets()];
        new[odd] = unwatchable();
        first.change_sockets(SocketGroup::among(new.to_vec())).unwrap_err();
        assert_eq!(users(&former), [2; 3]);
        assert_eq!(users(&new), [0; 3]);
    }
    let new = [sockets(), sockets(), sockets()];
    first.change_sockets(SocketGroup::among(new.to_vec())).unwrap();
    assert_eq!((users(&former), users(&new)), ([0; 3], [2; 3]));
    assert!(!first.leader.is_broken);
}

#[test]
fn where_a_shard_cannot_go_back_either_the_packet_path_ends() {
    let mut first = start(SocketGroup::among(vec![sockets()])).first;
    first.leader.others.push(further(&mut first.leader.device, None));
    let odd = || SocketGroup::among(vec![sockets(), unwatchable()]);
    first.group = odd();
    first.change_sockets(odd()).unwrap_err();
    assert!(first.leader.is_broken);
    first.tell_others().unwrap_err();
}

#[test]
fn nothing_is_bound_while_the_interface_is_down_and_what_is_set_meanwhile_holds_once_it_is_up() {
    let (port, other) = (free_port(), free_port());
    let group = SocketGroup::new(UdpSockets::bind(port, 0).unwrap(), 3).unwrap();
    let mut first = start(group).first;
    assert!(!may_bind(port));
    first.set_up(false);
    assert!(may_bind(port) && first.path.sockets().is_none());
    assert_eq!(first.group.port(), port, "it is the device's still");
    first.set_up(false);
    first.set_up(true);
    assert!(!may_bind(port));
    assert_eq!((first.group.port(), first.path.sockets().unwrap().port()), (port, port));

    first.set_up(false);
    first.configure(set(Some(other), Some(7))).unwrap();
    assert!(may_bind(port) && may_bind(other));
    assert_eq!((first.group.port(), first.group.mark()), (other, 7));
    first.set_up(true);
    assert!(may_bind(port) && !may_bind(other));
    assert_eq!(first.path.sockets().unwrap().mark().unwrap(), 7);
    assert!(!first.leader.is_broken);
}

#[test]
fn a_device_whose_port_is_taken_tries_again_when_it_is_brought_up_or_told_a_port() {
    let port = free_port();
    let group = SocketGroup::new(UdpSockets::bind(port, 0).unwrap(), 1).unwrap();
    let mut first = start(group).first;
    let is_open = |first: &First| first.path.sockets().is_some();
    first.set_up(false);
    let taken = UdpSocket::bind(("0.0.0.0", port)).unwrap();
    first.set_up(true);
    assert!(!is_open(&first));
    assert_eq!(first.configure(set(Some(port), None)), Err(Errno::EADDRINUSE));
    first.configure(set(None, Some(3))).unwrap();
    first.set_up(false);
    first.set_up(true);
    assert!(!is_open(&first));
    drop(taken);
    first.configure(set(Some(port), None)).unwrap();
    assert!(is_open(&first) && first.group.mark() == 3);

    first.set_up(false);
    let taken = UdpSocket::bind(("0.0.0.0", port)).unwrap();
    first.set_up(true);
    drop(taken);
    first.set_up(true);
    assert!(is_open(&first));
}

#[test]
fn a_device_without_sockets_has_no_key_and_gets_it_back() {
    let mut first = start(SocketGroup::among(vec![sockets()])).first;
    let secret = |byte| WireGuardSecret::from_bytes([byte; 32]);
    let give = |byte| uapi::Set { private_key: Some(Some(secret(byte))), ..uapi::Set::default() };
    first.configure(give(1)).unwrap();
    let has = |first: &First| first.leader.device.secret().cloned();
    assert_eq!(has(&first), Some(secret(1)));
    first.set_up(false);
    assert_eq!(has(&first), None);
    first.set_up(true);
    assert_eq!(has(&first), Some(secret(1)));
    first.set_up(false);
    first.configure(give(2)).unwrap();
    assert_eq!(has(&first), None);
    first.set_up(true);
    assert_eq!(has(&first), Some(secret(2)));
}

struct Started {
    first: First,
    _commands: SyncSender<Command>,
    _words: SyncSender<Word>,
}

/// A first shard without a thread, and the others of a group with theirs.
fn start(group: SocketGroup) -> Started {
    let (commands, receiver) = std::sync::mpsc::sync_channel(1);
    let (words, listener) = reports();
    let mut device = Device::stand_alone(Nothing);
    let others = (1..group.shards()).map(|shard| further(&mut device, group.of(shard))).collect();
    let path = path(group.of(0), Wake::new().unwrap());
    let observe = mpsc::channel(1).0;
    let first = First::new(device, path, group, receiver, observe, Arc::default(), others, listener);
    Started { first, _commands: commands, _words: words }
}

fn further(device: &mut Device, sockets: Option<Arc<UdpSockets>>) -> Further {
    let wake = || Wake::new().unwrap();
    let (own_wake, reporter) = (wake(), Reporter::new(reports().0, wake()));
    let path = path(sockets, own_wake.clone());
    Further::start(1, device.fork(), path, own_wake, Arc::default(), reporter).unwrap()
}

/// By how many each pair is used, beside this test: its group and its shard.
fn users<const N: usize>(sockets: &[Arc<UdpSockets>; N]) -> [usize; N] {
    sockets.each_ref().map(|sockets| Arc::strong_count(sockets) - 1)
}

fn set(listen_port: Option<u16>, fwmark: Option<u32>) -> uapi::Set {
    uapi::Set { listen_port, fwmark, ..uapi::Set::default() }
}

fn may_bind(port: u16) -> bool {
    UdpSocket::bind(("0.0.0.0", port)).is_ok()
}

/// One that the kernel gives to nobody who asks for any, by default.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    std::iter::repeat_with(|| NEXT.fetch_add(1, Ordering::Relaxed)).find(|port| may_bind(*port)).unwrap()
}
