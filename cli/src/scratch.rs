//! Files that are written whole or not at all: first beside their place, under a name that nobody else uses.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{operator_key::random, output};

/// Writes to a file, or to stdout.
pub(crate) fn write(path: Option<&Path>, text: &str) -> Result<()> {
    match path.filter(|path| *path != "-") {
        None => output::print(text),
        Some(path) => {
            let draft = beside(path)?;
            let written = fs::write(&draft, text).and_then(|()| fs::rename(&draft, path));
            if written.is_err() {
                let _ = fs::remove_file(&draft);
            }
            written.with_context(|| format!("cannot write {}", path.display()))
        }
    }
}

/// Where a file is written before it gets its name: in the same directory, and not there yet.
pub(crate) fn beside(path: &Path) -> Result<PathBuf> {
    let name = path.file_name().with_context(|| format!("{} names no file", path.display()))?;
    let mut draft = OsString::from(".");
    draft.push(name);
    draft.push(format!(".{:016x}", u64::from_ne_bytes(random()?)));
    Ok(path.with_file_name(draft))
}
