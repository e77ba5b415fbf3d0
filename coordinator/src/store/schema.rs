//! The tables.

use rusqlite::Connection;

/// The version of these tables, and of what is in them: from this one on, nodes signed for their names and networks.
pub(super) const VERSION: i64 = 5;

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
    history TEXT NOT NULL,
    logged INTEGER NOT NULL REFERENCES log (position) DEFERRABLE INITIALLY DEFERRED,
    grant_revision INTEGER NOT NULL,
    trust TEXT NOT NULL,
    version TEXT NOT NULL,
    joined_at INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    suspended TEXT,
    demanded_at INTEGER,
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
CREATE TABLE shown_jwts (
    id BLOB PRIMARY KEY CHECK (length(id) = 32),
    forget_at INTEGER NOT NULL
) STRICT;
CREATE INDEX shown_jwts_forget_at ON shown_jwts (forget_at);
";

/// Makes the tables of a new database, in one transaction with its version.
pub(super) fn create(db: &mut Connection) -> rusqlite::Result<()> {
    let tx = db.transaction()?;
    tx.execute_batch(TABLES)?;
    tx.pragma_update(None, "user_version", VERSION)?;
    tx.commit()
}
