//! Keeps join tokens out of the process list.
//!
//! Arguments and environment of a process are there for others to read (`ps`, `/proc/PID/cmdline`, `/proc/PID/environ`) for
//! as long as it lives. A daemon that was given a token there puts it into a memory file and executes itself again
//! without it. [`hide`] comes first in every verb that runs for long, before any thread.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, Read, Write as _},
    os::{
        fd::{AsRawFd as _, RawFd},
        unix::{ffi::OsStrExt as _, fs::MetadataExt as _, process::CommandExt as _},
    },
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use carrick_types::JoinToken;
use nix::{
    sys::{
        memfd::{MFdFlags, memfd_create},
        prctl,
    },
    unistd::close,
};
use tracing::warn;

const TOKEN_VARIABLE: &str = "CARRICK_TOKEN";
const CREDENTIAL_VARIABLE: &str = "CARRICK_CREDENTIAL";
const TOKEN_FILE_FLAG: &str = "--token-file";
const DESCRIPTORS: &str = "/proc/self/fd/";

/// The longest token file that is read.
const MAX_TOKEN_FILE: u64 = 64 * 1024;

/// Refuses a file with a secret that others on this host can read or write. What is no file, like a pipe, has no such others.
pub(crate) fn check_private(path: &Path) -> Result<()> {
    ensure!(!is_open_to_others(path), "{0} is open to others: chmod 600 {0}", path.display());
    Ok(())
}

fn is_open_to_others(path: &Path) -> bool {
    // One that is not there is found out by whoever reads it. A memory file has no name by which others could open it.
    fs::metadata(path).is_ok_and(|file| file.is_file() && file.nlink() > 0 && file.mode() & 0o006 != 0)
}

/// Where a verb was told to find its token.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Given<'a> {
    /// Nowhere, or the verb takes none.
    Nothing,
    /// The token itself is an argument.
    Argument(&'a str),
    /// In a file; `-` is stdin.
    File(&'a Path),
}

/// Executes this process again where its arguments or environment hold a secret, and returns where they do not.
pub(crate) fn hide(given: Given<'_>) -> Result<()> {
    let in_environment = [TOKEN_VARIABLE, CREDENTIAL_VARIABLE].iter().any(|name| env::var_os(name).is_some());
    let token = match given {
        Given::Argument(token) => Some(OsString::from(token)),
        Given::Nothing => env::var_os(TOKEN_VARIABLE).filter(|token| !token.is_empty()),
        Given::File(_) => None,
    };
    if !in_environment && token.is_none() {
        // After `/proc/self/exe` was executed the name is `exe`. It matters to `ps` and `pgrep` only.
        let _ = prctl::set_name(c"carrick");
        return Ok(());
    }
    Err(reexec(token.as_deref()))
        .context("cannot hide the token from the process list: put it into a file, --token-file")
}

/// The token that the verb was given, after [`hide`]; `None` where there is none.
pub(crate) fn token(given: Given<'_>) -> Result<Option<JoinToken>> {
    let path = match given {
        Given::File(path) => path,
        Given::Nothing | Given::Argument(_) => return Ok(None),
    };
    if path != "-" && is_open_to_others(path) {
        // Not refused: a token is soon used up, and secrets that Kubernetes mounts are readable by all in their own pod.
        warn!(file = %path.display(), "others can read the join token: chmod 600 its file");
    }
    let text = read(path).with_context(|| format!("cannot read the token from {}", path.display()))?;
    if let Some(descriptor) = descriptor(path) {
        close(descriptor).with_context(|| format!("cannot close {}", path.display()))?;
    }
    Ok(Some(text.parse()?))
}

/// Returns only where it fails.
fn reexec(token: Option<&OsStr>) -> io::Error {
    let attempt = || {
        let mut arguments: Vec<OsString> = env::args_os().collect();
        let memory = token.map(to_memory).transpose()?;
        if let (Some(token), Some(memory)) = (token, &memory) {
            arguments = without_token(arguments, token, memory.as_raw_fd());
        }
        let mut arguments = arguments.into_iter();
        // The memory file has no close-on-exec flag: it is open in the new program.
        Err(Command::new("/proc/self/exe")
            .arg0(arguments.next().unwrap_or_else(|| "carrick".into()))
            .args(arguments)
            .env_remove(TOKEN_VARIABLE)
            .env_remove(CREDENTIAL_VARIABLE)
            .exec())
    };
    attempt().unwrap_or_else(|error: io::Error| error)
}

fn to_memory(secret: &OsStr) -> io::Result<File> {
    let mut file = File::from(memfd_create("token", MFdFlags::empty())?);
    file.write_all(secret.as_bytes())?;
    Ok(file)
}

/// The arguments with the token's file in place of the token.
fn without_token(arguments: Vec<OsString>, token: &OsStr, file: RawFd) -> Vec<OsString> {
    let mut assignment = OsString::from("--token=");
    assignment.push(token);
    let mut kept: Vec<OsString> = Vec::with_capacity(arguments.len() + 1);
    for argument in arguments {
        if argument == token {
            kept.pop_if(|before| before == "--token");
        } else if argument != assignment {
            kept.push(argument);
        }
    }
    // What comes after `--` is no flag.
    let end = kept.iter().position(|argument| argument == "--").unwrap_or(kept.len());
    kept.insert(end, format!("{TOKEN_FILE_FLAG}={DESCRIPTORS}{file}").into());
    kept
}

fn read(path: &Path) -> io::Result<String> {
    let source: Box<dyn Read> = if path == "-" { Box::new(io::stdin()) } else { Box::new(File::open(path)?) };
    let mut text = String::new();
    source.take(MAX_TOKEN_FILE).read_to_string(&mut text)?;
    Ok(text)
}

/// The inherited descriptor that a path stands for.
fn descriptor(path: &Path) -> Option<RawFd> {
    path.to_str()?.strip_prefix(DESCRIPTORS)?.parse().ok().filter(|&descriptor| descriptor > 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hidden(line: &str) -> String {
        let arguments = line.split(' ').map(OsString::from).collect();
        let kept = without_token(arguments, OsStr::new("SECRET"), 7);
        kept.iter().map(|argument| argument.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_token_leaves_the_arguments_however_it_was_given() {
        for (before, after) in [
            (
                "carrick node --token SECRET --mtu 1300",
                "carrick node --mtu 1300 --token-file=/proc/self/fd/7",
            ),
            ("carrick node --token=SECRET", "carrick node --token-file=/proc/self/fd/7"),
            ("carrick join SECRET --host", "carrick join --host --token-file=/proc/self/fd/7"),
            ("carrick join --host -- SECRET", "carrick join --host --token-file=/proc/self/fd/7 --"),
            ("carrick node --name a", "carrick node --name a --token-file=/proc/self/fd/7"),
        ] {
            assert_eq!(hidden(before), after);
        }
    }

    #[test]
    fn a_file_that_others_can_read_holds_no_secret() {
        use std::os::unix::fs::PermissionsExt as _;
        let path = env::temp_dir().join(format!("carrick-secret-{}", std::process::id()));
        fs::write(&path, "x").unwrap();
        for (mode, is_open) in [(0o644, true), (0o602, true), (0o640, false), (0o600, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(is_open_to_others(&path), is_open, "{mode:o}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = check_private(&path).unwrap_err().to_string();
        assert!(error.ends_with(&format!("chmod 600 {}", path.display())), "{error}");
        fs::remove_file(&path).unwrap();
        for no_file in ["/dev/null", "/nowhere"] {
            check_private(Path::new(no_file)).unwrap();
        }
        let memory = to_memory(OsStr::new("x")).unwrap();
        assert!(!is_open_to_others(Path::new(&format!("{DESCRIPTORS}{}", memory.as_raw_fd()))));
    }

    #[test]
    fn only_an_inherited_descriptor_is_closed() {
        assert_eq!(descriptor(Path::new("/proc/self/fd/7")), Some(7));
        for path in ["-", "/proc/self/fd/0", "/proc/self/fd/x", "token"] {
            assert_eq!(descriptor(Path::new(path)), None, "{path}");
        }
    }
}
