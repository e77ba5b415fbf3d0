//! `carrick bundle sign`.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use carrick_attest::{Bundle, Signed, SignedBundle};
use carrick_types::OperatorSecret;
use clap::Args;

use super::draft;
use crate::{operator_key::KeyArgs, output::note, scratch};

/// Sign a draft with the operator's key
///
/// Asks no coordinator: it works on a host without a network.
#[derive(Debug, Args)]
pub(super) struct Sign {
    /// The draft; `-` reads stdin
    #[arg(short = 'f', long = "file", value_name = "DRAFT")]
    file: PathBuf,
    /// Where to write the signed bundle [default: stdout]
    #[arg(short = 'o', long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    key: KeyArgs,
}

impl Sign {
    pub(super) fn run(self) -> Result<()> {
        let draft = draft::read_draft(&self.file)?;
        draft.check().with_context(|| self.file.display().to_string())?;
        let secret = self.key.load()?;
        let signed = sign(&draft, &secret);
        signed.bundle.open(&secret.public()).with_context(|| self.file.display().to_string())?;
        let mut text = serde_json::to_string_pretty(&signed)?;
        text.push('\n');
        scratch::write(self.out.as_deref(), &text)?;
        note(&format!(
            "version {} signed by {}: `carrick bundle push` puts it into force",
            draft.version,
            secret.public()
        ));
        Ok(())
    }
}

/// The coordinator knows how this operator came to be one, and adds that.
pub(super) fn sign(draft: &Bundle, secret: &OperatorSecret) -> SignedBundle {
    SignedBundle { operator: secret.public(), successions: Vec::new(), bundle: Signed::seal(draft, secret) }
}
