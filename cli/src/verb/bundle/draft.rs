//! Bundles in files: drafts, and what an operator signed.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use anyhow::{Context as _, Result, ensure};
use carrick_attest::{Bundle, SignedBundle};

/// The longest file that is read: a bundle with the collateral of a vendor, as JSON in JSON.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stored {
    Draft(Box<Bundle>),
    Signed(Box<SignedBundle>),
}

/// Reads a file, or stdin where it is `-`.
pub(super) fn read(path: &Path) -> Result<Stored> {
    let text = read_text(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).with_context(|| path.display().to_string())
}

/// Reads a draft that makes sense in itself.
pub(super) fn read_draft(path: &Path) -> Result<Bundle> {
    match read(path)? {
        Stored::Draft(draft) => Ok(*draft),
        Stored::Signed(_) => {
            anyhow::bail!("{} is signed already: give the draft, or push this one", path.display())
        }
    }
}

/// Reads what a person wrote.
pub(super) fn parse(text: &str) -> Result<Stored> {
    // A signed bundle has its draft as a string in it, so that neither reads as the other.
    if let Ok(signed) = serde_json::from_str::<SignedBundle>(text) {
        return Ok(Stored::Signed(Box::new(signed)));
    }
    let draft: Bundle = serde_json::from_str(text)
        .context("not a policy bundle: `carrick bundle show -o draft` prints one to begin with")?;
    Ok(Stored::Draft(Box::new(draft)))
}

/// A draft as a person edits it.
pub(super) fn to_text(draft: &Bundle) -> Result<String> {
    let mut text = serde_json::to_string_pretty(draft)?;
    text.push('\n');
    Ok(text)
}

fn read_text(path: &Path) -> Result<String> {
    let source: Box<dyn io::Read> =
        if path == "-" { Box::new(io::stdin()) } else { Box::new(File::open(path)?) };
    let mut text = String::new();
    source.take(MAX_FILE + 1).read_to_string(&mut text)?;
    ensure!(text.len() as u64 <= MAX_FILE, "it is longer than 4 MiB");
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn drafts_and_signed_bundles_are_told_apart() {
        let in_force = fixture::in_force();
        let draft = to_text(&in_force.bundle).unwrap();
        assert_eq!(parse(&draft).unwrap(), Stored::Draft(Box::new(in_force.bundle)));
        let signed = serde_json::to_string(&in_force.answer.signed).unwrap();
        assert_eq!(parse(&signed).unwrap(), Stored::Signed(Box::new(in_force.answer.signed)));
    }

    #[test]
    fn a_slip_in_a_draft_is_named_with_its_place() {
        let draft = to_text(&fixture::in_force().bundle).unwrap().replace("\"lease\"", "\"laese\"");
        let error = format!("{:#}", parse(&draft).unwrap_err());
        assert!(error.contains("unknown field `laese`") && error.contains("line"), "{error}");
        assert!(error.contains("carrick bundle show -o draft"), "{error}");
    }
}
