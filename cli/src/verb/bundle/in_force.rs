//! The bundle that is in force.

use anyhow::{Context as _, Result};
use carrick_attest::{Bundle, policy::LIFETIME};
use carrick_client::Api;
use carrick_types::{OperatorKey, OperatorPin, UnixTime};
use carrick_wire::api::AppraisalPolicy;

/// The bundle in force, as the coordinator shows it and as its operator signed it.
#[derive(Debug, Clone)]
pub(crate) struct InForce {
    pub(crate) answer: AppraisalPolicy,
    pub(crate) bundle: Bundle,
}

impl InForce {
    /// Asks the coordinator.
    pub(crate) async fn of(api: &Api) -> Result<Self> {
        Self::read(api.get("/v1/appraisal-policy").await?)
    }

    pub(crate) fn read(answer: AppraisalPolicy) -> Result<Self> {
        let bundle: Bundle = serde_json::from_str(answer.signed.bundle.text())
            .context("the policy bundle in force is of a newer carrick: upgrade")?;
        let pin = OperatorPin::of(&answer.signed.operator);
        let trusted =
            answer.signed.open(&pin, &bundle.mesh).context("the policy bundle in force is not believed")?;
        let bundle = trusted.get().clone();
        Ok(Self { answer, bundle })
    }

    /// Who signed it.
    pub(crate) const fn operator(&self) -> OperatorKey {
        self.answer.signed.operator
    }

    /// What follows it while nothing else changes: the next version, with a new term.
    pub(super) fn draft(&self, now: UnixTime) -> Bundle {
        Bundle {
            version: self.bundle.version + 1,
            expires_at: now.saturating_add(LIFETIME).max(self.bundle.expires_at),
            ..self.bundle.clone()
        }
    }
}
