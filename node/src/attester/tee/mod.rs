//! Evidence of confidential VMs and enclaves: AMD SEV-SNP, Intel TDX, AWS Nitro.
//!
//! A [`Device`] puts 64 bytes of ours into what it reports; [`TeeAttester`] asks it, off the async threads and with a deadline, and
//! makes evidence of the answer. Nothing here asks a vendor over the network: what a report needs beside itself comes from the
//! host or from a file.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use carrick_attest::{Blob, Evidence, Kind, Transcript, nitro, sev_snp, tdx};
use futures_util::future::BoxFuture;
use tokio::{
    sync::{Mutex, oneshot},
    time::timeout,
};

use super::Attester;

mod certificates;
mod nsm;
mod sev_guest;
#[cfg(test)]
mod tests;
mod tsm;

use nsm::Nsm;
use sev_guest::SevGuest;
use tsm::{Configfs, Tsm};

/// How long a device may take: a quoting enclave takes a second, a busy host some.
const DEADLINE: Duration = Duration::from_secs(30);

/// How often a device is asked again that was busy, and how long after the first time; each next time twice as long.
const TRIES: u32 = 6;
const PAUSE: Duration = Duration::from_millis(50);

/// Where devices of confidential VMs and enclaves are. Those that exist are used.
#[derive(Debug, Clone)]
pub struct TeeSources {
    /// The directory of configfs-tsm.
    pub tsm: PathBuf,
    /// The SEV-SNP guest device, for kernels without configfs-tsm.
    pub sev_guest: PathBuf,
    /// The Nitro security module.
    pub nsm: PathBuf,
    /// The certificate of the host's VCEK or VLEK, in DER or PEM, where the host does not hand it out.
    pub sev_snp_certificate: Option<PathBuf>,
}

impl Default for TeeSources {
    fn default() -> Self {
        Self {
            tsm: "/sys/kernel/config/tsm/report".into(),
            sev_guest: "/dev/sev-guest".into(),
            nsm: "/dev/nsm".into(),
            sev_snp_certificate: None,
        }
    }
}

/// Something that reports on this machine.
pub trait Device: fmt::Debug + Send + Sync {
    /// A report with these bytes in it. Blocks.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn report(&self, data: &[u8; 64]) -> Result<Report, DeviceError>;
}

/// What a device says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The SEV-SNP report, the TDX quote or the Nitro document.
    pub bytes: Vec<u8>,
    /// What comes with it: of SEV-SNP, the host's table of certificates.
    pub auxiliary: Vec<u8>,
}

/// Why a device reports nothing.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The kernel said no.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// What it said.
        source: io::Error,
    },
    /// It said something that nobody understands.
    #[error("{0}")]
    Answer(String),
}

impl DeviceError {
    fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        |source| Self::Io { doing, source }
    }

    /// Whether the same question may be answered a little later.
    fn is_transient(&self) -> bool {
        match self {
            Self::Io { source, .. } => matches!(
                source.raw_os_error(),
                Some(libc::EBUSY | libc::EINTR | libc::EAGAIN | libc::ETIMEDOUT)
            ),
            Self::Answer(_) => false,
        }
    }
}

/// The attesters of the devices that this host has.
pub(super) fn open(sources: &TeeSources) -> Vec<Box<dyn Attester>> {
    let files = Configfs::new(sources.tsm.clone());
    let provider = tsm::provider(&files).unwrap_or_else(|error| {
        tracing::warn!(%error, "configfs-tsm is there and does not answer");
        None
    });
    let mut devices: Vec<(Kind, Arc<dyn Device>)> = Vec::new();
    match provider {
        Some(provider) => devices.push((provider.kind(), Arc::new(Tsm::new(files, provider)))),
        None if sources.sev_guest.exists() => {
            devices.push((Kind::SevSnp, Arc::new(SevGuest::new(sources.sev_guest.clone()))));
        }
        None => {}
    }
    if sources.nsm.exists() {
        devices.push((Kind::Nitro, Arc::new(Nsm::new(sources.nsm.clone()))));
    }
    devices.into_iter().map(|(kind, device)| attester(kind, device, sources)).collect()
}

/// The attester of a device.
pub(super) fn attester(kind: Kind, device: Arc<dyn Device>, sources: &TeeSources) -> Box<dyn Attester> {
    Box::new(TeeAttester::new(kind, device, sources.sev_snp_certificate.clone()))
}

/// Makes evidence of what a device reports.
#[derive(Debug)]
struct TeeAttester {
    kind: Kind,
    device: Arc<dyn Device>,
    certificate: Option<PathBuf>,
    deadline: Duration,
    /// Held while the device works, even when nobody waits for it any more.
    busy: Arc<Mutex<()>>,
}

impl TeeAttester {
    fn new(kind: Kind, device: Arc<dyn Device>, certificate: Option<PathBuf>) -> Self {
        Self { kind, device, certificate, deadline: DEADLINE, busy: Arc::default() }
    }

    async fn ask(&self, transcript: &Transcript) -> Result<Evidence, String> {
        let (kind, device, certificate) = (self.kind, Arc::clone(&self.device), self.certificate.clone());
        let data = *transcript.as_bytes();
        let asked = async {
            let busy = Arc::clone(&self.busy).lock_owned().await;
            let (answer, answered) = oneshot::channel();
            // Not a thread of the runtime: a device that hangs must not keep the agent from ending.
            let spawned = thread::Builder::new().name(format!("attest {kind}")).spawn(move || {
                let evidence = patiently(PAUSE, || device.report(&data))
                    .map_err(|error| error.to_string())
                    .and_then(|report| evidence(kind, report, certificate.as_deref()));
                drop(busy);
                let _ = answer.send(evidence);
            });
            spawned.map_err(|error| format!("no thread for the device: {error}"))?;
            answered.await.unwrap_or_else(|_| Err("what asks the device ended".to_owned()))
        };
        let late = || Err(format!("the device did not answer within {} s", self.deadline.as_secs_f32()));
        timeout(self.deadline, asked).await.unwrap_or_else(|_| late())
    }
}

impl Attester for TeeAttester {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn attest<'a>(&'a mut self, transcript: &'a Transcript) -> BoxFuture<'a, Result<Evidence, String>> {
        Box::pin(self.ask(transcript))
    }
}

/// Asks until the answer is one, or an error that will not pass.
fn patiently<T>(pause: Duration, mut ask: impl FnMut() -> Result<T, DeviceError>) -> Result<T, DeviceError> {
    for tried in 0..TRIES - 1 {
        match ask() {
            Err(error) if error.is_transient() => thread::sleep(pause * 2u32.pow(tried)),
            answer => return answer,
        }
    }
    ask()
}

/// Evidence of what a device reported.
fn evidence(kind: Kind, report: Report, file: Option<&Path>) -> Result<Evidence, String> {
    match kind {
        Kind::SevSnp => {
            let certificate = match certificates::endorsement(&report.bytes, &report.auxiliary)? {
                Some(certificate) => certificate,
                None => certificate_of(file)?,
            };
            let evidence = sev_snp::Evidence { report: blob(report.bytes)?, certificate: blob(certificate)? };
            Ok(Evidence::SevSnp(Box::new(evidence)))
        }
        Kind::Tdx => Ok(Evidence::Tdx(Box::new(tdx::Evidence::from_device(&report.bytes)?))),
        Kind::Nitro => Ok(Evidence::Nitro(Box::new(nitro::Evidence { document: blob(report.bytes)? }))),
        Kind::Identity | Kind::JoinToken | Kind::Kubernetes | Kind::Tpm => {
            Err(format!("no device makes evidence of kind {kind}"))
        }
    }
}

/// The certificate that the operator put beside the agent.
fn certificate_of(file: Option<&Path>) -> Result<Vec<u8>, String> {
    let Some(path) = file else {
        return Err(
            "the host hands out no certificate for the key that signs SEV-SNP reports: get the VCEK's or \
                    VLEK's from AMD and give it with --sev-snp-certificate"
                .to_owned(),
        );
    };
    let bytes = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    certificates::der(bytes).ok_or_else(|| format!("{} is no certificate in DER or PEM", path.display()))
}

fn blob<const MAX: usize>(bytes: Vec<u8>) -> Result<Blob<MAX>, String> {
    Blob::new(bytes).map_err(|error| format!("what the device reports is too long: {error}"))
}
