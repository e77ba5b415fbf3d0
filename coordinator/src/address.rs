//! Where the coordinator can be reached: its URLs, and what its certificate has to name.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use carrick_types::Cidr;

use crate::error::StartError;

/// The most URLs that a join token holds, and the longest that it can hold.
const MAX_URLS: usize = 8;
const MAX_URL_LEN: usize = 255;

/// A URL that an operator gave, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PublicUrl {
    text: String,
    host: String,
}

impl PublicUrl {
    pub(crate) fn parse(text: &str) -> Result<Self, StartError> {
        let bad = || StartError::PublicUrl(text.chars().take(80).collect());
        let trimmed = text.strip_suffix('/').unwrap_or(text);
        let uri: http::Uri = trimmed.parse().map_err(|_| bad())?;
        let authority = uri.authority().ok_or_else(bad)?;
        let plain = uri.path() == "/" && uri.query().is_none() && !authority.as_str().contains('@');
        if uri.scheme_str() != Some("https")
            || !plain
            || trimmed.len() > MAX_URL_LEN
            || authority.host().is_empty()
        {
            return Err(bad());
        }
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        Ok(Self { text: trimmed.to_owned(), host })
    }

    /// A name or an address, without brackets.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }
}

/// The addresses of this host's interfaces, IPv4 first.
pub(crate) fn local() -> io::Result<Vec<IpAddr>> {
    let addresses: BTreeSet<IpAddr> = nix::ifaddrs::getifaddrs()?
        .filter_map(|interface| interface.address)
        .filter_map(|address| {
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        .collect();
    Ok(addresses.into_iter().collect())
}

/// Where nodes may call, best first. Never empty.
pub(crate) fn urls(
    public: Option<&PublicUrl>,
    listening: SocketAddr,
    local: &[IpAddr],
    overlay: &[Cidr],
) -> Vec<String> {
    if let Some(public) = public {
        return vec![public.text.clone()];
    }
    if !listening.ip().is_unspecified() {
        return vec![url(listening.ip(), listening.port())];
    }
    let reachable = |ip: &&IpAddr| {
        let family = listening.is_ipv6() || ip.is_ipv4();
        family && is_global(**ip) && !overlay.iter().any(|range| range.contains(**ip))
    };
    let mut urls: Vec<_> =
        local.iter().filter(reachable).take(MAX_URLS).map(|&ip| url(ip, listening.port())).collect();
    if urls.is_empty() {
        urls.push(on_this_host(listening));
    }
    urls
}

/// Where processes of the same host call.
pub(crate) fn on_this_host(listening: SocketAddr) -> String {
    let ip = if listening.ip().is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { listening.ip() };
    url(ip, listening.port())
}

/// What the certificate names: DNS names, and addresses.
pub(crate) fn certified(
    public: Option<&PublicUrl>,
    listening: SocketAddr,
    local: &[IpAddr],
) -> (Vec<String>, Vec<IpAddr>) {
    let mut addresses: BTreeSet<IpAddr> = local.iter().copied().collect();
    addresses.extend([IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()]);
    if !listening.ip().is_unspecified() {
        addresses.insert(listening.ip());
    }
    let mut names = vec![];
    match public.map(|public| (public.host(), public.host().parse())) {
        Some((_, Ok(address))) => drop(addresses.insert(address)),
        Some((name, Err(_))) => names.push(name.to_owned()),
        None => {}
    }
    (names, addresses.into_iter().collect())
}

fn url(ip: IpAddr, port: u16) -> String {
    format!("https://{}", SocketAddr::new(ip.to_canonical(), port))
}

fn is_global(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local() && !ip.is_unspecified(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local() && !ip.is_unspecified(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(list: &[&str]) -> Vec<IpAddr> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_host_is_called_by_its_global_addresses_ipv4_first_and_by_loopback_only_if_it_has_none() {
        let local = ips(&["127.0.0.1", "192.0.2.7", "100.64.0.1", "::1", "2001:db8::7", "fe80::1"]);
        let overlay = ["100.64.0.0/10".parse().unwrap()];
        let urls =
            |listen: &str, local: &[IpAddr]| super::urls(None, listen.parse().unwrap(), local, &overlay);
        assert_eq!(urls("[::]:8443", &local), ["https://192.0.2.7:8443", "https://[2001:db8::7]:8443"]);
        assert_eq!(urls("0.0.0.0:8443", &local), ["https://192.0.2.7:8443"]);
        assert_eq!(urls("0.0.0.0:8443", &local[..1]), ["https://127.0.0.1:8443"]);
        assert_eq!(urls("10.0.0.1:1", &local), ["https://10.0.0.1:1"]);
    }

    #[test]
    fn a_public_url_is_https_and_nothing_but_host_and_port() {
        assert_eq!(PublicUrl::parse("https://[2001:db8::1]:443/").unwrap().host(), "2001:db8::1");
        assert_eq!(PublicUrl::parse("https://mesh.example").unwrap().text, "https://mesh.example");
        for bad in ["http://a", "mesh.example", "https://a/b", "https://a?b", "https://u@a", "https://", ""] {
            PublicUrl::parse(bad).expect_err(bad);
        }
        PublicUrl::parse(&format!("https://{}", "a".repeat(250))).unwrap_err();
    }
}
