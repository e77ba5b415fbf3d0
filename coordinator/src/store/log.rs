//! The log, entry by entry. Its tree is kept in memory.

use carrick_wire::log::{
    Entry,
    tree::{Tree, leaf_hash},
};
use rusqlite::{Connection, params};

use super::{Store, StoreError, nodes::unsigned};

impl Store {
    /// The position that the next entry will have.
    pub(crate) fn next_position(&self) -> u64 {
        self.log.read().size()
    }

    /// The text of the entries from `start` on, at most `limit`.
    pub(crate) fn log_entries(&self, start: u64, limit: u32) -> Result<Vec<String>, StoreError> {
        let start = i64::try_from(start).unwrap_or(i64::MAX);
        self.run(|db| {
            db.prepare("SELECT entry FROM log WHERE position >= ?1 ORDER BY position LIMIT ?2")?
                .query_map(params![start, limit], |row| row.get(0))?
                .collect()
        })
    }

    /// Reads the tree anew, after a change of which it is not known whether it was committed.
    pub(crate) fn reload_log(&mut self) -> Result<(), StoreError> {
        let entries = self.run(all)?;
        let mut tree = Tree::default();
        for (position, entry) in entries {
            if position != tree.size() {
                return Err(self.corrupt(&format!("its log has no entry {}", tree.size())));
            }
            tree.push(leaf_hash(entry.as_bytes()));
        }
        *self.log.write() = tree;
        Ok(())
    }
}

/// Writes an entry behind the others, in the transaction of the change that it tells of.
pub(super) fn append(tx: &Connection, position: u64, entry: &Entry) -> rusqlite::Result<()> {
    let position = i64::try_from(position).unwrap_or(i64::MAX);
    tx.execute("INSERT INTO log (position, entry) VALUES (?1, ?2)", params![position, entry.to_text()])
        .map(drop)
}

fn all(db: &Connection) -> rusqlite::Result<Vec<(u64, String)>> {
    db.prepare("SELECT position, entry FROM log ORDER BY position")?
        .query_map([], |row| Ok((unsigned(row, 0)?, row.get(1)?)))?
        .collect()
}
