//! The one owner of the mesh: a thread that commits each change to the store and then publishes the state it leads to.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use carrick_attest::{
    Bytes, Evidence, Grant, SignedBundle, Statement, kubernetes::JwtId, policy::BundleError,
};
use carrick_types::{CoordinatorSecret, NodeId, TokenId, UnixTime, WireGuardKey};
use carrick_wire::{
    api::{LogPage, Refusal, Revocation, Token},
    log::{Decision, Entry},
};
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use tracing::{error, info, warn};

use crate::{
    admission::{self, Entrance, Plan, ProvenHello},
    bundle,
    rate::Rate,
    refusal::Refused,
    state::{LoggedEntry, Membership, MeshState, NodeRecord, PublishedBundle, Suspension},
    store::{Store, StoreError, TokenRecord},
};

/// A handle on the owner. Changes go through it one at a time; the state can be read at any time.
#[derive(Debug, Clone)]
pub(crate) struct Mesh {
    jobs: mpsc::Sender<Job>,
    state: watch::Receiver<Arc<MeshState>>,
    refused: watch::Sender<Option<Arc<Refusal>>>,
    /// Whether suspensions are in force that are not on disk.
    owes: Arc<AtomicBool>,
}

/// Resolves when the owner's thread has ended, for whatever reason.
pub(crate) type Ended = oneshot::Receiver<()>;

type Job = Box<dyn FnOnce(&mut Owner) + Send>;

/// Changes that may wait for the owner before callers wait themselves.
const MAX_WAITING: usize = 256;

/// The most tokens that are kept; those that lapsed more than a week ago are forgotten first.
const MAX_TOKENS: u64 = 10_000;
const TOKEN_MEMORY_MILLIS: u64 = 7 * 24 * 3600 * 1000;

/// How many hellos, or new evidence, of one node are looked at: so many at once, and so many a second after. Whatever they change
/// raises the revision and lengthens the log.
const CHANGES: u32 = 20;
const CHANGES_PER_SECOND: f64 = 0.5;

/// Why a policy bundle was not put into force.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PublishError {
    #[error("the policy bundle is refused: {0}")]
    Bundle(#[from] BundleError),
    #[error("the policy bundle names another coordinator's signing key: put {0} into `coordinator_key`")]
    OtherCoordinator(carrick_types::CoordinatorKey),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a token was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    #[error(
        "there are {MAX_TOKENS} join tokens: wait until some have been expired for a week, or give one token more uses"
    )]
    TooMany,
    #[error("the token is not signed by this mesh's operator, or is of another mesh")]
    Forged,
    #[error("there is a join token {0} already: make another one")]
    Known(TokenId),
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
        let first = Arc::new(store.load(&key)?);
        let (publish, state) = watch::channel(first);
        let (jobs, mut waiting) = mpsc::channel::<Job>(MAX_WAITING);
        let owes = Arc::new(AtomicBool::new(false));
        let (alive, ended) = oneshot::channel();
        let owner = Owner {
            store,
            publish,
            key,
            changes: BTreeMap::new(),
            unstored: BTreeMap::new(),
            owes: owes.clone(),
            doubt: false,
        };
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
        Ok((Self { jobs, state, refused: watch::Sender::new(None), owes }, ended))
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

    /// Takes the evidence that a member shows, for a key that may be new.
    pub(crate) async fn renew(
        &self,
        id: NodeId,
        key: WireGuardKey,
        statements: Vec<Statement>,
        now: UnixTime,
    ) -> Result<Arc<NodeRecord>, Refused> {
        let renewed = self.call(move |owner| owner.renew(id, key, &statements, now)).await;
        renewed.unwrap_or_else(|stopping| Err(stopping.into()))
    }

    /// Cuts a node off until it is [resumed](Self::resume) or shows new evidence. Nothing happens to one that is cut off already.
    pub(crate) async fn suspend(&self, id: NodeId, why: Suspension, now: UnixTime) -> Result<(), StoreError> {
        self.call(move |owner| owner.suspend(id, why, now)).await?
    }

    /// Stores the suspensions that are in force and could not be stored before. Where there are none, it waits for nobody.
    pub(crate) async fn store_suspensions(&self) -> Result<(), StoreError> {
        if self.owes.load(Ordering::Relaxed) { self.call(Owner::store_suspensions).await? } else { Ok(()) }
    }

    /// Something was heard of a node that was suspended for its silence.
    pub(crate) async fn resume(&self, id: NodeId, now: UnixTime) -> Result<(), StoreError> {
        self.call(move |owner| owner.resume(id, now)).await?
    }

    /// Puts a policy bundle into force. Nodes whose evidence is not enough under it are suspended.
    /// Answers which, and why.
    pub(crate) async fn publish(
        &self,
        signed: SignedBundle,
        now: UnixTime,
    ) -> Result<Vec<(Arc<NodeRecord>, String)>, PublishError> {
        self.call(move |owner| owner.publish_bundle(signed, now)).await?
    }

    /// Notes that somebody was refused, for people to read.
    pub(crate) async fn note_refusal(&self, refusal: Refusal) {
        let last = Arc::new(refusal.clone());
        // Whether it was noted changes nothing for whoever was refused.
        let noted = self.call(move |owner| owner.store.note_refusal(&refusal)).await;
        if let Ok(Err(error)) | Err(error) = noted {
            warn!(%error, "refusal not noted");
        }
        self.refused.send_replace(Some(last));
    }

    /// The last refusal, and every one that follows; of several at once only the last.
    pub(crate) fn watch_refusals(&self) -> watch::Receiver<Option<Arc<Refusal>>> {
        self.refused.subscribe()
    }

    /// Who was refused, the last first.
    pub(crate) async fn refusals(&self) -> Result<Vec<Refusal>, StoreError> {
        self.call(|owner| owner.store.refusals()).await?
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

    /// The entries of the log from `start` on, at most `limit`.
    pub(crate) async fn log_page(&self, start: u64, limit: u32) -> Result<LogPage, StoreError> {
        self.call(move |owner| {
            owner.state()?;
            let entries = owner.store.log_entries(start, limit)?;
            Ok(LogPage { size: owner.store.next_position(), start, entries })
        })
        .await?
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

/// A suspension that is not on disk.
struct Unstored {
    why: Suspension,
    /// What the log still has to say of it.
    entry: Option<Entry>,
}

struct Owner {
    store: Store,
    publish: watch::Sender<Arc<MeshState>>,
    /// Signs the heads of the log.
    key: CoordinatorSecret,
    /// How often each member changed something.
    changes: BTreeMap<NodeId, Rate>,
    /// Suspensions that are in force, and not on disk: a disk that is full must not keep anybody in.
    unstored: BTreeMap<NodeId, Unstored>,
    owes: Arc<AtomicBool>,
    /// A commit failed, so what is on disk may be newer than what is published.
    doubt: bool,
}

impl Owner {
    fn join(&mut self, proven: &ProvenHello, now: UnixTime) -> Result<Arc<NodeRecord>, Refused> {
        let state = self.state()?;
        let id = NodeId::of(&proven.subject.identity_key);
        if state.nodes.contains_key(&id) {
            self.count_change(id)?;
        } else if self.store.is_former_key(&proven.subject.wireguard_key)? {
            return Err(Refused::FormerKey);
        }
        let token = match &proven.hello.token {
            None => None,
            Some(token) => self.store.token(&token.id)?,
        };
        let shown = self.unshown(&proven.statements)?;
        self.follow(&state, admission::plan(&state, proven, token.as_ref(), now)?, &shown, now)
    }

    fn renew(
        &mut self,
        id: NodeId,
        key: WireGuardKey,
        statements: &[Statement],
        now: UnixTime,
    ) -> Result<Arc<NodeRecord>, Refused> {
        let state = self.state()?;
        let member = state.nodes.get(&id).ok_or(Refused::Revoked)?;
        self.count_change(id)?;
        if self.store.is_former_key(&key)? {
            return Err(Refused::FormerKey);
        }
        let shown = self.unshown(statements)?;
        self.follow(&state, admission::renew(&state, member, key, statements, now)?, &shown, now)
    }

    /// The ids of the service-account tokens in new evidence, none of which was shown before.
    fn unshown(&self, statements: &[Statement]) -> Result<Vec<JwtId>, Refused> {
        let mut ids = Vec::new();
        for statement in statements {
            if let Evidence::Kubernetes(evidence) = &statement.evidence
                // What is no token is for the appraisal to refuse.
                && let Some(id) = evidence.jwt_id()
            {
                if self.store.was_shown(&id)? {
                    return Err(id.shown_again().into());
                }
                ids.push(id);
            }
        }
        Ok(ids)
    }

    /// Does what was decided about a node, which showed these tokens.
    fn follow(
        &mut self,
        state: &MeshState,
        plan: Plan,
        shown: &[JwtId],
        now: UnixTime,
    ) -> Result<Arc<NodeRecord>, Refused> {
        match plan {
            Plan::Welcome(id) => state.nodes.get(&id).cloned().ok_or(Refused::Stopping),
            Plan::Update(node) => Ok(self.update(state, node, None)?),
            Plan::Resume(node) => {
                let entry = self.resumed(node.id, now);
                Ok(self.update(state, node, entry)?)
            }
            Plan::Grant { node, grant, entrance } => {
                // Before the grant: should this process end in between, the node shows another token.
                if !shown.is_empty() {
                    self.store.note_shown(shown, now)?;
                }
                Ok(self.grant(state, node, grant, entrance, now)?)
            }
        }
    }

    fn grant(
        &mut self,
        state: &MeshState,
        mut node: NodeRecord,
        grant: Grant,
        entrance: Option<Entrance>,
        now: UnixTime,
    ) -> Result<Arc<NodeRecord>, StoreError> {
        let token = match entrance {
            Some(Entrance::Token(token)) => Some(token),
            Some(Entrance::Evidence) | None => None,
        };
        let entry = Entry { at: now, decision: Decision::Granted { grant, token } };
        node.logged = LoggedEntry { position: self.store.next_position(), text: entry.to_text().into() };
        if entrance.is_some() {
            info!(node = %node.id, name = %node.name, cluster = %node.cluster, ?entrance, "node joins");
            let written = self.store.admit(&node, token.as_ref(), &entry);
            self.settle(state, node, written)
        } else {
            self.update(state, node, Some(entry))
        }
    }

    fn suspend(&mut self, id: NodeId, why: Suspension, now: UnixTime) -> Result<(), StoreError> {
        let state = self.state()?;
        let Some(node) = state.nodes.get(&id) else { return Ok(()) };
        let entry = match (&node.membership, &why) {
            (Membership::Active, _) => {
                let decision = Decision::Suspended { node: id, reason: why.why().to_owned() };
                Some(Entry { at: now, decision })
            }
            // Being heard does not help it any more. For its peers, nothing changes.
            (Membership::Suspended(Suspension::Silent), Suspension::Evidence { .. }) => None,
            (Membership::Suspended(_) | Membership::Revoked(_), _) => return Ok(()),
        };
        warn!(node = %id, name = %node.name, why = why.why(), "node suspended");
        let next = suspended(&state, node, why.clone());
        let stored = self.update(&state, next.clone(), entry.clone());
        if stored.is_err() {
            let entry = entry.or_else(|| self.unstored.remove(&id)?.entry);
            self.unstored.insert(id, Unstored { why, entry });
            self.owes.store(true, Ordering::Relaxed);
            self.publish.send_replace(Arc::new(state.with(next)));
        }
        stored.map(drop)
    }

    fn store_suspensions(&mut self) -> Result<(), StoreError> {
        while let Some(id) = self.unstored.first_key_value().map(|(id, _)| *id) {
            let state = self.state()?;
            match state.nodes.get(&id) {
                Some(node) => drop(self.update(&state, NodeRecord::clone(node), None)?),
                None => drop(self.unstored.remove(&id)),
            }
        }
        self.owes.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// What the log says of a node that is accepted again: nothing, where it never came to say that it was not.
    fn resumed(&self, id: NodeId, now: UnixTime) -> Option<Entry> {
        let unsaid = self.unstored.get(&id).is_some_and(|unstored| unstored.entry.is_some());
        (!unsaid).then_some(Entry { at: now, decision: Decision::Resumed { node: id } })
    }

    fn resume(&mut self, id: NodeId, now: UnixTime) -> Result<(), StoreError> {
        let state = self.state()?;
        let Some(node) = state.nodes.get(&id) else { return Ok(()) };
        let silent = matches!(node.membership, Membership::Suspended(Suspension::Silent));
        if silent && admission::judge(&state, node, node.statements(), now).is_ok() {
            info!(node = %id, name = %node.name, "node resumed");
            let revision = state.revision.next();
            let next = NodeRecord {
                membership: Membership::Active,
                revision,
                grant_revision: revision,
                ..NodeRecord::clone(node)
            };
            let entry = self.resumed(id, now);
            self.update(&state, next, entry)?;
        }
        Ok(())
    }

    fn publish_bundle(
        &mut self,
        signed: SignedBundle,
        now: UnixTime,
    ) -> Result<Vec<(Arc<NodeRecord>, String)>, PublishError> {
        let state = self.state()?;
        let PublishedBundle { signed, trusted } = bundle::follow(&state, signed, self.key.public(), now)?;
        let found = trusted.get().version;
        let sha256 = Bytes(Sha256::digest(signed.bundle.text()).into());
        let operator = trusted.operator();
        let decision = Decision::BundlePublished { version: found, operator, sha256 };
        let written = self.store.publish_bundle(found, &signed, &Entry { at: now, decision });
        self.noted(written)?;
        info!(version = found, %operator, "policy bundle in force");
        let mut next = MeshState::clone(&state);
        next.bundle = Arc::new(PublishedBundle { signed, trusted });
        next.log = self.store.log_state(state.mesh, &self.key);
        let next = Arc::new(next);
        self.publish.send_replace(next.clone());
        let cut_off = bundle::cut_off(&next, &next.bundle.trusted, now);
        let mut stored = Ok(());
        for (node, why) in &cut_off {
            // One that cannot be stored must not keep the others in.
            let suspended = self.suspend(node.id, Suspension::Evidence { why: why.clone() }, now);
            stored = stored.and(suspended);
        }
        stored?;
        Ok(cut_off)
    }

    fn count_change(&mut self, id: NodeId) -> Result<(), Refused> {
        let rate = self.changes.entry(id).or_insert_with(|| Rate::new(CHANGES, CHANGES_PER_SECOND));
        if rate.allows(Instant::now()) { Ok(()) } else { Err(Refused::TooOften) }
    }

    fn set_endpoints(&mut self, id: NodeId, endpoints: Vec<SocketAddr>) -> Result<(), StoreError> {
        let state = self.state()?;
        match state.nodes.get(&id) {
            Some(node) if !node.is_revoked() && node.endpoints != endpoints => {
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
            Some(node) if !node.is_revoked() => {
                let decision = Decision::NodeRevoked { node: id, reason: reason.clone() };
                let entry = Entry { at: now, decision };
                let next = NodeRecord {
                    membership: Membership::Revoked(Revocation { at: now, reason }),
                    revision: state.revision.next(),
                    logged: LoggedEntry {
                        position: self.store.next_position(),
                        text: entry.to_text().into(),
                    },
                    ..NodeRecord::clone(node)
                };
                let revoked = self.update(&state, next, Some(entry))?;
                info!(node = %id, name = %revoked.name, "node revoked");
                Ok(Some(revoked))
            }
            other => Ok(other.cloned()),
        }
    }

    fn add_token(&mut self, token: &TokenRecord, now: UnixTime) -> Result<(), TokenError> {
        let state = self.state()?;
        let opened = token.signed.open(&state.bundle.trusted.operator());
        if opened.ok().is_none_or(|opened| opened != token.capability || opened.mesh != state.mesh) {
            return Err(TokenError::Forged);
        }
        let id = token.capability.token;
        if self.store.token(&id)?.is_some() {
            return Err(TokenError::Known(id));
        }
        if self.store.count_tokens()? >= MAX_TOKENS {
            let before = now.as_millis().saturating_sub(TOKEN_MEMORY_MILLIS);
            self.store.forget_tokens(UnixTime::from_millis(before))?;
            if self.store.count_tokens()? >= MAX_TOKENS {
                return Err(TokenError::TooMany);
            }
        }
        let decision = Decision::TokenCreated { capability: token.signed.clone() };
        let written = self.store.insert_token(token, &Entry { at: now, decision });
        Ok(self.logged(&state, written)?)
    }

    fn revoke_token(&mut self, id: TokenId, now: UnixTime) -> Result<bool, StoreError> {
        let state = self.state()?;
        match self.store.token(&id)? {
            None => Ok(false),
            Some(token) if token.revoked => Ok(true),
            Some(_) => {
                let entry = Entry { at: now, decision: Decision::TokenRevoked { token: id } };
                let written = self.store.revoke_token(&id, &entry);
                self.logged(&state, written)?;
                Ok(true)
            }
        }
    }

    /// The published state, which is what is on disk.
    fn state(&mut self) -> Result<Arc<MeshState>, StoreError> {
        if self.doubt {
            self.store.reload_log()?;
            let mut loaded = self.store.load(&self.key)?;
            // No revision is given twice: whoever was told of one would not hear of the other.
            loaded.revision = loaded.revision.max(self.publish.borrow().revision);
            for (id, Unstored { why, .. }) in &self.unstored {
                if let Some(node) = loaded.nodes.get(id).filter(|node| !node.is_revoked()) {
                    let node = suspended(&loaded, node, why.clone());
                    loaded = loaded.with(node);
                }
            }
            self.publish.send_replace(Arc::new(loaded));
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
        let unsaid = match &node.membership {
            Membership::Suspended(_) => {
                self.unstored.get(&node.id).and_then(|unstored| unstored.entry.clone())
            }
            Membership::Active | Membership::Revoked(_) => None,
        };
        let written = self.store.update(&node, entry.or(unsaid).as_ref());
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

    /// Publishes the log after an entry that concerns no node.
    fn logged(&mut self, state: &MeshState, written: Result<(), StoreError>) -> Result<(), StoreError> {
        self.noted(written)?;
        let log = self.store.log_state(state.mesh, &self.key);
        self.publish.send_replace(Arc::new(MeshState { log, ..state.clone() }));
        Ok(())
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
        self.unstored.remove(&id);
        let mut next = state.with(node);
        if self.store.next_position() > state.log.head.size {
            next.log = self.store.log_state(state.mesh, &self.key);
        }
        let next = Arc::new(next);
        self.publish.send_replace(next.clone());
        Ok(next.nodes[&id].clone())
    }
}

/// A node as it is from the next revision on: not accepted for now.
fn suspended(state: &MeshState, node: &NodeRecord, why: Suspension) -> NodeRecord {
    let membership = Membership::Suspended(why);
    NodeRecord { membership, revision: state.revision.next(), ..node.clone() }
}

#[cfg(test)]
mod tests {
    mod history;
    mod suspensions;

    use carrick_attest::{Bundle, Kind, Subject};
    use carrick_types::{
        ChallengeKey, Cidr, ClusterName, IdentitySecret, LeaseProfile, OperatorSecret, Revision, TokenSeed,
        WireGuardSecret,
    };
    use carrick_wire::{
        hello::{Have, Introduction, Proof, Request, Trust},
        log::{
            Auditor, SignedCheckpoint,
            tree::{Tree, leaf_hash},
        },
        session::RefusalCode,
    };

    use super::*;
    use crate::{
        state::tests::{bundle, mesh as mesh_id, operator, signed, signing_key},
        store::{tests::founded, tests::token},
    };

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
        mesh.suspend(node.id, Suspension::Silent, NOW).await.unwrap();
        mesh.suspend(node.id, Suspension::Silent, NOW).await.unwrap();
        mesh.resume(node.id, NOW).await.unwrap();
        mesh.renew(node.id, key(77).public(), proven(1, 77, 9), NOW).await.unwrap();
        mesh.publish(signed(&Bundle { version: 2, ..bundle() }), NOW).await.unwrap();
        mesh.revoke(node.id, None, NOW).await.unwrap();
        mesh.revoke(node.id, None, NOW).await.unwrap();
        refused(&mesh, hello(1, "a", &[])).await;
        mesh.revoke_token(TokenId::from_bytes([9; 10]), NOW).await.unwrap();
        mesh.revoke_token(TokenId::from_bytes([9; 10]), NOW).await.unwrap();

        let page = mesh.log_page(0, 100).await.unwrap();
        let mut auditor = Auditor::new(mesh_id(), vec![operator().public()]);
        let mut tree = Tree::default();
        let mut kinds = Vec::new();
        for text in &page.entries {
            tree.push(leaf_hash(text.as_bytes()));
            let entry = serde_json::to_value(auditor.follow(text).unwrap()).unwrap();
            kinds.push(entry["type"].as_str().unwrap().to_owned());
        }
        let expected = [
            "bundle-published",
            "token-created",
            "granted",
            "granted",
            "suspended",
            "resumed",
            "granted",
            "bundle-published",
            "node-revoked",
            "token-revoked",
        ];
        assert_eq!(kinds, expected, "once each; where a node may be reached is no decision");
        let state = mesh.state();
        let checkpoint: SignedCheckpoint = state.log.checkpoint.parse().unwrap();
        let checkpoint = checkpoint.verify(state.mesh, &signing_key().public()).unwrap();
        assert_eq!((checkpoint.size, Some(checkpoint.head)), (10, tree.head(10)));
    }

    #[tokio::test]
    async fn a_new_key_replaces_the_old_one_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let (mesh, _ended) = mesh(dir.path(), 9).await;
        let node = mesh.join(hello(1, "a", &[]), NOW).await.unwrap();
        let other = mesh.join(hello(2, "b", &[]), NOW).await.unwrap();
        let renewed = mesh.renew(node.id, key(77).public(), proven(1, 77, 9), NOW).await.unwrap();
        assert_eq!(renewed.wireguard_key, key(77).public());
        assert_eq!(refused(&mesh, hello(1, "a", &[])).await.0, RefusalCode::KeyTaken, "its old key");
        assert_eq!(
            refused(&mesh, hello_with(3, 1, "c", &[])).await.0,
            RefusalCode::KeyTaken,
            "nor another's"
        );
        let stolen = mesh.renew(node.id, other.wireguard_key, proven(1, 2, 10), NOW).await.unwrap_err();
        assert_eq!(stolen.code(), RefusalCode::KeyTaken);
        let forged = mesh.renew(node.id, key(78).public(), proven(2, 78, 11), NOW).await.unwrap_err();
        assert_eq!(forged.code(), RefusalCode::Evidence, "signed by somebody else");
        mesh.join(hello_with(1, 77, "a", &[]), NOW).await.unwrap();
    }

    #[tokio::test]
    async fn a_bundle_comes_into_force_only_from_the_operator_and_only_upwards() {
        let dir = tempfile::tempdir().unwrap();
        let (mesh, _ended) = mesh(dir.path(), 9).await;
        let second = Bundle { version: 2, ..bundle() };
        let refused = async |signed| mesh.publish(signed, NOW).await.unwrap_err().to_string();
        let stranger = OperatorSecret::from_bytes([99; 32]);
        let forged = SignedBundle {
            operator: stranger.public(),
            successions: vec![],
            bundle: carrick_attest::Signed::seal(&second, &stranger),
        };
        assert!(refused(forged).await.contains("not this mesh's operator"));
        assert!(refused(signed(&bundle())).await.contains("versions only rise"));
        assert!(refused(signed(&Bundle { expires_at: NOW, ..second.clone() })).await.contains("expired"));
        let elsewhere = CoordinatorSecret::from_bytes([98; 32]).public();
        assert!(
            refused(signed(&Bundle { coordinator_key: elsewhere, ..second.clone() }))
                .await
                .contains("another")
        );
        mesh.publish(signed(&second), NOW).await.unwrap();
        assert_eq!(mesh.state().policy().version, 2);
        let mut kept = Bundle { version: 3, ..second };
        kept.default.lease = LeaseProfile::Strict;
        mesh.publish(signed(&kept), NOW).await.unwrap();
        drop(mesh);
        let store = Store::open(&dir.path().join("carrick.db")).unwrap();
        assert_eq!(store.bundle().unwrap(), signed(&kept), "the last one is there after a restart");
    }

    #[tokio::test]
    async fn a_bundle_that_asks_for_more_suspends_whoever_cannot_show_it() {
        let dir = tempfile::tempdir().unwrap();
        let (mesh, _ended) = mesh(dir.path(), 9).await;
        let node = mesh.join(hello(1, "a", &[]), NOW).await.unwrap();
        let mut second = Bundle { version: 2, ..bundle() };
        second.default.runtime_digests.insert("11".repeat(32));
        mesh.publish(signed(&second), NOW).await.unwrap();
        let suspended = mesh.state().nodes[&node.id].membership.clone();
        assert!(
            matches!(suspended, Membership::Suspended(Suspension::Evidence { why }) if why.contains("runtime"))
        );
        mesh.resume(node.id, NOW).await.unwrap();
        assert!(!mesh.state().nodes[&node.id].is_active(), "a heartbeat is not enough");
        let third = Bundle { version: 3, ..bundle() };
        mesh.publish(signed(&third), NOW).await.unwrap();
        mesh.join(hello(1, "a", &[]), NOW).await.unwrap();
        assert!(mesh.state().nodes[&node.id].is_active());
    }

    #[tokio::test]
    async fn a_member_that_changes_all_the_time_is_slowed_down() {
        let dir = tempfile::tempdir().unwrap();
        let (mesh, _ended) = mesh(dir.path(), 9).await;
        mesh.join(hello(1, "a", &[]), NOW).await.unwrap();
        let mut outcomes = Vec::new();
        for n in 0..40 {
            let prefix = format!("10.{n}.0.0/24");
            outcomes.push(mesh.join(hello(1, "a", &[&prefix]), NOW).await.map_err(|refused| refused.code()));
        }
        assert!(outcomes[..10].iter().all(Result::is_ok));
        assert_eq!(outcomes.last(), Some(&Err(RefusalCode::Unavailable)));
        mesh.join(hello(2, "b", &[]), NOW).await.expect("others are not concerned");
    }

    #[tokio::test]
    async fn a_token_that_another_operator_signed_or_that_is_there_already_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let (mesh, _ended) = mesh(dir.path(), 1).await;
        let stranger = OperatorSecret::from_bytes([99; 32]);
        let known = token(1);
        let mut capability = known.capability.clone();
        capability.token = TokenId::from_bytes([8; 10]);
        let signed = carrick_attest::Signed::seal(&capability, &stranger);
        let refused = mesh.add_token(TokenRecord { signed, capability, ..known }, NOW).await.unwrap_err();
        assert!(matches!(refused, TokenError::Forged), "{refused}");
        let refused = mesh.add_token(token(1), NOW).await.unwrap_err();
        assert!(matches!(refused, TokenError::Known(_)), "{refused}");
        assert_eq!(mesh.tokens(NOW).await.unwrap().len(), 1);
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
        let (mesh, ended) = Mesh::start(Store::open(&founded(dir)).unwrap(), signing_key(), ()).unwrap();
        mesh.add_token(token(uses), NOW).await.unwrap();
        (mesh, ended)
    }

    async fn refused(mesh: &Mesh, hello: ProvenHello) -> (RefusalCode, String) {
        let refused = mesh.join(hello, NOW).await.unwrap_err();
        (refused.code(), refused.to_string())
    }

    fn hello(n: u8, name: &str, prefixes: &[&str]) -> ProvenHello {
        hello_with(n, n, name, prefixes)
    }

    fn key(n: u8) -> WireGuardSecret {
        WireGuardSecret::from_bytes([n; 32])
    }

    fn request(salt: u8) -> (Request, WireGuardSecret) {
        let secret = key(200);
        let challenge_key = ChallengeKey::from_bytes(*secret.public().as_bytes()).unwrap();
        let request = Request {
            mesh: mesh_id(),
            log_size: 0,
            log_head: Bytes([0; 32]),
            salt: Bytes([salt; 32]),
            challenge_key,
        };
        (request, secret)
    }

    /// What a node proves of itself when it is asked.
    fn proven(identity: u8, wireguard: u8, salt: u8) -> Vec<Statement> {
        let (request, secret) = request(salt);
        let identity = IdentitySecret::from_bytes([identity; 32]);
        let subject = Subject {
            mesh: mesh_id(),
            cluster: "east".parse().unwrap(),
            identity_key: identity.public(),
            wireguard_key: key(wireguard).public(),
        };
        let moment = request.moment(&[0; 32], 1, Bytes([0; 32]));
        Proof::answer(&request, &moment, &subject, (&identity, &key(wireguard)), vec![])
            .verify(&subject, &request, &secret, &[0; 32], NOW)
            .unwrap()
    }

    fn hello_with(identity: u8, wireguard: u8, name: &str, prefixes: &[&str]) -> ProvenHello {
        // No two hellos are of one moment, or their evidence would be the same.
        static SALT: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);
        let (request, secret) = request(SALT.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        let cluster: ClusterName = "east".parse().unwrap();
        let moment = request.moment(&[0; 32], 1, Bytes([0; 32]));
        let hello = Introduction {
            name: name.parse().unwrap(),
            cluster: cluster.clone(),
            prefixes: prefixes.iter().map(|text| text.parse::<Cidr>().unwrap()).collect(),
            version: "test".to_owned(),
            have: Have::default(),
            trust: Trust::Evidence,
            identity: &IdentitySecret::from_bytes([identity; 32]),
            wireguard: &key(wireguard),
            token: Some((TokenId::from_bytes([9; 10]), &TokenSeed::from_bytes([9; 32]))),
            evidence: vec![],
        }
        .answer(&request, &moment);
        let subject = Subject {
            mesh: mesh_id(),
            cluster,
            identity_key: hello.identity_key,
            wireguard_key: hello.proof.wireguard_key,
        };
        let statements = hello.proof.verify(&subject, &request, &secret, &[0; 32], NOW).unwrap();
        assert!(statements.iter().all(|statement| statement.evidence.kind() == Kind::Identity));
        ProvenHello { hello, subject, statements }
    }
}
