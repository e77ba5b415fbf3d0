//! The rows of service-account tokens that were shown: each admits once.
//!
//! A token is bound to the one session for which it was made, so that nobody can show it in another. That it was shown is
//! remembered all the same, until it has expired: an issuer that uses an id twice is not one to believe.

use carrick_attest::kubernetes::JwtId;
use carrick_types::UnixTime;
use rusqlite::{OptionalExtension as _, params};
use sha2::{Digest as _, Sha256};

use super::{Store, StoreError, nodes::millis};

/// The most that are remembered. Those that expire first are forgotten first.
const MAX_SHOWN: i64 = 100_000;

impl Store {
    /// Whether a token was shown, as far as that is remembered.
    pub(crate) fn was_shown(&self, id: &JwtId) -> Result<bool, StoreError> {
        self.run(|db| {
            db.query_row("SELECT 1 FROM shown_jwts WHERE id = ?1", [digest(id)], |_| Ok(()))
                .optional()
                .map(|found| found.is_some())
        })
    }

    /// Notes that tokens were shown, and forgets those that have expired.
    pub(crate) fn note_shown(&mut self, ids: &[JwtId], now: UnixTime) -> Result<(), StoreError> {
        self.note_shown_within(MAX_SHOWN, ids, now)
    }

    fn note_shown_within(&mut self, most: i64, ids: &[JwtId], now: UnixTime) -> Result<(), StoreError> {
        self.commit(None, |tx| {
            tx.execute("DELETE FROM shown_jwts WHERE forget_at <= ?1", [millis(now)])?;
            for id in ids {
                tx.execute(
                    "INSERT INTO shown_jwts (id, forget_at) VALUES (?1, ?2)",
                    params![digest(id), millis(id.forget_at)],
                )?;
            }
            tx.execute(
                "DELETE FROM shown_jwts WHERE id IN
                     (SELECT id FROM shown_jwts ORDER BY forget_at DESC, id LIMIT -1 OFFSET ?1)",
                [most],
            )
            .map(drop)
        })
    }
}

/// As long for any id.
fn digest(id: &JwtId) -> [u8; 32] {
    let length = u64::try_from(id.issuer.len()).unwrap_or(u64::MAX);
    Sha256::new()
        .chain_update(length.to_be_bytes())
        .chain_update(&id.issuer)
        .chain_update(&id.jti)
        .finalize()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::founded;

    fn id(issuer: &str, jti: &str, forget_at: u64) -> JwtId {
        let forget_at = UnixTime::from_millis(forget_at);
        JwtId { issuer: issuer.to_owned(), jti: jti.to_owned(), forget_at }
    }

    const NOW: UnixTime = UnixTime::from_millis(1000);

    #[test]
    fn a_token_is_remembered_over_a_restart_until_it_has_expired() {
        let dir = tempfile::tempdir().unwrap();
        let path = founded(dir.path());
        let mut store = Store::open(&path).unwrap();
        let first = id("a", "bc", 2000);
        assert!(!store.was_shown(&first).unwrap());
        store.note_shown(std::slice::from_ref(&first), NOW).unwrap();
        let error = store.note_shown(std::slice::from_ref(&first), NOW).unwrap_err();
        assert!(matches!(error, StoreError::Conflict(_)), "{error}");
        drop(store);

        let mut store = Store::open(&path).unwrap();
        assert!(store.was_shown(&first).unwrap());
        assert!(!store.was_shown(&id("ab", "c", 2000)).unwrap(), "another issuer's");
        store.note_shown(&[], UnixTime::from_millis(1999)).unwrap();
        assert!(store.was_shown(&first).unwrap());
        store.note_shown(&[], UnixTime::from_millis(2000)).unwrap();
        assert!(!store.was_shown(&first).unwrap(), "nobody takes it any more");
    }

    #[test]
    fn no_more_are_remembered_than_fit_and_those_that_last_longest_stay() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(&founded(dir.path())).unwrap();
        let ids: Vec<JwtId> = (0..9_u64).map(|n| id("a", &n.to_string(), 2000 + n * 7 % 9)).collect();
        for id in &ids {
            store.note_shown_within(5, std::slice::from_ref(id), NOW).unwrap();
        }
        for id in &ids {
            let stays = id.forget_at.as_millis() >= 2004;
            assert_eq!(store.was_shown(id).unwrap(), stays, "{id:?}");
        }
    }
}
