//! Names that people give: clusters and nodes.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a valid {what} name: use 1 to 63 lower-case letters, digits and '-', beginning and ending with a letter or digit"
)]
pub struct ParseNameError {
    what: &'static str,
    text: String,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = ParseNameError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::try_from(text.to_owned())
            }
        }

        impl TryFrom<String> for $name {
            type Error = ParseNameError;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                if is_dns_1123_label(&text) {
                    Ok(Self(text))
                } else {
                    Err(ParseNameError { what: $what, text: text.chars().take(80).collect() })
                }
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        crate::text::string_schema!($name, $what);
    };
}

name! {
    /// A cluster: a named group of nodes. A DNS-1123 label.
    ClusterName, "cluster"
}

name! {
    /// A node's name, unique in its mesh. A DNS-1123 label.
    NodeName, "node"
}

impl NodeName {
    /// The nearest valid name to a host name: its first label, in lower case, with anything else replaced by `-`.
    /// `None` where nothing usable is left.
    pub fn from_hostname(hostname: &str) -> Option<Self> {
        let label = hostname.split('.').next().unwrap_or_default();
        let name: String = label
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
            .take(63)
            .collect();
        name.trim_matches('-').parse().ok()
    }
}

/// RFC 1123 section 2.1, as Kubernetes narrows it: lower case only.
fn is_dns_1123_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_dns_1123_label() {
        for good in ["a", "east", "east-1", "0", &"x".repeat(63)] {
            assert_eq!(good.parse::<NodeName>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", "a-", "East", "a.b", "a_b", "ä", &"x".repeat(64)] {
            bad.parse::<ClusterName>().unwrap_err();
        }
    }

    #[test]
    fn a_hostname_becomes_the_nearest_name() {
        let name = |host| NodeName::from_hostname(host).map(String::from);
        assert_eq!(name("Web_01.example.org"), Some("web-01".into()));
        assert_eq!(name("-"), None);
    }
}
