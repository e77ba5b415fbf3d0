//! Prefixes, and which of them a node may speak for.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::text::string_schema;

/// A network with zero host bits: `10.1.2.3/16` does not parse.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr(IpNet);

/// Why a prefix was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseCidrError {
    /// Not `address/length`.
    #[error("{0:?} is not a prefix: write it as 10.1.0.0/24 or fd00:1::/64")]
    Syntax(String),
    /// Bits are set behind the prefix.
    #[error("{0} has bits set behind its prefix: did you mean {1}?")]
    HostBits(IpNet, IpNet),
}

impl Cidr {
    /// The network that holds `address` with a prefix of `length` bits; `None` where the address has fewer.
    pub fn containing(address: IpAddr, length: u8) -> Option<Self> {
        IpNet::new(address, length).ok().map(|net| Self(net.trunc()))
    }

    /// The network of this address alone.
    pub fn host(address: IpAddr) -> Self {
        Self(address.into())
    }

    /// The first address.
    pub fn address(&self) -> IpAddr {
        self.0.addr()
    }

    /// The number of bits in the prefix.
    pub fn length(&self) -> u8 {
        self.0.prefix_len()
    }

    /// Whether the address lies within.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }

    /// Whether every address of the other network is in this one.
    pub fn covers(&self, other: &Self) -> bool {
        self.length() <= other.length() && self.contains(other.address())
    }

    /// Whether any address lies in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.0.contains(&other.0) || other.0.contains(&self.0)
    }
}

impl FromStr for Cidr {
    type Err = ParseCidrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let net: IpNet = text.parse().map_err(|_| ParseCidrError::Syntax(text.chars().take(80).collect()))?;
        if net == net.trunc() { Ok(Self(net)) } else { Err(ParseCidrError::HostBits(net, net.trunc())) }
    }
}

impl TryFrom<String> for Cidr {
    type Error = ParseCidrError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.to_string())
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

string_schema!(Cidr, "prefix: address/length");

/// Why a node may not speak for a prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrefixClaimError {
    /// So short that it would take over a default route, alone or with its neighbour.
    #[error(
        "prefix {0} would take over the default route: claim the pod CIDR only (IPv4 /8, IPv6 /16 or longer)"
    )]
    TooShort(Cidr),
    /// Loopback, link-local, multicast or unspecified: never routed.
    #[error("prefix {0} overlaps {1}, which is never routed")]
    NotRoutable(Cidr, Cidr),
    /// Not private space: it could take the way to a name server, an API or a peer from the whole mesh.
    #[error("prefix {0} is public: claim pod CIDRs from private space (RFC 1918, RFC 6598, IPv6 fc00::/7)")]
    Public(Cidr),
    /// Inside the range from which overlay addresses are given.
    #[error(
        "prefix {0} overlaps the overlay range {1}: choose another pod CIDR, or another --overlay at the coordinator's first start"
    )]
    Overlay(Cidr, Cidr),
    /// Two prefixes of one claim overlap.
    #[error("prefix {0} is claimed twice: it overlaps {1}")]
    Twice(Cidr, Cidr),
}

/// Checks what a node asks to speak for, before anybody else's claims are looked at. `overlay` holds the mesh's overlay ranges.
///
/// # Errors
/// The first prefix that no node may claim, with the reason.
pub fn check_prefix_claim(claim: &[Cidr], overlay: &[Cidr]) -> Result<(), PrefixClaimError> {
    check_named_prefix_claim(claim, overlay)?;
    match claim.iter().find(|prefix| !private().any(|block| block.covers(prefix))) {
        Some(prefix) => Err(PrefixClaimError::Public(*prefix)),
        None => Ok(()),
    }
}

/// As [`check_prefix_claim`], for prefixes that an operator allowed by name: they may be public.
///
/// # Errors
/// The first rule that the claim breaks.
pub fn check_named_prefix_claim(claim: &[Cidr], overlay: &[Cidr]) -> Result<(), PrefixClaimError> {
    for (i, prefix) in claim.iter().enumerate() {
        let shortest = if prefix.address().is_ipv4() { 8 } else { 16 };
        if prefix.length() < shortest {
            return Err(PrefixClaimError::TooShort(*prefix));
        }
        if let Some(never) = never_routed().find(|never| never.overlaps(prefix)) {
            return Err(PrefixClaimError::NotRoutable(*prefix, never));
        }
        if let Some(range) = overlay.iter().find(|range| range.overlaps(prefix)) {
            return Err(PrefixClaimError::Overlay(*prefix, *range));
        }
        if let Some(other) = claim[..i].iter().find(|other| other.overlaps(prefix)) {
            return Err(PrefixClaimError::Twice(*prefix, *other));
        }
    }
    Ok(())
}

/// RFC 1918, RFC 6598 and RFC 4193: what nobody reaches except through this mesh.
fn private() -> impl Iterator<Item = Cidr> {
    ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"]
        .iter()
        .filter_map(|text| text.parse().ok())
}

/// RFC 6890's blocks that never leave a host or a link.
fn never_routed() -> impl Iterator<Item = Cidr> {
    ["0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::/16", "fe80::/10", "ff00::/8"]
        .iter()
        .filter_map(|text| text.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn a_prefix_has_no_host_bits() {
        assert_eq!(
            "10.1.2.3/16".parse::<Cidr>().unwrap_err().to_string(),
            "10.1.2.3/16 has bits set behind its prefix: did you mean 10.1.0.0/16?"
        );
        for bad in ["", "10.0.0.0", "10.0.0.0/33", "fd00::/129", "pods"] {
            assert!(matches!(bad.parse::<Cidr>(), Err(ParseCidrError::Syntax(_))), "{bad}");
        }
    }

    #[test]
    fn a_claim_takes_no_default_route_no_overlay_address_and_nothing_unroutable() {
        let overlay = [cidr("100.64.0.0/10"), cidr("fd12:3456:789a::/48")];
        let check = |claim: &[&str]| {
            check_prefix_claim(&claim.iter().map(|text| cidr(text)).collect::<Vec<_>>(), &overlay)
        };
        check(&["10.1.0.0/24", "fd00:1::/64"]).unwrap();
        for bad in [
            "0.0.0.0/0",
            "::/0",
            "0.0.0.0/1",
            "128.0.0.0/1",
            "127.0.0.0/8",
            "169.254.1.0/24",
            "224.0.0.0/8",
            "fe80::/64",
            "::/96",
            "100.64.0.7/32",
            "8.8.8.8/32",
            "1.0.0.0/8",
            "172.0.0.0/8",
            "192.0.0.0/8",
            "2600::/16",
            "64:ff9b::/96",
            "100.0.0.0/8",
            "fd12:3456:789a::5/128",
        ] {
            check(&[bad]).expect_err(bad);
        }
        assert!(matches!(check(&["10.1.0.0/24", "10.1.0.128/25"]), Err(PrefixClaimError::Twice(..))));
    }
}
