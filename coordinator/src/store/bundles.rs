//! The rows of policy bundles, and of nodes that were refused.

use carrick_attest::SignedBundle;
use carrick_wire::{api::Refusal, log::Entry};
use rusqlite::{Connection, OptionalExtension as _, params};

use super::{Store, StoreError, nodes::json};

/// Refusals that are kept; the oldest go first.
const MAX_REFUSALS: i64 = 1000;

impl Store {
    /// The bundle in force.
    pub(crate) fn bundle(&self) -> Result<SignedBundle, StoreError> {
        let text: String = self.run(|db| {
            db.query_row("SELECT signed FROM bundles ORDER BY version DESC LIMIT 1", [], |row| row.get(0))
        })?;
        serde_json::from_str(&text).map_err(|error| self.corrupt(&format!("its policy bundle: {error}")))
    }

    /// The bundle that was in force under a version; `None` where none was.
    pub(crate) fn bundle_of_version(&self, version: u64) -> Result<Option<SignedBundle>, StoreError> {
        let text: Option<String> = self.run(|db| {
            let version = i64::try_from(version).unwrap_or(i64::MAX);
            db.query_row("SELECT signed FROM bundles WHERE version = ?1", [version], |row| row.get(0))
                .optional()
        })?;
        let parse = |text: String| serde_json::from_str(&text);
        text.map(parse)
            .transpose()
            .map_err(|error| self.corrupt(&format!("policy bundle {version}: {error}")))
    }

    /// Puts a bundle into force.
    pub(crate) fn publish_bundle(
        &mut self,
        version: u64,
        signed: &SignedBundle,
        entry: &Entry,
    ) -> Result<(), StoreError> {
        self.commit(Some(entry), |tx| insert_bundle(tx, version, signed))
    }

    /// Notes that somebody was refused.
    pub(crate) fn note_refusal(&mut self, refusal: &Refusal) -> Result<(), StoreError> {
        self.commit(None, |tx| {
            tx.execute("INSERT INTO refusals (refusal) VALUES (?1)", [json(refusal)?])?;
            tx.execute("DELETE FROM refusals WHERE id <= ?1", [tx.last_insert_rowid() - MAX_REFUSALS])
                .map(drop)
        })
    }

    /// Who was refused, the last first.
    pub(crate) fn refusals(&self) -> Result<Vec<Refusal>, StoreError> {
        let texts: Vec<String> = self.run(|db| {
            db.prepare("SELECT refusal FROM refusals ORDER BY id DESC")?
                .query_map([], |row| row.get(0))?
                .collect()
        })?;
        Ok(texts.iter().filter_map(|text| serde_json::from_str(text).ok()).collect())
    }
}

/// Writes a bundle; a version is written once.
pub(super) fn insert_bundle(tx: &Connection, version: u64, signed: &SignedBundle) -> rusqlite::Result<()> {
    let version = i64::try_from(version).unwrap_or(i64::MAX);
    tx.execute("INSERT INTO bundles (version, signed) VALUES (?1, ?2)", params![version, json(signed)?])
        .map(drop)
}
