use std::io;
use std::process::ExitStatus;
use std::time::Duration;

/// What the lab could not do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused.
    #[error("cannot {doing}")]
    System {
        /// What was being done, and to what: `add 10.0.0.1/24 to eth0 of east`.
        doing: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// An argument, or an answer from the network, that makes no sense.
    #[error("cannot {doing}: {reason}")]
    Invalid {
        /// What was being done, and to what.
        doing: String,
        /// What is wrong with it.
        reason: String,
    },
    /// It did not happen in time.
    #[error("waited {limit:?} for {awaited}")]
    Timeout {
        /// What should have happened.
        awaited: String,
        /// How long it was waited for.
        limit: Duration,
    },
    /// A process ended before it did what was waited for.
    #[error("{process} ended ({status}) before {awaited}; its last output:\n{output}")]
    Ended {
        /// The name that the process was given.
        process: String,
        /// How it ended.
        status: ExitStatus,
        /// What should have happened.
        awaited: String,
        /// The end of what it printed.
        output: String,
    },
    /// The capture did not see, or did not keep, every frame, so that absence cannot be claimed.
    #[error(
        "the capture on {interface} cannot tell: the kernel dropped {dropped} frames, {unkept} were not kept"
    )]
    CaptureIncomplete {
        /// Interface and host of the capture.
        interface: String,
        /// Frames which the kernel dropped before they were looked at.
        dropped: u64,
        /// Frames which were looked at for the registered markers only.
        unkept: u64,
    },
}

/// A result of the lab.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Adds to an error of the system what was being done.
pub(crate) trait Doing<T> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::System { doing: doing(), source: error.into() })
    }
}

pub(crate) fn invalid(doing: impl Into<String>, reason: impl Into<String>) -> Error {
    Error::Invalid { doing: doing.into(), reason: reason.into() }
}
