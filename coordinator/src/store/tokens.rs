//! The rows of join tokens.

use carrick_types::{ClusterName, TokenId, TokenKey, UnixTime};
use carrick_wire::{
    api::{Token, TokenState},
    log::Entry,
};
use rusqlite::{OptionalExtension as _, Row, params};
use sha2::{Digest as _, Sha256};

use super::{
    Store, StoreError,
    nodes::{millis, text, time, unsigned},
};

/// A join token as the store has it: not its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TokenRecord {
    pub(crate) id: TokenId,
    pub(crate) cluster: ClusterName,
    /// SHA-256 of the token's public key.
    pub(crate) key_hash: [u8; 32],
    pub(crate) created_at: UnixTime,
    pub(crate) expires_at: UnixTime,
    pub(crate) uses: u32,
    pub(crate) used: u32,
    pub(crate) revoked: bool,
}

impl TokenRecord {
    /// What is stored of a token's key.
    pub(crate) fn hash(key: &TokenKey) -> [u8; 32] {
        Sha256::digest(key.as_bytes()).into()
    }

    pub(crate) fn state(&self, now: UnixTime) -> TokenState {
        if self.revoked {
            TokenState::Revoked
        } else if self.used >= self.uses {
            TokenState::UsedUp
        } else if now >= self.expires_at {
            TokenState::Expired
        } else {
            TokenState::Active
        }
    }

    pub(crate) fn shown(&self, now: UnixTime) -> Token {
        Token {
            id: self.id,
            cluster: self.cluster.clone(),
            created_at: self.created_at,
            expires_at: self.expires_at,
            uses: self.uses,
            used: self.used,
            state: self.state(now),
        }
    }
}

const COLUMNS: &str = "id, cluster, key_hash, created_at, expires_at, uses, used, revoked";

impl Store {
    pub(crate) fn insert_token(&mut self, token: &TokenRecord, entry: &Entry) -> Result<(), StoreError> {
        self.commit(Some(entry), |tx| {
            tx.execute(
                &format!("INSERT INTO tokens ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"),
                params![
                    token.id.to_string(),
                    token.cluster.as_str(),
                    token.key_hash,
                    millis(token.created_at),
                    millis(token.expires_at),
                    token.uses,
                    token.used,
                    token.revoked,
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
        id: text(row, 0)?,
        cluster: text(row, 1)?,
        key_hash: row.get(2)?,
        created_at: time(row, 3)?,
        expires_at: time(row, 4)?,
        uses: row.get(5)?,
        used: row.get(6)?,
        revoked: row.get(7)?,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use carrick_types::TokenSeed;

    use super::*;

    /// The token of seed 9, for an hour from 1970 and so many uses.
    pub(crate) fn token(uses: u32) -> TokenRecord {
        TokenRecord {
            id: TokenId::from_bytes([9; 10]),
            cluster: "east".parse().unwrap(),
            key_hash: TokenRecord::hash(&TokenSeed::from_bytes([9; 32]).public()),
            created_at: UnixTime::from_millis(0),
            expires_at: UnixTime::from_millis(3_600_000),
            uses,
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
