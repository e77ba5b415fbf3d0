//! A node joins by the word of a real API server.
//!
//! CI has none, and tests with an API server of its own (`tests/kubernetes`). Where one is at hand:
//! ```text
//! kubectl create namespace carrick-system
//! kubectl create serviceaccount carrick-node --namespace carrick-system
//! kubectl create role carrick-attest --namespace carrick-system --verb=create --resource=serviceaccounts/token --resource-name=carrick-node
//! kubectl create rolebinding carrick-attest --namespace carrick-system --role=carrick-attest --serviceaccount=carrick-system:carrick-node
//! kubectl run agent --namespace carrick-system --image=none --overrides='{"spec":{"serviceAccountName":"carrick-node"}}'
//! mkdir pod
//! kubectl create token carrick-node --namespace carrick-system --bound-object-kind=Pod --bound-object-name=agent > pod/token
//! kubectl get --raw /.well-known/openid-configuration > pod/openid-configuration
//! kubectl get --raw /openid/v1/jwks > pod/jwks
//! cp CA-OF-THE-API-SERVER pod/ca.crt
//! CARRICK_KUBE_APISERVER=127.0.0.1:6443 CARRICK_KUBE_POD=pod cargo run -p carrick-coordinator --example real_api_server
//! ```

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test, run by hand")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::{env, fs, path::PathBuf};

use carrick_node::{Config, EvidenceSources, KubernetesSource};
use carrick_types::JoinToken;
use carrick_wire::{
    api::{AppraisalPolicy, Node},
    hello::Trust,
};
use serde_json::{Value, json};

#[tokio::main]
async fn main() {
    let (Ok(api), Ok(pod)) = (env::var("CARRICK_KUBE_APISERVER"), env::var("CARRICK_KUBE_POD")) else {
        panic!(
            "set CARRICK_KUBE_APISERVER to host:port and CARRICK_KUBE_POD to a directory, as the head of this file says: nothing was tested"
        );
    };
    let pod = PathBuf::from(pod);
    let (host, port) = api.rsplit_once(':').unwrap();
    let source = KubernetesSource {
        host: host.to_owned(),
        port: port.parse().unwrap(),
        ca_file: pod.join("ca.crt"),
        token_file: pod.join("token"),
        pod: None,
    };
    let read =
        |name: &str| -> Value { serde_json::from_str(&fs::read_to_string(pod.join(name)).unwrap()).unwrap() };

    let dir = tempfile::tempdir().unwrap();
    let coordinator = support::start(&dir.path().join("coordinator")).await;
    let shown: AppraisalPolicy = coordinator.get("/v1/appraisal-policy").await;
    let mut draft: Value = serde_json::from_str(shown.signed.bundle.text()).unwrap();
    draft["version"] = json!(2);
    let policy = json!({
        "issuer": read("openid-configuration")["issuer"],
        "jwks": read("jwks"),
        "service_accounts": ["carrick-system/carrick-node"],
    });
    draft["clusters"] = json!({"east": {"accept": [["kubernetes"]], "kubernetes": policy}});
    let body = json!({"draft": draft}).to_string();
    let answer = coordinator.ask("PUT", "/v1/appraisal-policy", Some(&body)).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);

    let urls = vec![format!("https://{}", coordinator.address)];
    let token = JoinToken { urls, ..coordinator.token("east", 1).await };
    let config = Config {
        state_dir: dir.path().join("node"),
        token: Some(token),
        name: Some("agent".parse().unwrap()),
        prefixes: None,
        listen_port: 0,
        interface: "carrick0".to_owned(),
        mtu: 1420,
        shards: 1,
        version: "test".to_owned(),
        trust: Trust::Evidence,
        evidence: EvidenceSources { kubernetes: Some(source), ..EvidenceSources::default() },
    };
    let enrolled = carrick_node::enrol(&config).await.unwrap_or_else(|error| panic!("refused: {error}"));
    println!("{} joined cluster {}", enrolled.name, enrolled.cluster);
    let node: Node = coordinator.get("/v1/nodes/agent").await;
    for evidence in &node.evidence {
        for claim in &evidence.claims {
            println!("{:<12} {:<20} {:<10?} {}", evidence.kind, claim.name, claim.verdict, claim.value);
        }
    }
    coordinator.stop().await;
}
