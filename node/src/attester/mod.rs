//! Where evidence comes from: one module for each kind, asked when the policy bundle wants the kind.

mod kubernetes;
mod tee;
mod tpm;

use std::{collections::BTreeSet, fmt, sync::Arc};

use carrick_attest::{Evidence, Kind, Moment, Subject, Transcript, policy::ClusterPolicy, tpm as evidence};
use futures_util::future::BoxFuture;
use tokio::sync::Mutex;

pub use self::{
    kubernetes::KubernetesSource,
    tee::{Device, DeviceError, Report, TeeSources},
    tpm::{KeyAlgorithm, ParseTctiError, Tcti, TpmSource},
};

/// Where this host's evidence comes from.
#[derive(Debug, Clone, Default)]
pub struct EvidenceSources {
    /// The API server that vouches for this pod; where this is `None`, the one of the pod that the agent runs in, if it does.
    pub kubernetes: Option<KubernetesSource>,
    /// The devices of confidential VMs and enclaves.
    pub tee: TeeSources,
    /// Devices that report on this host without being ones that the kernel shows: recorded ones, for tests.
    pub devices: Vec<(Kind, Arc<dyn Device>)>,
    /// The TPM, where there is one. It is left alone as long as the policy bundle does not ask for it.
    pub tpm: Option<TpmSource>,
}

/// Why there is no evidence.
#[derive(Debug, thiserror::Error)]
pub enum AttesterError {
    /// The policy bundle wants evidence that this host cannot show.
    #[error("the policy bundle asks cluster {cluster} for {wanted}, and this host can show {available}")]
    Missing {
        /// The cluster.
        cluster: String,
        /// What would do.
        wanted: String,
        /// What there is.
        available: String,
    },
    /// A device failed.
    #[error("no evidence of kind {kind}: {why}")]
    Device {
        /// Which.
        kind: Kind,
        /// What it said.
        why: String,
    },
}

/// Something that makes evidence of one kind.
pub(crate) trait Attester: fmt::Debug + Send {
    /// Which.
    fn kind(&self) -> Kind;

    /// The keys for which the coordinator must make a credential first, where it must.
    fn keys(&mut self) -> BoxFuture<'_, Result<Option<evidence::Keys>, String>> {
        Box::pin(async { Ok(None) })
    }

    /// Takes the credential, for the evidence that is asked for next.
    fn activate<'a>(&'a mut self, _: &'a evidence::Credential) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async { Err("it takes no credential".to_owned()) })
    }

    /// Evidence that is bound to a transcript, or what the device said instead. Cancel-safe: what was begun is done again.
    fn attest<'a>(&'a mut self, transcript: &'a Transcript) -> BoxFuture<'a, Result<Evidence, String>>;
}

/// Every attester of this host. Cheap to clone; all clones are one: a device answers one question at a time.
#[derive(Debug, Clone)]
pub(crate) struct Attesters(Arc<Mutex<Vec<Box<dyn Attester>>>>);

impl Attesters {
    pub(crate) fn new(sources: &EvidenceSources) -> Self {
        Self(Arc::new(Mutex::new(sources.open())))
    }

    /// The kinds to show in a cluster: of the first set that this host can show whole. `has_token`: whether the node holds a join
    /// token, or came in by one.
    ///
    /// # Errors
    /// [`AttesterError::Missing`].
    pub(crate) async fn choose(
        &self,
        (cluster, policy): (&carrick_types::ClusterName, &ClusterPolicy),
        has_token: bool,
    ) -> Result<BTreeSet<Kind>, AttesterError> {
        let mut available: BTreeSet<Kind> =
            self.0.lock().await.iter().map(|attester| attester.kind()).collect();
        if has_token {
            available.insert(Kind::JoinToken);
        }
        match policy.accept.iter().find(|set| set.is_subset(&available)) {
            Some(set) => Ok(set.clone()),
            None => Err(AttesterError::Missing {
                cluster: cluster.to_string(),
                wanted: policy.accept.iter().map(listed).collect::<Vec<_>>().join(", or "),
                available: listed(&available),
            }),
        }
    }

    /// The keys for which the coordinator must make a credential before evidence of these kinds is of use, where it must.
    ///
    /// # Errors
    /// The device fails.
    pub(crate) async fn keys(&self, kinds: &BTreeSet<Kind>) -> Result<Option<evidence::Keys>, AttesterError> {
        for attester in self.0.lock().await.iter_mut().filter(|attester| kinds.contains(&attester.kind())) {
            let kind = attester.kind();
            if let Some(keys) = attester.keys().await.map_err(|why| AttesterError::Device { kind, why })? {
                return Ok(Some(keys));
            }
        }
        Ok(None)
    }

    /// Hands the credential to the TPM.
    ///
    /// # Errors
    /// The device fails, or does not have both keys.
    pub(crate) async fn activate(&self, credential: &evidence::Credential) -> Result<(), AttesterError> {
        let (kind, mut attesters) = (Kind::Tpm, self.0.lock().await);
        let attester = attesters.iter_mut().find(|attester| attester.kind() == kind);
        let attester =
            attester.ok_or_else(|| AttesterError::Device { kind, why: "there is none".to_owned() })?;
        attester.activate(credential).await.map_err(|why| AttesterError::Device { kind, why })
    }

    /// Asks for evidence of each kind; of a join token, which is no device, for nothing.
    ///
    /// # Errors
    /// The first device that fails.
    pub(crate) async fn attest(
        &self,
        kinds: &BTreeSet<Kind>,
        moment: &Moment,
        subject: &Subject,
    ) -> Result<Vec<Evidence>, AttesterError> {
        let mut attesters = self.0.lock().await;
        let mut evidence = Vec::new();
        for attester in attesters.iter_mut().filter(|attester| kinds.contains(&attester.kind())) {
            let kind = attester.kind();
            let shown = attester.attest(&moment.transcript(subject, kind)).await;
            evidence.push(shown.map_err(|why| AttesterError::Device { kind, why })?);
        }
        Ok(evidence)
    }
}

impl EvidenceSources {
    /// The attesters that this host has.
    fn open(&self) -> Vec<Box<dyn Attester>> {
        let mut attesters = tee::open(&self.tee);
        for (kind, device) in &self.devices {
            attesters.push(tee::attester(*kind, Arc::clone(device), &self.tee));
        }
        if let Some(source) = self.kubernetes.clone().or_else(KubernetesSource::of_this_pod) {
            attesters.push(Box::new(kubernetes::Kubernetes(source)));
        }
        if let Some(source) = &self.tpm {
            attesters.push(Box::new(tpm::TpmAttester::new(source.clone())));
        }
        attesters
    }
}

fn listed(kinds: &BTreeSet<Kind>) -> String {
    if kinds.is_empty() {
        return "nothing".to_owned();
    }
    kinds.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(" and ")
}
