//! The one owner of the mesh: a thread that commits each change to the store and then publishes the state it leads to.

use std::{net::SocketAddr, sync::Arc, thread};

use carrick_types::{CoordinatorSecret, NodeId, TokenId, UnixTime};
use carrick_wire::{
    api::{LogCheckpoint, LogPage, Revocation, Token},
    hello::{Admission, ProvenHello},
    log::{
        Checkpoint, Decision, Entry,
        tree::{Hash, Tree},
    },
};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, info};

use crate::{
    admission::{self, Plan},
    netmap,
    refusal::Refused,
    state::{Membership, MeshState, NodeRecord},
    store::{Store, StoreError, TokenRecord},
};

/// A handle on the owner. Changes go through it one at a time; the state can be read at any time.
#[derive(Debug, Clone)]
pub(crate) struct Mesh {
    jobs: mpsc::Sender<Job>,
    state: watch::Receiver<Arc<MeshState>>,
}

/// Resolves when the owner's thread has ended, for whatever reason.
pub(crate) type Ended = oneshot::Receiver<()>;

type Job = Box<dyn FnOnce(&mut Owner) + Send>;

/// Changes that may wait for the owner before callers wait themselves.
const MAX_WAITING: usize = 256;

/// The most tokens that are kept; those that lapsed more than a week ago are forgotten first.
const MAX_TOKENS: u64 = 10_000;
const TOKEN_MEMORY_MILLIS: u64 = 7 * 24 * 3600 * 1000;

/// Why a token was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    #[error(
        "there are {MAX_TOKENS} join tokens: wait until some have been expired for a week, or give one token more uses"
    )]
    TooMany,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Mesh {
    /// Starts the thread that owns the store from here on. `held` is let go once the store is closed.
    pub(crate) fn start(
        store: Store,
        key: CoordinatorSecret,
        held: impl Send + 'static,
    ) -> Result<(Self, Ended), crate::StartError> {
        let first = Arc::new(store.load()?);
        let (publish, state) = watch::channel(first);
        let (jobs, mut waiting) = mpsc::channel::<Job>(MAX_WAITING);
        let (alive, ended) = oneshot::channel();
        let owner = Owner { store, publish, key, doubt: false };
        let run = move || {
            // Whatever a job does, these go in this order: the store, what is held for it, the sign of life.
            let _alive: oneshot::Sender<()> = alive;
            let _held = held;
            let mut owner = owner;
            while let Some(job) = waiting.blocking_recv() {
                job(&mut owner);
            }
        };
        let thread = thread::Builder::new().name("mesh".to_owned()).spawn(run);
        thread.map_err(|source| crate::StartError::System { action: "start the mesh thread", source })?;
        Ok((Self { jobs, state }, ended))
    }

    /// The state at this moment.
    pub(crate) fn state(&self) -> Arc<MeshState> {
        self.state.borrow().clone()
    }

    /// The state, and every one that follows.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<MeshState>> {
        self.state.clone()
    }

    /// Lets a node in, or back in, or says why not. Answers once that is on disk.
    pub(crate) async fn join(&self, hello: ProvenHello, now: UnixTime) -> Result<Arc<NodeRecord>, Refused> {
        self.call(move |owner| owner.join(&hello, now)).await.unwrap_or_else(|stopping| Err(stopping.into()))
    }

    /// Notes where a node may be reached.
    pub(crate) async fn set_endpoints(
        &self,
        id: NodeId,
        endpoints: Vec<SocketAddr>,
    ) -> Result<(), StoreError> {
        self.call(move |owner| owner.set_endpoints(id, endpoints)).await?
    }

    /// Cuts a node off for good; `None` where there is none. Doing it twice changes nothing.
    pub(crate) async fn revoke(
        &self,
        id: NodeId,
        reason: Option<String>,
        now: UnixTime,
    ) -> Result<Option<Arc<NodeRecord>>, StoreError> {
        self.call(move |owner| owner.revoke(id, reason, now)).await?
    }

    pub(crate) async fn add_token(&self, token: TokenRecord, now: UnixTime) -> Result<(), TokenError> {
        self.call(move |owner| owner.add_token(&token, now)).await?
    }

    pub(crate) async fn tokens(&self, now: UnixTime) -> Result<Vec<Token>, StoreError> {
        self.call(move |owner| Ok(owner.store.tokens()?.iter().map(|token| token.shown(now)).collect()))
            .await?
    }

    /// Takes a token back; whether there is one. Doing it twice changes nothing.
    pub(crate) async fn revoke_token(&self, id: TokenId, now: UnixTime) -> Result<bool, StoreError> {
        self.call(move |owner| owner.revoke_token(id, now)).await?
    }

    /// The head of the log, signed.
    pub(crate) async fn checkpoint(&self) -> Result<LogCheckpoint, StoreError> {
        self.call(|owner| owner.checkpoint()).await?
    }

    /// The entries of the log from `start` on, at most `limit`.
    pub(crate) async fn log_page(&self, start: u64, limit: u32) -> Result<LogPage, StoreError> {
        self.call(move |owner| {
            let (size, entries) = (owner.log()?.size(), owner.store.log_entries(start, limit)?);
            Ok(LogPage { size, start, entries })
        })
        .await?
    }

    /// What `prove` finds in the log's tree.
    pub(crate) async fn prove(
        &self,
        prove: impl FnOnce(&Tree) -> Option<Vec<Hash>> + Send + 'static,
    ) -> Result<Option<Vec<Hash>>, StoreError> {
        self.call(move |owner| Ok(prove(owner.log()?))).await?
    }

    /// Whether the store can be written.
    pub(crate) async fn check(&self, now: UnixTime) -> Result<(), StoreError> {
        self.call(move |owner| owner.store.check(now)).await?
    }

    async fn call<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Owner) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |owner| {
            // Whoever asked may be gone; the change stands all the same.
            let _ = answer.send(job(owner));
        });
        self.jobs.send(job).await.map_err(|_| StoreError::Stopping)?;
        answered.await.map_err(|_| StoreError::Stopping)
    }
}

struct Owner {
    store: Store,
    publish: watch::Sender<Arc<MeshState>>,
    /// Signs the heads of the log.
    key: CoordinatorSecret,
    /// A commit failed, so what is on disk may be newer than what is published.
    doubt: bool,
}

impl Owner {
    fn join(&mut self, proven: &ProvenHello, now: UnixTime) -> Result<Arc<NodeRecord>, Refused> {
        let state = self.state()?;
        let token = match &proven.get().admission {
            Admission::Member => None,
            Admission::JoinToken { id, .. } => self.store.token(id)?,
        };
        match admission::plan(&state, proven, token.as_ref(), now)? {
            Plan::Welcome(id) => state.nodes.get(&id).cloned().ok_or(Refused::Stopping),
            Plan::Update(node) => {
                let decision = (node.revision > state.revision).then(|| Decision::PrefixesChanged {
                    node: node.id,
                    allowed_ips: netmap::allowed_ips(&state, &node),
                });
                Ok(self.update(&state, node, decision.map(|decision| Entry { at: now, decision }))?)
            }
            Plan::Admit(node, token) => {
                info!(node = %node.id, name = %node.name, cluster = %node.cluster, %token, "node joins");
                let decision = Decision::NodeJoined {
                    node: node.id,
                    name: node.name.clone(),
                    cluster: node.cluster.clone(),
                    identity_key: node.identity_key,
                    wireguard_key: node.wireguard_key,
                    allowed_ips: netmap::allowed_ips(&state, &node),
                    token,
                };
                let written = self.store.admit(&node, &token, &Entry { at: now, decision });
                Ok(self.settle(&state, node, written)?)
            }
        }
    }

    fn set_endpoints(&mut self, id: NodeId, endpoints: Vec<SocketAddr>) -> Result<(), StoreError> {
        let state = self.state()?;
        match state.nodes.get(&id) {
            Some(node) if node.is_active() && node.endpoints != endpoints => {
                let next =
                    NodeRecord { endpoints, revision: state.revision.next(), ..NodeRecord::clone(node) };
                self.update(&state, next, None).map(drop)
            }
            Some(_) | None => Ok(()),
        }
    }

    fn revoke(
        &mut self,
        id: NodeId,
        reason: Option<String>,
        now: UnixTime,
    ) -> Result<Option<Arc<NodeRecord>>, StoreError> {
        let state = self.state()?;
        match state.nodes.get(&id) {
            Some(node) if node.is_active() => {
                let decision = Decision::NodeRevoked { node: id, reason: reason.clone() };
                let membership = Membership::Revoked(Revocation { at: now, reason });
                let next =
                    NodeRecord { membership, revision: state.revision.next(), ..NodeRecord::clone(node) };
                let revoked = self.update(&state, next, Some(Entry { at: now, decision }))?;
                info!(node = %id, name = %revoked.name, "node revoked");
                Ok(Some(revoked))
            }
            other => Ok(other.cloned()),
        }
    }

    fn add_token(&mut self, token: &TokenRecord, now: UnixTime) -> Result<(), TokenError> {
        if self.store.count_tokens()? >= MAX_TOKENS {
            let before = now.as_millis().saturating_sub(TOKEN_MEMORY_MILLIS);
            self.store.forget_tokens(UnixTime::from_millis(before))?;
            if self.store.count_tokens()? >= MAX_TOKENS {
                return Err(TokenError::TooMany);
            }
        }
        let decision = Decision::TokenCreated {
            token: token.id,
            cluster: token.cluster.clone(),
            uses: token.uses,
            expires_at: token.expires_at,
        };
        let written = self.store.insert_token(token, &Entry { at: now, decision });
        Ok(self.noted(written)?)
    }

    fn revoke_token(&mut self, id: TokenId, now: UnixTime) -> Result<bool, StoreError> {
        match self.store.token(&id)? {
            None => Ok(false),
            Some(token) if token.revoked => Ok(true),
            Some(_) => {
                let entry = Entry { at: now, decision: Decision::TokenRevoked { token: id } };
                let written = self.store.revoke_token(&id, &entry);
                self.noted(written)?;
                Ok(true)
            }
        }
    }

    fn checkpoint(&mut self) -> Result<LogCheckpoint, StoreError> {
        let mesh = self.publish.borrow().mesh;
        let log = self.log()?;
        let size = log.size();
        let head = log.head(size).expect("a tree knows its own head");
        let note = Checkpoint { mesh, size, head }.sign(&self.key).to_string();
        Ok(LogCheckpoint { note, key: self.key.public() })
    }

    /// The tree of what is on disk.
    fn log(&mut self) -> Result<&Tree, StoreError> {
        self.state()?;
        Ok(self.store.log())
    }

    /// The published state, which is what is on disk.
    fn state(&mut self) -> Result<Arc<MeshState>, StoreError> {
        if self.doubt {
            self.store.reload_log()?;
            let loaded = Arc::new(self.store.load()?);
            self.publish.send_replace(loaded);
            self.doubt = false;
        }
        Ok(self.publish.borrow().clone())
    }

    fn update(
        &mut self,
        state: &MeshState,
        node: NodeRecord,
        entry: Option<Entry>,
    ) -> Result<Arc<NodeRecord>, StoreError> {
        let written = self.store.update(&node, entry.as_ref());
        self.settle(state, node, written)
    }

    /// Remembers the doubt about a change that may or may not have been committed.
    fn noted(&mut self, written: Result<(), StoreError>) -> Result<(), StoreError> {
        if let Err(error) = &written {
            error!(%error, "change not stored");
            self.doubt = true;
        }
        written
    }

    /// Publishes a change that was committed; remembers the doubt about one that was not.
    fn settle(
        &mut self,
        state: &MeshState,
        node: NodeRecord,
        written: Result<(), StoreError>,
    ) -> Result<Arc<NodeRecord>, StoreError> {
        self.noted(written)?;
        let id = node.id;
        let next = Arc::new(state.with(node));
        self.publish.send_replace(next.clone());
        Ok(next.nodes[&id].clone())
    }
}

#[cfg(test)]
mod tests {
    use carrick_types::{
        ChallengeKey, Cidr, ClusterName, IdentitySecret, MeshId, Revision, TokenSeed, WireGuardSecret,
    };
    use carrick_wire::{
        hello::Introduction,
        log::{Auditor, SignedCheckpoint, tree::leaf_hash},
        session::{Challenge, RefusalCode},
    };

    use super::*;
    use crate::store::tests::founded;

    const NOW: UnixTime = UnixTime::from_millis(1000);

    #[tokio::test]
    async fn a_member_comes_back_with_its_token_and_takes_no_second_use() {
        let dir = tempfile::tempdir().unwrap();
        let (mesh, _ended) = mesh(dir.path(), 1).await;
        let first = mesh.join(hello(1, "a", &["10.1.0.0/24"]), NOW).await.unwrap();
        let again = mesh.join(hello(1, "a", &["10.1.0.0/24"]), NOW).await.unwrap();
        assert_eq!(first, again);
        assert_eq!(mesh.state().revision, Revision(1));
        assert_eq!(mesh.tokens(NOW).await.unwrap()[0].used, 1);
        assert_eq!(refused(&mesh, hello(2, "b", &[])).await.0, RefusalCode::Token);
    }

    #[tokio::test]
    async fn a_name_a_prefix_and_a_key_belong_to_one_node() {
        let dir = tempfile::tempdir().unwrap();
        let (mesh, _ended) = mesh(dir.path(), 9).await;
        mesh.join(hello(1, "a", &["10.1.0.0/24"]), NOW).await.unwrap();

        let (code, detail) = refused(&mesh, hello(2, "a", &[])).await;
        assert_eq!(code, RefusalCode::NameTaken);
        assert!(detail.contains("the name a belongs to another node"), "{detail}");
        let (code, detail) = refused(&mesh, hello(2, "b", &["10.1.0.128/25"])).await;
        assert_eq!(code, RefusalCode::Prefix);
        assert!(detail.contains("prefix 10.1.0.128/25 overlaps 10.1.0.0/24 of node a"), "{detail}");
        let (code, detail) = refused(&mesh, hello(2, "b", &["0.0.0.0/0"])).await;
        assert_eq!(code, RefusalCode::Prefix);
        assert!(detail.contains("default route"), "{detail}");
        let (code, detail) = refused(&mesh, hello(2, "b", &["100.64.0.1/32"])).await;
        assert_eq!(code, RefusalCode::Prefix);
        assert!(detail.contains("overlay range"), "{detail}");
        let (code, detail) = refused(&mesh, hello_with(2, 1, "b", &[])).await;
        assert_eq!(code, RefusalCode::KeyTaken);
        assert!(detail.contains("belongs to node a"), "{detail}");
        assert_eq!(mesh.tokens(NOW).await.unwrap()[0].used, 1, "a refused join consumes no use");
    }

    #[tokio::test]
    async fn a_revoked_node_comes_back_with_neither_of_its_keys() {
        let dir = tempfile::tempdir().unwrap();
        let (mesh, _ended) = mesh(dir.path(), 9).await;
        let node = mesh.join(hello(1, "a", &["10.1.0.0/24"]), NOW).await.unwrap();
        mesh.revoke(node.id, Some("stolen".into()), NOW).await.unwrap().unwrap();
        let twice = mesh.revoke(node.id, None, UnixTime::from_millis(2000)).await.unwrap().unwrap();
        let Membership::Revoked(revocation) = &twice.membership else { panic!("active") };
        assert_eq!(revocation.reason.as_deref(), Some("stolen"));
        assert_eq!(mesh.state().revision, Revision(2));

        assert_eq!(refused(&mesh, hello(1, "a", &[])).await.0, RefusalCode::Revoked);
        assert_eq!(refused(&mesh, hello_with(2, 1, "a", &[])).await.0, RefusalCode::KeyTaken);
        let heir = mesh.join(hello(2, "a", &["10.1.0.0/24"]), NOW).await.unwrap();
        assert_eq!(heir.overlay_index, 2, "an overlay address is never given twice");
    }

    #[tokio::test]
    async fn prefixes_may_change_and_the_name_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (mesh, _ended) = mesh(dir.path(), 9).await;
        mesh.join(hello(1, "a", &["10.1.0.0/24"]), NOW).await.unwrap();
        let node = mesh.join(hello(1, "z", &["10.2.0.0/24"]), NOW).await.unwrap();
        assert_eq!((node.name.as_str(), node.revision), ("a", Revision(2)));
        assert_eq!(node.prefixes[0].to_string(), "10.2.0.0/24");
    }

    #[tokio::test]
    async fn every_visible_change_raises_the_revision_by_one_and_others_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let (mesh, _ended) = mesh(dir.path(), 9).await;
        let node = mesh.join(hello(1, "a", &[]), NOW).await.unwrap();
        let endpoints: Vec<SocketAddr> = vec!["192.0.2.1:51820".parse().unwrap()];
        mesh.set_endpoints(node.id, endpoints.clone()).await.unwrap();
        assert_eq!(mesh.state().revision, Revision(2));
        mesh.set_endpoints(node.id, endpoints).await.unwrap();
        assert_eq!(mesh.state().revision, Revision(2), "the same endpoints again are no change");
    }

    #[tokio::test]
    async fn every_decision_is_in_the_log_and_the_log_can_be_audited() {
        let dir = tempfile::tempdir().unwrap();
        let (mesh, _ended) = mesh(dir.path(), 2).await;
        let node = mesh.join(hello(1, "a", &["10.1.0.0/24"]), NOW).await.unwrap();
        mesh.join(hello(1, "a", &["10.2.0.0/24"]), NOW).await.unwrap();
        mesh.set_endpoints(node.id, vec!["192.0.2.1:51820".parse().unwrap()]).await.unwrap();
        mesh.revoke(node.id, None, NOW).await.unwrap();
        mesh.revoke(node.id, None, NOW).await.unwrap();
        refused(&mesh, hello(1, "a", &[])).await;
        mesh.revoke_token(TokenId::from_bytes([9; 10]), NOW).await.unwrap();
        mesh.revoke_token(TokenId::from_bytes([9; 10]), NOW).await.unwrap();

        let page = mesh.log_page(0, 100).await.unwrap();
        let mut auditor = Auditor::default();
        let mut tree = Tree::default();
        let mut kinds = Vec::new();
        for text in &page.entries {
            tree.push(leaf_hash(text.as_bytes()));
            let entry = serde_json::to_value(auditor.follow(text).unwrap()).unwrap();
            kinds.push(entry["type"].as_str().unwrap().to_owned());
        }
        let expected = ["token-created", "node-joined", "prefixes-changed", "node-revoked", "token-revoked"];
        assert_eq!(kinds, expected, "once each; where a node may be reached is no decision");
        let LogCheckpoint { note, key } = mesh.checkpoint().await.unwrap();
        let checkpoint = note.parse::<SignedCheckpoint>().unwrap().verify(mesh.state().mesh, &key).unwrap();
        assert_eq!((checkpoint.size, Some(checkpoint.head)), (5, tree.head(5)));
    }

    #[tokio::test]
    async fn the_end_of_the_owner_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let (mesh, ended) = mesh(dir.path(), 1).await;
        let answer = mesh.call(|_| panic!("on purpose")).await.map(|(): ()| ());
        assert!(matches!(answer, Err(StoreError::Stopping)));
        ended.await.unwrap_err();
        mesh.check(NOW).await.unwrap_err();
    }

    async fn mesh(dir: &std::path::Path, uses: u32) -> (Mesh, Ended) {
        let (mesh, ended) =
            Mesh::start(Store::open(&founded(dir)).unwrap(), CoordinatorSecret::from_bytes([5; 32]), ())
                .unwrap();
        let seed = TokenSeed::from_bytes([9; 32]);
        let token = TokenRecord {
            id: TokenId::from_bytes([9; 10]),
            cluster: "east".parse().unwrap(),
            key_hash: TokenRecord::hash(&seed.public()),
            created_at: UnixTime::from_millis(0),
            expires_at: UnixTime::from_millis(3_600_000),
            uses,
            used: 0,
            revoked: false,
        };
        mesh.add_token(token, NOW).await.unwrap();
        (mesh, ended)
    }

    async fn refused(mesh: &Mesh, hello: ProvenHello) -> (RefusalCode, String) {
        let refused = mesh.join(hello, NOW).await.unwrap_err();
        (refused.code(), refused.to_string())
    }

    fn hello(n: u8, name: &str, prefixes: &[&str]) -> ProvenHello {
        hello_with(n, n, name, prefixes)
    }

    fn hello_with(identity: u8, wireguard: u8, name: &str, prefixes: &[&str]) -> ProvenHello {
        let secret = WireGuardSecret::from_bytes([77; 32]);
        let challenge = Challenge {
            mesh: MeshId::from_bytes([1; 16]),
            nonce: [2; 32],
            challenge_key: ChallengeKey::from_bytes(*secret.public().as_bytes()).unwrap(),
        };
        let cluster: ClusterName = "east".parse().unwrap();
        Introduction {
            name: name.parse().unwrap(),
            cluster,
            prefixes: prefixes.iter().map(|text| text.parse::<Cidr>().unwrap()).collect(),
            version: "test".to_owned(),
            have: None,
            identity: &IdentitySecret::from_bytes([identity; 32]),
            wireguard: &WireGuardSecret::from_bytes([wireguard; 32]),
            token: Some((TokenId::from_bytes([9; 10]), &TokenSeed::from_bytes([9; 32]))),
        }
        .answer(&challenge, &[0; 32])
        .verify(&challenge, &secret, &[0; 32])
        .unwrap()
    }
}
