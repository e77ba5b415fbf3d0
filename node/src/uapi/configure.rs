//! What the packet path does when a client wants something.

use std::{
    io,
    time::{Duration, Instant},
};

use carrick_dataplane::{Device, PeerState};
use carrick_types::{WireGuardKey, WireGuardSecret};
use nix::errno::Errno;
use socket2::SockRef;

use super::set::{AllowedIp, Set, SetPeer};
use crate::udp::UdpSockets;

/// Peers that are described at once.
const PAGE: usize = 128;

/// What a client wants to know next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Question {
    /// The device.
    Device,
    /// Peers, from the first on, or behind this one.
    Peers(Option<WireGuardKey>),
}

/// What it is told.
#[derive(Debug)]
pub(crate) enum About {
    Device {
        secret: Option<WireGuardSecret>,
        port: u16,
        fwmark: u32,
    },
    /// None where there are no more.
    Peers(Vec<PeerState>),
}

/// Answers a question.
pub(crate) fn describe(device: &Device, sockets: &UdpSockets, question: Question) -> About {
    match question {
        Question::Device => About::Device {
            secret: device.secret().cloned(),
            port: sockets.port(),
            fwmark: mark(sockets).unwrap_or_default(),
        },
        Question::Peers(after) => About::Peers(device.peers(after.as_ref()).take(PAGE).collect()),
    }
}

/// Makes a device what a client wants. Where a port or a mark cannot be had, nothing at all is different.
pub(crate) fn configure(
    device: &mut Device,
    sockets: &mut UdpSockets,
    set: Set,
    now: Instant,
) -> Result<(), Errno> {
    set_sockets(sockets, set.listen_port, set.fwmark).map_err(errno)?;
    if let Some(secret) = &set.private_key {
        device.set_secret(secret.as_ref(), now);
    }
    if set.replace_peers {
        device.remove_peers();
    }
    set.peers.into_iter().for_each(|peer| set_peer(device, peer, now));
    Ok(())
}

fn set_sockets(sockets: &mut UdpSockets, port: Option<u16>, fwmark: Option<u32>) -> io::Result<()> {
    if let Some(port) = port.filter(|port| *port != sockets.port()) {
        let fwmark = fwmark.map_or_else(|| mark(sockets), Ok)?;
        *sockets = UdpSockets::bind(port, fwmark)?;
    } else if let Some(fwmark) = fwmark {
        for socket in [Some(&sockets.v4), sockets.v6.as_ref()].into_iter().flatten() {
            SockRef::from(socket).set_mark(fwmark)?;
        }
    }
    Ok(())
}

fn set_peer(device: &mut Device, peer: SetPeer, now: Instant) {
    let key = peer.public_key;
    if peer.remove {
        return device.remove_peer(&key);
    }
    if !peer.update_only {
        device.add_peer(key);
    }
    if !device.has_peer(&key) {
        return;
    }
    if let Some(preshared_key) = peer.preshared_key {
        device.set_preshared_key(&key, preshared_key);
    }
    if let Some(endpoint) = peer.endpoint {
        device.set_endpoint(&key, endpoint, now);
    }
    if peer.replace_allowed_ips {
        device.disallow_all(&key);
    }
    for allowed_ip in peer.allowed_ips {
        match allowed_ip {
            AllowedIp::Allow(prefix) => device.allow(&key, prefix),
            AllowedIp::Disallow(prefix) => device.disallow(&key, prefix),
        }
    }
    if let Some(seconds) = peer.persistent_keepalive {
        let interval = (seconds > 0).then(|| Duration::from_secs(seconds.into()));
        device.set_persistent_keepalive(&key, interval, now);
    }
}

fn mark(sockets: &UdpSockets) -> io::Result<u32> {
    SockRef::from(&sockets.v4).mark()
}

fn errno(error: io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
