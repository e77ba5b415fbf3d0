//! Why a coordinator does not start, or stops.

use std::{io, net::SocketAddr, path::PathBuf};

use carrick_types::Cidr;

use crate::store::StoreError;

/// Why a coordinator does not start. One line each, with what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port is taken.
    #[error("{0} is already in use: stop the other process or choose another {1}")]
    AddressInUse(SocketAddr, &'static str),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}; choose another {option}")]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// The option that names it.
        option: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The socket that was handed over does not listen.
    #[error("the socket that was handed over is no listening TCP socket: {0}")]
    ListenFd(#[source] io::Error),
    /// Somebody else serves this data directory.
    #[error("another coordinator runs on {dir} ({pid}): stop it or choose another --data-dir", pid = pid.map_or_else(|| "pid unknown".to_owned(), |pid| format!("pid {pid}")))]
    Locked {
        /// The data directory.
        dir: PathBuf,
        /// The other process.
        pid: Option<u32>,
    },
    /// The data directory belongs to another user.
    #[error(
        "{dir} belongs to user {owner}, not to user {user}: run as its owner or choose another --data-dir"
    )]
    ForeignDirectory {
        /// The data directory.
        dir: PathBuf,
        /// Its owner.
        owner: u32,
        /// Who runs this.
        user: u32,
    },
    /// What should be a directory is something else.
    #[error("{0} is not a directory: choose another --data-dir")]
    NotADirectory(PathBuf),
    /// A file could not be read or written.
    #[error("cannot {action} {path}: {source}; {remedy}", remedy = remedy(source))]
    File {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A file of the data directory is gone, and cannot be made again without breaking trust.
    #[error("{0} is missing though the mesh exists: restore it from a backup")]
    MissingFile(PathBuf),
    /// A file of the data directory cannot be understood.
    #[error("{path} is damaged ({why}): restore it from a backup")]
    DamagedFile {
        /// Which.
        path: PathBuf,
        /// In what way.
        why: String,
    },
    /// The database cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The policy bundle in the database is not this operator's.
    #[error(
        "the policy bundle in the database cannot be used: {0}; restore the data directory from a backup"
    )]
    Bundle(#[from] carrick_attest::policy::BundleError),
    /// The overlay range cannot be used.
    #[error("the overlay range {0} cannot be used: give a private IPv4 range of /8 to /28")]
    Overlay(Cidr),
    /// The overlay range was fixed when the mesh was made.
    #[error("the overlay range of this mesh is {0} and cannot change: leave --overlay out")]
    OverlayFixed(Cidr),
    /// The public URL is none.
    #[error(
        "--public-url {0:?} cannot be used: write it as https://host:port, at most 255 bytes, without a path"
    )]
    PublicUrl(String),
    /// A certificate or a TLS configuration could not be made.
    #[error("cannot make the TLS certificate: {0}")]
    Certificate(String),
    /// The system gives no randomness, threads or interface list.
    #[error("cannot {action}: {source}")]
    System {
        /// What was being done.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

fn remedy(source: &io::Error) -> &'static str {
    if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
        "free space on its disk and start again"
    } else if matches!(source.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) {
        "make the data directory writable or choose another --data-dir"
    } else {
        "check the data directory or choose another --data-dir"
    }
}

/// Why a running coordinator stopped without being asked.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The thread that owns the mesh ended.
    #[error(
        "the thread that owns the mesh ended: start the coordinator again; nothing acknowledged was lost"
    )]
    OwnerEnded,
    /// A task ended that runs for as long as the coordinator does.
    #[error("the {0} task ended: start the coordinator again; nothing acknowledged was lost")]
    TaskEnded(&'static str),
}
