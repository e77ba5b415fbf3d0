//! Where a coordinator listens.

use std::{fmt, net::Ipv6Addr, str::FromStr};

/// `https://host:port`, with no path: a name, an IPv4 address, or an IPv6 address in brackets. The port may be left out for 8443.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoordinatorUrl {
    host: String,
    port: u16,
}

/// Why a URL was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a coordinator's URL: write it as https://host:8443")]
pub struct ParseUrlError(String);

const DEFAULT_PORT: u16 = 8443;

impl CoordinatorUrl {
    /// The name or address, an IPv6 address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port.
    pub const fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for CoordinatorUrl {
    type Err = ParseUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or_else(|| ParseUrlError(text.chars().take(80).collect()))
    }
}

fn parse(text: &str) -> Option<CoordinatorUrl> {
    let authority = text.strip_prefix("https://")?;
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, port) = rest.split_once(']')?;
        host.parse::<Ipv6Addr>().ok()?;
        (host, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
    } else {
        authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port)))
    };
    let port = port.map_or(Some(DEFAULT_PORT), |port| port.parse().ok().filter(|&port| port != 0))?;
    let plausible = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | ':');
    (!host.is_empty() && host.len() <= 253 && host.chars().all(plausible))
        .then(|| CoordinatorUrl { host: host.to_owned(), port })
}

impl fmt::Display for CoordinatorUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "https://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "https://{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_https_host_and_port() {
        let parsed = |text: &str| text.parse::<CoordinatorUrl>().map(|url| url.to_string()).ok();
        assert_eq!(parsed("https://c.example:9443/").as_deref(), Some("https://c.example:9443"));
        assert_eq!(parsed("https://192.0.2.1").as_deref(), Some("https://192.0.2.1:8443"));
        assert_eq!(parsed("https://[2001:db8::1]:1").as_deref(), Some("https://[2001:db8::1]:1"));
        for bad in [
            "",
            "http://c",
            "https://",
            "https://c:0",
            "https://c:99999",
            "https://[::1",
            "https://c/v1",
            "https://u@c",
        ] {
            assert_eq!(parsed(bad), None, "{bad}");
        }
    }
}
