use std::{
    sync::mpsc::{SyncSender, channel, sync_channel},
    thread,
};

use carrick_dataplane::{Counters, Report};

use super::*;
use crate::{
    shard::{
        report::{Word, reports},
        testing::{PATIENCE, device, path},
        wake::Wake,
    },
    udp::UdpSockets,
};

#[test]
fn what_is_not_heard_at_once_is_heard_without_another_wake() {
    let (words, listener) = reports();
    let list = || Word::Reports((0..1000).map(|_| Report::Dropped(Counters::default())).collect());
    let mut lists = 0;
    while words.try_send(list()).is_ok() {
        lists += 1;
    }
    let (commands, wake, ended) = start(listener, Vec::new());
    wake.call();
    // There is room for as many when all of the former have been heard.
    let (done, is_done) = channel();
    thread::spawn(move || {
        (0..lists).for_each(|_| words.send(list()).ok().unwrap());
        let _ = done.send(());
    });
    is_done.recv_timeout(PATIENCE).expect("all were heard");
    commands.send(Command::Stop).unwrap();
    wake.call();
    ended.recv_timeout(PATIENCE).unwrap().unwrap();
}

type Ended = std::sync::mpsc::Receiver<io::Result<()>>;

/// Starts a first shard; says by which way it is told something, and how it ends.
fn start(listener: Listener, others: Vec<Further>) -> (SyncSender<Command>, Wake, Ended) {
    let ((commands, receiver), wake) = (sync_channel(8), Wake::new().unwrap());
    let group = SocketGroup::new(UdpSockets::bind(0, 0).unwrap(), 1).unwrap();
    let path = path(group.of(0), wake.clone());
    let observe = mpsc::channel(1).0;
    let mut first = First::new(device(), path, group, receiver, observe, Arc::default(), others, listener);
    let (end, ended) = channel();
    thread::spawn(move || {
        let _ = end.send(first.run());
    });
    (commands, wake, ended)
}
