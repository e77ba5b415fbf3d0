//! Join tokens: what an operator hands to a host so that it may become a node.

use std::{fmt, str::FromStr};

use crate::{
    id::{MeshId, TokenId},
    key::{CaPin, OperatorPin, TokenSeed},
    name::ClusterName,
    text::{CopyError, Fields, from_copyable, to_copyable},
};

const PREFIX: &str = "carrick_join_1_";
const MAX_URLS: usize = 8;

/// All that a host is told before it trusts anybody: whom to call, by which certificate to know them, whose policy to believe,
/// and the seed that proves that it was asked to come.
///
/// The text form is `carrick_join_1_` and base64url of the fields with a checksum, so that a token that was cut or altered
/// on its way is refused before anything is sent.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// The token's id: public, names it in lists and logs.
    pub id: TokenId,
    /// The mesh it admits to.
    pub mesh: MeshId,
    /// The cluster that a node joins with it.
    pub cluster: ClusterName,
    /// The authority that the coordinator's TLS chain must end in.
    pub ca: CaPin,
    /// The operator whose policy the node believes.
    pub operator: OperatorPin,
    /// The version of the policy bundle when the token was made: the node believes no older one.
    pub policy_version: u64,
    /// The secret. It never leaves the node: the node signs with it.
    pub seed: TokenSeed,
    /// Where the coordinator listens, `https://host:port` each, best first: 1 to 8 of them, of at most 255 bytes.
    pub urls: Vec<String>,
}

/// Why a join token was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseTokenError {
    /// Does not begin like a join token.
    #[error(
        "this is not a join token: one begins with \"carrick_join_1_\"; make one with `carrick token create`"
    )]
    NotAToken,
    /// The checksum does not match.
    #[error("the join token is truncated or altered: copy it again, whole")]
    Damaged,
    /// The checksum matches, the fields make no sense.
    #[error(
        "the join token was made by another version of carrick: make a new one with `carrick token create`"
    )]
    Malformed,
}

impl fmt::Display for JoinToken {
    /// Writes the secret: call this only to hand the token out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut payload = Vec::with_capacity(256);
        payload.extend_from_slice(self.mesh.as_bytes());
        payload.extend_from_slice(self.id.as_bytes());
        payload.extend_from_slice(self.ca.as_bytes());
        payload.extend_from_slice(self.operator.as_bytes());
        payload.extend_from_slice(&self.policy_version.to_be_bytes());
        payload.extend_from_slice(self.seed.expose());
        for text in std::iter::once(self.cluster.as_str()).chain(self.urls.iter().map(String::as_str)) {
            payload.push(u8::try_from(text.len()).map_err(|_| fmt::Error)?);
            payload.extend_from_slice(text.as_bytes());
        }
        f.write_str(&to_copyable(PREFIX, &payload))
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("id", &self.id)
            .field("mesh", &self.mesh)
            .field("cluster", &self.cluster)
            .field("urls", &self.urls)
            .finish_non_exhaustive()
    }
}

impl FromStr for JoinToken {
    type Err = ParseTokenError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let payload = from_copyable(PREFIX, text).map_err(|error| match error {
            CopyError::WrongPrefix => ParseTokenError::NotAToken,
            CopyError::Damaged => ParseTokenError::Damaged,
        })?;
        parse(&payload).ok_or(ParseTokenError::Malformed)
    }
}

fn parse(payload: &[u8]) -> Option<JoinToken> {
    let mut fields = Fields(payload);
    let mesh = MeshId::from_bytes(fields.array()?);
    let id = TokenId::from_bytes(fields.array()?);
    let ca = CaPin::from_bytes(fields.array()?).ok()?;
    let operator = OperatorPin::from_bytes(fields.array()?).ok()?;
    let policy_version = u64::from_be_bytes(fields.array()?);
    let seed = TokenSeed::from_bytes(fields.array()?);
    let cluster = fields.text()?.parse().ok()?;
    let mut urls = Vec::new();
    while !fields.0.is_empty() {
        urls.push(fields.text().filter(|url| url.starts_with("https://"))?.to_owned());
    }
    (1..=MAX_URLS).contains(&urls.len()).then_some(JoinToken {
        id,
        mesh,
        cluster,
        ca,
        operator,
        policy_version,
        seed,
        urls,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> JoinToken {
        JoinToken {
            id: TokenId::from_bytes([1; 10]),
            mesh: MeshId::from_bytes([2; 16]),
            cluster: "east".parse().unwrap(),
            ca: CaPin::from_bytes([3; 32]).unwrap(),
            operator: OperatorPin::from_bytes([5; 32]).unwrap(),
            policy_version: 7,
            seed: TokenSeed::from_bytes([4; 32]),
            urls: vec!["https://192.0.2.1:8443".into(), "https://[2001:db8::1]:8443".into()],
        }
    }

    #[test]
    fn a_token_comes_back_from_text() {
        let text = token().to_string();
        assert_eq!(text.parse(), Ok(token()));
        assert_eq!(
            format!("  {text}\n").parse(),
            Ok(token()),
            "white space around a pasted token does no harm"
        );
    }

    #[test]
    fn a_token_that_was_wrapped_comes_back() {
        let text = token().to_string();
        assert_eq!(format!("{}\n  {}", &text[..64], &text[64..]).parse(), Ok(token()));
    }

    #[test]
    fn a_truncated_token_is_refused_at_every_length() {
        let text = token().to_string();
        for length in 0..text.len() {
            text[..length].parse::<JoinToken>().unwrap_err();
        }
    }

    #[test]
    fn an_altered_token_is_refused_at_every_character() {
        let text = token().to_string();
        for at in 0..text.len() {
            let mut altered = text.clone().into_bytes();
            altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
            String::from_utf8(altered).unwrap().parse::<JoinToken>().unwrap_err();
        }
    }

    #[test]
    fn a_token_does_not_print_its_seed() {
        assert!(!format!("{:?}", token()).contains("seed"));
    }
}
