//! Who is cut off for now, and who is let in again.

use std::{collections::BTreeMap, sync::Arc, sync::atomic::Ordering};

use carrick_types::{NodeId, UnixTime};
use carrick_wire::log::{Decision, Entry};
use tracing::{info, warn};

use super::Owner;
use crate::{
    admission,
    state::{Membership, MeshState, NodeRecord, Suspension},
    store::StoreError,
};

/// A suspension that is not on disk.
pub(super) struct Unstored {
    pub(super) why: Suspension,
    /// What the log still has to say of it.
    pub(super) entry: Option<Entry>,
}

impl Owner {
    /// Cuts nodes off, in one commit.
    pub(super) fn suspend(
        &mut self,
        lapsed: BTreeMap<NodeId, Suspension>,
        now: UnixTime,
    ) -> Result<(), StoreError> {
        let state = self.state()?;
        let mut changes = Vec::new();
        for (id, why) in lapsed {
            let Some(node) = state.nodes.get(&id) else { continue };
            let entry = match (&node.membership, &why) {
                (Membership::Active, _) => {
                    let decision = Decision::Suspended { node: id, reason: why.why().to_owned() };
                    Some(Entry { at: now, decision })
                }
                // Being heard does not help it any more. For its peers, nothing changes.
                (Membership::Suspended(Suspension::Silent), Suspension::Evidence { .. }) => {
                    self.unstored.get(&id).and_then(|unstored| unstored.entry.clone())
                }
                (Membership::Suspended(_) | Membership::Revoked(_), _) => continue,
            };
            warn!(node = %id, name = %node.name, why = why.why(), "node suspended");
            changes.push((suspended(&state, node, why), entry));
        }
        if changes.is_empty() {
            return Ok(());
        }
        let written = self.store.update_all(&changes);
        let nodes: Vec<NodeRecord> = changes.iter().map(|(node, _)| node.clone()).collect();
        let settled = self.settle_all(&state, nodes.clone(), written);
        if settled.is_err() {
            for (node, entry) in changes {
                if let Membership::Suspended(why) = node.membership {
                    self.unstored.insert(node.id, Unstored { why, entry });
                }
            }
            self.owes.store(true, Ordering::Relaxed);
            self.publish.send_replace(Arc::new(state.with_all(nodes)));
        }
        settled.map(drop)
    }

    pub(super) fn store_suspensions(&mut self) -> Result<(), StoreError> {
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
    pub(super) fn resumed(&self, id: NodeId, now: UnixTime) -> Option<Entry> {
        let unsaid = self.unstored.get(&id).is_some_and(|unstored| unstored.entry.is_some());
        (!unsaid).then_some(Entry { at: now, decision: Decision::Resumed { node: id } })
    }

    pub(super) fn resume(&mut self, id: NodeId, now: UnixTime) -> Result<(), StoreError> {
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
}

/// A node as it is from the next revision on: not accepted for now.
pub(super) fn suspended(state: &MeshState, node: &NodeRecord, why: Suspension) -> NodeRecord {
    // Whoever lacks evidence is asked for it until it shows some: no demand has to say so again.
    let demanded_at = node.demanded_at.filter(|_| why == Suspension::Silent);
    let membership = Membership::Suspended(why);
    NodeRecord { membership, demanded_at, revision: state.revision.next(), ..node.clone() }
}
