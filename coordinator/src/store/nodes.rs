//! The rows of nodes.

use std::sync::Arc;

use carrick_types::{Revision, TokenId, UnixTime};
use carrick_wire::{api::Revocation, log::Entry};
use rusqlite::{Connection, OptionalExtension as _, Row, params, types::Type};
use serde::{Serialize, de::DeserializeOwned};

use super::{Store, StoreError};
use crate::{
    state::{LoggedEntry, Membership, NodeRecord},
    statements::Statements,
};

impl Store {
    /// Adds a node, and takes a use of its token, in one transaction.
    pub(crate) fn admit(
        &mut self,
        node: &NodeRecord,
        token: Option<&TokenId>,
        entry: &Entry,
    ) -> Result<(), StoreError> {
        self.commit(Some(entry), |tx| {
            if let Some(token) = token {
                let taken = tx.execute(
                    "UPDATE tokens SET used = used + 1 WHERE id = ?1 AND used < uses AND revoked = 0",
                    [token.to_string()],
                )?;
                if taken != 1 {
                    return Err(rusqlite::Error::StatementChangedRows(taken));
                }
            }
            tx.execute(
                "INSERT INTO nodes (id, name, cluster, identity_key, wireguard_key, overlay_index, joined_at,
                                    prefixes, endpoints, statements, history, logged, grant_revision, trust, version, revision)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, '[]', '[]', '[]', '[]', ?8, 0, '', '', 0)",
                params![
                    node.id.to_string(),
                    node.name.as_str(),
                    node.cluster.as_str(),
                    node.identity_key.to_string(),
                    node.wireguard_key.to_string(),
                    node.overlay_index,
                    millis(node.joined_at),
                    signed(node.logged.position),
                ],
            )?;
            write(tx, node)
        })
    }

    /// Writes what may change of a node: everything but its id, name, cluster, identity key and overlay addresses, and the revision
    /// with it. `entry` tells of the change, where it is one that is logged.
    pub(crate) fn update(&mut self, node: &NodeRecord, entry: Option<&Entry>) -> Result<(), StoreError> {
        self.commit(entry, |tx| write(tx, node))
    }

    /// Writes several nodes as [`update`](Self::update) does, in one transaction.
    pub(crate) fn update_all(&mut self, changes: &[(NodeRecord, Option<Entry>)]) -> Result<(), StoreError> {
        let entries: Vec<&Entry> = changes.iter().filter_map(|(_, entry)| entry.as_ref()).collect();
        self.commit_all(&entries, |tx| changes.iter().try_for_each(|(node, _)| write(tx, node)))
    }

    /// Whether a WireGuard key was a node's that has another one now.
    pub(crate) fn is_former_key(&self, key: &carrick_types::WireGuardKey) -> Result<bool, StoreError> {
        self.run(|db| {
            db.query_row("SELECT 1 FROM former_keys WHERE wireguard_key = ?1", [key.to_string()], |_| Ok(()))
                .optional()
                .map(|found| found.is_some())
        })
    }
}

/// Every node that ever joined.
pub(super) fn all(db: &Connection) -> rusqlite::Result<Vec<NodeRecord>> {
    db.prepare(
        "SELECT id, name, cluster, identity_key, wireguard_key, overlay_index, prefixes, endpoints, statements, version,
                joined_at, revision, revoked_at, revoked_reason, suspended, grant_revision, trust, logged, entry, history,
                demanded_at
         FROM nodes JOIN log ON logged = position",
    )?
    .query_map([], read)?
    .collect()
}

fn write(tx: &Connection, node: &NodeRecord) -> rusqlite::Result<()> {
    let (suspended, revoked_at, reason) = match &node.membership {
        Membership::Active => (None, None, None),
        Membership::Suspended(suspension) => (Some(json(suspension)?), None, None),
        Membership::Revoked(revocation) => (None, Some(millis(revocation.at)), revocation.reason.as_deref()),
    };
    let id = node.id.to_string();
    tx.execute(
        "INSERT INTO former_keys (wireguard_key, node)
         SELECT wireguard_key, id FROM nodes WHERE id = ?1 AND wireguard_key <> ?2",
        params![id, node.wireguard_key.to_string()],
    )?;
    let changed = tx.execute(
        "UPDATE nodes SET prefixes = ?2, endpoints = ?3, version = ?4, revision = ?5, revoked_at = ?6, revoked_reason = ?7,
                          suspended = ?8, grant_revision = ?9, trust = ?10, logged = ?11, statements = ?12, wireguard_key = ?13, history = ?14,
                          demanded_at = ?15
         WHERE id = ?1",
        params![
            id,
            json(&node.prefixes)?,
            json(&node.endpoints)?,
            node.version,
            signed(node.revision.0),
            revoked_at,
            reason,
            suspended,
            signed(node.grant_revision.0),
            json(&node.trust)?,
            signed(node.logged.position),
            json(node.statements.texts())?,
            node.wireguard_key.to_string(),
            json(node.history.texts())?,
            node.demanded_at.map(millis),
        ],
    )?;
    if changed != 1 {
        return Err(rusqlite::Error::StatementChangedRows(changed));
    }
    raise_revision(tx, node.revision)
}

/// Notes the revision that a change leads to.
pub(super) fn raise_revision(tx: &Connection, revision: Revision) -> rusqlite::Result<()> {
    tx.execute(
        "UPDATE meta SET value = ?1 WHERE key = 'revision' AND CAST(value AS INTEGER) < ?2",
        params![revision.to_string(), signed(revision.0)],
    )
    .map(drop)
}

fn read(row: &Row<'_>) -> rusqlite::Result<NodeRecord> {
    let membership = match (row.get::<_, Option<i64>>(12)?, row.get::<_, Option<String>>(14)?) {
        (None, None) => Membership::Active,
        (None, Some(_)) => Membership::Suspended(from_json(row, 14)?),
        (Some(_), _) => Membership::Revoked(Revocation { at: time(row, 12)?, reason: row.get(13)? }),
    };
    let statements: Vec<String> = from_json(row, 8)?;
    let history: Vec<String> = from_json(row, 19)?;
    Ok(NodeRecord {
        id: text(row, 0)?,
        name: text(row, 1)?,
        cluster: text(row, 2)?,
        identity_key: text(row, 3)?,
        wireguard_key: text(row, 4)?,
        overlay_index: row.get(5)?,
        prefixes: from_json(row, 6)?,
        endpoints: from_json(row, 7)?,
        statements: Statements::from_texts(statements),
        history: Statements::from_texts(history),
        version: row.get(9)?,
        joined_at: time(row, 10)?,
        revision: Revision(unsigned(row, 11)?),
        grant_revision: Revision(unsigned(row, 15)?),
        trust: from_json(row, 16)?,
        logged: LoggedEntry { position: unsigned(row, 17)?, text: Arc::from(row.get::<_, String>(18)?) },
        membership,
        demanded_at: row.get::<_, Option<i64>>(20)?.map(|_| time(row, 20)).transpose()?,
    })
}

/// SQLite's integers have a sign.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Reads a column of text into the type that it is.
pub(super) fn text<T>(row: &Row<'_>, column: usize) -> rusqlite::Result<T>
where
    T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>,
{
    let text: String = row.get(column)?;
    text.parse()
        .map_err(|error: T::Err| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error.into()))
}

/// Reads a column of milliseconds since 1970.
pub(super) fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<UnixTime> {
    unsigned(row, column).map(UnixTime::from_millis)
}

/// SQLite's integers have a sign.
pub(super) fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, value))
}

/// Times fit: [`UnixTime`] ends with the year 9999.
pub(super) fn millis(time: UnixTime) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

pub(super) fn json<T: Serialize + ?Sized>(value: &T) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

pub(super) fn from_json<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error.into()))
}
