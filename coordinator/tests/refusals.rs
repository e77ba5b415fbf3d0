//! Proofs that prove something else: each is refused with a reason that people can read later, and nobody else notices.

#![allow(clippy::unwrap_used, reason = "an unwrap in a test is the assertion that the value is there")]

mod support;

use carrick_attest::{Bytes, Subject};
use carrick_types::JoinToken;
use carrick_wire::{
    api::{Node as ApiNode, Refusal as Noted},
    hello::{Hello, Proof},
    session::{RefusalCode, ToCoordinator, ToNode},
};
use support::{Member, Node, RUNTIME, Running, Session, eventually, start};

/// A coordinator with a member that must notice nothing, and a token for others.
struct Scene {
    coordinator: Running,
    bystander: Member,
    token: JoinToken,
    _dir: tempfile::TempDir,
}

impl Scene {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let coordinator = start(dir.path()).await;
        let token = coordinator.token("east", 9).await;
        let bystander = coordinator.join(&Node::new(9, "bystander"), Some(&token)).await.unwrap();
        Self { coordinator, bystander, token, _dir: dir }
    }

    /// Asserts that a hello is refused for its proof, in a session, and that somebody can read so.
    async fn assert_refused(&self, session: &mut Session, hello: Hello, why: &str) {
        let name = hello.name.clone();
        session.say(&ToCoordinator::Hello(Box::new(hello))).await;
        let refusal = session.refused().await;
        assert_eq!(refusal.code, RefusalCode::Proof, "{refusal}");
        assert!(refusal.detail.contains(why), "{refusal}");
        let noted: Vec<Noted> = self.coordinator.get("/v1/refusals").await;
        let noted = noted.iter().find(|noted| noted.name == name).expect("it is noted");
        assert_eq!((noted.code, noted.node), (RefusalCode::Proof, None), "nothing was proven");
        assert!(noted.detail.contains(why), "{}", noted.detail);
    }

    /// Asserts that the bystander is there, that nobody else is, and that the next newcomer is welcome.
    async fn assert_undisturbed(mut self) {
        let nodes: Vec<ApiNode> = self.coordinator.get("/v1/nodes").await;
        assert_eq!(nodes.len(), 1, "nobody was granted anything");
        assert!(nodes[0].online);
        let newcomer = self.coordinator.join(&Node::new(8, "newcomer"), Some(&self.token)).await.unwrap();
        let id = newcomer.welcome.node;
        self.bystander.until("the newcomer", |view| view.members.contains_key(&id)).await;
        drop(newcomer);
        self.coordinator.stop().await;
    }
}

fn hello(session: &Session, node: &Node, token: &JoinToken) -> Hello {
    let ToCoordinator::Hello(hello) = session.answer(node, Some(token)) else { panic!("no hello") };
    *hello
}

#[tokio::test]
async fn a_hello_that_was_said_before_is_refused() {
    let scene = Scene::start().await;
    let mut session = scene.coordinator.session().await;
    let said = hello(&session, &Node::new(1, "a"), &scene.token);
    session.say(&ToCoordinator::Hello(Box::new(Hello { token: None, ..said.clone() }))).await;
    assert_eq!(session.refused().await.code, RefusalCode::NotAMember);
    let mut again = scene.coordinator.session().await;
    scene.assert_refused(&mut again, said, "did not sign this session").await;
    scene.assert_undisturbed().await;
}

#[tokio::test]
async fn a_relay_between_two_tls_sessions_is_refused() {
    let scene = Scene::start().await;
    // The node answers the coordinator's own challenge, in a TLS session with somebody in between.
    let relayed = scene.coordinator.session().await;
    let mut relay = scene.coordinator.session().await;
    let seen_by_node = Session { challenge: relay.challenge.clone(), ..relayed };
    let said = hello(&seen_by_node, &Node::new(1, "a"), &scene.token);
    scene.assert_refused(&mut relay, said, "did not sign this session").await;
    scene.assert_undisturbed().await;
}

#[tokio::test]
async fn the_evidence_of_one_node_with_the_key_of_another_is_refused() {
    let scene = Scene::start().await;
    let mut session = scene.coordinator.session().await;
    let mut said = hello(&session, &Node::new(1, "a"), &scene.token);
    said.proof.wireguard_key = Node::new(2, "b").wireguard.public();
    scene.assert_refused(&mut session, said, "did not sign this session").await;

    let mut session = scene.coordinator.session().await;
    let mut said = hello(&session, &Node::new(1, "b"), &scene.token);
    said.identity_key = Node::new(2, "b").identity.public();
    scene.assert_refused(&mut session, said, "did not sign this session").await;
    scene.assert_undisturbed().await;
}

#[tokio::test]
async fn no_or_a_wrong_proof_of_possession_is_refused() {
    let scene = Scene::start().await;
    let why = "does not prove that it has its WireGuard key";
    let mut session = scene.coordinator.session().await;
    let mut said = hello(&session, &Node::new(1, "a"), &scene.token);
    said.proof.possession = Bytes([0; 32]);
    scene.assert_refused(&mut session, said, why).await;

    // It signs for a key that it does not have: that of somebody else.
    let mut session = scene.coordinator.session().await;
    let theirs = Node { wireguard: Node::new(2, "b").wireguard, ..Node::new(1, "b") };
    let own = hello(&session, &Node::new(1, "b"), &scene.token);
    let mut said = hello(&session, &theirs, &scene.token);
    said.proof.possession = own.proof.possession;
    scene.assert_refused(&mut session, said, why).await;
    scene.assert_undisturbed().await;
}

#[tokio::test]
async fn new_evidence_is_taken_once_and_only_where_it_was_asked_for() {
    let scene = Scene::start().await;
    let node = Node::new(1, "a");
    let mut member = scene.coordinator.join(&node, Some(&scene.token)).await.unwrap();
    member.session.say(&ToCoordinator::Renew).await;
    let request = loop {
        if let ToNode::Attest(demand) = member.session.next().await.unwrap() {
            member.witness.handle_demand(&demand, std::time::SystemTime::now().into()).unwrap();
            break demand.request;
        }
    };
    let subject = Subject {
        mesh: request.mesh,
        cluster: "east".parse().unwrap(),
        identity_key: node.identity.public(),
        wireguard_key: node.wireguard.public(),
    };
    let moment = request.moment(&member.session.exporter, 1, RUNTIME);
    let keys = (&node.identity, &node.wireguard);
    let prefixes: Vec<_> = node.prefixes.iter().map(|text| text.parse().unwrap()).collect();
    let asked = (&node.name.parse().unwrap(), prefixes.as_slice());
    let proof = Box::new(Proof::answer(&request, &moment, &subject, asked, keys, vec![]));
    let position = async || {
        let page: carrick_wire::api::LogPage = scene.coordinator.get("/v1/log/entries?start=0").await;
        page.entries.iter().filter(|entry| entry.contains("\"granted\"")).count()
    };
    let before = position().await;
    member.session.say(&ToCoordinator::Attested(proof.clone())).await;
    eventually("a new grant", || async { position().await == before + 1 }).await;
    member.session.say(&ToCoordinator::Attested(proof)).await;
    let refusal = member.session.refused().await;
    assert!(refusal.detail.contains("evidence that nobody asked for"), "{refusal}");
    assert_eq!(position().await, before + 1);
    drop(member);
    scene.coordinator.stop().await;
}
