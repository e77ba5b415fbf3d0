//! Credentials for the HTTP API: who an operator is, and by which certificate to know the coordinator.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::{
    key::CaPin,
    text::{CopyError, Fields, from_copyable, to_copyable},
};

/// What a credential allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Read everything that is not a secret.
    Viewer,
    /// Everything.
    Admin,
}

impl Role {
    const fn prefix(self) -> &'static str {
        match self {
            Self::Viewer => "carrick_view_1_",
            Self::Admin => "carrick_admin_1_",
        }
    }
}

/// A bearer credential. Its text holds the CA pin too, so that one file tells a client both whom to trust and how to be trusted.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Credential {
    #[zeroize(skip)]
    role: Role,
    #[zeroize(skip)]
    ca: CaPin,
    secret: [u8; 32],
}

/// Why a credential was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseCredentialError {
    /// Does not begin like one.
    #[error("this is not a credential: one begins with \"carrick_admin_1_\" or \"carrick_view_1_\"")]
    NotACredential,
    /// The checksum does not match, or fields are missing.
    #[error("the credential is truncated or altered: copy it again, whole")]
    Damaged,
}

impl Credential {
    /// A credential of 32 random bytes.
    pub const fn new(role: Role, ca: CaPin, secret: [u8; 32]) -> Self {
        Self { role, ca, secret }
    }

    /// What it claims to allow; the coordinator decides by the secret alone.
    pub const fn role(&self) -> Role {
        self.role
    }

    /// The authority that the coordinator's TLS chain must end in.
    pub const fn ca(&self) -> CaPin {
        self.ca
    }

    /// The secret bytes.
    pub const fn expose(&self) -> &[u8; 32] {
        &self.secret
    }
}

impl fmt::Display for Credential {
    /// Writes the secret: call this only to store or send the credential.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut payload = self.ca.as_bytes().to_vec();
        payload.extend_from_slice(&self.secret);
        f.write_str(&to_copyable(self.role.prefix(), &payload))
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("role", &self.role).finish_non_exhaustive()
    }
}

impl FromStr for Credential {
    type Err = ParseCredentialError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        for role in [Role::Viewer, Role::Admin] {
            match from_copyable(role.prefix(), text) {
                Err(CopyError::WrongPrefix) => {}
                Err(CopyError::Damaged) => return Err(ParseCredentialError::Damaged),
                Ok(payload) => return parse(role, &payload).ok_or(ParseCredentialError::Damaged),
            }
        }
        Err(ParseCredentialError::NotACredential)
    }
}

fn parse(role: Role, payload: &[u8]) -> Option<Credential> {
    let mut fields = Fields(payload);
    let ca = CaPin::from_bytes(fields.array()?).ok()?;
    let secret = fields.array()?;
    fields.0.is_empty().then_some(Credential { role, ca, secret })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_comes_back_from_text_and_prints_no_secret() {
        let credential = Credential::new(Role::Admin, CaPin::from_bytes([1; 32]).unwrap(), [0x42; 32]);
        let text = credential.to_string();
        assert_eq!(text.parse(), Ok(credential.clone()));
        assert_eq!(text[..text.len() - 1].parse::<Credential>(), Err(ParseCredentialError::Damaged));
        assert_eq!("hunter2".parse::<Credential>(), Err(ParseCredentialError::NotACredential));
        assert!(!format!("{credential:?}").contains(&text[20..40]));
    }
}
