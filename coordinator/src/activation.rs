//! Credential activation: that the keys of a TPM are in one TPM, found out in the session in which they are shown.
//!
//! Nothing of this is kept. A peer sees the outcome in the grant, and believes it as far as it believes the coordinator; the
//! policy bundle may name attestation keys, so that it need not.

use carrick_attest::{
    Appraisal, Evidence, Kind, Rejection, Statement, Subject,
    tpm::{Activation, Credential, Keys, NotActivated},
};

use crate::refusal::Refused;

/// Makes a credential for the keys that a node will show.
///
/// # Errors
/// [`Refused::Protocol`] where they are no keys of a TPM.
pub(crate) fn begin(keys: Keys) -> Result<(Activation, Credential), Refused> {
    let mut random = [0; 96];
    getrandom::fill(&mut random).map_err(|_| Refused::Stopping)?;
    Activation::new(keys, &random)
        .map_err(|_| Refused::Protocol("a credential is made for an endorsement key and an attestation key"))
}

/// Whether evidence of a TPM is of the keys that were activated in this session, for this evidence. Of a node without a TPM,
/// nothing is asked.
///
/// # Errors
/// [`Refused::Evidence`].
pub(crate) fn confirm(
    activation: Option<Activation>,
    subject: &Subject,
    statements: &[Statement],
) -> Result<(), Refused> {
    let mut activation = activation;
    for statement in statements {
        let Evidence::Tpm(evidence) = &statement.evidence else { continue };
        let transcript = statement.moment.transcript(subject, Kind::Tpm);
        let confirmed = match activation.take() {
            None => Err("no credential was asked for in this session".to_owned()),
            Some(activation) => {
                activation.confirm(evidence, &transcript).map_err(|error: NotActivated| error.to_string())
            }
        };
        if let Err(why) = confirmed {
            let mut appraisal = Appraisal::new(Kind::Tpm);
            appraisal.refuse(
                "activation",
                why.clone(),
                "the keys that were found in one TPM in this session",
            );
            return Err(Rejection { why: format!("evidence tpm: {why}"), appraisals: vec![appraisal] }.into());
        }
    }
    Ok(())
}
