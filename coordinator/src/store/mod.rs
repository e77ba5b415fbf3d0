//! The SQLite database: everything that was ever acknowledged.
//!
//! Every change is one transaction, on disk before the call returns (`synchronous = FULL`). The rows of each kind are in the
//! submodules; [`schema`] holds the tables and how old ones become new ones.

mod bundles;
mod log;
mod nodes;
mod schema;
mod shown;
mod tokens;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use carrick_attest::{Bundle, Bytes, SignedBundle};
use carrick_types::{Cidr, CoordinatorSecret, MeshId, OperatorPin, Revision, Role, UnixTime};
use carrick_wire::{
    hello::Head,
    log::{Checkpoint, Entry, Origin},
};
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _, params};

pub(crate) use self::tokens::TokenRecord;
use crate::{
    files,
    state::{LogState, MeshState, Overlay, PublishedBundle, SharedTree},
};

/// The database of one mesh. One owner at a time.
#[derive(Debug)]
pub(crate) struct Store {
    db: Connection,
    path: PathBuf,
    log: SharedTree,
}

/// What is written once, when the mesh is made.
#[derive(Debug)]
pub(crate) struct Founding {
    pub(crate) mesh: MeshId,
    pub(crate) overlay: Cidr,
    pub(crate) credentials: Vec<CredentialRecord>,
    pub(crate) bundle: SignedBundle,
    /// What the log begins with: the publication of the bundle.
    pub(crate) entry: Entry,
}

/// A credential as the store has it.
#[derive(Debug, Clone)]
pub(crate) struct CredentialRecord {
    pub(crate) role: Role,
    /// SHA-256 of the secret.
    pub(crate) hash: [u8; 32],
}

/// Why the database did not do as asked. What was acknowledged before stays.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No space.
    #[error("the coordinator's disk is full: free space on {0}; nothing acknowledged was lost")]
    Full(PathBuf),
    /// Neither space nor sense, but the disk's own trouble.
    #[error("cannot write {path}: {source}; check its disk and permissions")]
    Io {
        /// The database.
        path: PathBuf,
        /// What SQLite or the system said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Not a database, or one with holes.
    #[error("{path} is corrupt ({why}): restore it from a backup")]
    Corrupt {
        /// The database.
        path: PathBuf,
        /// In what way.
        why: String,
    },
    /// Written by a later carrick.
    #[error("{path} was written by a newer carrick (version {found}, this one knows {known}): upgrade")]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The latest that this code knows.
        known: i64,
    },
    /// Written by a carrick before there were grants.
    #[error("{0} was written by an older carrick that kept no grants: make a new mesh in another --data-dir")]
    Older(PathBuf),
    /// A row that must not be there twice, or that should have been there.
    #[error("the change does not fit {0}: try again")]
    Conflict(PathBuf),
    /// The thread that owns the mesh ended.
    #[error("the coordinator is stopping: try again later")]
    Stopping,
}

impl Store {
    /// Makes the database of a new mesh; it is there whole or not at all.
    pub(crate) fn create(path: &Path, founding: &Founding) -> Result<(), StoreError> {
        let draft = files::draft_of(path);
        let io = |source| StoreError::from_io(path, source);
        drop(files::create_private(&draft).map_err(io)?);
        let fail = |error| StoreError::from_sqlite(path, error);
        let mut db = Connection::open_with_flags(&draft, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(fail)?;
        let write = |db: &mut Connection| {
            db.execute_batch("PRAGMA journal_mode = MEMORY; PRAGMA synchronous = FULL;")?;
            schema::create(db)?;
            let tx = db.transaction()?;
            for (key, value) in [
                ("mesh", founding.mesh.to_string()),
                ("overlay", founding.overlay.to_string()),
                ("revision", "0".to_owned()),
            ] {
                tx.execute("INSERT INTO meta (key, value) VALUES (?1, ?2)", params![key, value])?;
            }
            for credential in &founding.credentials {
                let role = match credential.role {
                    Role::Viewer => "viewer",
                    Role::Admin => "admin",
                };
                tx.execute(
                    "INSERT INTO credentials (hash, role) VALUES (?1, ?2)",
                    params![credential.hash, role],
                )?;
            }
            bundles::insert_bundle(&tx, 1, &founding.bundle)?;
            log::append(&tx, 0, &founding.entry)?;
            tx.commit()
        };
        write(&mut db).map_err(fail)?;
        db.close().map_err(|(_, error)| fail(error))?;
        files::publish(&draft, path).map_err(io)
    }

    /// Opens the database, checks it and brings it to the current version.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let fail = |error| StoreError::from_sqlite(path, error);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(path, flags).map_err(fail)?;
        let version: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(fail)?;
        if version > schema::VERSION {
            return Err(StoreError::Newer { path: path.to_owned(), found: version, known: schema::VERSION });
        }
        if version < schema::VERSION {
            return Err(StoreError::Older(path.to_owned()));
        }
        db.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;
             PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON; PRAGMA busy_timeout = 1000;",
        )
        .map_err(fail)?;
        let check: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(fail)?;
        if check != "ok" {
            return Err(StoreError::Corrupt { path: path.to_owned(), why: check });
        }
        let mut store = Self { db, path: path.to_owned(), log: SharedTree::default() };
        store.reload_log()?;
        Ok(store)
    }

    /// Reads the whole mesh, and signs the head of its log.
    pub(crate) fn load(&self, key: &CoordinatorSecret) -> Result<MeshState, StoreError> {
        let mesh = self.meta("mesh")?;
        let v4 = self.meta("overlay")?;
        let overlay =
            Overlay::new(mesh, v4).ok_or_else(|| self.corrupt("the overlay range cannot be used"))?;
        let revision = Revision(self.meta("revision")?);
        let nodes = self.run(nodes::all)?;
        let nodes = nodes.into_iter().map(|node| (node.id, Arc::new(node))).collect();
        let signed = self.bundle()?;
        // Whoever can write the database decides which bundle is in it; nodes check the signer for themselves.
        let trusted = signed
            .open(&OperatorPin::of(&signed.operator), &mesh)
            .map_err(|error| self.corrupt(&format!("its policy bundle: {error}")))?;
        let log = self.log_state(trusted.get(), key);
        let bundle = Arc::new(PublishedBundle { signed, trusted });
        Ok(MeshState { mesh, overlay, revision, nodes, bundle, log })
    }

    /// The overlay range that was fixed when the mesh was made.
    pub(crate) fn overlay(&self) -> Result<Cidr, StoreError> {
        self.meta("overlay")
    }

    /// The log as it stands under a bundle, its head signed.
    pub(crate) fn log_state(&self, bundle: &Bundle, key: &CoordinatorSecret) -> LogState {
        let tree = self.log.read();
        let size = tree.size();
        let head = tree.head(size).expect("a tree knows its own head");
        let checkpoint = Checkpoint { origin: Origin::of(bundle), size, head }.sign(key).to_string().into();
        LogState { head: Head { size, head: Bytes(head) }, checkpoint, tree: self.log.clone() }
    }

    /// Who may call the API.
    pub(crate) fn credentials(&self) -> Result<Vec<CredentialRecord>, StoreError> {
        let rows = self.run(|db| {
            db.prepare("SELECT role, hash FROM credentials")?
                .query_map([], |row| Ok((row.get::<_, String>(0)?, row.get(1)?)))?
                .collect::<Result<Vec<_>, _>>()
        })?;
        rows.into_iter()
            .map(|(role, hash)| match role.as_str() {
                "viewer" => Ok(CredentialRecord { role: Role::Viewer, hash }),
                "admin" => Ok(CredentialRecord { role: Role::Admin, hash }),
                _ => Err(self.corrupt("a credential has an unknown role")),
            })
            .collect()
    }

    /// Writes something of no consequence, to find out whether writing works.
    pub(crate) fn check(&self, now: UnixTime) -> Result<(), StoreError> {
        self.run(|db| {
            db.execute(
                "INSERT INTO meta (key, value) VALUES ('checked', ?1) ON CONFLICT (key) DO UPDATE SET value = ?1",
                [now.as_millis().to_string()],
            )
        })?;
        Ok(())
    }

    fn meta<T: std::str::FromStr>(&self, key: &str) -> Result<T, StoreError> {
        let value: Option<String> = self.run(|db| {
            db.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0)).optional()
        })?;
        value
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| self.corrupt(&format!("its {key} is missing or damaged")))
    }

    fn run<T>(&self, query: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        query(&self.db).map_err(|error| StoreError::from_sqlite(&self.path, error))
    }

    /// Runs a change and logs its entry, if it is one that is logged, in one transaction; both are on disk when this returns `Ok`.
    fn commit(
        &mut self,
        entry: Option<&Entry>,
        change: impl FnOnce(&Connection) -> rusqlite::Result<()>,
    ) -> Result<(), StoreError> {
        self.commit_all(entry.as_slice(), change)
    }

    /// Runs a change and logs its entries, as [`commit`](Self::commit) does.
    fn commit_all(
        &mut self,
        entries: &[&Entry],
        change: impl FnOnce(&Connection) -> rusqlite::Result<()>,
    ) -> Result<(), StoreError> {
        let first = self.next_position();
        let run = || {
            let tx = self.db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            change(&tx)?;
            for (position, entry) in (first..).zip(entries) {
                log::append(&tx, position, entry)?;
            }
            tx.commit()
        };
        run().map_err(|error| StoreError::from_sqlite(&self.path, error))?;
        let mut tree = self.log.write();
        entries.iter().for_each(|entry| tree.push(entry.leaf_hash()));
        Ok(())
    }

    fn corrupt(&self, why: &str) -> StoreError {
        StoreError::Corrupt { path: self.path.clone(), why: why.to_owned() }
    }
}

impl StoreError {
    fn from_sqlite(path: &Path, error: rusqlite::Error) -> Self {
        let path = path.to_owned();
        let Some(code) = error.sqlite_error_code() else {
            return if matches!(
                error,
                rusqlite::Error::QueryReturnedNoRows | rusqlite::Error::StatementChangedRows(_)
            ) {
                Self::Conflict(path)
            } else {
                Self::Corrupt { path, why: error.to_string() }
            };
        };
        if code == ErrorCode::DiskFull || is_out_of_space(&error) {
            Self::Full(path)
        } else if matches!(code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) {
            Self::Corrupt { path, why: error.to_string() }
        } else if code == ErrorCode::ConstraintViolation {
            Self::Conflict(path)
        } else {
            Self::Io { path, source: error.into() }
        }
    }

    fn from_io(path: &Path, error: std::io::Error) -> Self {
        let path = path.to_owned();
        if matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded) {
            Self::Full(path)
        } else {
            Self::Io { path, source: error.into() }
        }
    }
}

/// SQLite reports a full disk as an I/O error where it could not grow the index of its write-ahead log.
fn is_out_of_space(error: &rusqlite::Error) -> bool {
    error.sqlite_error().is_some_and(|error| error.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::state::{
        LoggedEntry, NodeRecord,
        tests::{bundle, mesh, node, signed, signing_key},
    };

    pub(crate) use crate::store::tokens::tests::token;

    /// Some entry; the store does not ask which.
    pub(crate) fn entry() -> Entry {
        let decision = carrick_wire::log::Decision::TokenRevoked { token: token(1).capability.token };
        Entry { at: UnixTime::from_millis(0), decision }
    }

    pub(crate) fn founded(dir: &Path) -> PathBuf {
        let path = dir.join("carrick.db");
        let overlay = "100.64.0.0/10".parse().unwrap();
        let credentials = vec![CredentialRecord { role: Role::Admin, hash: [7; 32] }];
        let bundle = signed(&bundle());
        let decision = carrick_wire::log::Decision::bundle_published(1, &bundle);
        let entry = Entry { at: UnixTime::from_millis(0), decision };
        Store::create(&path, &Founding { mesh: mesh(), overlay, credentials, bundle, entry }).unwrap();
        path
    }

    #[test]
    fn what_was_committed_is_there_after_the_owner_is_gone_without_a_word() {
        let dir = tempfile::tempdir().unwrap();
        let path = founded(dir.path());
        let mut store = Store::open(&path).unwrap();
        store.insert_token(&token(2), &entry()).unwrap();
        let endpoints = vec!["[2001:db8::1]:51820".parse().unwrap()];
        let logged = LoggedEntry { position: 2, text: entry().to_text().into() };
        let joined = NodeRecord { endpoints, logged, ..node(1, 1) };
        store.admit(&joined, Some(&token(2).capability.token), &entry()).unwrap();
        std::mem::forget(store);

        let store = Store::open(&path).unwrap();
        let state = store.load(&signing_key()).unwrap();
        assert_eq!(state.revision, Revision(1));
        assert_eq!(state.nodes.values().map(|node| NodeRecord::clone(node)).collect::<Vec<_>>(), [joined]);
        assert_eq!(store.token(&token(2).capability.token).unwrap().unwrap().used, 1);
        assert_eq!(store.credentials().unwrap()[0].hash, [7; 32]);
    }

    #[test]
    fn a_token_is_not_used_more_often_than_it_may_be() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(&founded(dir.path())).unwrap();
        store.insert_token(&token(1), &entry()).unwrap();
        store.admit(&node(1, 1), Some(&token(1).capability.token), &entry()).unwrap();
        let error = store.admit(&node(2, 2), Some(&token(1).capability.token), &entry()).unwrap_err();
        assert!(matches!(error, StoreError::Conflict(_)), "{error}");
        assert_eq!(store.load(&signing_key()).unwrap().nodes.len(), 1);
    }

    #[test]
    fn a_refused_join_consumes_no_use() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(&founded(dir.path())).unwrap();
        store.insert_token(&token(9), &entry()).unwrap();
        store.admit(&node(1, 1), Some(&token(9).capability.token), &entry()).unwrap();
        let twin = NodeRecord { wireguard_key: node(1, 1).wireguard_key, ..node(2, 2) };
        store.admit(&twin, Some(&token(9).capability.token), &entry()).unwrap_err();
        assert_eq!(store.token(&token(9).capability.token).unwrap().unwrap().used, 1);
    }

    #[test]
    fn a_change_and_its_entry_are_there_together_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = founded(dir.path());
        let mut store = Store::open(&path).unwrap();
        store.insert_token(&token(1), &entry()).unwrap();
        store.admit(&node(1, 1), Some(&token(1).capability.token), &entry()).unwrap();
        store.admit(&node(2, 2), Some(&token(1).capability.token), &entry()).unwrap_err();
        assert_eq!(store.next_position(), 3, "what was refused is not logged");
        let head = store.log.read().head(3);
        drop(store);
        let store = Store::open(&path).unwrap();
        assert_eq!((store.next_position(), store.log.read().head(3)), (3, head));
        assert_eq!(store.log_entries(2, 9).unwrap(), [entry().to_text()]);
    }

    #[test]
    fn a_log_with_a_hole_is_corrupt() {
        let dir = tempfile::tempdir().unwrap();
        let path = founded(dir.path());
        let mut store = Store::open(&path).unwrap();
        store.insert_token(&token(1), &entry()).unwrap();
        store.revoke_token(&token(1).capability.token, &entry()).unwrap();
        store.db.execute("DELETE FROM log WHERE position = 0", []).unwrap();
        assert!(Store::open(&path).unwrap_err().to_string().contains("its log has no entry 0"));
    }

    #[test]
    fn a_full_disk_is_named_and_keeps_what_was_acknowledged() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(&founded(dir.path())).unwrap();
        store.insert_token(&token(100), &entry()).unwrap();
        let pages: i64 = store.db.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
        store.db.pragma_update(None, "max_page_count", pages).unwrap();
        let (kept, error) = (1..200)
            .find_map(|n| {
                store
                    .admit(&node(n, n.into()), Some(&token(100).capability.token), &entry())
                    .err()
                    .map(|error| (usize::from(n) - 1, error))
            })
            .unwrap();
        assert!(matches!(error, StoreError::Full(_)), "{error}");
        assert!(error.to_string().contains("free space on"));
        assert_eq!(store.load(&signing_key()).unwrap().nodes.len(), kept);

        store.db.pragma_update(None, "max_page_count", 100_000).unwrap();
        let next = u8::try_from(kept).unwrap() + 1;
        store.admit(&node(next, next.into()), Some(&token(100).capability.token), &entry()).unwrap();
        assert_eq!(store.load(&signing_key()).unwrap().nodes.len(), kept + 1);
    }

    #[test]
    fn a_database_of_a_newer_version_and_junk_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = founded(dir.path());
        Store::open(&path).unwrap().db.pragma_update(None, "user_version", 4).unwrap();
        assert!(matches!(Store::open(&path), Err(StoreError::Older(_))));
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
        assert!(matches!(Store::open(&path).unwrap_err(), StoreError::Newer { found: 99, .. }));
        let junk = dir.path().join("junk.db");
        std::fs::write(&junk, [0x55; 8192]).unwrap();
        let error = Store::open(&junk).unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
        assert!(error.to_string().contains("restore it from a backup"));
    }
}
