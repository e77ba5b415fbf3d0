//! Who has a session now, and what they say of their tunnels. Memory only: a restart forgets it, and sessions tell it again.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use carrick_types::NodeId;
use carrick_wire::session::LinkReport;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// The nodes that are online. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub(crate) struct Presence {
    sessions: Arc<Mutex<Sessions>>,
    /// Rises with every change.
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Sessions {
    last: u64,
    by_node: BTreeMap<NodeId, Session>,
}

#[derive(Debug)]
struct Session {
    number: u64,
    superseded: CancellationToken,
    wanted: Arc<Notify>,
    links: Vec<LinkReport>,
}

/// A node's place among the online. Gives it up when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    presence: Presence,
    node: NodeId,
    number: u64,
    /// Cancelled when a newer session of the node takes over.
    pub(crate) superseded: CancellationToken,
    /// Notified when somebody wants the node to show new evidence.
    pub(crate) wanted: Arc<Notify>,
}

impl Presence {
    pub(crate) fn new() -> Self {
        Self { sessions: Arc::default(), changes: watch::Sender::new(0) }
    }

    /// Marks a node online; an older session of the node is superseded.
    pub(crate) fn enter(&self, node: NodeId) -> Place {
        let superseded = CancellationToken::new();
        let mut sessions = self.lock();
        sessions.last += 1;
        let number = sessions.last;
        let wanted = Arc::new(Notify::new());
        let session =
            Session { number, superseded: superseded.clone(), wanted: wanted.clone(), links: vec![] };
        let old = sessions.by_node.insert(node, session);
        drop(sessions);
        if let Some(old) = old {
            old.superseded.cancel();
        }
        self.changed();
        Place { presence: self.clone(), node, number, superseded, wanted }
    }

    /// Asks the session of a node to ask for new evidence; whether it has one.
    pub(crate) fn want_evidence(&self, node: NodeId) -> bool {
        self.lock().by_node.get(&node).map(|session| session.wanted.notify_one()).is_some()
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().by_node.len()
    }

    /// Who is online, with the tunnels that each reported last.
    pub(crate) fn online(&self) -> BTreeMap<NodeId, Vec<LinkReport>> {
        self.lock().by_node.iter().map(|(node, session)| (*node, session.links.clone())).collect()
    }

    /// Changes whenever somebody comes, goes or reports.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn changed(&self) {
        self.changes.send_modify(|change| *change += 1);
    }

    fn lock(&self) -> MutexGuard<'_, Sessions> {
        // No code that holds the lock can leave the map half changed.
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Replaces what the node says of its tunnels.
    pub(crate) fn report(&self, links: Vec<LinkReport>) {
        if let Some(session) =
            self.presence.lock().by_node.get_mut(&self.node).filter(|s| s.number == self.number)
        {
            session.links = links;
        }
        self.presence.changed();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut sessions = self.presence.lock();
        if sessions.by_node.get(&self.node).is_some_and(|session| session.number == self.number) {
            sessions.by_node.remove(&self.node);
        }
        drop(sessions);
        self.presence.changed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_session_takes_over_and_the_older_leaves_without_harm() {
        let presence = Presence::new();
        let node = NodeId::from_bytes([1; 16]);
        let old = presence.enter(node);
        let new = presence.enter(node);
        assert!(old.superseded.is_cancelled() && !new.superseded.is_cancelled());
        drop(old);
        assert_eq!(presence.count(), 1);
        drop(new);
        assert_eq!(presence.count(), 0);
    }
}
