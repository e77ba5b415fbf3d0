//! The tables, and how a database of an earlier version becomes a current one.

use rusqlite::Connection;

/// The version that this code writes.
pub(super) const VERSION: i64 = 4;

/// The first version that can be brought to the current one. Before it, nodes were admitted without grants.
pub(super) const OLDEST: i64 = 2;

const TABLES: &str = "
CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;
CREATE TABLE credentials (
    hash BLOB PRIMARY KEY CHECK (length(hash) = 32),
    role TEXT NOT NULL CHECK (role IN ('viewer', 'admin'))
) STRICT;
CREATE TABLE bundles (
    version INTEGER PRIMARY KEY,
    signed TEXT NOT NULL
) STRICT;
CREATE TABLE tokens (
    id TEXT PRIMARY KEY,
    signed TEXT NOT NULL,
    capability TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    uses INTEGER NOT NULL,
    used INTEGER NOT NULL CHECK (used BETWEEN 0 AND uses),
    revoked INTEGER NOT NULL CHECK (revoked IN (0, 1))
) STRICT;
CREATE TABLE log (
    position INTEGER PRIMARY KEY CHECK (position >= 0),
    entry TEXT NOT NULL
) STRICT;
CREATE TABLE nodes (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    cluster TEXT NOT NULL,
    identity_key TEXT NOT NULL UNIQUE,
    wireguard_key TEXT NOT NULL UNIQUE,
    overlay_index INTEGER NOT NULL UNIQUE CHECK (overlay_index > 0),
    prefixes TEXT NOT NULL,
    endpoints TEXT NOT NULL,
    statements TEXT NOT NULL,
    logged INTEGER NOT NULL REFERENCES log (position) DEFERRABLE INITIALLY DEFERRED,
    grant_revision INTEGER NOT NULL,
    trust TEXT NOT NULL,
    version TEXT NOT NULL,
    joined_at INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    suspended TEXT,
    revoked_at INTEGER,
    revoked_reason TEXT
) STRICT;
CREATE UNIQUE INDEX nodes_name ON nodes (name) WHERE revoked_at IS NULL;
CREATE TABLE former_keys (
    wireguard_key TEXT PRIMARY KEY,
    node TEXT NOT NULL REFERENCES nodes (id)
) STRICT;
CREATE TABLE refusals (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    refusal TEXT NOT NULL
) STRICT;
";

/// Since version 3: service-account tokens that were shown.
const SHOWN_JWTS: &str = "
CREATE TABLE shown_jwts (
    id BLOB PRIMARY KEY CHECK (length(id) = 32),
    forget_at INTEGER NOT NULL
) STRICT;
CREATE INDEX shown_jwts_forget_at ON shown_jwts (forget_at);
";

/// Since version 4: what a node showed before, of kinds that its grant does not name any more.
const HISTORY: &str = "ALTER TABLE nodes ADD COLUMN history TEXT NOT NULL DEFAULT '[]';";

/// Makes the tables of a new database, in one transaction with its version.
pub(super) fn create(db: &mut Connection) -> rusqlite::Result<()> {
    let tx = db.transaction()?;
    tx.execute_batch(TABLES)?;
    tx.execute_batch(SHOWN_JWTS)?;
    tx.execute_batch(HISTORY)?;
    tx.pragma_update(None, "user_version", VERSION)?;
    tx.commit()
}

/// Brings a database of an earlier version to the current one, in one transaction.
pub(super) fn upgrade(db: &mut Connection, from: i64) -> rusqlite::Result<()> {
    let tx = db.transaction()?;
    if from < 3 {
        tx.execute_batch(SHOWN_JWTS)?;
    }
    if from < 4 {
        tx.execute_batch(HISTORY)?;
    }
    tx.pragma_update(None, "user_version", VERSION)?;
    tx.commit()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Store, tests::founded};

    #[test]
    fn a_database_of_version_2_becomes_a_current_one_and_keeps_what_it_has() {
        let dir = tempfile::tempdir().unwrap();
        let path = founded(dir.path());
        let db = Connection::open(&path).unwrap();
        db.execute_batch(
            "DROP TABLE shown_jwts; ALTER TABLE nodes DROP COLUMN history; PRAGMA user_version = 2;",
        )
        .unwrap();
        drop(db);
        for _ in 0..2 {
            let mut store = Store::open(&path).unwrap();
            store.note_shown(&[], carrick_types::UnixTime::from_millis(0)).unwrap();
            assert_eq!(store.next_position(), 1);
        }
    }
}
