//! The operator of a mesh in the lab, who calls the coordinator's API without the start of a program in between.

use std::fs;

use anyhow::{Context as _, Result};
use carrick_attest::{Bundle, Kind, policy::ClusterPolicy, tpm};
use carrick_client::Api;
use carrick_lab::{
    Host,
    mesh::{COORDINATOR, Mesh},
};
use carrick_types::{ClusterName, Credential, LeaseProfile};
use carrick_wire::api::{AppraisalPolicy, Node, PutAppraisalPolicy, RevokeNode};

/// On the coordinator's host, with the admin credential.
pub(crate) struct Operator {
    host: Host,
    api: Api,
}

impl Operator {
    /// The operator of a mesh whose coordinator runs.
    pub(crate) fn of(mesh: &Mesh) -> Result<Self> {
        let file = mesh.data_dir().join("admin.credential");
        let credential =
            fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let credential: Credential = credential.trim().parse().context("the admin credential is damaged")?;
        let url = format!("https://{COORDINATOR}:8443").parse().context("the coordinator has no URL")?;
        Ok(Self { host: mesh.coordinator_host.clone(), api: Api::new(url, credential) })
    }

    /// Revokes a node.
    pub(crate) fn revoke(&self, node: &str) -> Result<()> {
        let path = format!("/v1/nodes/{node}/revoke");
        let revoked: Node = self.call(async |api| api.post(&path, &RevokeNode { reason: None }).await)?;
        anyhow::ensure!(revoked.revoked.is_some(), "{node} was not revoked");
        Ok(())
    }

    /// Puts a lease profile into force, for every cluster.
    pub(crate) fn set_lease(&self, lease: LeaseProfile) -> Result<()> {
        self.publish(|bundle| bundle.default.lease = lease)
    }

    /// Asks the nodes of a cluster for a TPM of these vendors, beside their token.
    pub(crate) fn ask_for_tpms(&self, cluster: ClusterName, endorsement_roots: Vec<String>) -> Result<()> {
        self.publish(|bundle| {
            let accept = vec![[Kind::JoinToken, Kind::Tpm].into()];
            let tpm = Some(tpm::Policy { endorsement_roots, ..tpm::Policy::default() });
            let policy = ClusterPolicy { accept, tpm, ..bundle.default.clone() };
            bundle.clusters.insert(cluster, policy);
        })
    }

    /// Puts the policy bundle that follows into force.
    fn publish(&self, change: impl FnOnce(&mut Bundle)) -> Result<()> {
        let policy: AppraisalPolicy = self.call(async |api| api.get("/v1/appraisal-policy").await)?;
        let mut bundle: Bundle =
            serde_json::from_str(policy.signed.bundle.text()).context("the policy bundle is damaged")?;
        bundle.version += 1;
        change(&mut bundle);
        let draft = PutAppraisalPolicy { signed: None, draft: Some(Box::new(bundle)) };
        self.call(async |api| api.put::<_, AppraisalPolicy>("/v1/appraisal-policy", &draft).await).map(drop)
    }

    fn call<T: Send>(
        &self,
        call: impl AsyncFnOnce(&Api) -> Result<T, carrick_client::ApiError> + Send,
    ) -> Result<T> {
        self.host.within(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(runtime.block_on(call(&self.api))?)
        })
    }
}
