//! Sessions over real TLS on loopback: who is let in, who is told what, and who disturbs whom.

#![allow(clippy::unwrap_used, reason = "an unwrap in a test is the assertion that the value is there")]

mod support;

use std::time::Duration;

use carrick_types::{Revision, TokenSeed};
use carrick_wire::{
    api::{Node as ApiNode, NodeState, Token, Topology},
    hello::Have,
    session::{LinkReport, MAX_TO_COORDINATOR, Refusal, RefusalCode, ToCoordinator, ToNode, VERSION},
};
use futures_util::{SinkExt as _, StreamExt as _};
use support::{Member, Node, PATIENCE, Running, Session, eventually, start};
use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::timeout};
use tokio_tungstenite::tungstenite::{Message, protocol::frame::coding::CloseCode};

#[tokio::test]
async fn a_node_joins_is_told_its_peers_and_reports_itself() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = start(dir.path()).await;
    let token = coordinator.token("east", 2).await;
    let mut a = coordinator
        .join(&Node { prefixes: vec!["10.1.0.0/24"], ..Node::new(1, "a") }, Some(&token))
        .await
        .unwrap();
    assert_eq!(a.welcome.observed_ip.to_string(), "127.0.0.1");
    assert_eq!(a.welcome.stun_port, Some(coordinator.stun_port));
    assert_eq!(a.view().own.overlay_v4.to_string(), "100.64.0.1");
    let b = coordinator.join(&Node::new(2, "b"), Some(&token)).await.unwrap();
    assert_eq!(b.view().members[&a.welcome.node].grant.allowed_ips[2].to_string(), "10.1.0.0/24");
    a.until("the peer", |view| view.members.contains_key(&b.welcome.node)).await;

    let mut b = b;
    let candidates = vec!["192.0.2.2:51820".parse().unwrap(), "192.0.2.2:51820".parse().unwrap()];
    b.session.say(&ToCoordinator::Endpoints { candidates }).await;
    let id = b.welcome.node;
    a.until("its endpoint", |view| view.members[&id].endpoints.len() == 1).await;
    a.session.say(&ToCoordinator::Links { links: vec![link(id), link(a.welcome.node)] }).await;
    eventually("one link, to a peer", || async {
        let topology: Topology = coordinator.get("/v1/topology").await;
        topology.links.len() == 1 && topology.links[0].to == id
    })
    .await;
    let nodes: Vec<ApiNode> = coordinator.get("/v1/nodes").await;
    assert!(nodes.iter().all(|node| node.online && node.state == NodeState::Active));
    coordinator.stop().await;
}

#[tokio::test]
async fn a_token_that_is_not_good_is_refused_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = start(dir.path()).await;
    let token = coordinator.token("east", 1).await;

    let mut altered = token.clone();
    altered.seed = TokenSeed::from_bytes([1; 32]);
    expect(&coordinator, &Node::new(1, "a"), &altered, RefusalCode::Token, "is not the one that was made")
        .await;
    let mut unknown = token.clone();
    unknown.id = carrick_types::TokenId::from_bytes([1; 10]);
    expect(
        &coordinator,
        &Node::new(1, "a"),
        &unknown,
        RefusalCode::Token,
        "is not known to this coordinator",
    )
    .await;
    let west = Node { cluster: "west".to_owned(), ..Node::new(1, "a") };
    expect(&coordinator, &west, &token, RefusalCode::Token, "is for cluster east, not for west").await;

    let short = coordinator.ask("POST", "/v1/tokens", Some(r#"{"cluster":"east","ttl_seconds":1}"#)).await;
    let short = short.json::<carrick_wire::api::CreatedToken>().token.parse().unwrap();
    eventually("the token has expired", || async {
        let tokens: Vec<Token> = coordinator.get("/v1/tokens").await;
        tokens.iter().any(|token| token.state == carrick_wire::api::TokenState::Expired)
    })
    .await;
    expect(&coordinator, &Node::new(1, "a"), &short, RefusalCode::Token, "the join token expired at 2").await;

    let revoked = coordinator.token("east", 1).await;
    let answer = coordinator.ask("DELETE", &format!("/v1/tokens/{}", revoked.id), None).await;
    assert_eq!(answer.status, 204);
    expect(&coordinator, &Node::new(1, "a"), &revoked, RefusalCode::Token, "the join token was revoked")
        .await;

    coordinator.join(&Node::new(1, "a"), Some(&token)).await.map(drop).unwrap();
    expect(&coordinator, &Node::new(2, "b"), &token, RefusalCode::Token, "is used up (1 of 1)").await;
    coordinator.join(&Node::new(1, "a"), Some(&token)).await.map(drop).expect("a member needs no second use");
    let Err(refusal) = coordinator.join(&Node::new(3, "c"), None).await else { panic!("let in") };
    assert_eq!(refusal.code, RefusalCode::NotAMember);
    assert!(refusal.detail.contains("carrick token create --cluster east"), "{refusal}");
    coordinator.stop().await;
}

#[tokio::test]
async fn a_hundred_joins_at_once_on_a_token_of_ten_uses_are_ten() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = start(dir.path()).await;
    let token = coordinator.token("east", 10).await;
    let joins = (1..=100).map(|n| {
        let (coordinator, token) = (&coordinator, &token);
        async move { coordinator.join(&Node::new(n, &format!("n{n}")), Some(token)).await }
    });
    let joined: Vec<_> = futures_util::future::join_all(joins).await;
    assert_eq!(joined.iter().filter(|join| join.is_ok()).count(), 10);
    for refusal in joined.iter().filter_map(|join| join.as_ref().err()) {
        assert!(refusal.detail.contains("is used up (10 of 10)"), "{refusal}");
    }
    let tokens: Vec<Token> = coordinator.get("/v1/tokens").await;
    assert_eq!((tokens[0].used, tokens[0].uses), (10, 10));
    let nodes: Vec<ApiNode> = coordinator.get("/v1/nodes").await;
    assert_eq!(nodes.len(), 10);
    drop(joined);
    coordinator.stop().await;
}

#[tokio::test]
async fn a_node_that_comes_back_with_a_revision_gets_what_it_missed() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = start(dir.path()).await;
    let token = coordinator.token("east", 9).await;
    let a = coordinator.join(&Node::new(1, "a"), Some(&token)).await.unwrap();
    let b = coordinator.join(&Node::new(2, "b"), Some(&token)).await.unwrap();
    let seen = Have { revision: Some(b.view().revision), log: b.witness.head() };
    drop(b);
    let c = coordinator.join(&Node::new(3, "c"), Some(&token)).await.unwrap();

    let back = Node { have: seen, ..Node::new(2, "b") };
    let mut session = welcomed(&coordinator, &back).await;
    let Some(ToNode::Delta(delta)) = session.next().await else { panic!("no delta") };
    let from = seen.revision.unwrap();
    assert_eq!((delta.from, delta.to), (from, from.next()));
    assert_eq!(delta.upserts.iter().map(|peer| peer.id).collect::<Vec<_>>(), [c.welcome.node]);
    assert_eq!((delta.removes, delta.own), (vec![], None));

    let ahead = Node { have: Have { revision: Some(Revision(99)), ..seen }, ..Node::new(2, "b") };
    let mut session = welcomed(&coordinator, &ahead).await;
    assert!(
        matches!(session.next().await, Some(ToNode::Netmap(_))),
        "a revision that never was gets everything"
    );
    drop(a);
    coordinator.stop().await;
}

#[tokio::test]
async fn a_revoked_node_is_cut_off_at_once_and_its_keys_never_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = start(dir.path()).await;
    let token = coordinator.token("east", 9).await;
    let mut a = coordinator.join(&Node::new(1, "a"), Some(&token)).await.unwrap();
    let mut b = coordinator.join(&Node::new(2, "b"), Some(&token)).await.unwrap();
    let id = a.welcome.node;

    let answer = coordinator.ask("POST", "/v1/nodes/a/revoke", Some(r#"{"reason":"stolen"}"#)).await;
    assert_eq!(answer.json::<ApiNode>().state, NodeState::Revoked);
    assert_eq!(a.session.refused().await.code, RefusalCode::Revoked);
    b.until("the peer's end", |view| !view.members.contains_key(&id)).await;
    let again = coordinator.ask("POST", &format!("/v1/nodes/{id}/revoke"), None).await;
    assert_eq!(again.json::<ApiNode>().revoked.unwrap().reason.as_deref(), Some("stolen"));

    expect(&coordinator, &Node::new(1, "a"), &token, RefusalCode::Revoked, "was revoked").await;
    let heir = Node { wireguard: Node::new(1, "a").wireguard, ..Node::new(3, "a") };
    expect(&coordinator, &heir, &token, RefusalCode::KeyTaken, "belongs to node a").await;
    coordinator.stop().await;
}

#[tokio::test]
async fn a_newer_session_of_a_node_takes_over() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = start(dir.path()).await;
    let token = coordinator.token("east", 1).await;
    let mut old = coordinator.join(&Node::new(1, "a"), Some(&token)).await.unwrap();
    let new = coordinator.join(&Node::new(1, "a"), None).await.unwrap();
    assert_eq!(old.session.refused().await.code, RefusalCode::Superseded);
    let nodes: Vec<ApiNode> = coordinator.get("/v1/nodes").await;
    assert!(nodes[0].online);
    drop(new);
    coordinator.stop().await;
}

#[tokio::test]
async fn junk_unknown_versions_and_oversized_frames_end_one_session_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = start(dir.path()).await;
    let token = coordinator.token("east", 9).await;
    let mut quiet = coordinator.join(&Node::new(1, "quiet"), Some(&token)).await.unwrap();

    let junk: [(&str, Message, &str); 6] = [
        ("another version", Message::binary(vec![VERSION + 8]), "upgrade the older of the two"),
        ("nothing", Message::binary(vec![]), "empty session message"),
        ("junk", Message::binary(vec![VERSION, 0xff, 0xfe]), "malformed session message"),
        ("text", Message::text("{}"), "session messages are binary"),
        ("too much", Message::binary(vec![VERSION; MAX_TO_COORDINATOR + 1]), "longer than 256 KiB"),
        ("a bad endpoint", endpoints("0.0.0.0:0"), "port 0"),
    ];
    for (what, message, why) in junk {
        let mut member = coordinator.join(&Node::new(2, "loud"), Some(&token)).await.unwrap();
        member.session.socket.send(message.clone()).await.unwrap();
        let refusal = member.session.refused().await;
        assert_eq!(refusal.code, RefusalCode::Protocol, "{what}");
        assert!(refusal.detail.contains(why), "{what}: {refusal}");

        let mut stranger = coordinator.session().await;
        stranger.socket.send(message).await.unwrap();
        assert_eq!(stranger.refused().await.code, RefusalCode::Protocol, "{what}, before the hello");
    }
    coordinator.join(&Node::new(3, "third"), Some(&token)).await.map(drop).unwrap();
    quiet.until("the third node", |view| view.members.len() == 2).await;
    coordinator.stop().await;
}

#[tokio::test]
async fn a_proof_for_another_session_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = start(dir.path()).await;
    let token = coordinator.token("east", 1).await;
    let (one, mut other) = (coordinator.session().await, coordinator.session().await);
    let hello = one.answer(&Node::new(1, "a"), Some(&token));
    other.say(&hello).await;
    assert_eq!(other.refused().await.code, RefusalCode::Proof);
    let tokens: Vec<Token> = coordinator.get("/v1/tokens").await;
    assert_eq!(tokens[0].used, 0);
    coordinator.stop().await;
}

#[tokio::test]
async fn endpoints_that_change_all_the_time_end_the_session() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = start(dir.path()).await;
    let token = coordinator.token("east", 1).await;
    let mut member = coordinator.join(&Node::new(1, "a"), Some(&token)).await.unwrap();
    for port in 1..=30 {
        // The session may be closed before the last is sent.
        let _ = member.session.socket.send(endpoints(&format!("192.0.2.1:{port}"))).await;
    }
    assert_eq!(member.session.refused().await.code, RefusalCode::Protocol);
    coordinator.stop().await;
}

#[tokio::test]
async fn clients_that_dawdle_do_not_keep_others_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = start(dir.path()).await;
    let token = coordinator.token("east", 1).await;
    let mut dawdlers = vec![];
    for _ in 0..100 {
        let mut tcp = TcpStream::connect(coordinator.address).await.unwrap();
        tcp.write_all(&[0x16, 0x03]).await.unwrap();
        dawdlers.push(tcp);
    }
    let silent = coordinator.session().await;
    let mut half = coordinator.connect().await;
    half.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n").await.unwrap();
    let joined = timeout(Duration::from_secs(5), coordinator.join(&Node::new(1, "a"), Some(&token))).await;
    joined.unwrap().map(drop).unwrap();
    let mut silent = silent;
    assert_eq!(silent.next().await, None, "who does not answer the challenge is sent away");
    drop((dawdlers, half));
    coordinator.stop().await;
}

#[tokio::test]
async fn a_stop_says_goodbye_to_every_session_and_a_start_knows_everybody() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = start(dir.path()).await;
    let token = coordinator.token("east", 2).await;
    let a = coordinator.join(&Node::new(1, "a"), Some(&token)).await.unwrap();
    let mut b: Member = coordinator.join(&Node::new(2, "b"), Some(&token)).await.unwrap();
    let (stopped, goodbye) = tokio::join!(coordinator.stop(), async {
        loop {
            match timeout(PATIENCE, b.session.socket.next()).await.unwrap() {
                Some(Ok(Message::Close(Some(frame)))) => return frame.code,
                Some(Ok(_)) => {}
                other => panic!("no close frame: {other:?}"),
            }
        }
    });
    let () = stopped;
    assert_eq!(goodbye, CloseCode::Away);

    let coordinator = start(dir.path()).await;
    let back = coordinator.join(&Node::new(1, "a"), None).await.unwrap();
    assert_eq!(back.view().own, a.view().own);
    assert_eq!(back.view().members.len(), 1);
    coordinator.stop().await;
}

#[tokio::test]
async fn a_demand_for_evidence_finds_its_node_in_a_new_session_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = start(dir.path()).await;
    let token = coordinator.token("east", 1).await;
    let a = coordinator.join(&Node::new(1, "a"), Some(&token)).await.unwrap();
    drop(a);
    eventually("the node is away", || async {
        !coordinator.get::<Vec<ApiNode>>("/v1/nodes").await[0].online
    })
    .await;
    let answer = coordinator.ask("POST", "/v1/nodes/a/attest", None).await;
    assert_eq!(answer.status, 409);
    let detail = answer.problem().detail;
    assert!(detail.contains("is suspended unless it shows new evidence within 60 s"), "{detail}");

    asked(&mut coordinator.join(&Node::new(1, "a"), None).await.unwrap()).await;
    // It went away without an answer. Neither did it answer before the coordinator ended.
    asked(&mut coordinator.join(&Node::new(1, "a"), None).await.unwrap()).await;
    coordinator.stop().await;
    let coordinator = start(dir.path()).await;
    asked(&mut coordinator.join(&Node::new(1, "a"), None).await.unwrap()).await;
    coordinator.stop().await;
}

async fn expect(
    coordinator: &Running,
    node: &Node,
    token: &carrick_types::JoinToken,
    code: RefusalCode,
    why: &str,
) {
    let refusal: Refusal = match coordinator.join(node, Some(token)).await {
        Ok(_) => panic!("{} was let in, instead of: {why}", node.name),
        Err(refusal) => refusal,
    };
    assert_eq!(refusal.code, code, "{refusal}");
    assert!(refusal.detail.contains(why), "{refusal}");
}

/// Waits until a member is asked for evidence.
async fn asked(member: &mut Member) {
    while !matches!(member.session.next().await.expect("a request for evidence"), ToNode::Attest(_)) {}
}

/// A session of a member, up to its welcome.
async fn welcomed(coordinator: &Running, node: &Node) -> Session {
    let mut session = coordinator.session().await;
    let hello = session.answer(node, None);
    session.say(&hello).await;
    assert!(matches!(session.next().await, Some(ToNode::Welcome(_))));
    session
}

fn endpoints(candidate: &str) -> Message {
    let message = ToCoordinator::Endpoints { candidates: vec![candidate.parse().unwrap()] };
    Message::binary(carrick_wire::session::encode(&message))
}

fn link(peer: carrick_types::NodeId) -> LinkReport {
    LinkReport {
        peer,
        endpoint: "192.0.2.2:51820".parse().unwrap(),
        rtt_ms: Some(0.5),
        last_handshake: None,
        rx_bytes: 1,
        tx_bytes: 2,
    }
}
