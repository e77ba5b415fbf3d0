//! Leases: who was heard of, and who was not for too long.
//!
//! One task looks at every node. It suspends those whose heartbeats stopped, and its own pulse is what sessions vouch by: were it, or
//! the owner of the mesh, to hang or to die, nobody would be vouched for any more, and every node would let every lease lapse.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use carrick_types::{NodeId, UnixTime};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    app::now,
    mesh::Mesh,
    state::{MeshState, NodeRecord, Suspension},
};

/// How often leases are looked at.
const TICK: Duration = Duration::from_millis(50);

/// How old the pulse may be for a session to vouch: less than the shortest lease.
const PULSE: Duration = Duration::from_millis(500);

/// How long a node may take to show new evidence: a TPM is slow, and several ask it at once.
pub(crate) const EVIDENCE: Duration = Duration::from_secs(60);

/// How often the age of evidence is looked at, in ticks.
const LOOK_AT_EVIDENCE: u64 = 100;

/// When each node was last heard. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub(crate) struct Leases(Arc<Mutex<Heard>>);

#[derive(Debug)]
struct Heard {
    /// Since when this coordinator has been awake: before that it could not hear anybody.
    awake: Instant,
    pulse: Option<Instant>,
    nodes: BTreeMap<NodeId, Instant>,
}

impl Leases {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Heard { awake: Instant::now(), pulse: None, nodes: BTreeMap::new() })))
    }

    /// A node was heard: in a session that it opened, or by a heartbeat.
    pub(crate) fn heard(&self, node: NodeId) {
        self.lock().nodes.insert(node, Instant::now());
    }

    /// Whether leases are being looked at, so that a session may vouch for the netmap.
    pub(crate) fn vouches(&self) -> bool {
        self.lock().pulse.is_some_and(|pulse| pulse.elapsed() < PULSE)
    }

    /// Waits until leases are being looked at.
    pub(crate) async fn vouching(&self) {
        while !self.vouches() {
            sleep(TICK).await;
        }
    }

    /// When the lease of a node lapses unless it is renewed.
    pub(crate) fn expires(&self, state: &MeshState, node: &NodeRecord) -> UnixTime {
        let left = (self.lock().last(node.id) + state.policy_of(node).lease.lease())
            .saturating_duration_since(Instant::now());
        now().saturating_add(left)
    }

    /// Suspends whoever was silent for too long, or whose evidence is too old, until `shutdown`.
    pub(crate) async fn keep(self, mesh: Mesh, shutdown: CancellationToken) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut count = 0_u64;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let state = mesh.state();
            self.lock().wake();
            let mut lapsed = self.lapsed(&state);
            lapsed.extend(ignoring(&state, now()));
            if count.is_multiple_of(LOOK_AT_EVIDENCE) {
                lapsed.extend(too_old(&state, now()));
                if let Err(error) = mesh.store_suspensions().await {
                    tracing::warn!(%error, "suspensions not stored yet");
                }
            }
            count += 1;
            let decided = Instant::now();
            // What there is to say against evidence comes last, and is what counts.
            let lapsed: BTreeMap<NodeId, Suspension> = lapsed.into_iter().collect();
            let silent = lapsed.iter().filter(|(_, why)| **why == Suspension::Silent);
            let silent: Vec<NodeId> = silent.map(|(node, _)| *node).collect();
            // What could not be stored is in force all the same, and tried again later.
            if !lapsed.is_empty()
                && let Err(error) = mesh.suspend_all(lapsed, now()).await
            {
                tracing::warn!(%error, "suspensions not stored");
            }
            for node in silent {
                // Others may have been served first, and the node have been heard meanwhile.
                if self.lock().last(node) >= decided
                    && let Err(error) = mesh.resume(node, now()).await
                {
                    tracing::warn!(%node, %error, "not resumed");
                }
            }
            // An owner that hangs revokes nobody: nobody is to be vouched for then.
            if mesh.busy_for() < PULSE {
                self.lock().pulse = Some(Instant::now());
            }
        }
    }

    fn lapsed(&self, state: &MeshState) -> Vec<(NodeId, Suspension)> {
        let heard = self.lock();
        let now = Instant::now();
        let silent =
            |node: &&Arc<NodeRecord>| heard.last(node.id) + state.policy_of(node).lease.lease() < now;
        state.active().filter(silent).map(|node| (node.id, Suspension::Silent)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Heard> {
        // No code that holds the lock can leave the map half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Heard {
    /// When a node was last heard, or could first have been.
    fn last(&self, node: NodeId) -> Instant {
        self.nodes.get(&node).map_or(self.awake, |heard| self.awake.max(*heard))
    }

    /// Notices that this process, or the whole host, stood still: whoever was silent then may have been heard by nobody.
    fn wake(&mut self) {
        if self.pulse.is_some_and(|pulse| pulse.elapsed() > PULSE) {
            self.awake = Instant::now();
        }
    }
}

/// Those of whom new evidence was demanded, who have shown none in the time for it. The time runs from the demand, wherever the node is:
/// one that goes away, or a coordinator that starts again, must not begin it anew.
fn ignoring(state: &MeshState, now: UnixTime) -> Vec<(NodeId, Suspension)> {
    let ignores = |node: &&Arc<NodeRecord>| {
        // Either way: a clock that was set back must not lengthen it without end.
        let late = |at: UnixTime| now.saturating_since(at).max(at.saturating_since(now)) > EVIDENCE;
        node.demanded_at.is_some_and(late)
    };
    let why = || Suspension::Evidence {
        why: format!("it was asked for new evidence, and has shown none for {} s", EVIDENCE.as_secs()),
    };
    state.members().filter(ignores).map(|node| (node.id, why())).collect()
}

fn too_old(state: &MeshState, now: UnixTime) -> Vec<(NodeId, Suspension)> {
    let is_too_old = |node: &&Arc<NodeRecord>| {
        let most = state.policy_of(node).max_evidence_age();
        node.evidence_since().is_some_and(|since| now.saturating_since(since) > most)
    };
    let why = || Suspension::Evidence { why: "its evidence is too old, and it shows no new one".to_owned() };
    state.active().filter(is_too_old).map(|node| (node.id, why())).collect()
}

#[cfg(test)]
mod tests {
    use carrick_types::LeaseProfile;

    use super::*;
    use crate::state::tests::{bundle, empty, node, published, signed};

    fn state(lease: LeaseProfile) -> MeshState {
        let mut bundle = bundle();
        bundle.default.lease = lease;
        let mut state = empty().with(node(1, 1)).with(node(2, 2));
        state.bundle = Arc::new(published(signed(&bundle)));
        state
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_silent_for_a_lease_is_suspended_and_nobody_else() {
        let leases = Leases::new();
        let state = state(LeaseProfile::Strict);
        for _ in 0..4 {
            tokio::time::advance(Duration::from_millis(300)).await;
            leases.heard(node(2, 2).id);
        }
        assert_eq!(leases.lapsed(&state), [(node(1, 1).id, Suspension::Silent)]);
    }

    #[tokio::test(start_paused = true)]
    async fn no_session_opens_while_nobody_looks_at_leases() {
        let leases = Leases::new();
        let opens = async |leases: &Leases| {
            tokio::time::timeout(Duration::from_secs(60), leases.vouching()).await.is_ok()
        };
        assert!(!opens(&leases).await, "before anybody does");
        leases.lock().pulse = Some(Instant::now());
        assert!(opens(&leases).await);
        tokio::time::advance(PULSE).await;
        assert!(!opens(&leases).await, "nor after whoever did is gone");
    }

    #[tokio::test(start_paused = true)]
    async fn a_coordinator_that_slept_blames_nobody() {
        let leases = Leases::new();
        let state = state(LeaseProfile::Strict);
        leases.heard(node(1, 1).id);
        leases.lock().pulse = Some(Instant::now());
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(!leases.vouches(), "nor does it vouch for anybody");
        leases.lock().wake();
        assert_eq!(leases.lapsed(&state), []);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(leases.lapsed(&state).len(), 2);
    }
}
