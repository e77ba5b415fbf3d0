//! What the tests of shards have in common.

use std::{
    fs::File,
    iter,
    net::UdpSocket,
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};

use carrick_dataplane::{Device, Forwarder, Outside, offload::VnetHeader};
use carrick_types::WireGuardSecret;

use super::{path::Path, wake::Wake};
use crate::{
    readiness::{Readiness, Source},
    tun::Tun,
    udp::UdpSockets,
};

/// More than anything here takes.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Of a shard without queues.
pub(super) fn path(sockets: Option<Arc<UdpSockets>>, wake: Wake) -> Path {
    Path::new(Arc::new(Tun::without_queues()), iter::empty(), sockets, wake).unwrap()
}

pub(super) fn sockets() -> Arc<UdpSockets> {
    Arc::new(UdpSockets::bind(0, 0).unwrap())
}

/// Nothing is ever readable, or not, about a file.
pub(super) fn unwatchable() -> Arc<UdpSockets> {
    let mut sockets = UdpSockets::bind(0, 0).unwrap();
    sockets.v6 = Some(UdpSocket::from(OwnedFd::from(File::open("/dev/null").unwrap())));
    Arc::new(sockets)
}

pub(super) fn is_readable(wake: &Wake) -> bool {
    let mut readiness = Readiness::new(1).unwrap();
    readiness.watch(wake, Source::Commands).unwrap();
    readiness.wait(Some(Duration::ZERO)).unwrap().count() > 0
}

/// Has a packet dropped, which is no hurry to report.
pub(super) fn drop_packet(forwarder: &mut Forwarder) {
    forwarder.handle_packet(&VnetHeader::default(), &[0; 28], Instant::now());
}

/// Has an initiation passed on, which is.
pub(super) fn pass_on(forwarder: &mut Forwarder) {
    let mut initiation = [0; 148];
    initiation[0] = 1;
    let from = std::net::SocketAddr::from(([192, 0, 2, 1], 51_820));
    forwarder.handle_datagrams(from, &mut initiation, 148, Instant::now(), |_| {});
}

pub(super) fn device() -> Device {
    Device::new(&WireGuardSecret::from_bytes([1; 32]), Nothing)
}

pub(super) fn forwarder() -> Forwarder {
    device().fork()
}

pub(super) struct Nothing;

impl Outside for Nothing {
    fn random(&mut self, _: &mut [u8]) {}

    fn wall_clock(&mut self) -> Duration {
        Duration::ZERO
    }
}
