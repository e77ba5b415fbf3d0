//! The state directory: this node's keys, made once, and its membership.
//!
//! ```text
//! lock            held as long as an agent runs on the directory
//! identity.key    the Ed25519 identity key, base64
//! wireguard.key   the X25519 key, base64, as `wg genkey` writes it
//! wireguard.next  the key that follows, while the coordinator has not granted it yet
//! node.json       the membership: mesh, cluster, name, coordinator
//! trust.json      what was seen: the operator, the policy bundle's version, the head of the log, revocations
//! ```
//! Files are 0600, the directory 0700. None of it ever leaves the host.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use carrick_trust::Memory;
use carrick_types::{
    CaPin, Cidr, ClusterName, IdentitySecret, JoinToken, MeshId, NodeName, UnixTime, WireGuardSecret,
};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use serde::{Deserialize, Serialize};

const IDENTITY_KEY: &str = "identity.key";
const WIREGUARD_KEY: &str = "wireguard.key";
const NEXT_WIREGUARD_KEY: &str = "wireguard.next";
const MEMBERSHIP: &str = "node.json";
const MEMORY: &str = "trust.json";

/// The state directory, locked.
#[derive(Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
    _lock: Flock<File>,
}

/// The keys of a node.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    pub(crate) identity: IdentitySecret,
    pub(crate) wireguard: WireGuardSecret,
    /// The WireGuard key that follows, made and not granted yet.
    pub(crate) next: Option<WireGuardSecret>,
}

/// What a node knows of the mesh that took it in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Membership {
    pub(crate) mesh: MeshId,
    pub(crate) cluster: ClusterName,
    pub(crate) name: NodeName,
    pub(crate) ca: CaPin,
    pub(crate) urls: Vec<String>,
    pub(crate) prefixes: Vec<Cidr>,
    /// Whether it came in by a join token.
    #[serde(default)]
    pub(crate) by_token: bool,
    /// When the WireGuard key was made, by this host's clock.
    pub(crate) key_since: UnixTime,
}

impl Membership {
    /// What a node that joins with this token will be, if the coordinator agrees.
    pub(crate) fn asked(token: &JoinToken, name: NodeName, now: UnixTime) -> Self {
        Self {
            mesh: token.mesh,
            cluster: token.cluster.clone(),
            name,
            ca: token.ca,
            urls: token.urls.clone(),
            prefixes: Vec::new(),
            by_token: true,
            key_since: now,
        }
    }
}

/// Why the state directory is of no use.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// An agent runs on it.
    #[error("another carrick node runs on {0}: stop it, or choose another --state-dir")]
    Locked(PathBuf),
    /// Reading or writing failed.
    #[error("cannot {0} {1}: {2}")]
    Io(&'static str, PathBuf, #[source] io::Error),
    /// A file is not what it should be.
    #[error(
        "{0} is damaged ({1}): restore it, or remove the state directory and join again with a new token"
    )]
    Damaged(PathBuf, String),
}

impl StateDir {
    /// Opens the directory, or makes it.
    pub(crate) fn open(path: &Path) -> Result<Self, StateError> {
        let io = |what| move |error| StateError::Io(what, path.to_owned(), error);
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io("make the state directory"))?;
        fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(io("close to others"))?;
        let lock =
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path.join("lock"));
        let lock = lock.map_err(io("open the lock in"))?;
        match Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err((_, Errno::EWOULDBLOCK)) => Err(StateError::Locked(path.to_owned())),
            Err((_, errno)) => Err(io("lock")(errno.into())),
        }
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The keys; made on the first call ever.
    pub(crate) fn keys(&self) -> Result<Keys, StateError> {
        Ok(Keys {
            identity: IdentitySecret::from_bytes(self.key(IDENTITY_KEY)?),
            wireguard: WireGuardSecret::from_bytes(self.key(WIREGUARD_KEY)?),
            next: self.stored_key(NEXT_WIREGUARD_KEY)?.map(WireGuardSecret::from_bytes),
        })
    }

    /// The WireGuard key that follows; made on the first call since the last one was [put to use](Self::use_next_key).
    pub(crate) fn next_key(&self) -> Result<WireGuardSecret, StateError> {
        self.key(NEXT_WIREGUARD_KEY).map(WireGuardSecret::from_bytes)
    }

    /// Replaces the WireGuard key by the one that follows.
    pub(crate) fn use_next_key(&self) -> Result<(), StateError> {
        let path = self.path.join(WIREGUARD_KEY);
        fs::rename(self.path.join(NEXT_WIREGUARD_KEY), &path)
            .and_then(|()| File::open(&self.path)?.sync_all())
            .map_err(|error| StateError::Io("replace", path, error))
    }

    /// What was seen of the mesh, once something was.
    pub(crate) fn memory(&self) -> Result<Option<Memory>, StateError> {
        self.json(MEMORY)
    }

    /// Remembers what was seen of the mesh.
    pub(crate) fn set_memory(&self, memory: &Memory) -> Result<(), StateError> {
        let text = serde_json::to_string(memory).expect("a memory is plain data");
        self.write(MEMORY, &text)
    }

    /// The membership, once there is one.
    pub(crate) fn membership(&self) -> Result<Option<Membership>, StateError> {
        self.json(MEMBERSHIP)
    }

    /// Remembers the membership.
    pub(crate) fn set_membership(&self, membership: &Membership) -> Result<(), StateError> {
        let text = serde_json::to_string_pretty(membership).expect("a membership is plain data");
        self.write(MEMBERSHIP, &text)
    }

    fn json<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StateError> {
        let Some(text) = self.read(name)? else { return Ok(None) };
        let parsed = serde_json::from_str(&text);
        parsed.map(Some).map_err(|error| StateError::Damaged(self.path.join(name), error.to_string()))
    }

    fn stored_key(&self, name: &str) -> Result<Option<[u8; 32]>, StateError> {
        let Some(text) = self.read(name)? else { return Ok(None) };
        let bytes = BASE64.decode(text.trim()).ok().and_then(|bytes| bytes.try_into().ok());
        let damaged = || StateError::Damaged(self.path.join(name), "not 32 bytes in base64".to_owned());
        bytes.map(Some).ok_or_else(damaged)
    }

    fn key(&self, name: &str) -> Result<[u8; 32], StateError> {
        if let Some(key) = self.stored_key(name)? {
            return Ok(key);
        }
        let mut key = [0; 32];
        getrandom::fill(&mut key)
            .map_err(|error| StateError::Io("read randomness for", self.path.join(name), error.into()))?;
        self.write(name, &BASE64.encode(key))?;
        Ok(key)
    }

    fn read(&self, name: &str) -> Result<Option<String>, StateError> {
        let path = self.path.join(name);
        let mut text = String::new();
        match File::open(&path).and_then(|mut file| {
            file.set_permissions(Permissions::from_mode(0o600))?;
            file.read_to_string(&mut text)
        }) {
            Ok(_) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Err(StateError::Damaged(path, "not text".to_owned()))
            }
            Err(error) => Err(StateError::Io("read", path, error)),
        }
    }

    /// The file is whole, old or new, whenever the host stops.
    fn write(&self, name: &str, text: &str) -> Result<(), StateError> {
        let (path, draft) = (self.path.join(name), self.path.join(format!("{name}.new")));
        let write = || {
            let mut file =
                OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&draft)?;
            writeln!(file, "{text}")?;
            file.sync_all()?;
            fs::rename(&draft, &path)?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(|error| StateError::Io("write", path.clone(), error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("carrick-state-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    #[test]
    fn keys_are_made_once_and_for_their_owner_only() {
        let path = directory("keys");
        let first = StateDir::open(&path).unwrap().keys().unwrap();
        let state = StateDir::open(&path).unwrap();
        let again = state.keys().unwrap();
        assert_eq!((first.identity, first.wireguard), (again.identity, again.wireguard));
        for (file, mode) in [("", 0o700), (IDENTITY_KEY, 0o600), (WIREGUARD_KEY, 0o600)] {
            assert_eq!(fs::metadata(path.join(file)).unwrap().permissions().mode() & 0o777, mode, "{file}");
        }
        fs::write(path.join(WIREGUARD_KEY), "short").unwrap();
        assert!(matches!(state.keys(), Err(StateError::Damaged(..))));
        fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn one_agent_at_a_time() {
        let path = directory("lock");
        let held = StateDir::open(&path).unwrap();
        assert!(matches!(StateDir::open(&path), Err(StateError::Locked(_))));
        drop(held);
        StateDir::open(&path).unwrap();
        fs::remove_dir_all(&path).unwrap();
    }
}
