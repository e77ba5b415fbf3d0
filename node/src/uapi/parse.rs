//! What a client says, line by line.

use std::net::{IpAddr, SocketAddr};

use carrick_dataplane::PresharedKey;
use carrick_types::{Cidr, WireGuardSecret};
use nix::{errno::Errno, net::if_::if_nametoindex};
use zeroize::Zeroizing;

use super::{
    lines::Line,
    low_order,
    set::{AllowedIp, Set, SetPeer},
};

/// What a client asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// `get=1`
    Get,
    /// `set=1`
    Set(Set),
}

/// Takes the lines of one operation after the other.
#[derive(Debug, Default)]
pub(crate) enum Parser {
    /// Nothing came yet.
    #[default]
    Ready,
    Get,
    Set(Set),
    /// The rest of the operation is skipped.
    Failed(Errno),
}

impl Parser {
    /// Takes a line. The empty one ends an operation: this is it, or what was wrong with it.
    pub(crate) fn line(&mut self, line: &Line<'_>) -> Option<Result<Operation, Errno>> {
        let Line::Text(text) = line else {
            self.fail(Errno::EMSGSIZE);
            return None;
        };
        if text.is_empty() {
            return match std::mem::take(self) {
                Self::Ready => None,
                Self::Get => Some(Ok(Operation::Get)),
                Self::Set(set) => Some(Ok(Operation::Set(set))),
                Self::Failed(errno) => Some(Err(errno)),
            };
        }
        if let Err(errno) = self.take(text) {
            self.fail(errno);
        }
        None
    }

    /// Whether an operation has begun and not ended.
    pub(crate) const fn is_busy(&self) -> bool {
        !matches!(self, Self::Ready)
    }

    fn take(&mut self, line: &[u8]) -> Result<(), Errno> {
        let text = std::str::from_utf8(line).map_err(|_| Errno::EPROTO)?;
        let (key, value) = text.split_once('=').ok_or(Errno::EPROTO)?;
        match self {
            Self::Ready => {
                *self = match (key, value) {
                    ("get", "1") => Self::Get,
                    ("set", "1") => Self::Set(Set::default()),
                    _ => return Err(Errno::EPROTO),
                };
                Ok(())
            }
            Self::Get => Err(Errno::EINVAL),
            Self::Set(set) if key == "public_key" => {
                let key = low_order::known_by(*bytes(value)?).ok_or(Errno::EINVAL)?;
                set.peers.push(SetPeer::new(key));
                Ok(())
            }
            Self::Set(set) => match set.peers.last_mut() {
                None => device_line(set, key, value),
                Some(peer) => peer_line(peer, key, value),
            },
            Self::Failed(_) => Ok(()),
        }
    }

    /// The first thing that is wrong is the one to tell.
    fn fail(&mut self, errno: Errno) {
        if !matches!(self, Self::Failed(_)) {
            *self = Self::Failed(errno);
        }
    }
}

fn device_line(set: &mut Set, key: &str, value: &str) -> Result<(), Errno> {
    match key {
        "private_key" => {
            let bytes = bytes(value)?;
            set.private_key = Some((*bytes != [0; 32]).then(|| WireGuardSecret::from_bytes(*clamped(bytes))));
        }
        "listen_port" => set.listen_port = Some(number(value)?),
        "fwmark" => set.fwmark = Some(number(value)?),
        "replace_peers" => set.replace_peers = yes(value)?,
        _ => return Err(Errno::EINVAL),
    }
    Ok(())
}

fn peer_line(peer: &mut SetPeer, key: &str, value: &str) -> Result<(), Errno> {
    match key {
        "remove" => peer.remove = yes(value)?,
        "update_only" => peer.update_only = yes(value)?,
        "preshared_key" => peer.preshared_key = Some(PresharedKey::from_bytes(*bytes(value)?)),
        "endpoint" => peer.endpoint = Some(endpoint(value)?),
        "persistent_keepalive_interval" => peer.persistent_keepalive = Some(number(value)?),
        "replace_allowed_ips" => {
            peer.replace_allowed_ips = yes(value)?;
            peer.allowed_ips.clear();
        }
        "allowed_ip" => peer.allowed_ips.push(allowed_ip(value)?),
        "protocol_version" if value == "1" => {}
        _ => return Err(Errno::EINVAL),
    }
    Ok(())
}

/// A private key as X25519 uses it (RFC 7748, section 5), and as the kernel shows it.
fn clamped(mut key: Zeroizing<[u8; 32]>) -> Zeroizing<[u8; 32]> {
    key[0] &= 0xf8;
    key[31] = key[31] & 0x7f | 0x40;
    key
}

/// Whatever is switched can only be switched on.
fn yes(value: &str) -> Result<bool, Errno> {
    if value == "true" { Ok(true) } else { Err(Errno::EINVAL) }
}

fn number<N: std::str::FromStr>(value: &str) -> Result<N, Errno> {
    let digits = value.bytes().all(|byte| byte.is_ascii_digit());
    value.parse().ok().filter(|_| digits).ok_or(Errno::EINVAL)
}

/// Address and port. A link-local address may name its interface: the one thing in here that is asked of the system.
fn endpoint(value: &str) -> Result<SocketAddr, Errno> {
    let zone = value.split_once('%').and_then(|(_, rest)| rest.split_once(']')).map(|(zone, _)| zone);
    let named = zone.filter(|zone| !zone.bytes().all(|byte| byte.is_ascii_digit()));
    let endpoint = if let Some(name) = named {
        let index = if_nametoindex(name).map_err(|_| Errno::EINVAL)?;
        value.replace(&format!("%{name}]"), &format!("%{index}]")).parse()
    } else {
        value.parse()
    };
    let endpoint: SocketAddr = endpoint.map_err(|_| Errno::EINVAL)?;
    if endpoint.port() == 0 { Err(Errno::EINVAL) } else { Ok(endpoint) }
}

/// An address with a length; bits beyond that are of no account, as in the kernel.
fn allowed_ip(value: &str) -> Result<AllowedIp, Errno> {
    let (prefix, kind): (_, fn(Cidr) -> AllowedIp) =
        value.strip_prefix('-').map_or((value, AllowedIp::Allow), |rest| (rest, AllowedIp::Disallow));
    let (address, length) = prefix.split_once('/').ok_or(Errno::EINVAL)?;
    let address: IpAddr = address.parse().map_err(|_| Errno::EINVAL)?;
    Cidr::containing(address, number(length)?).map(kind).ok_or(Errno::EINVAL)
}

/// 32 bytes in hexadecimal digits.
fn bytes(value: &str) -> Result<Zeroizing<[u8; 32]>, Errno> {
    let (pairs, []) = value.as_bytes().as_chunks::<2>() else { return Err(Errno::EINVAL) };
    let pairs: &[[u8; 2]; 32] = pairs.try_into().map_err(|_| Errno::EINVAL)?;
    let mut bytes = Zeroizing::new([0; 32]);
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Ok(bytes)
}

const fn digit(character: u8) -> Result<u8, Errno> {
    match character {
        b'0'..=b'9' => Ok(character - b'0'),
        b'a'..=b'f' => Ok(character - b'a' + 10),
        b'A'..=b'F' => Ok(character - b'A' + 10),
        _ => Err(Errno::EINVAL),
    }
}

#[cfg(test)]
mod tests;
