//! What the coordinator has acknowledged stays so.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher as _, RandomState},
    io,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use carrick_lab::{in_lab, in_lab_for, mesh::Mesh};
use carrick_types::{JoinToken, NodeId};
use carrick_wire::{
    api::{CreateToken, CreatedToken, Node, NodeState, Token},
    session::RefusalCode,
};
use futures_util::future::join_all;

use crate::support::{carrick, guest, operator::api};

#[test]
fn of_a_hundred_that_join_at_once_as_many_get_in_as_the_token_allows() {
    const USES: u32 = 10;
    in_lab(|lab| {
        let mut mesh = Mesh::build(lab, carrick(), &[("east", 1)]).unwrap();
        mesh.start_coordinator(&[]).unwrap();
        let token: JoinToken = mesh.token("east", USES).unwrap().parse().unwrap();
        let joined = guest::on(&mesh.nodes[0].host, async || {
            let names: Vec<String> = (0..100).map(|n| format!("guest-{n}")).collect();
            join_all(names.iter().map(|name| guest::join(&token, name))).await
        });
        let mut welcome = 0;
        for outcome in joined {
            match outcome.unwrap() {
                Ok(_) => welcome += 1,
                Err(refusal) => {
                    assert_eq!(refusal.code, RefusalCode::Token, "{refusal}");
                    assert!(refusal.detail.contains("used up (10 of 10)"), "{refusal}");
                }
            }
        }
        assert_eq!(welcome, USES);
        let listed = mesh.json(&["token", "list"]).unwrap();
        assert_eq!((&listed[0]["used"], &listed[0]["state"]), (&USES.into(), &"used-up".into()));
        assert_eq!(mesh.json(&["nodes"]).unwrap().as_array().unwrap().len(), 10);
    });
}

#[test]
fn a_coordinator_killed_at_any_instant_keeps_what_it_acknowledged() {
    const KILLS: u32 = 15;
    in_lab_for(Duration::from_secs(180), |lab| {
        let mut mesh = Mesh::build(lab, carrick(), &[("east", 1)]).unwrap();
        let acknowledged = Acknowledged::default();
        for _ in 0..KILLS {
            mesh.start_coordinator(&[]).unwrap();
            acknowledged.assert_kept(&mesh);
            let done = AtomicBool::new(false);
            thread::scope(|scope| {
                scope.spawn(|| acknowledged.make_tokens(&mesh, &done));
                scope.spawn(|| acknowledged.join_nodes(&mesh, &done));
                let instant = Duration::from_micros(random() % 400_000);
                // Not a wait for anything: the instant of the kill is to be any.
                thread::sleep(instant);
                mesh.coordinator.as_ref().unwrap().kill().unwrap();
                done.store(true, Ordering::Relaxed);
            });
        }
        mesh.start_coordinator(&[]).unwrap();
        acknowledged.assert_kept(&mesh);
        let tokens = acknowledged.tokens.lock().unwrap().len();
        let joins = acknowledged.joins.lock().unwrap().len();
        assert!(tokens > 15 && joins > 15, "{tokens} tokens and {joins} joins prove nothing");
        acknowledged.assert_every_token_is_good_for_the_rest_of_its_uses(&mesh);
    });
}

/// How often each token may be used.
const USES: u32 = 3;

/// What the coordinator said that it did.
#[derive(Default)]
struct Acknowledged {
    tokens: Mutex<Vec<JoinToken>>,
    /// Each node with the number of its token.
    joins: Mutex<BTreeMap<NodeId, usize>>,
    names: AtomicU32,
}

impl Acknowledged {
    /// Makes one token after the other until the coordinator is gone.
    fn make_tokens(&self, mesh: &Mesh, done: &AtomicBool) {
        let api = api(mesh);
        let request = CreateToken {
            cluster: "east".parse().unwrap(),
            ttl_seconds: None,
            uses: Some(USES),
            prefixes: None,
        };
        guest::on(&mesh.coordinator_host, async || {
            while !done.load(Ordering::Relaxed) {
                if let Ok(created) = api.post::<_, CreatedToken>("/v1/tokens", &request).await {
                    self.tokens.lock().unwrap().push(created.token.parse().unwrap());
                }
            }
        });
    }

    /// Joins one node after the other, each with some token, until the coordinator is gone.
    fn join_nodes(&self, mesh: &Mesh, done: &AtomicBool) {
        guest::on(&mesh.nodes[0].host, async || {
            while !done.load(Ordering::Relaxed) {
                let Some((number, token)) = self.some_token() else { continue };
                let _ = self.join(number, &token).await;
            }
        });
    }

    /// Joins with a token. Nodes are named by the number of their token, so that those of which nobody heard count, too.
    async fn join(&self, number: usize, token: &JoinToken) -> io::Result<Result<(), RefusalCode>> {
        let name = format!("t{number}-{}", self.names.fetch_add(1, Ordering::Relaxed));
        Ok(match guest::join(token, &name).await? {
            Ok((welcome, _)) => {
                self.joins.lock().unwrap().insert(welcome.node, number);
                Ok(())
            }
            Err(refusal) => Err(refusal.code),
        })
    }

    fn some_token(&self) -> Option<(usize, JoinToken)> {
        let tokens = self.tokens.lock().unwrap();
        let newest = tokens.len().checked_sub(1)?;
        let number = newest - usize::try_from(random() % 4).unwrap().min(newest);
        Some((number, tokens[number].clone()))
    }

    fn assert_kept(&self, mesh: &Mesh) {
        let (listed, nodes) = listed(mesh);
        for (node, number) in &*self.joins.lock().unwrap() {
            let kept = nodes.iter().any(|kept| kept.id == *node && kept.state == NodeState::Active);
            assert!(kept, "{node}, which joined with token {number}, is gone");
        }
        for (number, token) in self.tokens.lock().unwrap().iter().enumerate() {
            let kept = listed.iter().find(|kept| kept.id == token.id);
            let kept = kept.unwrap_or_else(|| panic!("token {number} is gone"));
            assert_eq!(kept.uses, USES);
            assert!(kept.used <= USES, "token {number} was used {} times", kept.used);
            assert_eq!(
                kept.used,
                joined_with(&nodes, number),
                "uses of token {number} and nodes that joined with it"
            );
        }
    }

    fn assert_every_token_is_good_for_the_rest_of_its_uses(&self, mesh: &Mesh) {
        let (_, nodes) = listed(mesh);
        let tokens: Vec<JoinToken> = self.tokens.lock().unwrap().iter().rev().take(10).cloned().collect();
        let count = self.tokens.lock().unwrap().len();
        guest::on(&mesh.nodes[0].host, async || {
            for (number, token) in (0..count).rev().zip(&tokens) {
                for _ in joined_with(&nodes, number)..USES {
                    assert_eq!(self.join(number, token).await.unwrap(), Ok(()), "token {number}");
                }
                assert_eq!(
                    self.join(number, token).await.unwrap(),
                    Err(RefusalCode::Token),
                    "token {number}"
                );
            }
        });
        self.assert_kept(mesh);
    }
}

fn listed(mesh: &Mesh) -> (Vec<Token>, Vec<Node>) {
    let api = api(mesh);
    guest::on(&mesh.coordinator_host, async || {
        (api.get("/v1/tokens").await.unwrap(), api.get("/v1/nodes").await.unwrap())
    })
}

fn joined_with(nodes: &[Node], number: usize) -> u32 {
    let name = format!("t{number}-");
    u32::try_from(nodes.iter().filter(|node| node.name.as_str().starts_with(&name)).count()).unwrap()
}

fn random() -> u64 {
    RandomState::new().hash_one(0)
}
