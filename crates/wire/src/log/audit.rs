//! Whether what the log tells can have happened: what an auditor checks beside the hashes.

use std::collections::{BTreeMap, BTreeSet};

use carrick_attest::{Bytes, Grant, Kind, StatementDigest, token::Capability};
use carrick_types::{Cidr, MeshId, NodeId, OperatorKey, TokenId, UnixTime, WireGuardKey};

use super::{Bundles, Decision, Entry};

/// Why a log cannot be true.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("entry {position}: {breach}")]
pub struct AuditError {
    /// Of the entry that does not follow from those before it.
    pub position: u64,
    /// In what way.
    pub breach: Breach,
}

/// A rule of the mesh that an entry breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Breach {
    /// Not an entry.
    #[error("it is not an entry that this carrick knows")]
    Unreadable,
    /// A bundle whose version did not rise.
    #[error("policy bundle {0} came after {1}")]
    BundleVersion(u64, u64),
    /// A bundle that is not the one of this version.
    #[error("policy bundle {0} is not the one that its operator signed under this version")]
    OtherBundle(u64),
    /// An operator who did not follow by the word of the one before, or was taken out before.
    #[error("policy bundle {0} is signed by somebody who was no operator then")]
    Usurped(u64),
    /// A grant under a bundle that was not in force.
    #[error("node {0} was granted a key under policy bundle {1}, which was not in force")]
    PolicyVersion(NodeId, u64),
    /// A token that no operator signed, or for another mesh.
    #[error("a token was made that no operator of this mesh signed")]
    ForgedToken,
    /// Two tokens of one id.
    #[error("token {0} was made twice")]
    TokenTwice(TokenId),
    /// Of a token that was never made.
    #[error("token {0} was never made")]
    UnknownToken(TokenId),
    /// A use too many, too late or after the token was taken back.
    #[error("node {node} joined with token {token}, which was {why}")]
    BadToken {
        /// Who joined.
        node: NodeId,
        /// With which token.
        token: TokenId,
        /// What was wrong with it.
        why: &'static str,
    },
    /// An id or a key that was there before.
    #[error("node {0} was granted an id or a WireGuard key that another node has or had")]
    Reused(NodeId),
    /// Evidence that was shown before.
    #[error("node {0} was granted a key by evidence that was used before")]
    ReusedEvidence(NodeId),
    /// A token as evidence, whose use nobody counted.
    #[error("node {0} was granted a key by a token whose use was not counted")]
    Uncounted(NodeId),
    /// Of a node that is none.
    #[error("node {0} is no member")]
    NotAMember(NodeId),
    /// Suspended twice, or resumed without having been suspended.
    #[error("node {0} was suspended or resumed out of turn")]
    OutOfTurn(NodeId),
    /// Addresses that belong to another member.
    #[error("node {0} was given {1}, which overlaps {2} of another member")]
    Overlap(NodeId, Cidr, Cidr),
}

/// Follows a log from its first entry, and refuses what cannot come next.
#[derive(Debug)]
pub struct Auditor {
    mesh: MeshId,
    bundles: Bundles,
    position: u64,
    bundle: u64,
    /// The one who signed the bundle in force, then the former ones that it names.
    operators: Vec<OperatorKey>,
    /// Whoever was among them at any time.
    ever: BTreeSet<OperatorKey>,
    tokens: BTreeMap<TokenId, Token>,
    members: BTreeMap<NodeId, Member>,
    /// Every id that ever was a member's.
    ids: BTreeSet<NodeId>,
    /// Whose every key was that ever was a member's.
    keys: BTreeMap<WireGuardKey, NodeId>,
    /// Evidence that is good for one grant.
    spent: BTreeSet<[u8; 32]>,
}

#[derive(Debug)]
struct Token {
    capability: Capability,
    signer: OperatorKey,
    used: u32,
    revoked: bool,
}

#[derive(Debug)]
struct Member {
    allowed_ips: Vec<Cidr>,
    suspended: bool,
    statements: Vec<StatementDigest>,
}

impl Auditor {
    /// An auditor of the log of a mesh, in which these bundles came into force.
    pub const fn new(mesh: MeshId, bundles: Bundles) -> Self {
        Self {
            mesh,
            bundles,
            position: 0,
            bundle: 0,
            operators: Vec::new(),
            ever: BTreeSet::new(),
            tokens: BTreeMap::new(),
            members: BTreeMap::new(),
            ids: BTreeSet::new(),
            keys: BTreeMap::new(),
            spent: BTreeSet::new(),
        }
    }

    /// Takes the next entry of the log.
    ///
    /// # Errors
    /// [`AuditError`] where it cannot follow the ones before.
    pub fn follow(&mut self, text: &str) -> Result<Entry, AuditError> {
        let position = self.position;
        self.position += 1;
        let entry = Entry::from_text(text).ok_or(AuditError { position, breach: Breach::Unreadable })?;
        self.check(&entry).map_err(|breach| AuditError { position, breach })?;
        Ok(entry)
    }

    /// The version of the policy bundle that came into force last; 0 where none did.
    pub const fn bundle(&self) -> u64 {
        self.bundle
    }

    fn check(&mut self, entry: &Entry) -> Result<(), Breach> {
        match &entry.decision {
            Decision::BundlePublished { version, operator, sha256 } => {
                self.published(*version, *operator, *sha256)
            }
            Decision::TokenCreated { capability } => {
                let opened = self.operators.iter().find_map(|operator| {
                    let capability = capability.open(operator).ok()?;
                    Some(Token { capability, signer: *operator, used: 0, revoked: false })
                });
                let token =
                    opened.filter(|token| token.capability.mesh == self.mesh).ok_or(Breach::ForgedToken)?;
                let id = token.capability.token;
                match self.tokens.insert(id, token) {
                    None => Ok(()),
                    Some(_) => Err(Breach::TokenTwice(id)),
                }
            }
            Decision::TokenRevoked { token } => {
                let known = self.tokens.get_mut(token).ok_or(Breach::UnknownToken(*token))?;
                known.revoked = true;
                Ok(())
            }
            Decision::Granted { grant, token } => self.granted(grant, *token, entry.at),
            Decision::Suspended { node, .. } => self.suspend(*node, true),
            Decision::Resumed { node } => self.suspend(*node, false),
            Decision::NodeRevoked { node, .. } => {
                self.members.remove(node).map(drop).ok_or(Breach::NotAMember(*node))
            }
        }
    }

    fn published(&mut self, version: u64, operator: OperatorKey, sha256: Bytes<32>) -> Result<(), Breach> {
        let before = std::mem::replace(&mut self.bundle, version);
        if version <= before {
            return Err(Breach::BundleVersion(version, before));
        }
        let term = self.bundles.of_version(version);
        let term = term
            .filter(|term| term.sha256 == sha256 && term.operator() == operator)
            .ok_or(Breach::OtherBundle(version))?;
        // Who was taken out may have lost the key: no word of an operator's from before that brings it back.
        let taken_out = self.ever.contains(&operator) && !self.operators.contains(&operator);
        if self.operators.first().is_some_and(|last| taken_out || !term.follows(last, &self.mesh)) {
            return Err(Breach::Usurped(version));
        }
        self.operators = term.operators();
        self.ever.extend(&self.operators);
        Ok(())
    }

    fn granted(&mut self, grant: &Grant, token: Option<TokenId>, at: UnixTime) -> Result<(), Breach> {
        let node = grant.node;
        if grant.policy_version != self.bundle {
            return Err(Breach::PolicyVersion(node, grant.policy_version));
        }
        match token {
            Some(token) => {
                self.spend(grant, token, at)?;
                if NodeId::of(&grant.identity_key) != node || !self.ids.insert(node) {
                    return Err(Breach::Reused(node));
                }
            }
            None if self.members.contains_key(&node) => {}
            None => {
                if NodeId::of(&grant.identity_key) != node || !self.ids.insert(node) {
                    return Err(Breach::Reused(node));
                }
            }
        }
        if *self.keys.entry(grant.wireguard_key).or_insert(node) != node {
            return Err(Breach::Reused(node));
        }
        let before = self.members.remove(&node);
        for statement in &grant.statements {
            // What holds by an earlier grant of the same node holds on; a token admits several nodes.
            let again = before.as_ref().is_some_and(|before| before.statements.contains(statement));
            if statement.kind == Kind::JoinToken && !again && token.is_none() {
                return Err(Breach::Uncounted(node));
            }
            if statement.kind != Kind::JoinToken && !again && !self.spent.insert(statement.sha256.0) {
                return Err(Breach::ReusedEvidence(node));
            }
        }
        self.give(node, &grant.allowed_ips)?;
        // New evidence lifts a suspension.
        let member = Member {
            allowed_ips: grant.allowed_ips.clone(),
            suspended: false,
            statements: grant.statements.clone(),
        };
        self.members.insert(node, member);
        Ok(())
    }

    fn suspend(&mut self, node: NodeId, suspend: bool) -> Result<(), Breach> {
        let member = self.members.get_mut(&node).ok_or(Breach::NotAMember(node))?;
        if std::mem::replace(&mut member.suspended, suspend) == suspend {
            return Err(Breach::OutOfTurn(node));
        }
        Ok(())
    }

    fn spend(&mut self, grant: &Grant, id: TokenId, at: UnixTime) -> Result<(), Breach> {
        let token = self.tokens.get_mut(&id).ok_or(Breach::UnknownToken(id))?;
        let bad = |why| Err(Breach::BadToken { node: grant.node, token: id, why });
        if token.revoked {
            return bad("revoked");
        }
        if !self.operators.contains(&token.signer) {
            return bad("signed by an operator who was taken out");
        }
        if at >= token.capability.expires_at {
            return bad("expired");
        }
        if token.capability.cluster != grant.cluster {
            return bad("for another cluster");
        }
        if token.used >= token.capability.uses {
            return bad("used up");
        }
        token.used += 1;
        Ok(())
    }

    fn give(&self, node: NodeId, prefixes: &[Cidr]) -> Result<(), Breach> {
        let held = self.members.values().flat_map(|member| &member.allowed_ips);
        for other in held {
            if let Some(prefix) = prefixes.iter().find(|prefix| prefix.overlaps(other)) {
                return Err(Breach::Overlap(node, *prefix, *other));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use carrick_attest::{Signed, SignedBundle};
    use carrick_types::{IdentitySecret, OperatorSecret, TokenSeed, WireGuardSecret};

    use super::*;
    use crate::log::bundles::tests::{MESH, pin, signed};

    fn operator() -> OperatorSecret {
        OperatorSecret::from_bytes([2; 32])
    }

    fn token(n: u8) -> TokenId {
        TokenId::from_bytes([n; 10])
    }

    fn node(n: u8) -> NodeId {
        NodeId::of(&IdentitySecret::from_bytes([n; 32]).public())
    }

    fn bundle(version: u64) -> Decision {
        published(&signed(version, 2, &[], &[]))
    }

    fn published(signed: &SignedBundle) -> Decision {
        let version = serde_json::from_str::<carrick_attest::Bundle>(signed.bundle.text()).unwrap().version;
        Decision::bundle_published(version, signed)
    }

    fn created(uses: u32, by: &OperatorSecret) -> Decision {
        let capability = Capability {
            mesh: MESH,
            token: token(1),
            key: TokenSeed::from_bytes([3; 32]).public(),
            cluster: "east".parse().unwrap(),
            uses,
            expires_at: UnixTime::from_millis(100),
            prefixes: None,
        };
        Decision::TokenCreated { capability: Signed::seal(&capability, by) }
    }

    fn made(uses: u32) -> Decision {
        created(uses, &operator())
    }

    fn grant(n: u8, evidence: u8) -> Grant {
        Grant {
            node: node(n),
            name: format!("n{n}").parse().unwrap(),
            cluster: "east".parse().unwrap(),
            identity_key: IdentitySecret::from_bytes([n; 32]).public(),
            wireguard_key: WireGuardSecret::from_bytes([n; 32]).public(),
            allowed_ips: vec![format!("10.{n}.0.0/16").parse().unwrap()],
            policy_version: 1,
            statements: vec![
                StatementDigest { kind: Kind::Identity, sha256: Bytes([evidence; 32]) },
                StatementDigest { kind: Kind::JoinToken, sha256: Bytes([255; 32]) },
            ],
        }
    }

    fn joined(n: u8) -> Decision {
        Decision::Granted { grant: grant(n, n), token: Some(token(1)) }
    }

    fn renewed(grant: Grant) -> Decision {
        Decision::Granted { grant, token: None }
    }

    fn revoked(n: u8) -> Decision {
        Decision::NodeRevoked { node: node(n), reason: None }
    }

    fn suspended(n: u8) -> Decision {
        Decision::Suspended { node: node(n), reason: "silent".to_owned() }
    }

    /// Follows decisions made at these times, after a first bundle.
    fn audit(log: impl IntoIterator<Item = (u64, Decision)>) -> Result<(), String> {
        let bundles = vec![signed(1, 2, &[], &[]), signed(2, 2, &[], &[])];
        audit_under(2, bundles, std::iter::once((0, bundle(1))).chain(log))
    }

    /// Follows decisions made at these times as somebody who believes this operator, and was handed these bundles.
    fn audit_under(
        believed: u8,
        bundles: Vec<SignedBundle>,
        log: impl IntoIterator<Item = (u64, Decision)>,
    ) -> Result<(), String> {
        let bundles = Bundles::open(&pin(believed), &MESH, bundles).map_err(|error| error.to_string())?;
        let mut auditor = Auditor::new(MESH, bundles);
        for (at, decision) in log {
            let entry = Entry { at: UnixTime::from_millis(at), decision };
            let followed = auditor.follow(&entry.to_text()).map_err(|error| error.to_string())?;
            assert_eq!(followed, entry, "an entry comes back from its text");
        }
        Ok(())
    }

    #[test]
    fn a_true_log_is_followed_to_its_end() {
        let moved = Grant { allowed_ips: vec!["10.9.0.0/16".parse().unwrap()], ..grant(1, 1) };
        let key = WireGuardSecret::from_bytes([77; 32]).public();
        let rotated = Grant { wireguard_key: key, ..grant(2, 78) };
        let after = Grant { policy_version: 2, ..grant(2, 79) };
        audit([
            (0, made(2)),
            (1, joined(1)),
            (2, renewed(moved)),
            (3, joined(2)),
            (4, suspended(1)),
            (4, Decision::Resumed { node: node(1) }),
            (4, revoked(1)),
            (5, Decision::TokenRevoked { token: token(1) }),
            (6, renewed(rotated)),
            (7, bundle(2)),
            (8, renewed(after)),
        ])
        .unwrap();
    }

    #[test]
    fn what_cannot_have_happened_is_named_with_its_position() {
        let refused = |log: Vec<(u64, Decision)>| audit(log).unwrap_err();
        assert!(refused(vec![(0, joined(1))]).starts_with("entry 1: token"));
        assert!(refused(vec![(0, made(1)), (1, joined(1)), (2, joined(2))]).contains("used up"));
        assert!(refused(vec![(0, made(9)), (100, joined(1))]).contains("expired"));
        let taken_back = Decision::TokenRevoked { token: token(1) };
        assert!(refused(vec![(0, made(9)), (1, taken_back), (2, joined(1))]).contains("revoked"));
        assert!(refused(vec![(0, made(9)), (0, made(9))]).contains("made twice"));
        let stranger = OperatorSecret::from_bytes([99; 32]);
        assert!(refused(vec![(0, created(1, &stranger))]).contains("no operator"));
        let back = vec![(0, made(9)), (1, joined(1)), (2, revoked(1)), (3, joined(1))];
        assert!(refused(back).starts_with("entry 4: "), "a revoked node never comes back with its keys");
        let back = vec![(0, made(9)), (1, joined(1)), (2, revoked(1)), (3, renewed(grant(1, 7)))];
        assert!(refused(back).starts_with("entry 4: "), "nor as if it were a member");
        assert!(refused(vec![(0, revoked(1))]).contains("no member"));
        assert!(
            refused(vec![(0, made(9)), (1, joined(1)), (2, suspended(1)), (3, suspended(1))])
                .contains("turn")
        );
        assert!(refused(vec![(0, bundle(1))]).contains("bundle 1 came after 1"));
        let early = Grant { policy_version: 2, ..grant(1, 9) };
        assert!(refused(vec![(0, made(9)), (1, joined(1)), (2, renewed(early))]).contains("not in force"));
        let thief = Grant { allowed_ips: vec!["10.1.7.0/24".parse().unwrap()], ..grant(2, 2) };
        let thief = Decision::Granted { grant: thief, token: Some(token(1)) };
        assert!(refused(vec![(0, made(9)), (1, joined(1)), (2, thief)]).contains("overlaps 10.1.0.0/16"));
        let key = grant(1, 1).wireguard_key;
        let double =
            Decision::Granted { grant: Grant { wireguard_key: key, ..grant(2, 2) }, token: Some(token(1)) };
        assert!(refused(vec![(0, made(9)), (1, joined(1)), (2, double)]).contains("key that another"));
        let replay = Decision::Granted { grant: grant(2, 1), token: Some(token(1)) };
        assert!(refused(vec![(0, made(9)), (1, joined(1)), (2, replay)]).contains("used before"));
        let uncounted = vec![(0, made(1)), (1, joined(1)), (2, renewed(grant(2, 2)))];
        assert!(refused(uncounted).contains("not counted"), "a token that is shown as any other evidence");
        let unreadable = Auditor::new(MESH, Bundles::default()).follow("{}").unwrap_err();
        assert_eq!(unreadable.breach, Breach::Unreadable);
    }

    /// Operator 3 followed 2, and took it out of the former operators by version 3.
    fn taken_out() -> Vec<SignedBundle> {
        vec![signed(1, 2, &[], &[]), signed(2, 3, &[2], &[(2, 3)]), signed(3, 3, &[], &[(2, 3)])]
    }

    /// The log in which these come into force, with something before the first, between each two, and after the last.
    fn with(bundles: &[SignedBundle], between: [Vec<Decision>; 3]) -> Vec<(u64, Decision)> {
        let pairs = bundles.iter().zip(between);
        pairs.flat_map(|(bundle, then)| [vec![published(bundle)], then].concat()).map(|it| (1, it)).collect()
    }

    #[test]
    fn what_an_operator_signed_before_it_was_taken_out_stays_true() {
        let by_former = |id| {
            let Decision::TokenCreated { capability } = made(9) else { unreachable!() };
            let mut capability = capability.open(&operator().public()).unwrap();
            capability.token = token(id);
            Decision::TokenCreated { capability: Signed::seal(&capability, &operator()) }
        };
        let joined_2 =
            Decision::Granted { grant: Grant { policy_version: 2, ..grant(2, 2) }, token: Some(token(2)) };
        let log =
            with(&taken_out(), [vec![made(9), joined(1)], vec![by_former(2), joined_2], vec![revoked(1)]]);
        for believed in [2, 3] {
            audit_under(believed, taken_out(), log.clone()).unwrap();
        }
    }

    #[test]
    fn a_stolen_key_signs_nothing_once_it_is_taken_out() {
        let refused = |bundles: Vec<SignedBundle>, log| audit_under(3, bundles, log).unwrap_err();
        let late = with(&taken_out(), [vec![], vec![], vec![made(9)]]);
        assert!(refused(taken_out(), late).contains("entry 3: a token was made that no operator"));
        let kept =
            Decision::Granted { grant: Grant { policy_version: 3, ..grant(1, 1) }, token: Some(token(1)) };
        let used = with(&taken_out(), [vec![made(9)], vec![], vec![kept]]);
        assert!(refused(taken_out(), used).contains("signed by an operator who was taken out"));
        // Nor does it come back, by nobody's word or by one from before.
        for steps in [&[(2, 3)][..], &[(3, 2)][..]] {
            let back = signed(4, 2, &[3], steps);
            let last = signed(5, 3, &[2], &[(2, 3)]);
            let bundles = [taken_out(), vec![back.clone(), last]].concat();
            let log = with(&taken_out(), [vec![], vec![], vec![published(&back)]]);
            assert!(
                refused(bundles, log).contains("entry 3: policy bundle 4 is signed by somebody"),
                "{steps:?}"
            );
        }
        let other = signed(3, 3, &[2], &[(2, 3)]);
        let log = with(&[&taken_out()[..2], &[other][..]].concat(), [vec![], vec![], vec![]]);
        assert!(refused(taken_out(), log).contains("policy bundle 3 is not the one"));
    }
}
