//! The tables, and how a database of an earlier version becomes a current one.

use rusqlite::Connection;

/// The version that this code writes: how many of the migrations have run.
pub(super) const VERSION: i64 = MIGRATIONS.len() as i64;

const MIGRATIONS: &[&str] = &["
CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;
CREATE TABLE credentials (
    hash BLOB PRIMARY KEY CHECK (length(hash) = 32),
    role TEXT NOT NULL CHECK (role IN ('viewer', 'admin'))
) STRICT;
CREATE TABLE tokens (
    id TEXT PRIMARY KEY,
    cluster TEXT NOT NULL,
    key_hash BLOB NOT NULL CHECK (length(key_hash) = 32),
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    uses INTEGER NOT NULL,
    used INTEGER NOT NULL CHECK (used BETWEEN 0 AND uses),
    revoked INTEGER NOT NULL CHECK (revoked IN (0, 1))
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
    evidence TEXT NOT NULL,
    version TEXT NOT NULL,
    joined_at INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    revoked_at INTEGER,
    revoked_reason TEXT
) STRICT;
CREATE UNIQUE INDEX nodes_name ON nodes (name) WHERE revoked_at IS NULL;
CREATE TABLE log (
    position INTEGER PRIMARY KEY CHECK (position >= 0),
    entry TEXT NOT NULL
) STRICT;
"];

/// Runs the migrations that a database of version `from` has not seen, each in one transaction with its version.
pub(super) fn migrate(db: &mut Connection, from: i64) -> rusqlite::Result<()> {
    for (version, migration) in (1_i64..).zip(MIGRATIONS).skip_while(|(version, _)| *version <= from) {
        let tx = db.transaction()?;
        tx.execute_batch(migration)?;
        tx.pragma_update(None, "user_version", version)?;
        tx.commit()?;
    }
    Ok(())
}
