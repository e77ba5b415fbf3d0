//! A node that shows tokens of its API server: it joins, attests again, and is refused where it should be.

#![allow(clippy::unwrap_used, reason = "an unwrap in a test is the assertion that the value is there")]

mod api_server;
#[path = "../../../crates/attest/testdata/issuer.rs"]
mod issuer;
#[path = "../support/mod.rs"]
mod support;

use std::{collections::BTreeSet, path::Path};

use carrick_attest::{Kind, Verdict};
use carrick_coordinator::Coordinator;
use carrick_lab::in_lab;
use carrick_node::{Config, Enrolment, EvidenceSources, KubernetesSource, NodeError, SessionError};
use carrick_types::JoinToken;
use carrick_wire::{
    api::{AppraisalPolicy, Node, NodeState, Refusal},
    hello::Trust,
    session::RefusalCode,
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use self::{
    api_server::{ApiServer, Manner},
    issuer::Issuer,
    support::{Running, eventually, start},
};

/// A coordinator that takes nodes into cluster east by their API server's word alone, and that API server.
struct Scene {
    dir: tempfile::TempDir,
    coordinator: Running,
    api: ApiServer,
}

impl Scene {
    async fn new(issuer: Issuer) -> Self {
        Self::at("127.0.0.1", issuer).await
    }

    /// With the coordinator at an address of this host.
    async fn at(ip: &str, issuer: Issuer) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["coordinator", "pod"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let any_port = format!("{ip}:0").parse().unwrap();
        let config = carrick_coordinator::Config {
            listen: any_port,
            udp: any_port,
            ..support::config(&dir.path().join("coordinator"))
        };
        let coordinator = support::run(Coordinator::start(config).await.unwrap());
        let api = ApiServer::start(&dir.path().join("pod"), issuer).await;
        let scene = Self { dir, coordinator, api };
        scene.publish(&scene.api.policy()).await;
        scene
    }

    /// Accepts tokens under a policy in cluster east.
    async fn publish(&self, policy: &Value) {
        let shown: AppraisalPolicy = self.coordinator.get("/v1/appraisal-policy").await;
        let mut draft: Value = serde_json::from_str(shown.signed.bundle.text()).unwrap();
        draft["version"] = json!(draft["version"].as_u64().unwrap() + 1);
        draft["clusters"] = json!({"east": {"accept": [["kubernetes"]], "kubernetes": policy}});
        let body = json!({"draft": draft}).to_string();
        let answer = self.coordinator.ask("PUT", "/v1/appraisal-policy", Some(&body)).await;
        assert_eq!(answer.status, 200, "{:?}", answer.body);
    }

    /// A token that is good for nothing but to find the coordinator: the cluster does not take it as evidence.
    async fn token(&self, cluster: &str) -> JoinToken {
        let urls = vec![format!("https://{}", self.coordinator.address)];
        JoinToken { urls, ..self.coordinator.token(cluster, 9).await }
    }

    /// How a node of this name runs, which asks the API server.
    async fn config(&self, name: &str, source: KubernetesSource) -> Config {
        config(self.dir.path(), name, self.token("east").await, source)
    }

    async fn enrol(&self, name: &str) -> Result<Enrolment, NodeError> {
        carrick_node::enrol(&self.config(name, self.api.source()).await).await
    }

    /// Why a node has no evidence to show.
    async fn failure(&self, source: KubernetesSource) -> String {
        let error = carrick_node::enrol(&self.config("a", source).await).await.unwrap_err();
        assert!(matches!(error, NodeError::Session(SessionError::Evidence(_))), "{error}");
        error.to_string()
    }

    /// Why the coordinator refused, as the node was told it and as people are shown it.
    async fn refusal(&self, name: &str) -> String {
        let NodeError::Session(SessionError::Refused(refusal)) = self.enrol(name).await.unwrap_err() else {
            panic!("not refused");
        };
        assert_eq!(refusal.code, RefusalCode::Evidence);
        let noted: Vec<Refusal> = self.coordinator.get("/v1/refusals").await;
        assert_eq!((noted[0].name.as_str(), &noted[0].detail), (name, &refusal.detail));
        refusal.detail
    }

    async fn node(&self, name: &str) -> Node {
        self.coordinator.get(&format!("/v1/nodes/{name}")).await
    }
}

fn config(dir: &Path, name: &str, token: JoinToken, source: KubernetesSource) -> Config {
    Config {
        state_dir: dir.join(name),
        token: Some(token),
        name: Some(name.parse().unwrap()),
        prefixes: Some(vec![]),
        listen_port: 0,
        interface: "carrick0".to_owned(),
        mtu: 1420,
        shards: 1,
        version: "test".to_owned(),
        trust: Trust::Evidence,
        evidence: EvidenceSources { kubernetes: Some(source), ..EvidenceSources::default() },
    }
}

/// What was accepted of the evidence that a node's API server gave it.
fn accepted(node: &Node) -> BTreeSet<&str> {
    let evidence = node.evidence.iter().find(|evidence| evidence.kind == Kind::Kubernetes).unwrap();
    assert_eq!(evidence.decision, Verdict::Accepted);
    let accepted = evidence.claims.iter().filter(|claim| claim.verdict == Verdict::Accepted);
    accepted.map(|claim| claim.name.as_str()).collect()
}

#[tokio::test]
async fn a_node_joins_by_its_api_servers_word_and_peers_check_that_word_themselves() {
    for issuer in [Issuer::rsa(), Issuer::p256()] {
        let scene = Scene::new(issuer).await;
        let enrolled = scene.enrol("east-1").await.unwrap();
        assert_eq!(enrolled.cluster.as_str(), "east");
        let node = scene.node("east-1").await;
        assert_eq!(node.state, NodeState::Active);
        for claim in ["signature", "issuer", "audience", "jti", "subject", "service account", "pod", "node"] {
            assert!(accepted(&node).contains(claim), "{claim}");
        }

        let mut peer = support::Node::new(2, "west-1");
        peer.cluster = "west".to_owned();
        let member = scene.coordinator.join(&peer, Some(&scene.token("west").await)).await.unwrap();
        assert!(member.view().members.contains_key(&node.id), "{:?}", member.view().doubted);
        scene.coordinator.stop().await;
    }
}

#[tokio::test]
async fn the_mounted_token_is_read_anew_each_time() {
    let scene = Scene::new(Issuer::p256()).await;
    scene.enrol("a").await.unwrap();
    scene.api.renew_mounted();
    scene.enrol("b").await.unwrap();
    scene.coordinator.stop().await;
}

#[tokio::test]
async fn a_pod_that_its_mounted_token_does_not_name_is_named_by_its_environment() {
    let scene = Scene::new(Issuer::p256()).await;
    scene.api.mount_unbound();
    assert!(scene.failure(scene.api.source()).await.contains("no bound service-account token"));
    let source = KubernetesSource { pod: Some("carrick-node-x7k2p".to_owned()), ..scene.api.source() };
    carrick_node::enrol(&scene.config("b", source).await).await.unwrap();
    let stranger = KubernetesSource { pod: Some("another".to_owned()), ..scene.api.source() };
    assert!(scene.failure(stranger).await.contains("HTTP 422"));
    scene.coordinator.stop().await;
}

#[tokio::test]
async fn a_token_that_says_something_else_admits_nobody_and_people_read_why() {
    let scene = Scene::new(Issuer::p256()).await;
    for (path, value, claim) in [
        ("/iss", json!("https://elsewhere.example"), "issuer"),
        ("/aud", json!(["https://kubernetes.default.svc"]), "audience"),
        ("/kubernetes.io/serviceaccount/name", json!("default"), "subject"),
        ("/nbf", json!(u32::MAX), "not before"),
        ("/exp", json!(1), "expires at"),
    ] {
        scene.api.set(Manner::Altered(path, value));
        let why = scene.refusal("a").await;
        assert!(why.contains(&format!("evidence kubernetes: {claim} is ")), "{why}");
    }
    let nodes: Vec<Node> = scene.coordinator.get("/v1/nodes").await;
    assert!(nodes.is_empty());
    scene.coordinator.stop().await;
}

#[tokio::test]
async fn an_id_that_was_used_before_is_refused_also_after_a_restart() {
    let mut scene = Scene::new(Issuer::p256()).await;
    scene.api.set(Manner::SameId);
    scene.enrol("a").await.unwrap();
    let why = scene.refusal("b").await;
    assert!(
        why.contains("evidence kubernetes: jti is token-0, expected: a token that was never shown before"),
        "{why}"
    );
    let noted: Vec<Refusal> = scene.coordinator.get("/v1/refusals").await;
    assert_eq!(noted[0].evidence[0].claims[0].name, "jti");

    scene.coordinator.stop().await;
    scene.coordinator = start(&scene.dir.path().join("coordinator")).await;
    assert!(scene.refusal("c").await.contains("jti is token-0"));
    scene.api.set(Manner::Honest);
    scene.enrol("d").await.unwrap();
    scene.coordinator.stop().await;
}

#[tokio::test]
async fn an_api_server_that_gives_no_token_is_complained_about_in_words_that_help() {
    let scene = Scene::new(Issuer::p256()).await;
    let good = scene.api.source();
    let answered = async |manner: Manner| {
        scene.api.set(manner);
        scene.failure(good.clone()).await
    };
    let forbidden = answered(Manner::Status(403)).await;
    assert!(
        forbidden.contains(
            "kubectl create role carrick-attest --namespace carrick-system --verb=create --resource=serviceaccounts/token --resource-name=carrick-node"
        ) && forbidden.contains(
            "kubectl create rolebinding carrick-attest --namespace carrick-system --role=carrick-attest --serviceaccount=carrick-system:carrick-node"
        ),
        "{forbidden}"
    );
    assert!(answered(Manner::Status(401)).await.contains("does not know the token in"));
    assert!(answered(Manner::Status(404)).await.contains("POD_NAME"));
    assert!(answered(Manner::Status(503)).await.contains("HTTP 503 Service Unavailable: for a test"));
    for nonsense in ["", "{}", "{\"status\":{\"token\":\"\"}}", &"x".repeat(100_000)] {
        assert!(answered(Manner::Nonsense(nonsense.to_owned())).await.contains("not understood"));
    }
    assert!(answered(Manner::Silent).await.contains("did not answer"));
    scene.api.set(Manner::Honest);

    let elsewhere = KubernetesSource { port: 1, ..good.clone() };
    assert!(scene.failure(elsewhere).await.contains("cannot reach the API server at 127.0.0.1:1"));
    let missing = KubernetesSource { token_file: "/nowhere/token".into(), ..good.clone() };
    assert!(scene.failure(missing).await.contains("mount the service account's token"));
    let unbound = KubernetesSource { token_file: good.ca_file.clone(), ..good.clone() };
    assert!(scene.failure(unbound).await.contains("no bound service-account token"));
    let other_pod = scene.dir.path().join("other");
    std::fs::create_dir(&other_pod).unwrap();
    let stranger = ApiServer::start(&other_pod, Issuer::p256()).await;
    let impostor = KubernetesSource { ca_file: stranger.source().ca_file, ..good };
    assert!(scene.failure(impostor).await.contains("its certificate has to be of an authority in"));
    assert_eq!(stranger.made(), 1, "no token but the one that is mounted");
    scene.coordinator.stop().await;
}

#[test]
fn a_running_agent_shows_new_tokens_when_it_is_asked_and_is_cut_off_when_they_are_no_good() {
    in_lab(|lab| {
        let host = lab.host("east-1").unwrap();
        // No node may tell of an endpoint on loopback.
        host.add_address("lo", "192.0.2.1/32").unwrap();
        host.within(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(attests_again());
        });
    });
}

async fn attests_again() {
    let scene = Scene::at("192.0.2.1", Issuer::p256()).await;
    let shutdown = CancellationToken::new();
    let config = scene.config("east-1", scene.api.source()).await;
    let agent = tokio::spawn(carrick_node::run(config, shutdown.clone()));
    let coordinator = &scene.coordinator;
    eventually("the node is online", async || {
        let nodes: Vec<Node> = coordinator.get("/v1/nodes").await;
        nodes.iter().any(|node| node.online && node.state == NodeState::Active)
    })
    .await;

    let made = scene.api.made();
    let answer = coordinator.ask("POST", "/v1/nodes/east-1/attest", None).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    assert!(accepted(&answer.json()).contains("audience"));
    assert_eq!(scene.api.made(), made + 1);

    scene.api.set(Manner::Altered("/kubernetes.io/namespace", json!("default")));
    let refused = coordinator.ask("POST", "/v1/nodes/east-1/attest", None).await;
    assert_eq!(refused.status, 409);
    assert!(refused.problem().detail.contains("evidence kubernetes: subject is"), "{:?}", refused.body);
    assert_eq!(scene.node("east-1").await.state, NodeState::Suspended);
    let id = scene.node("east-1").await.id;
    eventually("the refusal is noted", async || {
        let noted: Vec<Refusal> = coordinator.get("/v1/refusals").await;
        noted.first().is_some_and(|refusal| refusal.node == Some(id))
    })
    .await;

    scene.api.set(Manner::Honest);
    eventually("the node is accepted again", async || scene.node("east-1").await.state == NodeState::Active)
        .await;
    shutdown.cancel();
    agent.await.unwrap().unwrap();
}
