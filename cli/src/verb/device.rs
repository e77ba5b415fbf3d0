//! `carrick device`, and what a link called `carrick-device` does: the packet path as a WireGuard device without a mesh.

use std::{
    env,
    ffi::{CStr, OsString},
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::{fs::OpenOptionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use carrick_node::stand_alone;
use clap::Args;

use super::node::{parse_interface, parse_shards};
use crate::runtime;

/// The name under which the binary is this verb: `wg-quick` passes nothing but the interface's name.
const LINK: &str = "carrick-device";

/// What the process in the background is called.
const NAME: &CStr = c"carrick";

/// Set for the process that stays when its parent leaves. The parent waits at its stdout until the device is there.
const DETACHED: &str = "CARRICK_DEVICE_DETACHED";

/// Run a WireGuard device without a mesh, to be configured with wg or wg-quick
///
/// It ends when its interface or its socket in /var/run/wireguard is removed.
#[derive(Debug, Args)]
#[command(after_help = "\
LOG_LEVEL (verbose, error or silent) says what is logged, as for other WireGuard devices, unless CARRICK_LOG does.
WG_PROCESS_FOREGROUND=1 is --foreground.

Examples:
  carrick device wg0 && wg setconf wg0 wg0.conf

Where the kernel has no WireGuard, for wg-quick:
  ln -s $(command -v carrick) /usr/local/bin/carrick-device
  WG_QUICK_USERSPACE_IMPLEMENTATION=carrick-device wg-quick up wg0")]
pub(crate) struct Device {
    /// Stay in the foreground
    #[arg(short, long)]
    foreground: bool,
    /// Where the log of a device in the background goes [default: nowhere]
    #[arg(long, value_name = "FILE", env = "CARRICK_LOG_FILE")]
    log_file: Option<PathBuf>,
    /// How many threads move packets
    #[arg(long, value_name = "NUMBER", env = "CARRICK_SHARDS", default_value_t = 1, value_parser = parse_shards)]
    shards: usize,
    /// The name of the interface that it makes
    #[arg(value_name = "IFNAME", value_parser = parse_interface)]
    interface: String,
}

impl Device {
    pub(super) fn run(self) -> Result<()> {
        let detached = env::var_os(DETACHED).is_some();
        if detached {
            nix::unistd::setsid().context("cannot leave the terminal")?;
            // It was started as /proc/self/exe.
            nix::sys::prctl::set_name(NAME).context("cannot name the process")?;
        } else if !self.foreground && env::var_os("WG_PROCESS_FOREGROUND").is_none_or(|value| value != "1") {
            return self.detach();
        }
        let log = if detached { Some(open_log(self.log_file.as_deref())?) } else { None };
        let ready = || log.map_or(Ok(()), |log| leave_parent(&log));
        runtime::serve(async |shutdown| {
            Ok(stand_alone::run(&self.interface, self.shards, ready, shutdown).await?)
        })
    }

    /// Starts this program again, and returns when the device is there. Why it is not, the other process says.
    fn detach(&self) -> Result<()> {
        let mut command = Command::new("/proc/self/exe");
        command.arg0("carrick").args(["device", "--foreground"]).env(DETACHED, "1");
        command.arg("--shards").arg(self.shards.to_string());
        if let Some(log_file) = &self.log_file {
            command.arg("--log-file").arg(log_file);
        }
        command.args(["--", &self.interface]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut device = command.spawn().context("cannot start the device's process")?;
        let mut said = Vec::new();
        if let Some(stdout) = &mut device.stdout {
            stdout.read_to_end(&mut said).context("cannot hear of the device")?;
        }
        if said != READY {
            let status = device.wait().context("cannot wait for the device's process")?;
            bail!("the device {} was not made ({status})", self.interface);
        }
        Ok(())
    }
}

/// What the process that stays says to its parent.
const READY: &[u8] = b"ready";

/// Where what is logged goes: to this file, or nowhere.
fn open_log(file: Option<&Path>) -> Result<File> {
    let path = file.unwrap_or(Path::new("/dev/null"));
    let log = OpenOptions::new().append(true).create(file.is_some()).mode(0o600).open(path);
    log.with_context(|| format!("cannot log to {}", path.display()))
}

/// Lets the parent go, with everything that this process has of it.
fn leave_parent(log: &File) -> io::Result<()> {
    env::set_current_dir("/")?;
    let mut stdout = io::stdout();
    stdout.write_all(READY)?;
    stdout.flush()?;
    nix::unistd::dup2_stderr(log)?;
    nix::unistd::dup2_stdout(log)?;
    Ok(())
}

/// The arguments as this program takes them, whichever name it was called by.
pub(crate) fn arguments(given: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = given.collect();
    let called = arguments.first().map(Path::new).and_then(Path::file_name);
    if called.is_some_and(|name| name == LINK) {
        arguments.insert(1, "device".into());
    }
    arguments
}

/// What is logged, by the variable that other WireGuard devices have.
pub(super) fn log_filter() -> &'static str {
    match env::var("LOG_LEVEL").as_deref() {
        Ok("verbose" | "debug") => "debug",
        Ok("error") => "error",
        Ok("silent") => "off",
        Ok(_) | Err(_) => "info",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_the_verb() {
        let arguments = |line: &str| {
            let given = arguments(line.split(' ').map(OsString::from));
            given.into_iter().map(|argument| argument.into_string().unwrap()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(arguments("/usr/bin/carrick-device wg0"), "/usr/bin/carrick-device device wg0");
        assert_eq!(arguments("carrick-device -f wg0"), "carrick-device device -f wg0");
        assert_eq!(arguments("/usr/bin/carrick device wg0"), "/usr/bin/carrick device wg0");
        assert_eq!(arguments("carrick status"), "carrick status");
    }
}
