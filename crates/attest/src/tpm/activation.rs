//! That an attestation key is in the TPM of an endorsement key: seen once a session, by who made the credential.

use aws_lc_rs::hmac;
use serde::{Deserialize, Serialize};

use super::{Credential, CredentialError, Evidence, MAX_PUBLIC, Public, make_credential};
use crate::{Blob, Bytes, Transcript};

/// The keys for which a node asks for a credential: two `TPMT_PUBLIC`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    /// The endorsement key.
    pub endorsement_key: Blob<MAX_PUBLIC>,
    /// The attestation key.
    pub attestation_key: Blob<MAX_PUBLIC>,
}

/// A credential that was given out, with what only its holder and the TPM know. For one session, and for one proof in it.
#[derive(Debug)]
pub struct Activation {
    keys: Keys,
    secret: Secret,
}

struct Secret([u8; 32]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

/// Why evidence is not of keys that were found in one TPM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotActivated {
    /// Other keys than those that the credential was made for.
    #[error("it is of other keys than the credential of this session was made for")]
    OtherKeys,
    /// The secret was not recovered, or for another session.
    #[error("its TPM did not recover the credential of this session")]
    Secret,
}

impl Activation {
    /// Makes a credential for a node's keys. `random` must be fresh.
    ///
    /// # Errors
    /// [`CredentialError`], also where the attestation key is none.
    pub fn new(keys: Keys, random: &[u8; 96]) -> Result<(Self, Credential), CredentialError> {
        let parse = |key: &Blob<MAX_PUBLIC>| Public::parse(key.as_bytes()).map_err(|_| CredentialError::Key);
        let (endorsement, attestation) = (parse(&keys.endorsement_key)?, parse(&keys.attestation_key)?);
        let (secret, rest) = random.split_first_chunk::<32>().ok_or(CredentialError::Key)?;
        let rest = rest.try_into().map_err(|_| CredentialError::Key)?;
        let credential = make_credential(&endorsement, &attestation.name(), secret, rest)?;
        Ok((Self { keys, secret: Secret(*secret) }, credential))
    }

    /// Whether evidence for a transcript is of the keys that were activated. Takes the activation: a credential serves once.
    ///
    /// # Errors
    /// [`NotActivated`].
    pub fn confirm(self, evidence: &Evidence, transcript: &Transcript) -> Result<(), NotActivated> {
        let keys = &self.keys;
        if keys.endorsement_key != evidence.endorsement_key
            || keys.attestation_key != evidence.attestation_key
        {
            return Err(NotActivated::OtherKeys);
        }
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.secret.0);
        hmac::verify(&key, &message(transcript), &evidence.activation.0).map_err(|_| NotActivated::Secret)
    }
}

/// What a node shows of a secret that its TPM recovered: HMAC-SHA-256 under it over the transcript, so that it is worth nothing in
/// another session or for another key, and gives nothing away.
pub fn proof_of_activation(secret: &[u8; 32], transcript: &Transcript) -> Bytes<32> {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), &message(transcript));
    let mut proof = [0; 32];
    proof.copy_from_slice(tag.as_ref());
    Bytes(proof)
}

fn message(transcript: &Transcript) -> Vec<u8> {
    [b"carrick/tpm-activation/1".as_slice(), transcript.as_bytes()].concat()
}
