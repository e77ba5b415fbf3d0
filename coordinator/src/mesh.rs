//! The one owner of the mesh: a thread that commits each change to the store and then publishes the state it leads to.

mod suspend;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use carrick_attest::{Evidence, Grant, SignedBundle, Statement, kubernetes::JwtId, policy::BundleError};
use carrick_types::{CoordinatorSecret, NodeId, TokenId, UnixTime, WireGuardKey};
use carrick_wire::{
    api::{LogPage, Refusal, Revocation, Token},
    log::{Decision, Entry},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use tracing::{error, info, warn};

use crate::{
    admission::{self, Entrance, Plan, ProvenHello},
    bundle::{self, Judged},
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
    busy: Busy,
}

/// Since when the owner has been at what it does, while it does anything.
type Busy = Arc<Mutex<Option<Instant>>>;

/// Resolves when the owner's thread has ended, for whatever reason.
pub(crate) type Ended = oneshot::Receiver<()>;

type Job = Box<dyn FnOnce(&mut Owner) + Send>;

fn lock(busy: &Busy) -> MutexGuard<'_, Option<Instant>> {
    // No code that holds the lock can leave it half changed.
    busy.lock().unwrap_or_else(PoisonError::into_inner)
}

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
        let busy = Busy::default();
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
        let owners_busy = busy.clone();
        let run = move || {
            // Whatever a job does, these go in this order: the store, what is held for it, the sign of life.
            let _alive: oneshot::Sender<()> = alive;
            let _held = held;
            let mut owner = owner;
            while let Some(job) = waiting.blocking_recv() {
                *lock(&owners_busy) = Some(Instant::now());
                job(&mut owner);
                *lock(&owners_busy) = None;
            }
        };
        let thread = thread::Builder::new().name("mesh".to_owned()).spawn(run);
        thread.map_err(|source| crate::StartError::System { action: "start the mesh thread", source })?;
        Ok((Self { jobs, state, refused: watch::Sender::new(None), owes, busy }, ended))
    }

    /// The state at this moment.
    pub(crate) fn state(&self) -> Arc<MeshState> {
        self.state.borrow().clone()
    }

    /// For how long the owner has been at what it does now. A disk that hangs keeps it from revoking anybody.
    pub(crate) fn busy_for(&self) -> Duration {
        lock(&self.busy).map_or(Duration::ZERO, |since| since.elapsed())
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

    /// Takes the evidence that a member shows, for a key that may be new, as the answer to the demand that there was when it was asked.
    pub(crate) async fn renew(
        &self,
        id: NodeId,
        key: WireGuardKey,
        statements: Vec<Statement>,
        answers: Option<UnixTime>,
        now: UnixTime,
    ) -> Result<Arc<NodeRecord>, Refused> {
        let renewed = self.call(move |owner| owner.renew(id, key, &statements, answers, now)).await;
        renewed.unwrap_or_else(|stopping| Err(stopping.into()))
    }

    /// Demands new evidence of a node. Until it has shown some, no session and no restart makes that undone.
    pub(crate) async fn demand(&self, id: NodeId, now: UnixTime) -> Result<(), StoreError> {
        self.call(move |owner| owner.demand(id, now)).await?
    }

    /// Cuts a node off until it is [resumed](Self::resume) or shows new evidence. Nothing happens to one that is cut off already.
    pub(crate) async fn suspend(&self, id: NodeId, why: Suspension, now: UnixTime) -> Result<(), StoreError> {
        self.suspend_all(BTreeMap::from([(id, why)]), now).await
    }

    /// Cuts nodes off as [`suspend`](Self::suspend) does, all in one commit.
    pub(crate) async fn suspend_all(
        &self,
        lapsed: BTreeMap<NodeId, Suspension>,
        now: UnixTime,
    ) -> Result<(), StoreError> {
        self.call(move |owner| owner.suspend(lapsed, now)).await?
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
        // The owner has others to serve, leases above all, and appraisals take their time: those of a whole mesh are made before its turn.
        let state = self.state();
        let (signed, judged) = tokio::task::spawn_blocking(move || {
            let trusted =
                bundle::follow(&state, signed.clone(), state.policy().coordinator_key, now)?.trusted;
            Ok::<_, PublishError>((signed, Judged::of(&state, &trusted, now)))
        })
        .await
        .map_err(|_| StoreError::Stopping)??;
        self.call(move |owner| owner.publish_bundle(signed, &judged, now)).await?
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

    /// The policy bundle that was in force under a version.
    pub(crate) async fn bundle_of_version(&self, version: u64) -> Result<Option<SignedBundle>, StoreError> {
        self.call(move |owner| owner.store.bundle_of_version(version)).await?
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
    /// How often each member changed something.
    changes: BTreeMap<NodeId, Rate>,
    /// Suspensions that are in force, and not on disk: a disk that is full must not keep anybody in.
    unstored: BTreeMap<NodeId, suspend::Unstored>,
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
        answers: Option<UnixTime>,
        now: UnixTime,
    ) -> Result<Arc<NodeRecord>, Refused> {
        let state = self.state()?;
        let member = state.nodes.get(&id).ok_or(Refused::Revoked)?;
        self.count_change(id)?;
        if self.store.is_former_key(&key)? {
            return Err(Refused::FormerKey);
        }
        let shown = self.unshown(statements)?;
        self.follow(&state, admission::renew(&state, member, key, statements, answers, now)?, &shown, now)
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

    fn demand(&mut self, id: NodeId, now: UnixTime) -> Result<(), StoreError> {
        let state = self.state()?;
        match state.nodes.get(&id) {
            // One that has to show new evidence anyway needs no demand; an earlier demand stands.
            Some(node) if !node.lacks_evidence() && !node.is_revoked() && node.demanded_at.is_none() => {
                let next = NodeRecord { demanded_at: Some(now), ..NodeRecord::clone(node) };
                self.update(&state, next, None).map(drop)
            }
            Some(_) | None => Ok(()),
        }
    }

    fn publish_bundle(
        &mut self,
        signed: SignedBundle,
        judged: &Judged,
        now: UnixTime,
    ) -> Result<Vec<(Arc<NodeRecord>, String)>, PublishError> {
        let state = self.state()?;
        let PublishedBundle { signed, trusted } = bundle::follow(&state, signed, self.key.public(), now)?;
        let found = trusted.get().version;
        let operator = trusted.operator();
        let decision = Decision::bundle_published(found, &signed);
        let written = self.store.publish_bundle(found, &signed, &Entry { at: now, decision });
        self.noted(written)?;
        info!(version = found, %operator, "policy bundle in force");
        let mut next = MeshState::clone(&state);
        next.bundle = Arc::new(PublishedBundle { signed, trusted });
        next.log = self.store.log_state(next.policy(), &self.key);
        let next = Arc::new(next);
        self.publish.send_replace(next.clone());
        let cut_off = bundle::cut_off(&next, &next.bundle.trusted, judged, now);
        let lapsed = cut_off.iter().map(|(node, why)| (node.id, Suspension::Evidence { why: why.clone() }));
        // The bundle is in force, and so is what follows from it; that is stored later where it cannot be now.
        if let Err(error) = self.suspend(lapsed.collect(), now) {
            warn!(%error, "suspensions not stored yet");
        }
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
                    demanded_at: None,
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
            for (id, suspend::Unstored { why, entry }) in &mut self.unstored {
                if let Some(node) = loaded.nodes.get(id).filter(|node| !node.is_revoked()) {
                    // Whoever is cut off on disk is so in the log: the commit came through, and the word of it did not.
                    if !node.is_active() {
                        *entry = None;
                    }
                    let node = suspend::suspended(&loaded, node, why.clone());
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
        let log = self.store.log_state(state.policy(), &self.key);
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
        let id = node.id;
        let next = self.settle_all(state, vec![node], written)?;
        Ok(next.nodes[&id].clone())
    }

    fn settle_all(
        &mut self,
        state: &MeshState,
        nodes: Vec<NodeRecord>,
        written: Result<(), StoreError>,
    ) -> Result<Arc<MeshState>, StoreError> {
        self.noted(written)?;
        nodes.iter().for_each(|node| drop(self.unstored.remove(&node.id)));
        let mut next = state.with_all(nodes);
        if self.store.next_position() > state.log.head.size {
            next.log = self.store.log_state(state.policy(), &self.key);
        }
        let next = Arc::new(next);
        self.publish.send_replace(next.clone());
        Ok(next)
    }
}

#[cfg(test)]
mod tests;
