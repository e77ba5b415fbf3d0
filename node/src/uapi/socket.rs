//! The socket's place in the file system.

use std::{
    fs::{self, DirBuilder},
    io,
    os::{
        fd::{AsFd as _, AsRawFd, RawFd},
        unix::{
            fs::{DirBuilderExt as _, MetadataExt as _},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    sys::{
        inotify::{AddWatchFlags, InitFlags, Inotify},
        stat::{Mode, umask},
    },
};
use tokio::io::unix::AsyncFd;

/// Where `wg` looks for sockets.
const DIRECTORY: &str = "/var/run/wireguard";

/// Why there is no socket to configure a device by.
#[derive(Debug, thiserror::Error)]
pub enum UapiError {
    /// Somebody listens there.
    #[error("another process answers at {0}: stop it first")]
    Live(String),
    /// Anything else.
    #[error("cannot listen at {0}: {1}")]
    Failed(String, #[source] io::Error),
}

/// The place of a socket. It is removed with this, unless it has become somebody else's.
#[derive(Debug)]
pub(crate) struct Place {
    path: PathBuf,
    /// Device and number of the file.
    file: (u64, u64),
    changes: AsyncFd<Watch>,
}

/// What changes in the directory.
#[derive(Debug)]
struct Watch(Inotify);

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Place {
    /// Listens for clients of a device. Only root is one.
    pub(crate) fn bind(interface: &str) -> Result<(Self, UnixListener), UapiError> {
        let path = Path::new(DIRECTORY).join(format!("{interface}.sock"));
        if UnixStream::connect(&path).is_ok() {
            return Err(UapiError::Live(path.display().to_string()));
        }
        let failed = |error| UapiError::Failed(path.display().to_string(), error);
        DirBuilder::new().recursive(true).mode(0o700).create(DIRECTORY).map_err(failed)?;
        let changes = watch().map_err(failed)?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            Ok(()) | Err(_) => {}
        }
        let before = umask(Mode::from_bits_retain(0o177));
        let listener = UnixListener::bind(&path);
        umask(before);
        let listener = listener.map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let file = file(&path).map_err(failed)?;
        Ok((Self { path, file, changes }, listener))
    }

    /// Waits until the socket is there no longer.
    pub(crate) async fn gone(&self) {
        while self.is_there() {
            let Ok(mut ready) = self.changes.readable().await else { return std::future::pending().await };
            // Whatever changed in the directory: what counts is what is there.
            while self.changes.get_ref().0.read_events().is_ok() {}
            ready.clear_ready();
        }
    }

    pub(super) fn failed(&self, error: io::Error) -> UapiError {
        UapiError::Failed(self.path.display().to_string(), error)
    }

    fn is_there(&self) -> bool {
        file(&self.path).is_ok_and(|file| file == self.file)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_there() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn watch() -> io::Result<AsyncFd<Watch>> {
    let changes = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    let flags = AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVE | AddWatchFlags::IN_DELETE_SELF;
    match changes.add_watch(DIRECTORY, flags) {
        // SAFETY: a `Watch` has one descriptor, and keeps it open for as long as it lives.
        Ok(_) => Ok(unsafe { AsyncFd::register(Watch(changes)) }?),
        Err(Errno::ENOSPC) => {
            Err(io::Error::other("no inotify watch is left: raise fs.inotify.max_user_watches"))
        }
        Err(errno) => Err(errno.into()),
    }
}

fn file(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}
