//! Who may join, and as what: a pure function of the mesh, the proven hello and the token.

use std::net::{IpAddr, SocketAddr};

use carrick_attest::{
    AttestationResult, Evidence, Grant, Kind, MAX_STATEMENT, Statement, Subject, appraise, follows, grant,
    token,
};
use carrick_types::{
    Cidr, NodeId, TokenId, UnixTime, WireGuardKey, check_named_prefix_claim, check_prefix_claim,
};
use carrick_wire::{api::TokenState, hello::Hello, session::MAX_ENDPOINTS};

use crate::{
    capacity, netmap,
    refusal::{MAX_PREFIXES, Refused},
    state::{LoggedEntry, Membership, MeshState, NodeRecord},
    statements::Statements,
    store::TokenRecord,
};

/// A hello whose signature and possession of the WireGuard key were checked.
#[derive(Debug)]
pub(crate) struct ProvenHello {
    pub(crate) hello: Hello,
    pub(crate) subject: Subject,
    /// What it shows, the join token not included.
    pub(crate) statements: Vec<Statement>,
}

/// What a hello, or new evidence, leads to.
#[derive(Debug)]
pub(crate) enum Plan {
    /// A member comes back as it was.
    Welcome(NodeId),
    /// A member comes back, with nothing changed that its grant speaks of.
    Update(NodeRecord),
    /// A member that was silent is accepted again, by the grant that it has.
    Resume(NodeRecord),
    /// A node is granted a key: a member that shows something new, or a new member.
    Grant {
        /// Without its entry in the log, which is made when it is committed.
        node: NodeRecord,
        grant: Grant,
        /// Of a new member.
        entrance: Option<Entrance>,
    },
}

/// How a new member came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entrance {
    /// For one use of a token.
    Token(TokenId),
    /// By its evidence alone.
    Evidence,
}

/// Decides about a hello. `token` is what the store has under the id that the hello names.
///
/// # Errors
/// The first rule that the hello breaks.
pub(crate) fn plan(
    state: &MeshState,
    proven: &ProvenHello,
    token: Option<&TokenRecord>,
    now: UnixTime,
) -> Result<Plan, Refused> {
    match state.nodes.get(&NodeId::of(&proven.subject.identity_key)) {
        // Also with a token: the welcome to its first use may have been lost.
        Some(member) => returning(state, member, proven, now),
        None => joining(state, proven, token, now),
    }
}

/// Whether a hello brings the evidence of a stranger, who may be anybody.
pub(crate) fn is_of_a_stranger(state: &MeshState, proven: &ProvenHello) -> bool {
    let known = state.nodes.contains_key(&NodeId::of(&proven.subject.identity_key));
    !known && proven.statements.len() > 1
}

/// Whether evidence is good in itself, whatever else it takes to join. The mesh's owner looks at it again; junk, which takes as long to
/// refuse, must not keep everybody else waiting for the owner.
///
/// # Errors
/// [`Refused::Evidence`].
pub(crate) fn preview(state: &MeshState, proven: &ProvenHello, now: UnixTime) -> Result<(), Refused> {
    match appraise(&proven.subject, &proven.statements, &state.bundle.trusted, now) {
        Err(rejection) if rejection.appraisals.iter().any(|appraisal| appraisal.refusal().is_some()) => {
            Err(rejection.into())
        }
        // A set that is not whole may lack the token.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Decides about the evidence that a member shows because it was asked, or because it has a new key.
/// `answers` is the demand that there was when it was asked: evidence that was asked for before answers none that came later.
///
/// # Errors
/// The first rule that it breaks.
pub(crate) fn renew(
    state: &MeshState,
    member: &NodeRecord,
    key: WireGuardKey,
    statements: &[Statement],
    answers: Option<UnixTime>,
    now: UnixTime,
) -> Result<Plan, Refused> {
    if member.is_revoked() {
        return Err(Refused::Revoked);
    }
    let demanded_at = member.demanded_at.filter(|_| member.demanded_at != answers);
    let node = NodeRecord { wireguard_key: key, demanded_at, ..member.clone() };
    if let Some(holder) = state.nodes.values().find(|other| other.id != node.id && other.wireguard_key == key)
    {
        return Err(Refused::KeyTaken(holder.name.clone()));
    }
    let statements = with_token_of(member, statements);
    grant_to(state, node, &statements, None, now)
}

/// The longest text in which a node may name the version of its software.
const MAX_VERSION_CHARS: usize = 100;

fn returning(
    state: &MeshState,
    member: &NodeRecord,
    proven: &ProvenHello,
    now: UnixTime,
) -> Result<Plan, Refused> {
    let hello = &proven.hello;
    if member.is_revoked() {
        return Err(Refused::Revoked);
    }
    if member.wireguard_key != proven.subject.wireguard_key {
        return Err(Refused::KeyChanged);
    }
    if member.cluster != hello.cluster {
        return Err(Refused::MovedCluster { now: member.cluster.clone(), asked: hello.cluster.clone() });
    }
    let next = NodeRecord {
        prefixes: hello.prefixes.clone(),
        version: version(hello),
        trust: hello.trust,
        ..member.clone()
    };
    if member.lacks_evidence() {
        return wanting(state, member, next, proven, now);
    }
    let before = member.statements();
    let runtime = |statements: &[Statement]| {
        let identity = statements.iter().find(|statement| statement.evidence.kind() == Kind::Identity);
        identity.map(|statement| statement.moment.runtime_digest)
    };
    let shows_more = proven.statements.iter().any(|statement| statement.evidence.kind() != Kind::Identity);
    if shows_more || next.prefixes != member.prefixes || runtime(before) != runtime(&proven.statements) {
        let mut statements = with_token_of(member, &proven.statements);
        if !shows_more {
            statements.extend(before.iter().filter(|statement| statement.evidence.kind().ages()).cloned());
        }
        return grant_to(state, next, &statements, None, now);
    }
    if matches!(member.membership, Membership::Suspended(_)) && judge(state, &next, before, now).is_ok() {
        let revision = state.revision.next();
        let membership = Membership::Active;
        return Ok(Plan::Resume(NodeRecord { membership, revision, grant_revision: revision, ..next }));
    }
    Ok(unchanged(member, next))
}

/// A member whose evidence was found wanting. What it showed before does not count any more, or it would only have to come again.
/// Where what it shows now is not enough either, it stays suspended, and is asked for more in its session.
fn wanting(
    state: &MeshState,
    member: &NodeRecord,
    next: NodeRecord,
    proven: &ProvenHello,
    now: UnixTime,
) -> Result<Plan, Refused> {
    let statements = with_token_of(member, &proven.statements);
    match grant_to(state, next.clone(), &statements, None, now) {
        Err(Refused::Evidence(_)) if next.prefixes == member.prefixes => Ok(unchanged(member, next)),
        decided => decided,
    }
}

fn unchanged(member: &NodeRecord, next: NodeRecord) -> Plan {
    if next == *member { Plan::Welcome(member.id) } else { Plan::Update(next) }
}

fn joining(
    state: &MeshState,
    proven: &ProvenHello,
    token: Option<&TokenRecord>,
    now: UnixTime,
) -> Result<Plan, Refused> {
    let hello = &proven.hello;
    let mut statements = proven.statements.clone();
    let entrance = match &hello.token {
        Some(proof) => {
            let unknown = || Refused::UnknownToken { id: proof.id, cluster: hello.cluster.clone() };
            let token = token.filter(|token| token.capability.token == proof.id).ok_or_else(unknown)?;
            if proof.key != token.capability.key {
                return Err(Refused::AlteredToken(proof.id));
            }
            check_token(token, hello, now)?;
            let evidence = token::Evidence { capability: token.signed.clone(), signature: proof.signature };
            let first = statements.first().ok_or(Refused::NotAMember(hello.cluster.clone()))?;
            statements.push(Statement { evidence: Evidence::JoinToken(evidence), ..first.clone() });
            Entrance::Token(proof.id)
        }
        // Its identity alone says nothing.
        None if statements.len() < 2 => return Err(Refused::NotAMember(hello.cluster.clone())),
        None => Entrance::Evidence,
    };
    let id = NodeId::of(&hello.identity_key);
    let key = proven.subject.wireguard_key;
    if let Some(holder) = state.nodes.values().find(|node| node.wireguard_key == key) {
        return Err(Refused::KeyTaken(holder.name.clone()));
    }
    // A name that reads as an id could be taken for another node's when somebody is to be revoked.
    let reads_as_id = hello.name.as_str().parse::<NodeId>().is_ok();
    if reads_as_id || state.members().any(|node| node.name == hello.name) {
        return Err(Refused::NameTaken(hello.name.clone()));
    }
    let overlay_index = state.next_overlay_index();
    if !state.overlay.has(overlay_index) {
        return Err(Refused::OverlayExhausted(state.overlay.v4()));
    }
    let node = NodeRecord {
        id,
        name: hello.name.clone(),
        cluster: hello.cluster.clone(),
        identity_key: hello.identity_key,
        wireguard_key: key,
        overlay_index,
        prefixes: hello.prefixes.clone(),
        endpoints: vec![],
        statements: Statements::default(),
        history: Statements::default(),
        logged: LoggedEntry { position: 0, text: "".into() },
        grant_revision: state.revision,
        trust: hello.trust,
        version: version(hello),
        joined_at: now,
        revision: state.revision,
        membership: Membership::Active,
        demanded_at: None,
    };
    grant_to(state, node, &statements, Some(entrance), now)
}

/// Grants a node what its evidence, which must follow what it showed before, and its prefixes allow. `node` has the statements of
/// before.
fn grant_to(
    state: &MeshState,
    node: NodeRecord,
    statements: &[Statement],
    entrance: Option<Entrance>,
    now: UnixTime,
) -> Result<Plan, Refused> {
    let result = judge(state, &node, statements, now)?;
    let before: Vec<Statement> = node.statements().iter().chain(node.history.parsed()).cloned().collect();
    follows(&before, statements)?;
    let allowed = result.capability().and_then(|capability| capability.prefixes.as_deref());
    check_prefixes(state, node.id, &node.prefixes, allowed)?;
    check_asked(&node, statements)?;
    let shown = Statements::of(statements);
    check_lengths(&shown)?;
    let grant = grant(&result, node.name.clone(), netmap::allowed_ips(state, &node));
    let revision = state.revision.next();
    // Whoever shows another kind for a while must not come back on another machine.
    let kept = |earlier: &Statement| {
        let kind = earlier.evidence.kind();
        kind.has_history() && statements.iter().all(|statement| statement.evidence.kind() != kind)
    };
    let history: Vec<Statement> = before.into_iter().filter(kept).collect();
    let node = NodeRecord {
        statements: shown,
        history: Statements::of(&history),
        revision,
        grant_revision: revision,
        membership: Membership::Active,
        ..node
    };
    capacity::check(state, &node, entrance.is_some())?;
    Ok(Plan::Grant { node, grant, entrance })
}

/// Peers read no statement that is longer.
fn check_lengths(shown: &Statements) -> Result<(), Refused> {
    if shown.texts().iter().any(|text| text.len() > MAX_STATEMENT) {
        return Err(Refused::Protocol("a piece of evidence is too long: a statement has at most 64 KiB"));
    }
    Ok(())
}

/// Appraises what a node shows, under the bundle in force.
///
/// # Errors
/// [`Refused::Evidence`].
pub(crate) fn judge(
    state: &MeshState,
    node: &NodeRecord,
    statements: &[Statement],
    now: UnixTime,
) -> Result<AttestationResult, Refused> {
    Ok(appraise(&node.subject(state.mesh), statements, &state.bundle.trusted, now)?)
}

/// Peers believe no name and no network that the node did not sign for.
fn check_asked(node: &NodeRecord, statements: &[Statement]) -> Result<(), Refused> {
    for asked in statements.iter().filter_map(|statement| statement.evidence.identity()) {
        if asked.name != node.name {
            return Err(Refused::Renamed { is: node.name.clone(), asked: asked.name.clone() });
        }
        if !asked.asks_for(&node.name, &node.prefixes) {
            return Err(Refused::Protocol("the node signed for other prefixes than it has"));
        }
    }
    Ok(())
}

/// New evidence, and the token by which the node once came in.
fn with_token_of(member: &NodeRecord, statements: &[Statement]) -> Vec<Statement> {
    let token = member.statements().iter().filter(|statement| statement.evidence.kind() == Kind::JoinToken);
    statements.iter().chain(token).cloned().collect()
}

fn check_token(token: &TokenRecord, hello: &Hello, now: UnixTime) -> Result<(), Refused> {
    let cluster = token.capability.cluster.clone();
    match token.state(now) {
        TokenState::Active if cluster == hello.cluster => Ok(()),
        TokenState::Active => Err(Refused::OtherCluster { token: cluster, asked: hello.cluster.clone() }),
        TokenState::Expired => Err(Refused::ExpiredToken { at: token.capability.expires_at, cluster }),
        TokenState::UsedUp => Err(Refused::UsedUpToken { uses: token.capability.uses, cluster }),
        TokenState::Revoked => Err(Refused::RevokedToken(cluster)),
    }
}

/// `allowed`: the networks that the node's token names, where it names some.
fn check_prefixes(
    state: &MeshState,
    id: NodeId,
    claim: &[Cidr],
    allowed: Option<&[Cidr]>,
) -> Result<(), Refused> {
    if claim.len() > MAX_PREFIXES {
        return Err(Refused::TooManyPrefixes(claim.len()));
    }
    match allowed {
        None => check_prefix_claim(claim, &state.overlay.ranges())?,
        Some(allowed) => {
            let outside = |claimed: &&Cidr| !allowed.iter().any(|allowed| allowed.covers(claimed));
            if let Some(claimed) = claim.iter().find(outside) {
                return Err(Refused::PrefixNotAllowed(*claimed));
            }
            check_named_prefix_claim(claim, &state.overlay.ranges())?;
        }
    }
    for other in state.members().filter(|node| node.id != id) {
        for held in &other.prefixes {
            if let Some(claimed) = claim.iter().find(|claimed| claimed.overlaps(held)) {
                return Err(Refused::PrefixTaken {
                    claimed: *claimed,
                    held: *held,
                    holder: other.name.clone(),
                });
            }
        }
    }
    Ok(())
}

fn version(hello: &Hello) -> String {
    hello.version.chars().filter(|c| !c.is_control()).take(MAX_VERSION_CHARS).collect()
}

/// Reads the endpoints that a node reports: those to which a datagram can be sent, once each, in its order.
///
/// # Errors
/// [`Refused::Protocol`] where they are too many, or one can never be an endpoint.
pub(crate) fn endpoints(candidates: &[SocketAddr]) -> Result<Vec<SocketAddr>, Refused> {
    if candidates.len() > MAX_ENDPOINTS {
        return Err(Refused::Protocol("too many endpoints: report at most 16"));
    }
    let mut endpoints: Vec<SocketAddr> = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        let endpoint = SocketAddr::new(candidate.ip().to_canonical(), candidate.port());
        let ip = endpoint.ip();
        // What peers would send to themselves, to their own link, or nowhere.
        let useless = ip.is_unspecified()
            || ip.is_multicast()
            || ip.is_loopback()
            || match ip {
                IpAddr::V4(ip) => ip.is_link_local() || ip.octets()[0] == 0 || ip.octets()[0] >= 240,
                IpAddr::V6(ip) => ip.is_unicast_link_local(),
            };
        if endpoint.port() == 0 || useless {
            return Err(Refused::Protocol("an endpoint has port 0, or an address that no peer can reach"));
        }
        if !endpoints.contains(&endpoint) {
            endpoints.push(endpoint);
        }
    }
    Ok(endpoints)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_that_is_too_long_for_peers_to_read_earns_no_grant() {
        let shown = |length| Statements::from_texts(vec![String::new(), "x".repeat(length)]);
        check_lengths(&shown(MAX_STATEMENT)).unwrap();
        let refused = check_lengths(&shown(MAX_STATEMENT + 1)).unwrap_err();
        assert!(refused.to_string().contains("at most 64 KiB"), "{refused}");
    }

    #[test]
    fn endpoints_are_taken_once_each_and_only_where_a_datagram_can_go() {
        let parse = |list: &[&str]| {
            endpoints(&list.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>())
                .map(|endpoints| endpoints.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(
            parse(&["192.0.2.1:1", "[::ffff:192.0.2.1]:1", "[2001:db8::1]:2"]).unwrap(),
            ["192.0.2.1:1", "[2001:db8::1]:2"]
        );
        for bad in [
            "192.0.2.1:0",
            "0.0.0.0:1",
            "[::]:1",
            "224.0.0.1:1",
            "[ff02::1]:1",
            "255.255.255.255:1",
            "127.0.0.1:22",
            "[::1]:22",
            "169.254.169.254:80",
            "[fe80::1]:1",
            "240.0.0.1:1",
        ] {
            parse(&[bad]).expect_err(bad);
        }
        parse(&["192.0.2.1:1"; 17]).unwrap_err();
    }
}
