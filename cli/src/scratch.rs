//! Files that are written whole or not at all: first beside their place, under a name that nobody else uses.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::operator_key::random;

/// Where a file is written before it gets its name: in the same directory, and not there yet.
pub(crate) fn beside(path: &Path) -> Result<PathBuf> {
    let name = path.file_name().with_context(|| format!("{} names no file", path.display()))?;
    let mut draft = OsString::from(".");
    draft.push(name);
    draft.push(format!(".{:016x}", u64::from_ne_bytes(random()?)));
    Ok(path.with_file_name(draft))
}
