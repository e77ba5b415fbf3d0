//! Whether what the log tells can have happened: what an auditor checks beside the hashes.

use std::collections::{BTreeMap, BTreeSet};

use carrick_types::{Cidr, ClusterName, NodeId, TokenId, UnixTime, WireGuardKey};

use super::{Decision, Entry};

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
    #[error("node {0} joined with an id or a WireGuard key that another node has or had")]
    Reused(NodeId),
    /// Of a node that is none.
    #[error("node {0} is no member")]
    NotAMember(NodeId),
    /// Addresses that belong to another member.
    #[error("node {0} was given {1}, which overlaps {2} of another member")]
    Overlap(NodeId, Cidr, Cidr),
}

/// Follows a log from its first entry, and refuses what cannot come next.
#[derive(Debug, Default)]
pub struct Auditor {
    position: u64,
    tokens: BTreeMap<TokenId, Token>,
    members: BTreeMap<NodeId, Vec<Cidr>>,
    /// Every id and key that ever was a member's.
    ids: BTreeSet<NodeId>,
    keys: BTreeSet<WireGuardKey>,
}

#[derive(Debug)]
struct Token {
    cluster: ClusterName,
    left: u32,
    expires_at: UnixTime,
    revoked: bool,
}

impl Auditor {
    /// Takes the next entry of the log.
    ///
    /// # Errors
    /// [`AuditError`] where it cannot follow the ones before.
    pub fn follow(&mut self, text: &str) -> Result<Entry, AuditError> {
        let position = self.position;
        self.position += 1;
        let entry: Entry =
            serde_json::from_str(text).map_err(|_| AuditError { position, breach: Breach::Unreadable })?;
        self.check(&entry).map_err(|breach| AuditError { position, breach })?;
        Ok(entry)
    }

    fn check(&mut self, entry: &Entry) -> Result<(), Breach> {
        match &entry.decision {
            Decision::TokenCreated { token, cluster, uses, expires_at } => {
                let made =
                    Token { cluster: cluster.clone(), left: *uses, expires_at: *expires_at, revoked: false };
                match self.tokens.insert(*token, made) {
                    None => Ok(()),
                    Some(_) => Err(Breach::TokenTwice(*token)),
                }
            }
            Decision::TokenRevoked { token } => {
                let known = self.tokens.get_mut(token).ok_or(Breach::UnknownToken(*token))?;
                known.revoked = true;
                Ok(())
            }
            Decision::NodeJoined {
                node, cluster, identity_key, wireguard_key, allowed_ips, token, ..
            } => {
                self.spend(*node, cluster, *token, entry.at)?;
                let new = NodeId::of(identity_key) == *node
                    && self.ids.insert(*node)
                    && self.keys.insert(*wireguard_key);
                if !new {
                    return Err(Breach::Reused(*node));
                }
                self.give(*node, allowed_ips)
            }
            Decision::PrefixesChanged { node, allowed_ips } => {
                self.members.remove(node).ok_or(Breach::NotAMember(*node))?;
                self.give(*node, allowed_ips)
            }
            Decision::NodeRevoked { node, .. } => {
                self.members.remove(node).map(drop).ok_or(Breach::NotAMember(*node))
            }
        }
    }

    fn spend(
        &mut self,
        node: NodeId,
        cluster: &ClusterName,
        id: TokenId,
        at: UnixTime,
    ) -> Result<(), Breach> {
        let token = self.tokens.get_mut(&id).ok_or(Breach::UnknownToken(id))?;
        let bad = |why| Err(Breach::BadToken { node, token: id, why });
        if token.revoked {
            return bad("revoked");
        }
        if at >= token.expires_at {
            return bad("expired");
        }
        if token.cluster != *cluster {
            return bad("for another cluster");
        }
        match token.left.checked_sub(1) {
            Some(left) => token.left = left,
            None => return bad("used up"),
        }
        Ok(())
    }

    fn give(&mut self, node: NodeId, prefixes: &[Cidr]) -> Result<(), Breach> {
        let held = self.members.values().flatten();
        for other in held {
            if let Some(prefix) = prefixes.iter().find(|prefix| prefix.overlaps(other)) {
                return Err(Breach::Overlap(node, *prefix, *other));
            }
        }
        self.members.insert(node, prefixes.to_vec());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use carrick_types::{IdentitySecret, WireGuardSecret};

    use super::*;

    fn token(n: u8) -> TokenId {
        TokenId::from_bytes([n; 10])
    }

    fn node(n: u8) -> NodeId {
        NodeId::of(&IdentitySecret::from_bytes([n; 32]).public())
    }

    fn created(uses: u32) -> Decision {
        Decision::TokenCreated {
            token: token(1),
            cluster: "east".parse().unwrap(),
            uses,
            expires_at: UnixTime::from_millis(100),
        }
    }

    fn joined(n: u8) -> Decision {
        Decision::NodeJoined {
            node: node(n),
            name: format!("n{n}").parse().unwrap(),
            cluster: "east".parse().unwrap(),
            identity_key: IdentitySecret::from_bytes([n; 32]).public(),
            wireguard_key: WireGuardSecret::from_bytes([n; 32]).public(),
            allowed_ips: vec![format!("10.{n}.0.0/16").parse().unwrap()],
            token: token(1),
        }
    }

    fn revoked(n: u8) -> Decision {
        Decision::NodeRevoked { node: node(n), reason: None }
    }

    /// Follows decisions made at these times.
    fn audit(log: impl IntoIterator<Item = (u64, Decision)>) -> Result<(), String> {
        let mut auditor = Auditor::default();
        for (at, decision) in log {
            let entry = Entry { at: UnixTime::from_millis(at), decision };
            let followed = auditor.follow(&entry.to_text()).map_err(|error| error.to_string())?;
            assert_eq!(followed, entry, "an entry comes back from its text");
        }
        Ok(())
    }

    #[test]
    fn a_true_log_is_followed_to_its_end() {
        let prefixes =
            Decision::PrefixesChanged { node: node(1), allowed_ips: vec!["10.9.0.0/16".parse().unwrap()] };
        let taken_back = Decision::TokenRevoked { token: token(1) };
        audit([
            (0, created(2)),
            (1, joined(1)),
            (2, prefixes),
            (3, joined(2)),
            (4, revoked(1)),
            (5, taken_back),
        ])
        .unwrap();
    }

    #[test]
    fn what_cannot_have_happened_is_named_with_its_position() {
        let refused = |log: Vec<(u64, Decision)>| audit(log).unwrap_err();
        assert!(refused(vec![(0, joined(1))]).starts_with("entry 0: token"));
        assert!(refused(vec![(0, created(1)), (1, joined(1)), (2, joined(2))]).contains("used up"));
        assert!(refused(vec![(0, created(9)), (100, joined(1))]).contains("expired"));
        let taken_back = Decision::TokenRevoked { token: token(1) };
        assert!(refused(vec![(0, created(9)), (1, taken_back), (2, joined(1))]).contains("revoked"));
        assert!(refused(vec![(0, created(9)), (0, created(9))]).contains("made twice"));
        let back = vec![(0, created(9)), (1, joined(1)), (2, revoked(1)), (3, joined(1))];
        assert!(refused(back).starts_with("entry 3: "), "a revoked node never comes back with its keys");
        assert!(refused(vec![(0, revoked(1))]).contains("no member"));
        let Decision::NodeJoined { node, name, cluster, identity_key, wireguard_key, token, .. } = joined(2)
        else {
            unreachable!("joined() is a join");
        };
        let allowed_ips = vec!["10.1.7.0/24".parse().unwrap()];
        let thief =
            Decision::NodeJoined { node, name, cluster, identity_key, wireguard_key, allowed_ips, token };
        assert!(refused(vec![(0, created(9)), (1, joined(1)), (2, thief)]).contains("overlaps 10.1.0.0/16"));
        assert_eq!(Auditor::default().follow("{}").unwrap_err().breach, Breach::Unreadable);
    }
}
