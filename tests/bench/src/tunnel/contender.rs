//! The devices that are measured.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

/// What makes a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contender {
    Carrick,
    WireGuardGo,
    Boringtun,
    Gotatun,
}

/// A program that is not at hand.
#[derive(Debug)]
pub(super) struct Absent {
    program: PathBuf,
    remedy: &'static str,
}

impl std::error::Error for Absent {}

impl fmt::Display for Absent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} not found: {}", self.program.display(), self.remedy)
    }
}

impl Contender {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Carrick => "carrick",
            Self::WireGuardGo => "wireguard-go",
            Self::Boringtun => "boringtun",
            Self::Gotatun => "gotatun",
        }
    }

    /// The program that was named, or else the one in PATH.
    pub(super) fn program(self, named: Option<PathBuf>) -> Result<PathBuf, Absent> {
        let (program, remedy) = match self {
            Self::Carrick => ("carrick", "cargo build --release"),
            Self::WireGuardGo => ("wireguard-go", "apt-get install wireguard-go"),
            Self::Boringtun => ("boringtun-cli", "cargo install boringtun-cli"),
            Self::Gotatun => ("gotatun", "cargo install gotatun-cli"),
        };
        let found = match &named {
            Some(path) => path.is_file().then(|| path.clone()),
            None => in_path(program),
        };
        found.ok_or_else(|| Absent { program: named.unwrap_or_else(|| program.into()), remedy })
    }

    /// What it says of its version: figures of another one are others.
    pub(super) fn version(program: &Path) -> String {
        let said =
            Command::new(program).arg("--version").output().map(|output| output.stdout).unwrap_or_default();
        String::from_utf8_lossy(&said).lines().next().unwrap_or("unknown").trim().to_owned()
    }

    /// Runs it in the foreground.
    pub(super) fn command(self, program: &Path, interface: &str) -> Command {
        let mut command = Command::new(program);
        command.args(match self {
            Self::Carrick => ["device", "--foreground"].as_slice(),
            Self::WireGuardGo => &["--foreground"],
            Self::Boringtun | Self::Gotatun => &["--foreground", "--disable-drop-privileges"],
        });
        command.arg(interface);
        let cores = thread::available_parallelism().map_or(1, usize::from);
        command.env("LOG_LEVEL", "error").env("WG_LOG_LEVEL", "error").env("WG_THREADS", cores.to_string());
        command
    }
}

/// A program in PATH, or where administrators' programs are.
pub(super) fn in_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    directories.map(|directory| directory.join(program)).find(|candidate| candidate.is_file())
}
