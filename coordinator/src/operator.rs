//! The operator's key, as long as the coordinator holds it.
//!
//! A fresh coordinator makes the key itself, so that the first five minutes need no ceremony. `carrick operator init` names another
//! operator; from then on the key that was here signs nothing any more, and is removed.

use std::{
    fs,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use carrick_attest::{
    Bundle, Signed, SignedBundle,
    policy::{LIFETIME, Succession},
    token::Capability,
};
use carrick_types::{MeshId, OperatorKey, OperatorSecret, UnixTime};
use tracing::{info, warn};

use crate::{
    mesh::{Mesh, PublishError},
    state::PublishedBundle,
};

/// When a bundle is signed again: so long before it expires.
const RENEW_BEFORE: Duration = Duration::from_secs(90 * 24 * 3600);

/// The operator's key, where the coordinator holds it. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub(crate) struct HeldOperator {
    file: PathBuf,
    secret: Arc<Mutex<Option<OperatorSecret>>>,
}

impl HeldOperator {
    pub(crate) fn new(file: PathBuf, secret: Option<OperatorSecret>) -> Self {
        Self { file, secret: Arc::new(Mutex::new(secret)) }
    }

    /// Whether it holds the key of this operator.
    pub(crate) fn holds(&self, operator: &OperatorKey) -> bool {
        self.lock().as_ref().is_some_and(|secret| secret.public() == *operator)
    }

    /// Signs what a join token allows. `None` where the key of this operator is not held.
    pub(crate) fn sign_token(
        &self,
        operator: &OperatorKey,
        capability: &Capability,
    ) -> Option<Signed<Capability>> {
        let secret = self.lock();
        secret
            .as_ref()
            .filter(|secret| secret.public() == *operator)
            .map(|secret| Signed::seal(capability, secret))
    }

    /// Signs a bundle that follows another. `None` where the key of the operator is not held.
    pub(crate) fn sign_bundle(&self, before: &PublishedBundle, bundle: &Bundle) -> Option<SignedBundle> {
        let operator = before.trusted.operator();
        let secret = self.lock();
        let secret = secret.as_ref().filter(|secret| secret.public() == operator)?;
        let successions = before.signed.successions.clone();
        Some(SignedBundle { operator, successions, bundle: Signed::seal(bundle, secret) })
    }

    /// Names who follows. `None` where the key of the operator is not held.
    pub(crate) fn name(
        &self,
        mesh: MeshId,
        from: OperatorKey,
        to: OperatorKey,
    ) -> Option<Signed<Succession>> {
        let secret = self.lock();
        let secret = secret.as_ref().filter(|secret| secret.public() == from)?;
        Some(Signed::seal(&Succession { mesh, from, to }, secret))
    }

    /// Removes the key if another operator has followed.
    pub(crate) fn retire(&self, operator: &OperatorKey) {
        let mut secret = self.lock();
        if secret.as_ref().is_none_or(|secret| secret.public() == *operator) {
            return;
        }
        *secret = None;
        match fs::remove_file(&self.file) {
            Ok(()) => info!(file = %self.file.display(), "the former operator's key is removed"),
            Err(error) => {
                warn!(file = %self.file.display(), %error, "remove the former operator's key yourself")
            }
        }
    }

    /// Signs the bundle again where it expires soon and the key is held.
    pub(crate) async fn keep_fresh(&self, mesh: &Mesh, now: UnixTime) -> Result<(), PublishError> {
        let state = mesh.state();
        let bundle = state.policy();
        if bundle.expires_at.saturating_since(now) > RENEW_BEFORE {
            return Ok(());
        }
        let next = Bundle {
            version: bundle.version + 1,
            expires_at: now.saturating_add(LIFETIME),
            ..bundle.clone()
        };
        match self.sign_bundle(&state.bundle, &next) {
            Some(signed) => mesh.publish(signed, now).await.map(drop),
            None => {
                warn!(expires_at = %bundle.expires_at, "the policy bundle expires soon: `carrick bundle edit`, sign and push");
                Ok(())
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<OperatorSecret>> {
        // A key is there whole or not at all.
        self.secret.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
