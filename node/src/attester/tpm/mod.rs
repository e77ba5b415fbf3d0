//! A TPM 2.0 as a source of evidence.
//!
//! Both keys are *primary* keys of the endorsement hierarchy, made anew whenever they are needed: a TPM derives the same key from the
//! same template each time. So there is no file to lose, the same attestation key comes back after every restart, and a quote shows
//! the true counters, which a TPM blinds for keys of other hierarchies.
//!
//! `tcti` carries bytes, `command` packs them, `device` knows the commands that are used here, `templates` the keys.

mod certificate;
mod command;
mod device;
mod tcti;
mod templates;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};

use carrick_attest::{
    Blob, Evidence, Kind, Transcript,
    tpm::{self, Credential, Keys, PCRS, proof_of_activation},
};
use futures_util::future::BoxFuture;
use sha2::{Digest as _, Sha256};
pub use tcti::{ParseTctiError, Tcti};

use self::{
    certificate::Endorsement,
    device::{Device, TpmError},
    templates::Template,
};
use super::Attester;

/// How often registers are read again when one of them changed between reading and quoting.
const QUOTES: usize = 8;

/// A TPM, and how it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TpmSource {
    /// Where it is.
    pub tcti: Tcti,
    /// Which attestation key; ECC, or RSA where the TPM has no ECC, if this is `None`.
    pub attestation: Option<KeyAlgorithm>,
}

/// The algorithm of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyAlgorithm {
    /// ECC on P-256.
    Ecc,
    /// RSA with 2048 bits.
    Rsa,
}

/// The TPM of this host.
#[derive(Debug)]
pub(super) struct TpmAttester {
    tpm: Arc<Mutex<Tpm>>,
    /// What the TPM recovered of a credential, for the evidence that is asked for next.
    secret: Option<[u8; 32]>,
}

/// The TPM, for one thread at a time.
#[derive(Debug)]
struct Tpm {
    source: TpmSource,
    /// What was found out about its keys. Forgotten when anything fails: the TPM may have been changed.
    known: Option<Known>,
}

#[derive(Debug, Clone)]
struct Known {
    endorsement: Endorsement,
    endorsement_key: Vec<u8>,
    attestation: Template,
    attestation_key: Vec<u8>,
}

/// What the TPM signed of its registers, with their values.
struct Quoted {
    quote: Vec<u8>,
    signature: Vec<u8>,
    values: Vec<u8>,
}

impl TpmAttester {
    pub(super) fn new(source: TpmSource) -> Self {
        Self { tpm: Arc::new(Mutex::new(Tpm { source, known: None })), secret: None }
    }

    /// Does something with the TPM, off the async threads. Goes on to its end where nobody waits any more, so that nothing stays
    /// behind in the TPM.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Tpm) -> Result<T, TpmError> + Send + 'static,
    ) -> Result<T, String> {
        let tpm = self.tpm.clone();
        let work = move || {
            let mut tpm = tpm.lock().unwrap_or_else(PoisonError::into_inner);
            let done = work(&mut tpm);
            if done.is_err() {
                tpm.known = None;
            }
            done
        };
        let done = tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())?;
        done.map_err(|error| error.to_string())
    }
}

impl Attester for TpmAttester {
    fn kind(&self) -> Kind {
        Kind::Tpm
    }

    fn keys(&mut self) -> BoxFuture<'_, Result<Option<Keys>, String>> {
        Box::pin(async { self.with(|tpm| tpm.keys().map(Some)).await })
    }

    fn activate<'a>(&'a mut self, credential: &'a Credential) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async {
            let credential = credential.clone();
            self.secret = Some(self.with(move |tpm| tpm.activate(&credential)).await?);
            Ok(())
        })
    }

    fn attest<'a>(&'a mut self, transcript: &'a Transcript) -> BoxFuture<'a, Result<Evidence, String>> {
        Box::pin(async {
            let transcript = *transcript;
            let secret = self.secret.take().ok_or("no credential was activated for it")?;
            self.with(move |tpm| Ok(Evidence::Tpm(Box::new(tpm.attest(&secret, &transcript)?)))).await
        })
    }
}

impl Tpm {
    fn open(&self) -> Result<Device, TpmError> {
        Device::open(&self.source.tcti)
    }

    /// The public areas of both keys.
    fn keys(&mut self) -> Result<Keys, TpmError> {
        let known = self.known()?;
        Ok(Keys {
            endorsement_key: blob(known.endorsement_key)?,
            attestation_key: blob(known.attestation_key)?,
        })
    }

    /// Recovers the secret of a credential.
    fn activate(&mut self, credential: &Credential) -> Result<[u8; 32], TpmError> {
        let known = self.known()?;
        let mut device = self.open()?;
        device.with_key(known.endorsement.template, |device, endorsement| {
            device.with_key(known.attestation, |device, attestation| {
                device.activate_credential(attestation.handle, endorsement.handle, credential)
            })
        })
    }

    /// Quotes all registers of the SHA-256 bank.
    fn attest(&mut self, secret: &[u8; 32], transcript: &Transcript) -> Result<tpm::Evidence, TpmError> {
        let known = self.known()?;
        let mut device = self.open()?;
        let quoted = device.with_key(known.attestation, |device, key| {
            if key.public != known.attestation_key {
                return Err(TpmError::Answer("another attestation key than before"));
            }
            quote(device, key.handle, &transcript.short())
        })?;
        let Endorsement { certificate, intermediates, .. } = known.endorsement;
        Ok(tpm::Evidence {
            endorsement_key: blob(known.endorsement_key)?,
            endorsement_certificate: certificate.map(blob).transpose()?,
            intermediates: intermediates.into_iter().map(blob).collect::<Result<_, _>>()?,
            attestation_key: blob(known.attestation_key)?,
            quote: blob(quoted.quote)?,
            signature: blob(quoted.signature)?,
            pcr_values: blob(quoted.values)?,
            activation: proof_of_activation(secret, transcript),
        })
    }

    fn known(&mut self) -> Result<Known, TpmError> {
        if let Some(known) = &self.known {
            return Ok(known.clone());
        }
        let mut device = self.open()?;
        let endorsement = Endorsement::find(&mut device)?;
        let endorsement_key = device.with_key(endorsement.template, |_, key| Ok(key.public.clone()))?;
        let (attestation, attestation_key) = attestation(&mut device, self.source.attestation)?;
        let known = Known { endorsement, endorsement_key, attestation, attestation_key };
        Ok(self.known.insert(known).clone())
    }
}

/// The attestation key: of the algorithm that is wanted, or the first that the TPM has.
fn attestation(device: &mut Device, wanted: Option<KeyAlgorithm>) -> Result<(Template, Vec<u8>), TpmError> {
    let mut made = |template| Ok((template, device.with_key(template, |_, key| Ok(key.public.clone()))?));
    match wanted {
        Some(KeyAlgorithm::Ecc) => made(Template::AttestationEcc),
        Some(KeyAlgorithm::Rsa) => made(Template::AttestationRsa),
        None => match made(Template::AttestationEcc) {
            Err(TpmError::Refused { .. }) => made(Template::AttestationRsa),
            made => made,
        },
    }
}

/// Reads and quotes the registers until both agree: one may change between the two.
fn quote(device: &mut Device, key: u32, data: &[u8; 32]) -> Result<Quoted, TpmError> {
    for _ in 0..QUOTES {
        let values = device.read_pcrs(PCRS)?;
        let (quote, signature) = device.quote(key, data, PCRS)?;
        // The digest of the registers is the last thing in a quote.
        if quote.ends_with(&Sha256::digest(&values)) {
            return Ok(Quoted { quote, signature, values });
        }
    }
    Err(TpmError::Answer("registers that do not stay the same"))
}

fn blob<const MAX: usize>(bytes: Vec<u8>) -> Result<Blob<MAX>, TpmError> {
    Blob::new(bytes).map_err(|_| TpmError::Answer("more bytes than a structure of its kind has"))
}
