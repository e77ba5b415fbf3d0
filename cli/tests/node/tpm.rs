//! Nodes whose TPM is asked: the real agent, and swtpm in the place of the chip.

use std::{fs, time::Duration};

use carrick_attest::{Bundle, Kind, tpm::Policy};
use carrick_client::{Api, Connection, connect};
use carrick_lab::{Certified, Swtpm, in_lab_for, mesh::Mesh};
use carrick_types::Credential;
use carrick_wire::api::AppraisalPolicy;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    mesh::{assert_does_not_reach, assert_reaches},
    operator::succeeded,
    support::{PATIENCE, carrick, guest, wait_for},
};

const EAST: usize = 0;
const WEST: usize = 1;

/// Making two TPMs takes a while.
const LIMIT: Duration = Duration::from_secs(300);

/// Evidence is asked for again after so many seconds, the fewest that a policy bundle may say.
const REATTEST: u32 = 10;

#[test]
fn a_node_is_asked_for_its_tpm_again_and_has_the_same_key_after_a_restart() {
    in_lab_for(LIMIT, |lab| {
        let (mut mesh, tpms) = with_tpms(Mesh::build(lab, carrick(), &[("east", 1), ("west", 1)]).unwrap());
        start(&mut mesh, &tpms);
        assert_reaches(&mesh.nodes[EAST], &mesh.nodes[WEST]);
        assert_reaches(&mesh.nodes[WEST], &mesh.nodes[EAST]);
        let first = tpm_of(&mesh, "east-1");
        wait_for("new evidence of the TPM", || {
            (tpm_of(&mesh, "east-1")["appraised_at"] != first["appraised_at"]).then_some(())
        });

        let old = mesh.nodes[EAST].process.take().unwrap();
        assert!(old.terminate(PATIENCE).unwrap().success(), "{}", old.output());
        let restarted = tpm_of(&mesh, "east-1");
        start_node(&mut mesh, EAST, None, &tpms[EAST]);
        mesh.wait_for_node(EAST).unwrap();
        let after = wait_for("evidence of the agent that was restarted", || {
            let evidence = tpm_of(&mesh, "east-1");
            (evidence["appraised_at"] != restarted["appraised_at"]).then_some(evidence)
        });
        for claim in ["attestation key", "endorsement key"] {
            assert_eq!(claimed(&first, claim), claimed(&after, claim));
        }
        assert_eq!(claimed(&after, "activation"), "the coordinator's word");
        assert_reaches(&mesh.nodes[WEST], &mesh.nodes[EAST]);
    });
}

#[test]
fn a_node_that_moves_to_another_tpm_is_cut_off() {
    in_lab_for(LIMIT, |lab| {
        let (mut mesh, tpms) = with_tpms(Mesh::build(lab, carrick(), &[("east", 1), ("west", 1)]).unwrap());
        start(&mut mesh, &tpms);
        let old = mesh.nodes[EAST].process.take().unwrap();
        assert!(old.terminate(PATIENCE).unwrap().success(), "{}", old.output());
        // As good as its own, and of a vendor that is pinned.
        start_node(&mut mesh, EAST, None, &tpms[WEST]);
        let coordinator = mesh.coordinator.as_ref().unwrap();
        let why = "does not follow what this node showed before: same TPM is";
        coordinator.wait_for_line(why, PATIENCE * 2).unwrap();
        wait_for("the node to be suspended", || {
            let nodes = mesh.json(&["nodes"]).unwrap();
            let node = nodes.as_array()?.iter().find(|node| node["name"] == "east-1")?.clone();
            (node["state"] != "active").then_some(())
        });
        assert_does_not_reach(&mesh.nodes[WEST], &mesh.nodes[EAST]);
    });
}

#[test]
fn what_a_node_has_measured_is_learnt_and_asked_of_its_cluster_from_then_on() {
    in_lab_for(LIMIT, |lab| {
        let (mut mesh, tpms) = with_tpms(Mesh::build(lab, carrick(), &[("east", 1), ("west", 1)]).unwrap());
        start(&mut mesh, &tpms);
        let file = mesh.directory().join("draft.json");
        let (draft, east_cluster) = (file.to_str().unwrap(), "east".parse().unwrap());
        let warned = mesh.operate(&["bundle", "push", "--dry-run", "-f", &again(&mesh)]).unwrap();
        assert!(succeeded(warned).contains("takes any machine with a TPM of these vendors"));

        succeeded(mesh.operate(&["bundle", "learn", "east-1", "--draft", draft]).unwrap());
        let mut learnt: Bundle = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        let east = learnt.clusters.get_mut(&east_cluster).unwrap().tpm.as_mut().unwrap();
        let shown = tpm_of(&mesh, "east-1");
        for (register, values) in &east.pcrs {
            let value = claimed(&shown, &format!("pcr {register}"));
            assert_eq!(values.iter().collect::<Vec<_>>(), [&value], "PCR {register}");
        }
        assert!(!east.pcrs.is_empty() && learnt.clusters.len() == 1);
        let pushed = succeeded(mesh.operate(&["bundle", "push", "-f", draft, "--yes"]).unwrap());
        assert!(pushed.contains("No node is suspended"), "{pushed}");
        succeeded(mesh.operate(&["attest", "east-1"]).unwrap());
        assert_reaches(&mesh.nodes[WEST], &mesh.nodes[EAST]);

        // A machine that has booted something else is out.
        let east = learnt.clusters.get_mut(&east_cluster).unwrap().tpm.as_mut().unwrap();
        *east.pcrs.values_mut().next().unwrap() = ["ab".repeat(32)].into();
        learnt.version += 1;
        fs::write(&file, serde_json::to_vec(&learnt).unwrap()).unwrap();
        let pushed = succeeded(mesh.operate(&["bundle", "push", "-f", draft, "--yes"]).unwrap());
        assert!(
            pushed.contains("1 node is suspended:\n  east-1 of cluster east: evidence tpm: pcr"),
            "{pushed}"
        );
    });
}

/// A file with what would follow the bundle in force, unchanged.
fn again(mesh: &Mesh) -> String {
    let file = mesh.directory().join("again.json");
    fs::write(&file, succeeded(mesh.operate(&["bundle", "show", "-o", "draft"]).unwrap())).unwrap();
    file.to_str().unwrap().to_owned()
}

/// Starts the coordinator, makes a TPM for each node, and has the policy bundle ask for it.
fn with_tpms(mut mesh: Mesh) -> (Mesh, Vec<Swtpm>) {
    mesh.start_coordinator(&[]).unwrap();
    let make =
        |name: &String| Swtpm::make(&mesh.directory().join(format!("tpm-{name}")), Certified::Rsa).unwrap();
    let tpms: Vec<Swtpm> = mesh.nodes.iter().map(|node| make(&node.name)).collect();
    let roots: Vec<String> = tpms.iter().flat_map(|tpm| tpm.roots().unwrap()).collect();
    guest::on(&mesh.coordinator_host, async || ask_for_tpms(&mesh, roots).await);
    (mesh, tpms)
}

fn start(mesh: &mut Mesh, tpms: &[Swtpm]) {
    for (index, tpm) in tpms.iter().enumerate() {
        let token = mesh.token(&mesh.nodes[index].cluster.clone(), 1).unwrap();
        start_node(mesh, index, Some(&token), tpm);
        mesh.wait_for_node(index).unwrap();
    }
    mesh.settle().unwrap();
}

fn start_node(mesh: &mut Mesh, index: usize, token: Option<&str>, tpm: &Swtpm) {
    let mut command = mesh.node_command(index, token).unwrap();
    command.args(["--tpm", &tpm.tcti()]);
    let node = &mut mesh.nodes[index];
    node.process = Some(node.host.spawn(&node.name, command).unwrap());
}

/// Puts a policy bundle into force that asks every node for a token and a TPM of these vendors.
async fn ask_for_tpms(mesh: &Mesh, endorsement_roots: Vec<String>) {
    let policy: AppraisalPolicy = api(mesh).get("/v1/appraisal-policy").await.unwrap();
    let mut draft: Bundle = serde_json::from_str(policy.signed.bundle.text()).unwrap();
    draft.version += 1;
    draft.default.reattest_s = REATTEST;
    draft.default.accept = vec![[Kind::JoinToken, Kind::Tpm].into()];
    draft.default.tpm = Some(Policy { endorsement_roots, ..Policy::default() });
    let body = json!({ "draft": draft }).to_string();
    let credential = credential(mesh);
    let url = format!("https://{}", mesh.coordinator_address()).parse().unwrap();
    let Connection { mut stream, .. } = connect(&url, credential.ca(), None).await.unwrap();
    let request = format!(
        "PUT /v1/appraisal-policy HTTP/1.1\r\nhost: coordinator.carrick.internal\r\nauthorization: Bearer {credential}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
}

/// What the coordinator says of a node's TPM, with every claim.
fn tpm_of(mesh: &Mesh, name: &str) -> Value {
    let path = format!("/v1/nodes/{name}");
    let node: Value = guest::on(&mesh.coordinator_host, async || api(mesh).get(&path).await.unwrap());
    let evidence = node["evidence"].as_array().unwrap().iter().find(|evidence| evidence["kind"] == "tpm");
    evidence.unwrap_or_else(|| panic!("no TPM in {node}")).clone()
}

fn api(mesh: &Mesh) -> Api {
    Api::new(format!("https://{}", mesh.coordinator_address()).parse().unwrap(), credential(mesh))
}

fn credential(mesh: &Mesh) -> Credential {
    std::fs::read_to_string(mesh.data_dir().join("admin.credential")).unwrap().trim().parse().unwrap()
}

fn claimed(evidence: &Value, name: &str) -> String {
    let claim = evidence["claims"].as_array().unwrap().iter().find(|claim| claim["name"] == name);
    claim.unwrap_or_else(|| panic!("no {name} in {evidence}"))["value"].as_str().unwrap().to_owned()
}
