//! The rows of nodes.

use carrick_types::{Revision, TokenId, UnixTime};
use carrick_wire::{api::Revocation, log::Entry};
use rusqlite::{Connection, Row, params, types::Type};
use serde::{Serialize, de::DeserializeOwned};

use super::{Store, StoreError};
use crate::state::{Membership, NodeRecord};

impl Store {
    /// Adds a node, and takes a use of its token, in one transaction.
    pub(crate) fn admit(
        &mut self,
        node: &NodeRecord,
        token: &TokenId,
        entry: &Entry,
    ) -> Result<(), StoreError> {
        self.commit(Some(entry), |tx| {
            let taken = tx.execute(
                "UPDATE tokens SET used = used + 1 WHERE id = ?1 AND used < uses AND revoked = 0",
                [token.to_string()],
            )?;
            if taken != 1 {
                return Err(rusqlite::Error::StatementChangedRows(taken));
            }
            tx.execute(
                "INSERT INTO nodes (id, name, cluster, identity_key, wireguard_key, overlay_index, evidence, joined_at,
                                    prefixes, endpoints, version, revision)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, '[]', '[]', '', 0)",
                params![
                    node.id.to_string(),
                    node.name.as_str(),
                    node.cluster.as_str(),
                    node.identity_key.to_string(),
                    node.wireguard_key.to_string(),
                    node.overlay_index,
                    json(&node.evidence)?,
                    millis(node.joined_at),
                ],
            )?;
            write(tx, node)
        })
    }

    /// Writes what may change of a node: prefixes, endpoints, version, membership, and the revision with them.
    /// `entry` tells of the change, where it is one that is logged.
    pub(crate) fn update(&mut self, node: &NodeRecord, entry: Option<&Entry>) -> Result<(), StoreError> {
        self.commit(entry, |tx| write(tx, node))
    }
}

/// Every node that ever joined.
pub(super) fn all(db: &Connection) -> rusqlite::Result<Vec<NodeRecord>> {
    db.prepare(
        "SELECT id, name, cluster, identity_key, wireguard_key, overlay_index, prefixes, endpoints, evidence, version,
                joined_at, revision, revoked_at, revoked_reason
         FROM nodes",
    )?
    .query_map([], read)?
    .collect()
}

fn write(tx: &Connection, node: &NodeRecord) -> rusqlite::Result<()> {
    let (revoked_at, reason) = match &node.membership {
        Membership::Active => (None, None),
        Membership::Revoked(revocation) => (Some(millis(revocation.at)), revocation.reason.as_deref()),
    };
    let revision = i64::try_from(node.revision.0).unwrap_or(i64::MAX);
    let changed = tx.execute(
        "UPDATE nodes SET prefixes = ?2, endpoints = ?3, version = ?4, revision = ?5, revoked_at = ?6, revoked_reason = ?7
         WHERE id = ?1",
        params![
            node.id.to_string(),
            json(&node.prefixes)?,
            json(&node.endpoints)?,
            node.version,
            revision,
            revoked_at,
            reason
        ],
    )?;
    if changed != 1 {
        return Err(rusqlite::Error::StatementChangedRows(changed));
    }
    tx.execute(
        "UPDATE meta SET value = ?1 WHERE key = 'revision' AND CAST(value AS INTEGER) < ?2",
        params![revision.to_string(), revision],
    )?;
    Ok(())
}

fn read(row: &Row<'_>) -> rusqlite::Result<NodeRecord> {
    let membership = match row.get::<_, Option<i64>>(12)? {
        None => Membership::Active,
        Some(_) => Membership::Revoked(Revocation { at: time(row, 12)?, reason: row.get(13)? }),
    };
    Ok(NodeRecord {
        id: text(row, 0)?,
        name: text(row, 1)?,
        cluster: text(row, 2)?,
        identity_key: text(row, 3)?,
        wireguard_key: text(row, 4)?,
        overlay_index: row.get(5)?,
        prefixes: from_json(row, 6)?,
        endpoints: from_json(row, 7)?,
        evidence: from_json(row, 8)?,
        version: row.get(9)?,
        joined_at: time(row, 10)?,
        revision: Revision(unsigned(row, 11)?),
        membership,
    })
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

fn json<T: Serialize>(value: &T) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

fn from_json<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error.into()))
}
