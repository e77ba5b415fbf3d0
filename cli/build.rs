//! Tells the binary which commit it was built from: `CARRICK_COMMIT`, `unknown` where there is no git.

use std::{path::Path, process::Command};

fn main() {
    for path in ["HEAD", "packed-refs", &git(&["symbolic-ref", "--quiet", "HEAD"]).unwrap_or_default()] {
        let file = git(&["rev-parse", "--git-path", path]);
        // A path that does not exist would make every build a new one.
        if let Some(file) = file.filter(|file| !path.is_empty() && Path::new(file).exists()) {
            println!("cargo::rerun-if-changed={file}");
        }
    }
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-env=CARRICK_COMMIT={}", commit().as_deref().unwrap_or("unknown"));
}

/// The commit, marked where tracked files differ from it.
fn commit() -> Option<String> {
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).filter(|commit| !commit.is_empty())?;
    let changes = git(&["--no-optional-locks", "status", "--porcelain", "--untracked-files=no"])?;
    Some(if changes.is_empty() { commit } else { format!("{commit}-dirty") })
}

/// What git prints, in one line; `None` where it fails or is not there.
fn git(arguments: &[&str]) -> Option<String> {
    let output =
        Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok().map(|text| text.trim().to_owned())
}
