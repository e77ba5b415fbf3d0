//! The `carrick` that is measured: built like this program, and lying beside it.

use std::{env, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail, ensure};

/// Brings the binary up to date where cargo runs this program; elsewhere takes the one that is there.
pub(crate) fn find() -> Result<PathBuf> {
    let this = env::current_exe().context("cannot find this program")?;
    let directory = this.parent().context("this program lies in no directory")?;
    let carrick = directory.join("carrick");
    if let (Some(cargo), Some(manifest)) = (env::var_os("CARGO"), env::var_os("CARGO_MANIFEST_DIR")) {
        let target = directory.parent().context("this program lies in no target directory")?;
        let mut build = Command::new(cargo);
        build.args(["build", "--package", "carrick", "--bin", "carrick", "--target-dir"]).arg(target);
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        let built = build.current_dir(manifest).status().context("cannot run cargo")?;
        ensure!(built.success(), "carrick does not build");
    }
    if !carrick.is_file() {
        bail!("{} is missing: build it first with `cargo build --release`", carrick.display());
    }
    Ok(carrick)
}
