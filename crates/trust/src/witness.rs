//! Who is believed to be a peer.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    net::SocketAddr,
    time::Duration,
};

use carrick_attest::{
    Bundle, Bytes, Grant, MAX_SKEW, Rejection, SignedBundle, Statement, StatementDigest, Subject,
    TrustedBundle, appraise, follows,
    policy::{BundleError, ClusterPolicy},
};
use carrick_types::{
    Cidr, MeshId, NodeId, OperatorPin, Revision, UnixTime, WireGuardKey, check_named_prefix_claim,
    check_prefix_claim,
};
use carrick_wire::{
    hello::{Head, MAX_EVIDENCE, Request, Trust},
    log::{
        CheckpointError, Decision, Entry, Origin, SignedCheckpoint,
        tree::{leaf_hash, verify_inclusion},
    },
    netmap::{GrantProof, LogNews, Logged, Netmap, NetmapDelta, OwnNode, Peer},
    session::{Demand, MAX_ENDPOINTS},
};
use sha2::{Digest as _, Sha256};

use crate::{
    Distrust, Doubt, Memory, Question,
    heads::{Heads, consistent},
};

/// The most peers that one node is told of; the longest session message holds fewer.
const MAX_PEERS: usize = 65_536;

/// The longest explanation that is kept of evidence that is not enough, in characters.
const MAX_WHY: usize = 500;

/// What a node knows of itself, whatever it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Myself {
    /// Its id.
    pub id: NodeId,
    /// Its WireGuard key.
    pub wireguard_key: WireGuardKey,
    /// The prefixes that it asks to speak for.
    pub prefixes: Vec<Cidr>,
}

/// A peer that is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// What it was granted.
    pub grant: Grant,
    /// Where that is in the log.
    pub index: u64,
    /// By which evidence.
    pub statements: Vec<Statement>,
    /// Where it may be reached, best first.
    pub endpoints: Vec<SocketAddr>,
}

/// What is believed of the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// The revision of the netmap.
    pub revision: Revision,
    /// The node itself.
    pub own: OwnNode,
    /// The peers that are believed.
    pub members: BTreeMap<NodeId, Member>,
    /// Those that are not, and why.
    pub doubted: BTreeMap<NodeId, Doubt>,
}

/// Watches what the coordinator says, and believes what is proven.
#[derive(Debug)]
pub struct Witness {
    mesh: MeshId,
    myself: Myself,
    /// The WireGuard key that this node had before the one in [`Myself`].
    former_key: Option<WireGuardKey>,
    trust: Trust,
    memory: Memory,
    bundle: Option<TrustedBundle>,
    heads: Heads,
    /// The last head that was seen in this process, signed.
    checkpoint: Option<String>,
    /// What was seen before the operator set the log back: until the next head, both may be continued.
    set_back_from: Option<Head>,
    /// The head that the last challenge named, of a node that has seen none yet: what it shows then is bound to it.
    challenged: Option<Head>,
    view: Option<View>,
    /// Those among the doubted who were believed, and whom another bundle may admit again.
    shelved: BTreeMap<NodeId, Member>,
    /// What later evidence must follow and no member in the view, or on the shelf, shows: of those who are there no longer, and of those
    /// who show other kinds by now. Bounded by [`MAX_PEERS`].
    former: BTreeMap<NodeId, Vec<Statement>>,
}

/// A peer in a message, with a grant to be examined.
struct Shown {
    id: NodeId,
    endpoints: Vec<SocketAddr>,
    proof: GrantProof,
    /// What was believed of it until now.
    known: Option<Member>,
}

impl Witness {
    /// A witness that knows what it remembers, and has seen no netmap yet.
    pub fn new(mesh: MeshId, myself: Myself, trust: Trust, memory: Memory) -> Self {
        let heads = Heads::new(memory.log);
        Self {
            mesh,
            myself,
            former_key: None,
            trust,
            memory,
            bundle: None,
            heads,
            checkpoint: None,
            set_back_from: None,
            challenged: None,
            view: None,
            shelved: BTreeMap::new(),
            former: BTreeMap::new(),
        }
    }

    /// What must outlive this process.
    pub const fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The bundle in force.
    pub const fn bundle(&self) -> Option<&TrustedBundle> {
        self.bundle.as_ref()
    }

    /// What is believed of the mesh, once there was a netmap.
    pub const fn view(&self) -> Option<&View> {
        self.view.as_ref()
    }

    /// This node made a new WireGuard key. Nobody else may have it, nor the one before.
    pub const fn handle_key(&mut self, key: WireGuardKey) {
        self.former_key = Some(mem::replace(&mut self.myself.wireguard_key, key));
    }

    /// Takes a bundle. Every member is appraised again under a new one: those who are not good enough any more become doubted, and
    /// come back under a later one that admits them.
    ///
    /// # Errors
    /// [`Distrust::Bundle`] or [`Distrust::TwoBundles`]; what was believed stays.
    pub fn handle_bundle(&mut self, signed: &SignedBundle, now: UnixTime) -> Result<(), Distrust> {
        let opened = signed.open(&self.memory.operator, &self.mesh)?;
        if self.memory.taken_out.contains(&OperatorPin::of(&opened.operator())) {
            return Err(BundleError::Stranger(opened.operator()).into());
        }
        let (found, seen) = (opened.get().version, self.memory.bundle_version);
        if found < seen {
            return Err(BundleError::Older { found, seen }.into());
        }
        if now >= opened.get().expires_at {
            return Err(BundleError::Expired(opened.get().expires_at).into());
        }
        let digest = Bytes(Sha256::digest(signed.bundle.text()).into());
        if found == seen && self.memory.bundle.is_some_and(|known| known != digest) {
            return Err(Distrust::TwoBundles(found));
        }
        if let Some(head) = opened.get().log_restart {
            self.set_back(head);
        }
        self.memory.follow_operators(&opened.operators());
        self.memory.bundle_version = found;
        self.memory.bundle = Some(digest);
        if self.bundle.replace(opened).is_none_or(|before| before.get().version < found) {
            self.reappraise(now);
        }
        Ok(())
    }

    /// Takes a whole netmap, which replaces what was believed.
    ///
    /// # Errors
    /// [`Distrust`]; what was believed stays.
    pub fn handle_netmap(&mut self, netmap: Netmap, now: UnixTime) -> Result<(), Distrust> {
        check_peers(&netmap.peers, None)?;
        self.check_own(&netmap.own)?;
        let head = self.follow(&netmap.log, now)?;
        let revoked = all_revoked(&netmap.revocations, Some(head))?;
        revoked.into_iter().for_each(|id| self.memory.revoke(id));
        let mut before = self.view.take().map(|view| view.members).unwrap_or_default();
        for (id, member) in mem::take(&mut self.shelved) {
            self.keep_former(id, &member.statements);
        }
        let mut view = View {
            revision: netmap.revision,
            own: netmap.own,
            members: BTreeMap::new(),
            doubted: BTreeMap::new(),
        };
        let mut shown = Vec::new();
        for Peer { id, endpoints, grant } in netmap.peers {
            match grant {
                Some(proof) => shown.push(Shown { id, endpoints, proof, known: before.remove(&id) }),
                None => drop(view.doubted.insert(id, Doubt::Inclusion)),
            }
        }
        self.admit(&mut view, shown, head, now);
        for (id, member) in before {
            self.keep_former(id, &member.statements);
        }
        self.view = Some(view);
        Ok(())
    }

    /// Takes what changed.
    ///
    /// # Errors
    /// [`Distrust`]; [`Distrust::OutOfTurn`] where it does not build on the netmap at hand. What was believed stays.
    pub fn handle_delta(&mut self, delta: NetmapDelta, now: UnixTime) -> Result<(), Distrust> {
        let view = self.view.as_ref().ok_or(Distrust::OutOfTurn("a delta before a netmap"))?;
        if delta.from != view.revision || delta.to < delta.from {
            return Err(Distrust::OutOfTurn("a delta that does not build on the netmap at hand"));
        }
        check_peers(&delta.upserts, Some(view))?;
        if let Some(own) = &delta.own {
            self.check_own(own)?;
        }
        let head = match &delta.log {
            Some(news) => Some(self.follow(news, now)?),
            None => None,
        };
        if head.is_none() && delta.upserts.iter().any(|peer| peer.grant.is_some()) {
            return Err(Distrust::OutOfTurn("a grant without a head of the log"));
        }
        let revoked = all_revoked(&delta.revocations, head)?;
        let mut view = self.view.take().ok_or(Distrust::OutOfTurn("a delta before a netmap"))?;
        view.revision = delta.to;
        revoked.iter().for_each(|id| self.memory.revoke(*id));
        for id in delta.removes.iter().chain(&revoked) {
            let member = view.members.remove(id).or_else(|| self.shelved.remove(id));
            if let Some(member) = member {
                self.keep_former(*id, &member.statements);
            }
            view.doubted.remove(id);
            self.shelved.remove(id);
        }
        revoked.iter().for_each(|id| drop(self.former.remove(id)));
        if let Some(own) = delta.own {
            view.own = own;
            self.make_way(&mut view);
        }
        let mut shown = Vec::new();
        for Peer { id, endpoints, grant } in delta.upserts {
            match grant {
                Some(proof) => shown.push(Shown { id, endpoints, proof, known: view.members.remove(&id) }),
                // Of somebody who was doubted before, this shows nothing new.
                None => {
                    if let Some(member) = view.members.get_mut(&id).or(self.shelved.get_mut(&id)) {
                        member.endpoints = few(endpoints);
                    }
                }
            }
        }
        if let Some(head) = head {
            self.admit(&mut view, shown, head, now);
        }
        self.view = Some(view);
        Ok(())
    }

    /// Looks at the age of all evidence. Whether somebody is believed no longer.
    pub fn handle_timeout(&mut self, now: UnixTime) -> bool {
        let Some(mut view) = self.view.take() else { return false };
        let too_old = |member: &Member| self.good_until(member).is_some_and(|until| now > until);
        let (stale, members): (BTreeMap<_, _>, _) =
            mem::take(&mut view.members).into_iter().partition(|(_, member)| too_old(member));
        view.members = members;
        let lost = !stale.is_empty();
        for (id, member) in stale {
            view.doubted.insert(id, Doubt::Evidence("its evidence is too old".to_owned()));
            self.shelved.insert(id, member);
        }
        self.view = Some(view);
        lost
    }

    /// What a peer says its last head is. `Ok(None)`: of the same log, or nothing that the coordinator signed, which says nothing of it.
    /// `Ok(Some)`: the coordinator must answer.
    ///
    /// # Errors
    /// [`Distrust::Fork`]: the coordinator shows that peer another log.
    pub fn handle_gossip(&mut self, note: &str) -> Result<Option<Question>, Distrust> {
        let Some(bundle) = &self.bundle else { return Ok(None) };
        let signed: Option<SignedCheckpoint> = note.parse().ok();
        let told = signed.and_then(|signed| verified(&signed, bundle.get()).ok());
        match told {
            Some(told) => self.heads.compare(told),
            None => Ok(None),
        }
    }

    /// The coordinator's answer to a question. `Ok(Some)`: the log has moved on meanwhile, and the coordinator must answer again.
    ///
    /// # Errors
    /// [`Distrust::Fork`] where it does not prove that both heads are of one log.
    pub fn handle_proven(
        &mut self,
        question: Question,
        proof: &[Bytes<32>],
    ) -> Result<Option<Question>, Distrust> {
        self.heads.answer(question, proof)
    }

    /// The last head that was seen in this process, as the coordinator signed it: what peers are told.
    pub fn checkpoint(&self) -> Option<&str> {
        self.checkpoint.as_deref()
    }

    /// The last head that was seen, or else the one that the last challenge named, or else where the operator set the log back: the next
    /// one must continue it.
    pub fn head(&self) -> Option<Head> {
        self.memory.log.or(self.challenged).or(self.memory.restart)
    }

    /// A challenge names a head of the log. A newcomer shows evidence for it and can check it only afterwards, by what it is told then.
    pub const fn handle_challenge(&mut self, request: &Request) {
        self.challenged = Some(request.head());
    }

    /// A member is asked for evidence: for a head of the log that it has seen by then.
    ///
    /// # Errors
    /// [`Distrust`]; nothing is to be shown.
    pub fn handle_demand(&mut self, demand: &Demand, now: UnixTime) -> Result<(), Distrust> {
        if self.follow(&demand.log, now)? == demand.request.head() {
            Ok(())
        } else {
            Err(Distrust::OutOfTurn("a request for evidence with another head of the log"))
        }
    }

    /// The operator sets the log back to a head, once.
    fn set_back(&mut self, head: Head) {
        if self.memory.restart.replace(head) != Some(head) {
            self.heads = Heads::new(Some(head));
            // Of a newcomer's log nothing is set back: it is held to what it was challenged with.
            self.set_back_from = self.memory.log;
            self.memory.log = self.memory.log.map(|_| head);
            self.memory.set_back(head.size);
        }
    }

    /// Believes a head of the log that continues the last one.
    fn follow(&mut self, news: &LogNews, now: UnixTime) -> Result<Head, Distrust> {
        let bundle = self.bundle.as_ref().ok_or(Distrust::OutOfTurn("a netmap before a policy bundle"))?;
        let signed: SignedCheckpoint = news.checkpoint.parse()?;
        let head = verified(&signed, bundle.get())?;
        if head.size == 0 {
            return Err(Distrust::OutOfTurn("a log without entries"));
        }
        if let Some(seen) = self.head() {
            let mut starts = std::iter::once(seen).chain(self.set_back_from);
            if !starts.any(|start| consistent(start, head, &news.consistency)) {
                return Err(Distrust::Fork { size: head.size, seen: seen.size });
            }
        }
        (self.set_back_from, self.challenged) = (None, None);
        self.heads.insert(head);
        self.memory.saw_size(head.size, now);
        self.memory.log = Some(head);
        self.checkpoint = Some(news.checkpoint.clone());
        Ok(head)
    }

    /// Nobody makes this node speak for networks that it did not ask for.
    fn check_own(&self, own: &OwnNode) -> Result<(), Distrust> {
        if own.prefixes.iter().any(|prefix| !self.myself.prefixes.contains(prefix)) {
            return Err(Distrust::OutOfTurn("a prefix of this node that it did not ask for"));
        }
        check_prefix_claim(&addresses(own), &[])
            .map_err(|_| Distrust::OutOfTurn("an overlay address that is not private"))
    }

    /// Examines peers one by one. Of two that claim one network, the later one is doubted: first comes who is as it was, then
    /// who was believed before, then who was granted first.
    fn admit(&mut self, view: &mut View, mut shown: Vec<Shown>, head: Head, now: UnixTime) {
        shown.sort_by_key(|Shown { proof, known, .. }| {
            let index = proof.logged.index;
            (known.as_ref().is_none_or(|known| known.index != index), known.is_none(), index)
        });
        for peer in shown {
            let examined = self.examine(view, &peer, head, now);
            let Shown { id, endpoints, proof, known } = peer;
            let before = known.or(self.shelved.remove(&id));
            view.doubted.remove(&id);
            match examined {
                Ok((grant, statements)) => {
                    let index = proof.logged.index;
                    self.memory.positions.insert(id, index);
                    if let Some(before) = before {
                        self.keep_former(id, &before.statements);
                    }
                    self.forget_former(id, &statements);
                    view.members.insert(id, Member { grant, index, statements, endpoints: few(endpoints) });
                }
                Err(doubt) => {
                    view.doubted.insert(id, doubt);
                    if let Some(before) = before {
                        self.keep_former(id, &before.statements);
                    }
                }
            }
        }
        self.memory.trim();
    }

    /// Keeps what was believed of somebody who is in the view no longer, or shows something else.
    fn keep_former(&mut self, id: NodeId, statements: &[Statement]) {
        let history: Vec<Statement> =
            statements.iter().filter(|statement| statement.evidence.kind().has_history()).cloned().collect();
        if !history.is_empty() && (self.former.len() < MAX_PEERS || self.former.contains_key(&id)) {
            self.forget_former(id, &history);
            self.former.entry(id).or_default().extend(history);
        }
    }

    /// Forgets what was kept of the kinds that somebody shows now. The others stay: whoever shows another kind for a while must not come
    /// back on another machine.
    fn forget_former(&mut self, id: NodeId, statements: &[Statement]) {
        let Some(history) = self.former.get_mut(&id) else { return };
        let shown = |kind| statements.iter().any(|statement| statement.evidence.kind() == kind);
        history.retain(|statement| !shown(statement.evidence.kind()));
        if history.is_empty() {
            self.former.remove(&id);
        }
    }

    /// What a peer showed, each kind when it was last believed, as far as that is still known.
    fn shown_before(&self, peer: &Shown) -> Vec<Statement> {
        let known = peer.known.as_ref().or_else(|| self.shelved.get(&peer.id));
        let known = known.map(|known| &known.statements).into_iter().flatten();
        known.chain(self.former.get(&peer.id).into_iter().flatten()).cloned().collect()
    }

    /// Everything that must hold before a key enters the device.
    fn examine(
        &self,
        view: &View,
        peer: &Shown,
        head: Head,
        now: UnixTime,
    ) -> Result<(Grant, Vec<Statement>), Doubt> {
        let Logged { index, entry, .. } = &peer.proof.logged;
        if !proven(&peer.proof.logged, head) {
            return Err(Doubt::Inclusion);
        }
        let Some(Decision::Granted { grant, .. }) = Entry::from_text(entry).map(|entry| entry.decision)
        else {
            return Err(Doubt::NotItsGrant);
        };
        if grant.node != peer.id || NodeId::of(&grant.identity_key) != peer.id {
            return Err(Doubt::NotItsGrant);
        }
        if self.memory.revoked.contains(&peer.id) {
            return Err(Doubt::Revoked);
        }
        if let Some(&seen) = self.memory.positions.get(&peer.id).filter(|seen| *seen > index) {
            return Err(Doubt::Replaced { shown: *index, seen });
        }
        let statements = statements(&grant, &peer.proof.statements).ok_or(Doubt::OtherEvidence)?;
        // What was found good stays so until the bundle changes or it is too old; its networks may have become another's.
        let known = peer.known.as_ref();
        if known.is_none_or(|known| known.grant != grant || known.statements != statements) {
            self.appraise(&grant, &statements, now)?;
            if self.trust == Trust::Evidence {
                if !asked_for(&grant, &statements) {
                    return Err(Doubt::Unasked);
                }
                if !dated(&statements, &peer.proof.moments, head) {
                    return Err(Doubt::Moment);
                }
                follows(&self.shown_before(peer), &statements).map_err(|rejection| evidence(&rejection))?;
            }
        }
        self.check_free(view, &grant)?;
        Ok((grant, statements))
    }

    /// The evidence itself, under the operator's bundle, and the networks that it may speak for.
    fn appraise(&self, grant: &Grant, statements: &[Statement], now: UnixTime) -> Result<(), Doubt> {
        let bundle = self.bundle.as_ref().ok_or(Doubt::UnknownPolicy(grant.policy_version))?;
        if grant.policy_version > bundle.get().version {
            return Err(Doubt::UnknownPolicy(grant.policy_version));
        }
        let subject = Subject {
            mesh: self.mesh,
            cluster: grant.cluster.clone(),
            identity_key: grant.identity_key,
            wireguard_key: grant.wireguard_key,
        };
        // The coordinator says when it appraised; by what the nonce was made from, it was no later than this node knows.
        let policy = bundle.get().policy(&grant.cluster);
        let shortest = self.memory.size_at(now.saturating_sub(policy.max_evidence_age() + MAX_SKEW));
        let dated =
            |statement: &Statement| statement.evidence.kind().ages() && statement.moment.log_size < shortest;
        if self.trust == Trust::Evidence && statements.iter().any(dated) {
            return Err(Doubt::Evidence("its evidence is older than the coordinator says".to_owned()));
        }
        let allowed = match appraise(&subject, statements, bundle, now) {
            Ok(result) => result.capability().and_then(|capability| capability.prefixes.clone()),
            // Its evidence is not asked for; a key is accepted under a bundle in force only.
            Err(_) if self.trust == Trust::Coordinator && now < bundle.get().expires_at => None,
            Err(rejection) => return Err(evidence(&rejection)),
        };
        check_claim(&grant.allowed_ips, allowed.as_deref())
    }

    /// Nobody has a network or the key of this node or of another member.
    fn check_free(&self, view: &View, grant: &Grant) -> Result<(), Doubt> {
        if grant.node == self.myself.id {
            return Err(Doubt::Myself);
        }
        self.check_apart(view, grant)?;
        for member in view.members.values() {
            for theirs in &member.grant.allowed_ips {
                if let Some(prefix) = grant.allowed_ips.iter().find(|prefix| prefix.overlaps(theirs)) {
                    return Err(Doubt::Prefix(*prefix, *theirs));
                }
            }
        }
        let others = view.members.values().map(|member| member.grant.wireguard_key);
        let mine = std::iter::once(self.myself.wireguard_key).chain(self.former_key);
        if others.chain(mine).any(|key| key == grant.wireguard_key) {
            return Err(Doubt::Key);
        }
        Ok(())
    }

    /// Nobody has a network of this node.
    fn check_apart(&self, view: &View, grant: &Grant) -> Result<(), Doubt> {
        for own in addresses(&view.own).iter().chain(&view.own.prefixes).chain(&self.myself.prefixes) {
            if let Some(prefix) = grant.allowed_ips.iter().find(|prefix| prefix.overlaps(own)) {
                return Err(Doubt::Prefix(*prefix, *own));
            }
        }
        Ok(())
    }

    /// This node was told other networks of its own: whoever has one of them is doubted.
    fn make_way(&self, view: &mut View) {
        let members = mem::take(&mut view.members);
        for (id, member) in members {
            match self.check_apart(view, &member.grant) {
                Ok(()) => drop(view.members.insert(id, member)),
                Err(doubt) => drop(view.doubted.insert(id, doubt)),
            }
        }
    }

    /// Appraises everybody again, under a bundle that is new: first who is believed, then who was.
    fn reappraise(&mut self, now: UnixTime) {
        let Some(mut view) = self.view.take() else { return };
        let believed = mem::take(&mut view.members);
        for (id, member) in believed.into_iter().chain(mem::take(&mut self.shelved)) {
            let appraised = self.appraise(&member.grant, &member.statements, now);
            match appraised.and_then(|()| self.check_free(&view, &member.grant)) {
                Ok(()) => {
                    view.doubted.remove(&id);
                    view.members.insert(id, member);
                }
                Err(doubt) => {
                    view.doubted.insert(id, doubt);
                    self.shelved.insert(id, member);
                }
            }
        }
        self.view = Some(view);
    }

    /// Until when a member's evidence is young enough; `None`: for ever.
    fn good_until(&self, member: &Member) -> Option<UnixTime> {
        let policy: &ClusterPolicy = self.bundle()?.get().policy(&member.grant.cluster);
        let ages = |statement: &&Statement| statement.evidence.kind().ages();
        let most: Duration = policy.max_evidence_age() + MAX_SKEW;
        let oldest = member.statements.iter().filter(ages).map(|statement| statement.appraised_at).min()?;
        (self.trust == Trust::Evidence).then(|| oldest.saturating_add(most))
    }
}

impl View {
    /// The member that a WireGuard key belongs to.
    pub fn by_key(&self, key: &WireGuardKey) -> Option<&Member> {
        self.members.values().find(|member| member.grant.wireguard_key == *key)
    }
}

/// The head that a note tells, of the log that a bundle names, signed by the key that it names.
fn verified(note: &SignedCheckpoint, bundle: &Bundle) -> Result<Head, CheckpointError> {
    let checkpoint = note.verify(&Origin::of(bundle), &bundle.coordinator_key)?;
    Ok(Head { size: checkpoint.size, head: Bytes(checkpoint.head) })
}

/// Evidence that is not enough, in words that are not too many.
fn evidence(rejection: &Rejection) -> Doubt {
    Doubt::Evidence(rejection.why.chars().take(MAX_WHY).collect())
}

/// Each peer once, and no more than a mesh can have, with those that are in the view already.
fn check_peers(peers: &[Peer], view: Option<&View>) -> Result<(), Distrust> {
    let ids: BTreeSet<NodeId> = peers.iter().map(|peer| peer.id).collect();
    if ids.len() < peers.len() {
        return Err(Distrust::OutOfTurn("a peer twice in one message"));
    }
    let there = view.map_or(0, |view| view.members.len() + view.doubted.len());
    let known =
        |id: &NodeId| view.is_some_and(|view| view.members.contains_key(id) || view.doubted.contains_key(id));
    if there + ids.iter().filter(|id| !known(id)).count() > MAX_PEERS {
        return Err(Distrust::OutOfTurn("more peers than a mesh can have"));
    }
    Ok(())
}

/// The overlay addresses come first, and are private whatever a token allows; then prefixes within those that the token names, or
/// else within private networks.
fn check_claim(allowed_ips: &[Cidr], allowed: Option<&[Cidr]>) -> Result<(), Doubt> {
    let [v4, v6, prefixes @ ..] = allowed_ips else { return Err(Doubt::Overlay) };
    if v4.length() != 32 || v6.length() != 128 {
        return Err(Doubt::Overlay);
    }
    let Some(allowed) = allowed else { return Ok(check_prefix_claim(allowed_ips, &[])?) };
    check_prefix_claim(&[*v4, *v6], &[])?;
    check_named_prefix_claim(prefixes, &[])?;
    let outside = |prefix: &&Cidr| !allowed.iter().any(|allowed| allowed.covers(prefix));
    prefixes.iter().find(outside).map_or(Ok(()), |prefix| Err(Doubt::NotAllowed(*prefix)))
}

/// The overlay addresses of this node.
fn addresses(own: &OwnNode) -> [Cidr; 2] {
    [Cidr::host(own.overlay_v4.into()), Cidr::host(own.overlay_v6.into())]
}

/// No more endpoints than a node may report.
fn few(mut endpoints: Vec<SocketAddr>) -> Vec<SocketAddr> {
    endpoints.truncate(MAX_ENDPOINTS);
    endpoints.shrink_to_fit();
    endpoints
}

/// Whether an entry is in the log.
fn proven(logged: &Logged, head: Head) -> bool {
    let proof: Vec<[u8; 32]> = logged.inclusion.iter().map(|hash| hash.0).collect();
    let leaf = leaf_hash(logged.entry.as_bytes());
    verify_inclusion(leaf, logged.index, head.size, &head.head.0, &proof)
}

/// Whether a node signed for the name and the networks of its grant. Its overlay addresses are the coordinator's to give.
fn asked_for(grant: &Grant, statements: &[Statement]) -> bool {
    let [_, _, prefixes @ ..] = grant.allowed_ips.as_slice() else { return false };
    let mut identities = statements.iter().filter_map(|statement| statement.evidence.identity());
    identities.any(|identity| identity.asks_for(&grant.name, prefixes))
}

/// Whether evidence that grows old was made when the log had the head that it names. No head that the log had only after the grant can be
/// named: it follows from the grant, and the grant from the evidence.
fn dated(statements: &[Statement], moments: &[Vec<Bytes<32>>], head: Head) -> bool {
    let made = |(statement, proof): (&Statement, &Vec<Bytes<32>>)| {
        !statement.evidence.kind().ages() || consistent(statement.moment.head(), head, proof)
    };
    statements.len() == moments.len() && statements.iter().zip(moments).all(made)
}

/// Who is revoked by entries, all of which are in the log.
fn all_revoked(revocations: &[Logged], head: Option<Head>) -> Result<Vec<NodeId>, Distrust> {
    let revoked = revocations.iter().map(|logged| revoked(logged, head?));
    revoked.collect::<Option<_>>().ok_or(Distrust::OutOfTurn("a revocation that is not in the log"))
}

/// Who is revoked by an entry; `None` where it is not in the log, or no revocation.
fn revoked(logged: &Logged, head: Head) -> Option<NodeId> {
    let entry = if proven(logged, head) { Entry::from_text(&logged.entry) } else { None };
    match entry?.decision {
        Decision::NodeRevoked { node, .. } => Some(node),
        Decision::BundlePublished { .. }
        | Decision::TokenCreated { .. }
        | Decision::TokenRevoked { .. }
        | Decision::Granted { .. }
        | Decision::Suspended { .. }
        | Decision::Resumed { .. } => None,
    }
}

/// The statements that a grant names, if these are their texts.
fn statements(grant: &Grant, texts: &[String]) -> Option<Vec<Statement>> {
    // The join token comes beside the evidence of one proof.
    if texts.len() != grant.statements.len() || texts.len() > MAX_EVIDENCE + 1 {
        return None;
    }
    let pairs = grant.statements.iter().zip(texts);
    pairs
        .map(|(digest, text)| {
            let named = StatementDigest::of(digest.kind, text) == *digest;
            let statement = Statement::from_text(text)?;
            (named && statement.evidence.kind() == digest.kind).then_some(statement)
        })
        .collect()
}
