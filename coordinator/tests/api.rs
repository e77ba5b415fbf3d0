//! The HTTP API over real TLS on loopback: who may ask, what is answered, and what junk gets.

#![allow(clippy::unwrap_used, reason = "an unwrap in a test is the assertion that the value is there")]

mod support;

use carrick_attest::{Bundle, Kind, Statement};
use carrick_types::JoinToken;
use carrick_wire::api::{
    AppraisalPolicy, Cluster, CreatedToken, Node as ApiNode, NodeEvidence, NodeState, PutAppraisalPolicy,
    Token, TokenState, Topology,
};
use http::Request;
use http_body_util::BodyExt as _;
use support::{Node, PATIENCE, Running, eventually, start};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

#[tokio::test]
async fn nothing_but_health_is_open_without_a_credential() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = start(dir.path()).await;
    let document: serde_json::Value = coordinator.get("/openapi.json").await;
    let mut asked = vec![("get".to_owned(), "/".to_owned()), ("get".into(), "/app.js".into())];
    asked.extend([("get".into(), "/style.css".into()), ("get".into(), "/nowhere".into())]);
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            asked.push((method.clone(), path.replace("{node}", "a").replace("{id}", "aaaaaaaaaaaaaaaa")));
        }
    }
    assert!(asked.len() > 15, "{asked:?}");
    for (method, path) in asked {
        let open = ["/healthz", "/readyz"].contains(&path.as_str());
        for authorization in ["", "Bearer junk", "Basic eDp5"] {
            let answer = coordinator.ask_as(authorization, &method.to_uppercase(), &path, None).await;
            assert_eq!(answer.status, if open { 200 } else { 401 }, "{method} {path} with {authorization:?}");
            if !open {
                assert!(answer.headers.contains_key("www-authenticate"));
                answer.problem();
            }
        }
    }
    coordinator.stop().await;
}

#[tokio::test]
async fn a_viewer_and_a_browser_read_and_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = start(dir.path()).await;
    let viewer = format!("Bearer {}", coordinator.viewer);
    for authorization in [viewer, Running::basic(&coordinator.viewer), Running::basic(&coordinator.admin)] {
        for path in ["/", "/v1/topology", "/v1/tokens", "/metrics", "/openapi.json"] {
            assert_eq!(coordinator.ask_as(&authorization, "GET", path, None).await.status, 200, "{path}");
        }
        for (method, path) in [
            ("POST", "/v1/tokens"),
            ("DELETE", "/v1/tokens/aaaaaaaaaaaaaaaa"),
            ("POST", "/v1/nodes/a/revoke"),
        ] {
            let answer =
                coordinator.ask_as(&authorization, method, path, Some(r#"{"cluster":"east"}"#)).await;
            assert_eq!(answer.status, 403, "{method} {path}");
            answer.problem();
        }
    }
    assert_eq!(coordinator.get::<Vec<Token>>("/v1/tokens").await, []);
    coordinator.stop().await;
}

#[tokio::test]
async fn a_token_is_shown_once_and_can_be_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = start(dir.path()).await;
    let answer = coordinator.ask("POST", "/v1/tokens", Some(r#"{"cluster":"east","uses":3}"#)).await;
    assert_eq!(answer.status, 201);
    let created: CreatedToken = answer.json();
    let token: JoinToken = created.token.parse().unwrap();
    assert_eq!((token.id, token.cluster.as_str(), token.ca), (created.id, "east", coordinator.admin.ca()));
    assert_eq!(token.urls, [format!("https://{}", coordinator.address)]);

    let listed = coordinator.ask("GET", "/v1/tokens", None).await;
    assert!(!String::from_utf8(listed.body.to_vec()).unwrap().contains("carrick_join"));
    let path = format!("/v1/tokens/{}", token.id);
    for _ in 0..2 {
        assert_eq!(coordinator.ask("DELETE", &path, None).await.status, 204);
    }
    assert_eq!(coordinator.get::<Vec<Token>>("/v1/tokens").await[0].state, TokenState::Revoked);
    coordinator.stop().await;
}

#[tokio::test]
async fn every_error_is_a_problem_that_says_what_was_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = start(dir.path()).await;
    let large = format!(r#"{{"cluster":"{}"}}"#, "x".repeat(70_000));
    let long = format!(r#"{{"reason":"{}"}}"#, "x".repeat(501));
    let nobody = "/v1/nodes/nobody";
    for (method, path, body, status, why) in [
        ("GET", "/v1/nowhere", None, 404, "there is no /v1/nowhere"),
        ("PUT", "/v1/tokens", None, 405, "does not take PUT"),
        ("POST", "/healthz", None, 405, "does not take POST"),
        ("GET", nobody, None, 404, "there is no node \"nobody\""),
        ("POST", "/v1/nodes/nobody/revoke", None, 404, "there is no node"),
        ("POST", "/v1/nodes/nobody/revoke", Some(&*long), 400, "500 bytes"),
        ("DELETE", "/v1/tokens/x", None, 400, "is not a token id"),
        ("DELETE", "/v1/tokens/aaaaaaaaaaaaaaaa", None, 404, "there is no join token"),
        ("POST", "/v1/tokens", None, 400, "the body is missing"),
        ("POST", "/v1/tokens", Some("{"), 400, "in the body: EOF"),
        ("POST", "/v1/tokens", Some(r#"{"cluster":"east","colour":1}"#), 400, "unknown field `colour`"),
        ("POST", "/v1/tokens", Some(r#"{"cluster":"East"}"#), 400, "not a valid cluster name"),
        ("POST", "/v1/tokens", Some(r#"{"cluster":"east","uses":0}"#), 400, "give 1 to 100000"),
        (
            "POST",
            "/v1/tokens",
            Some(r#"{"cluster":"east","ttl_seconds":31536001}"#),
            400,
            "give 1 to 31536000",
        ),
        ("POST", "/v1/tokens", Some(&*large), 413, "at most 65536 bytes"),
        ("GET", "/v1/session", None, 400, "upgrade"),
        ("GET", "/v1/nodes/%ff", None, 400, "UTF-8"),
    ] {
        let answer = coordinator.ask(method, path, body).await;
        assert_eq!(answer.status, status, "{method} {path}: {:?}", answer.body);
        let detail = answer.problem().detail;
        assert!(detail.contains(why), "{method} {path}: {detail}");
    }
    let plain = Request::builder()
        .method("POST")
        .uri("/v1/tokens")
        .header("authorization", format!("Bearer {}", coordinator.admin))
        .header("content-type", "text/plain")
        .body("{}".to_owned())
        .unwrap();
    let answer = coordinator.send(plain).await;
    assert_eq!((answer.status.as_u16(), answer.problem().status), (415, 415));
    coordinator.stop().await;
}

#[tokio::test]
async fn whoever_sends_too_much_is_told_so_and_loses_no_answer() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = start(dir.path()).await;
    let head = format!(
        "POST /v1/tokens HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n",
        coordinator.admin
    );
    let megabytes = vec![b'x'; 5 << 20];
    let declared =
        [format!("{head}content-length: {}\r\n\r\n", megabytes.len()).into_bytes(), megabytes.clone()];
    let mut chunked = format!("{head}transfer-encoding: chunked\r\n\r\n").into_bytes();
    chunked.extend(format!("{:x}\r\n", megabytes.len()).into_bytes());
    // Whoever asks first is told before it has sent anything.
    let asks = format!("{head}content-length: {}\r\nexpect: 100-continue\r\n\r\n", megabytes.len());
    for (what, parts) in [
        ("declared", declared.to_vec()),
        ("chunked", vec![chunked, megabytes, b"\r\n0\r\n\r\n".to_vec()]),
        ("asks", vec![asks.into_bytes()]),
    ] {
        let mut tls = coordinator.connect().await;
        for part in parts {
            timeout(PATIENCE, tls.write_all(&part))
                .await
                .unwrap()
                .unwrap_or_else(|error| panic!("{what}: {error}"));
        }
        let mut answer = [0; 12];
        timeout(PATIENCE, tls.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(&answer, b"HTTP/1.1 413", "{what}");
    }
    coordinator.stop().await;
}

#[tokio::test]
async fn nothing_that_is_compressed_is_inflated() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = start(dir.path()).await;
    // `{"cluster":"east"}`, by gzip.
    let body = [
        0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x03, 0xab, 0x56, 0x4a, 0xce, 0x29, 0x2d, 0x2e,
        0x49, 0x2d, 0x52, 0xb2, 0x52, 0x4a, 0x4d, 0x2c, 0x2e, 0x51, 0xaa, 0x05, 0x00, 0x7c, 0xce, 0xcf, 0x9c,
        0x12, 0x00, 0x00, 0x00,
    ];
    let head = |encoding: &str, length: usize| {
        format!(
            "POST /v1/tokens HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
             {encoding}content-length: {length}\r\n\r\n",
            coordinator.admin
        )
    };
    let plain = br#"{"cluster":"east"}"#;
    let upgrade = "GET /v1/session HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                   sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nsec-websocket-extensions: permessage-deflate\r\n\r\n";
    for (request, expected) in [
        ([head("", plain.len()).as_bytes(), plain].concat(), "HTTP/1.1 201"),
        ([head("content-encoding: gzip\r\n", body.len()).as_bytes(), &body].concat(), "HTTP/1.1 400"),
        (upgrade.as_bytes().to_vec(), "HTTP/1.1 101"),
    ] {
        let mut tls = coordinator.connect().await;
        tls.write_all(&request).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(timeout(PATIENCE, tls.read_u8()).await.unwrap().unwrap());
        }
        let answer = String::from_utf8(answer).unwrap().to_lowercase();
        assert!(answer.starts_with(&expected.to_lowercase()), "{answer}");
        assert!(!answer.contains("deflate"), "{answer}");
    }
    coordinator.stop().await;
}

#[tokio::test]
async fn a_watcher_is_sent_the_topology_at_once_and_after_each_change() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = start(dir.path()).await;
    let token = coordinator.token("east", 1).await;
    let request = Request::builder()
        .uri("/v1/topology/watch")
        .header("authorization", Running::basic(&coordinator.viewer))
        .body(String::new())
        .unwrap();
    let mut events = coordinator.open(request).await.into_body();
    let first = event(&mut events).await;
    assert_eq!(first.nodes, []);
    let member = coordinator.join(&Node::new(1, "a"), Some(&token)).await.unwrap();
    let mut last = first;
    while !last.nodes.first().is_some_and(|node| node.online) {
        last = event(&mut events).await;
    }
    drop(member);
    while last.nodes[0].online {
        last = event(&mut events).await;
    }
    assert_eq!(last.clusters, [Cluster { name: "east".parse().unwrap(), nodes: 1 }]);
    coordinator.stop().await;
}

#[tokio::test]
async fn the_page_runs_nothing_but_its_own_script() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = start(dir.path()).await;
    let page = coordinator.ask("GET", "/", None).await;
    let policy = page.headers["content-security-policy"].to_str().unwrap();
    assert!(policy.contains("default-src 'self'") && policy.contains("frame-ancestors 'none'"), "{policy}");
    assert_eq!(page.headers["x-content-type-options"], "nosniff");
    assert_eq!(page.headers["cache-control"], "no-store");
    let script = coordinator.ask("GET", "/app.js", None).await;
    assert_eq!(script.headers["content-type"], "text/javascript; charset=utf-8");
    for way_in in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
        assert!(!String::from_utf8_lossy(&script.body).contains(way_in), "{way_in}");
    }
    coordinator.stop().await;
}

#[tokio::test]
async fn metrics_count_nodes_sessions_and_refusals() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = start(dir.path()).await;
    let token = coordinator.token("east", 1).await;
    let member = coordinator.join(&Node::new(1, "a"), Some(&token)).await.unwrap();
    coordinator.join(&Node::new(2, "b"), Some(&token)).await.map(drop).unwrap_err();
    eventually("the metrics", || async {
        let text = String::from_utf8(coordinator.ask("GET", "/metrics", None).await.body.to_vec()).unwrap();
        [
            "carrick_nodes{state=\"active\"} 1",
            "carrick_sessions 1",
            "carrick_refusals_total{reason=\"token\"} 1",
        ]
        .iter()
        .all(|line| text.contains(line))
    })
    .await;
    let node: ApiNode = coordinator.get("/v1/nodes/a").await;
    assert_eq!(node.evidence[0].kind.as_str(), "join-token");
    drop(member);
    coordinator.stop().await;
}

#[tokio::test]
async fn a_bundle_that_is_tried_names_whom_it_would_suspend_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = start(dir.path()).await;
    let token = coordinator.token("east", 1).await;
    let _member = coordinator.join(&Node::new(1, "a"), Some(&token)).await.unwrap();
    let before: AppraisalPolicy = coordinator.get("/v1/appraisal-policy").await;
    let mut draft: Bundle = serde_json::from_str(before.signed.bundle.text()).unwrap();
    draft.default.runtime_digests.insert("11".repeat(32));
    let try_it = async |draft: &Bundle| {
        let put = PutAppraisalPolicy { signed: None, draft: Some(Box::new(draft.clone())) };
        let body = serde_json::to_string(&put).unwrap();
        coordinator.ask("PUT", "/v1/appraisal-policy?dry_run=true", Some(&body)).await
    };
    let old = try_it(&draft).await;
    assert_eq!(old.status, 409, "{:?}", old.body);
    assert!(old.problem().detail.contains("versions only rise"));
    draft.version += 1;
    let answer: AppraisalPolicy = try_it(&draft).await.json();
    assert_eq!(answer.suspends.len(), 1);
    assert_eq!(answer.suspends[0].name.as_str(), "a");
    assert!(answer.suspends[0].why.contains("runtime digest"), "{}", answer.suspends[0].why);
    assert_eq!(coordinator.get::<AppraisalPolicy>("/v1/appraisal-policy").await, before);
    let node: ApiNode = coordinator.get("/v1/nodes/a").await;
    assert_eq!(node.state, NodeState::Active);
    draft.default.reattest_s = 1;
    let senseless = PutAppraisalPolicy { signed: None, draft: Some(Box::new(draft)) };
    let senseless = serde_json::to_string(&senseless).unwrap();
    for path in ["/v1/appraisal-policy?dry_run=true", "/v1/appraisal-policy"] {
        let answer = coordinator.ask("PUT", path, Some(&senseless)).await;
        assert_eq!(answer.status, 400, "{path}: {:?}", answer.body);
        assert!(answer.problem().detail.contains("reattest_s is less than 10 seconds"));
    }
    let junk = coordinator.ask("PUT", "/v1/appraisal-policy?dry=1", Some("{}")).await;
    assert_eq!(junk.status, 400, "{:?}", junk.body);
    coordinator.stop().await;
}

#[tokio::test]
async fn the_statements_of_a_node_are_those_that_its_grant_names() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = start(dir.path()).await;
    let token = coordinator.token("east", 1).await;
    let _member = coordinator.join(&Node::new(1, "a"), Some(&token)).await.unwrap();
    let evidence: NodeEvidence = coordinator.get("/v1/nodes/a/evidence").await;
    let statements: Vec<Statement> =
        evidence.statements.iter().map(|text| Statement::from_text(text).unwrap()).collect();
    let kinds: Vec<Kind> = statements.iter().map(|statement| statement.evidence.kind()).collect();
    assert_eq!(kinds, [Kind::Identity, Kind::JoinToken]);
    assert_eq!(coordinator.ask("GET", "/v1/nodes/b/evidence", None).await.status, 404);
    coordinator.stop().await;
}

/// The next event of a watch.
async fn event(events: &mut hyper::body::Incoming) -> Topology {
    let mut text = String::new();
    while !text.ends_with("\n\n") || !text.contains("data:") {
        let frame = timeout(PATIENCE, events.frame()).await.unwrap().expect("one more event").unwrap();
        text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
    }
    assert!(text.contains("event: topology\n"), "{text}");
    let data = text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
    serde_json::from_str(data).unwrap()
}
