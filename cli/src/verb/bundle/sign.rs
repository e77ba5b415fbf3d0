//! `carrick bundle sign`.

use std::{path::PathBuf, time::SystemTime};

use anyhow::{Context as _, Result, ensure};
use carrick_attest::{Bundle, Kind, Signed, SignedBundle};
use carrick_types::{OperatorSecret, UnixTime};
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
        check_term(&draft, SystemTime::now().into()).with_context(|| self.file.display().to_string())?;
        warnings(&draft).iter().for_each(|warning| note(&format!("carrick: warning: {warning}")));
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

/// Nobody would accept a key under a bundle that is over when it is signed.
fn check_term(draft: &Bundle, now: UnixTime) -> Result<()> {
    ensure!(
        now < draft.expires_at,
        "the draft expired at {}: put a later `expires_at` into it, as in one of `carrick bundle show -o draft`",
        draft.expires_at
    );
    Ok(())
}

/// What makes sense, and is seldom meant.
pub(super) fn warnings(draft: &Bundle) -> Vec<String> {
    let policies = draft.clusters.iter().map(|(name, policy)| (name.as_str(), policy));
    let policies = policies.chain([("(others)", &draft.default)]);
    let any_machine = policies.filter(|(_, policy)| {
        let accepted = policy.accept.iter().flatten().any(|kind| *kind == Kind::Tpm);
        accepted
            && policy.tpm.as_ref().is_some_and(|tpm| !tpm.endorsement_roots.is_empty() && tpm.pcrs.is_empty())
    });
    let warn = |(name, _): (&str, _)| {
        format!(
            "cluster {name} takes any machine with a TPM of these vendors, whatever it booted: name values under `tpm.pcrs`, as `carrick bundle learn` does"
        )
    };
    any_machine.map(warn).collect()
}

/// The coordinator knows how this operator came to be one, and adds that.
pub(super) fn sign(draft: &Bundle, secret: &OperatorSecret) -> SignedBundle {
    SignedBundle { operator: secret.public(), successions: Vec::new(), bundle: Signed::seal(draft, secret) }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::Duration};

    use carrick_attest::tpm;

    use super::*;
    use crate::fixture;

    #[test]
    fn a_draft_that_is_over_is_not_signed_and_the_error_says_what_to_change() {
        let draft = fixture::in_force().bundle;
        check_term(&draft, fixture::NOW).unwrap();
        let later = draft.expires_at.saturating_add(Duration::from_secs(1));
        let error = check_term(&draft, later).unwrap_err().to_string();
        assert!(error.contains("put a later `expires_at`"), "{error}");
    }

    #[test]
    fn a_policy_that_takes_any_machine_of_a_vendor_is_warned_of() {
        let mut draft = fixture::in_force().bundle;
        assert_eq!(warnings(&draft), Vec::<String>::new());
        let east = draft.clusters.values_mut().next().unwrap();
        east.accept = vec![BTreeSet::from([Kind::Tpm])];
        east.tpm = Some(tpm::Policy { endorsement_roots: vec!["PEM".to_owned()], ..tpm::Policy::default() });
        assert!(warnings(&draft)[0].starts_with("cluster east takes any machine with a TPM"));
        let east = draft.clusters.values_mut().next().unwrap();
        east.tpm.as_mut().unwrap().pcrs.insert(7, BTreeSet::from(["00".repeat(32)]));
        assert_eq!(warnings(&draft), Vec::<String>::new(), "once it names what must have been measured");
    }
}
