//! The devices that are measured.

use std::{env, fmt, path::PathBuf, process::Command, thread};

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
    pub(super) fn program(self, named: Option<PathBuf>) -> Result<Program, Absent> {
        let (program, remedy) = match self {
            Self::Carrick => ("carrick", "cargo build --release"),
            Self::WireGuardGo => ("wireguard-go", "apt-get install wireguard-go"),
            Self::Boringtun => ("boringtun-cli", "cargo install --locked boringtun-cli@0.7.1"),
            Self::Gotatun => {
                ("gotatun", "cargo install --locked gotatun-cli@0.10.2 --no-default-features --features ring")
            }
        };
        let found = match &named {
            Some(path) => path.is_file().then(|| path.clone()),
            None => in_path(program),
        };
        match found {
            Some(path) => Ok(Program { contender: self, path, shards: None }),
            None => Err(Absent { program: named.unwrap_or_else(|| program.into()), remedy }),
        }
    }
}

/// A contender as it is run.
#[derive(Debug, Clone)]
pub(super) struct Program {
    pub(super) contender: Contender,
    pub(super) path: PathBuf,
    /// How many threads move packets, where that is not left to itself. Only carrick can be told so.
    pub(super) shards: Option<u8>,
}

impl Program {
    /// What it says of its version: figures of another one are others.
    pub(super) fn version(&self) -> String {
        let said = Command::new(&self.path)
            .arg("--version")
            .output()
            .map(|output| output.stdout)
            .unwrap_or_default();
        String::from_utf8_lossy(&said).lines().next().unwrap_or("unknown").trim().to_owned()
    }

    /// The name of one of its interfaces: devices are found by it, so it is another one for each that runs at a time.
    pub(super) fn interface(&self, end: usize) -> String {
        let shards = self.shards.map(|shards| shards.to_string()).unwrap_or_default();
        format!("{:.9}{shards}{end}", self.contender.name().replace('-', ""))
    }

    /// Runs it in the foreground.
    pub(super) fn command(&self, interface: &str) -> Command {
        let mut command = Command::new(&self.path);
        command.args(match self.contender {
            Contender::Carrick => ["device", "--foreground"].as_slice(),
            Contender::WireGuardGo => &["--foreground"],
            Contender::Boringtun | Contender::Gotatun => &["--foreground", "--disable-drop-privileges"],
        });
        if let Some(shards) = self.shards {
            command.arg("--shards").arg(shards.to_string());
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_have_names_of_their_own_that_the_kernel_takes() {
        let mut names = std::collections::BTreeSet::new();
        for contender in
            [Contender::Carrick, Contender::WireGuardGo, Contender::Boringtun, Contender::Gotatun]
        {
            for shards in [None, Some(1), Some(2), Some(64)] {
                let program = Program { contender, path: PathBuf::new(), shards };
                for end in 0..4 {
                    let name = program.interface(end);
                    assert!(name.len() <= 15, "{name}");
                    assert!(names.insert(name.clone()), "{name} twice");
                }
            }
        }
    }

    #[test]
    fn shards_are_asked_for_where_they_are_said() {
        let mut program = Program { contender: Contender::Carrick, path: "carrick".into(), shards: None };
        let arguments = |program: &Program| {
            let command = program.command("wg0");
            command.get_args().map(|argument| argument.to_string_lossy().into_owned()).collect::<Vec<_>>()
        };
        assert_eq!(arguments(&program), ["device", "--foreground", "wg0"]);
        program.shards = Some(2);
        assert_eq!(arguments(&program), ["device", "--foreground", "--shards", "2", "wg0"]);
    }
}
