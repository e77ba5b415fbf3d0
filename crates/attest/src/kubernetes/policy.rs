//! Which API server an operator believes, and about which service accounts.

use std::{collections::BTreeSet, fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use super::jwk::KeySet;

/// The longest issuer, in bytes.
const MAX_ISSUER: usize = 512;

/// The most service accounts that one policy names.
const MAX_SERVICE_ACCOUNTS: usize = 256;

/// API servers make no token that lives shorter, in seconds.
const SHORTEST_TTL: u32 = 600;

/// No operator needs a token that lives longer, in seconds.
const LONGEST_TTL: u32 = 86_400;

/// What an operator accepts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// The API server's issuer, exactly as its tokens name it: `issuer` of `/.well-known/openid-configuration`.
    pub issuer: String,
    /// The keys that sign its tokens: what `/openid/v1/jwks` answers.
    pub jwks: KeySet,
    /// The service accounts that agents run as: `namespace/name`.
    pub service_accounts: BTreeSet<ServiceAccount>,
    /// How long a token may live, in seconds; 3,600 where it is left out. Agents ask for 600.
    #[serde(default = "one_hour")]
    pub max_ttl_s: u32,
    /// Whether a token has to name the pod's node, as those of Kubernetes 1.30 and later do.
    #[serde(default)]
    pub bound_to_node: bool,
}

impl Policy {
    /// Whether it makes sense in itself.
    ///
    /// # Errors
    /// What does not, for people.
    pub fn check(&self) -> Result<(), String> {
        if self.issuer.is_empty() {
            return Err("`issuer` is empty: put the `issuer` that `kubectl get --raw /.well-known/openid-configuration` prints there".to_owned());
        }
        if self.issuer.len() > MAX_ISSUER || self.issuer.chars().any(char::is_control) {
            return Err(format!("`issuer` is longer than {MAX_ISSUER} bytes, or no line of text"));
        }
        self.jwks.check()?;
        if self.service_accounts.is_empty() {
            return Err(
                "`service_accounts` is empty: name those that agents run as, as namespace/name".to_owned()
            );
        }
        if self.service_accounts.len() > MAX_SERVICE_ACCOUNTS {
            return Err(format!("`service_accounts` names more than {MAX_SERVICE_ACCOUNTS}"));
        }
        if !(SHORTEST_TTL..=LONGEST_TTL).contains(&self.max_ttl_s) {
            return Err(format!("`max_ttl_s` is not {SHORTEST_TTL} to {LONGEST_TTL} seconds"));
        }
        Ok(())
    }

    /// How long a token may live.
    pub(super) const fn max_ttl(&self) -> Duration {
        Duration::from_secs(self.max_ttl_s as u64)
    }
}

impl Default for Policy {
    /// Nobody is believed, until the operator says who.
    fn default() -> Self {
        Self {
            issuer: String::new(),
            jwks: KeySet::default(),
            service_accounts: BTreeSet::new(),
            max_ttl_s: one_hour(),
            bound_to_node: false,
        }
    }
}

const fn one_hour() -> u32 {
    3600
}

/// A service account of a cluster: `namespace/name`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceAccount {
    namespace: String,
    name: String,
}

/// Why a text names no service account.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no service account: write namespace/name, as in carrick-system/carrick-node")]
pub struct ParseServiceAccountError(String);

impl ServiceAccount {
    /// The service account of a namespace and a name.
    ///
    /// # Errors
    /// Where Kubernetes would not take the one or the other.
    pub fn new(namespace: &str, name: &str) -> Result<Self, ParseServiceAccountError> {
        let label = |text: &str, most: usize| {
            let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
            (1..=most).contains(&text.len())
                && text.bytes().all(inner)
                && !text.starts_with('-')
                && !text.ends_with('-')
        };
        // A DNS-1123 label, and a DNS-1123 subdomain.
        if label(namespace, 63) && name.len() <= 253 && name.split('.').all(|part| label(part, 253)) {
            return Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() });
        }
        Err(ParseServiceAccountError(super::shown(&format!("{namespace}/{name}"))))
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl FromStr for ServiceAccount {
    type Err = ParseServiceAccountError;

    fn from_str(text: &str) -> Result<Self, ParseServiceAccountError> {
        match text.split_once('/') {
            Some((namespace, name)) => Self::new(namespace, name),
            None => Err(ParseServiceAccountError(super::shown(text))),
        }
    }
}

impl TryFrom<String> for ServiceAccount {
    type Error = ParseServiceAccountError;

    fn try_from(text: String) -> Result<Self, ParseServiceAccountError> {
        text.parse()
    }
}

impl From<ServiceAccount> for String {
    fn from(account: ServiceAccount) -> Self {
        account.to_string()
    }
}

impl fmt::Display for ServiceAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for ServiceAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
