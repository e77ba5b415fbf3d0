//! The rows of join tokens.

use carrick_attest::{Signed, token::Capability};
use carrick_types::{TokenId, UnixTime};
use carrick_wire::{
    api::{Token, TokenState},
    log::Entry,
};
use rusqlite::{OptionalExtension as _, Row, params};

use super::{
    Store, StoreError,
    nodes::{from_json, json, millis, time, unsigned},
};

/// A join token as the store has it: not its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TokenRecord {
    /// As its operator signed it.
    pub(crate) signed: Signed<Capability>,
    pub(crate) capability: Capability,
    pub(crate) created_at: UnixTime,
    pub(crate) used: u32,
    pub(crate) revoked: bool,
}

impl TokenRecord {
    pub(crate) fn state(&self, now: UnixTime) -> TokenState {
        if self.revoked {
            TokenState::Revoked
        } else if self.used >= self.capability.uses {
            TokenState::UsedUp
        } else if now >= self.capability.expires_at {
            TokenState::Expired
        } else {
            TokenState::Active
        }
    }

    pub(crate) fn shown(&self, now: UnixTime) -> Token {
        Token {
            id: self.capability.token,
            cluster: self.capability.cluster.clone(),
            created_at: self.created_at,
            expires_at: self.capability.expires_at,
            uses: self.capability.uses,
            used: self.used,
            state: self.state(now),
        }
    }
}

const COLUMNS: &str = "signed, capability, created_at, used, revoked";

impl Store {
    pub(crate) fn insert_token(&mut self, token: &TokenRecord, entry: &Entry) -> Result<(), StoreError> {
        self.commit(Some(entry), |tx| {
            tx.execute(
                &format!("INSERT INTO tokens ({COLUMNS}, id, expires_at, uses) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"),
                params![
                    json(&token.signed)?,
                    json(&token.capability)?,
                    millis(token.created_at),
                    token.used,
                    token.revoked,
                    token.capability.token.to_string(),
                    millis(token.capability.expires_at),
                    token.capability.uses,
                ],
            )
            .map(drop)
        })
    }

    /// Forgets tokens that nobody could have used since `before`.
    pub(crate) fn forget_tokens(&mut self, before: UnixTime) -> Result<(), StoreError> {
        self.commit(None, |tx| {
            tx.execute("DELETE FROM tokens WHERE expires_at < ?1", [millis(before)]).map(drop)
        })
    }

    pub(crate) fn token(&self, id: &TokenId) -> Result<Option<TokenRecord>, StoreError> {
        self.run(|db| {
            db.query_row(&format!("SELECT {COLUMNS} FROM tokens WHERE id = ?1"), [id.to_string()], read)
                .optional()
        })
    }

    /// Every token, the newest first.
    pub(crate) fn tokens(&self) -> Result<Vec<TokenRecord>, StoreError> {
        self.run(|db| {
            db.prepare(&format!("SELECT {COLUMNS} FROM tokens ORDER BY created_at DESC, id"))?
                .query_map([], read)?
                .collect()
        })
    }

    pub(crate) fn count_tokens(&self) -> Result<u64, StoreError> {
        self.run(|db| db.query_row("SELECT count(*) FROM tokens", [], |row| unsigned(row, 0)))
    }

    /// Takes a token back.
    pub(crate) fn revoke_token(&mut self, id: &TokenId, entry: &Entry) -> Result<(), StoreError> {
        self.commit(Some(entry), |tx| {
            tx.execute("UPDATE tokens SET revoked = 1 WHERE id = ?1", [id.to_string()]).map(drop)
        })
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<TokenRecord> {
    Ok(TokenRecord {
        signed: from_json(row, 0)?,
        capability: from_json(row, 1)?,
        created_at: time(row, 2)?,
        used: row.get(3)?,
        revoked: row.get(4)?,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use carrick_types::TokenSeed;

    use super::*;
    use crate::state::tests::{mesh, operator};

    /// The token of seed 9, for an hour from 1970 and so many uses.
    pub(crate) fn token(uses: u32) -> TokenRecord {
        let capability = Capability {
            mesh: mesh(),
            token: TokenId::from_bytes([9; 10]),
            key: TokenSeed::from_bytes([9; 32]).public(),
            cluster: "east".parse().unwrap(),
            uses,
            expires_at: UnixTime::from_millis(3_600_000),
            prefixes: None,
        };
        TokenRecord {
            signed: Signed::seal(&capability, &operator()),
            capability,
            created_at: UnixTime::from_millis(0),
            used: 0,
            revoked: false,
        }
    }

    #[test]
    fn a_token_is_good_until_it_is_used_up_expired_or_revoked() {
        let state = |token: TokenRecord, at| token.state(UnixTime::from_millis(at));
        assert_eq!(state(token(1), 3_599_999), TokenState::Active);
        assert_eq!(state(token(1), 3_600_000), TokenState::Expired);
        assert_eq!(state(TokenRecord { used: 1, ..token(1) }, 0), TokenState::UsedUp);
        assert_eq!(state(TokenRecord { revoked: true, ..token(1) }, 0), TokenState::Revoked);
    }
}
