//! The operator, who calls the coordinator's API.

use std::time::Duration;

use carrick_attest::Bundle;
use carrick_client::Api;
use carrick_lab::{eventually, mesh::Mesh};
use carrick_types::Credential;
use carrick_wire::api::{AppraisalPolicy, PutAppraisalPolicy};

use super::guest;

/// The API of a mesh's coordinator, to be called on its host.
pub(crate) fn api(mesh: &Mesh) -> Api {
    let path = mesh.data_dir().join("admin.credential");
    let read = || std::fs::read_to_string(&path).ok()?.trim().parse::<Credential>().ok();
    let credential = eventually(Duration::from_secs(5), "the admin credential", read).unwrap();
    Api::new(format!("https://{}", mesh.coordinator_address()).parse().unwrap(), credential)
}

/// Puts the policy bundle into force that follows from the one in force by a change.
pub(crate) fn change_policy(mesh: &Mesh, change: impl FnOnce(&mut Bundle) + Send) {
    let api = api(mesh);
    guest::on(&mesh.coordinator_host, async || {
        let policy: AppraisalPolicy = api.get("/v1/appraisal-policy").await.unwrap();
        let mut bundle: Bundle = serde_json::from_str(policy.signed.bundle.text()).unwrap();
        bundle.version += 1;
        change(&mut bundle);
        let draft = PutAppraisalPolicy { signed: None, draft: Some(Box::new(bundle)) };
        let _: AppraisalPolicy = api.put("/v1/appraisal-policy", &draft).await.unwrap();
    });
}
