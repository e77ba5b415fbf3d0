//! What the packet path does when a client wants something.

use std::{
    io,
    time::{Duration, Instant},
};

use carrick_dataplane::{Device, PeerState};
use carrick_types::{WireGuardKey, WireGuardSecret};
use nix::errno::Errno;

use super::{
    at_rest::AtRest,
    lines::Lines,
    low_order,
    parse::{Operation, Parser},
    print,
    set::{AllowedIp, Set, SetPeer},
};
use crate::shard::SocketGroup;

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
pub(crate) fn describe(
    device: &Device,
    at_rest: Option<&AtRest>,
    sockets: &SocketGroup,
    question: Question,
) -> About {
    match question {
        Question::Device => {
            let secret = at_rest.map_or_else(|| device.secret(), AtRest::secret).cloned();
            About::Device { secret, port: sockets.port(), fwmark: sockets.mark() }
        }
        Question::Peers(after) => About::Peers(device.peers(after.as_ref()).take(PAGE).collect()),
    }
}

/// Makes everything what a client wants, but for the sockets.
pub(crate) fn configure(device: &mut Device, at_rest: Option<&mut AtRest>, mut set: Set, now: Instant) {
    if let Some(at_rest) = at_rest {
        at_rest.take(device, &mut set);
    }
    if let Some(secret) = &set.private_key {
        device.set_secret(secret.as_ref(), now);
    }
    if set.replace_peers {
        device.remove_peers();
    }
    set.peers.into_iter().for_each(|peer| set_peer(device, peer, now));
}

/// What a client would be answered that says this, for `carrick-fuzz`. There are no sockets, and 1970 it is.
#[doc(hidden)]
pub fn answer(device: &mut Device, said: &[u8], now: Instant) -> String {
    let (mut lines, mut parser, mut answer) = (Lines::default(), Parser::default(), String::new());
    lines.push(said, |line| {
        let outcome = match parser.line(&line) {
            None => return,
            Some(Ok(Operation::Get)) => {
                let peers: Vec<_> = device.peers(None).collect();
                answer += &print::device(device.secret(), 0, 0);
                answer += &print::peers(&peers, |_| Duration::ZERO);
                Ok(())
            }
            Some(Ok(Operation::Set(set))) => {
                configure(device, None, set, now);
                Ok(())
            }
            Some(Err(errno)) => Err(errno),
        };
        answer += &print::outcome(outcome);
    });
    answer
}

fn set_peer(device: &mut Device, peer: SetPeer, now: Instant) {
    let key = peer.public_key;
    if peer.remove {
        return device.remove_peer(&key);
    }
    if !peer.update_only && low_order::is_low_order(&key) {
        device.add_mute_peer(key);
    } else if !peer.update_only {
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

/// What a client is told of an error.
pub(crate) fn errno(error: io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
