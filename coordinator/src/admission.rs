//! Who may join, and as what: a pure function of the mesh, the proven hello and the token.

use std::net::{IpAddr, SocketAddr};

use carrick_types::{Cidr, NodeId, TokenId, UnixTime, check_prefix_claim};
use carrick_wire::{
    api::{Evidence, TokenState},
    hello::{Admission, Hello, ProvenHello},
    session::MAX_ENDPOINTS,
};
use subtle::ConstantTimeEq as _;

use crate::{
    refusal::{MAX_PREFIXES, Refused},
    state::{Membership, MeshState, NodeRecord},
    store::TokenRecord,
};

/// What a hello leads to.
#[derive(Debug)]
pub(crate) enum Plan {
    /// A member comes back as it was.
    Welcome(NodeId),
    /// A member comes back with something changed.
    Update(NodeRecord),
    /// A new member, for one use of a token.
    Admit(NodeRecord, TokenId),
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
    let hello = proven.get();
    if let Some(member) = state.nodes.get(&NodeId::of(&hello.identity_key)) {
        // Also with a token: the welcome to its first use may have been lost.
        return returning(state, member, hello);
    }
    match &hello.admission {
        Admission::Member => Err(Refused::NotAMember(hello.cluster.clone())),
        Admission::JoinToken { id, key, .. } => {
            let unknown = || Refused::UnknownToken { id: *id, cluster: hello.cluster.clone() };
            let token = token.filter(|token| token.id == *id).ok_or_else(unknown)?;
            if !bool::from(TokenRecord::hash(key).ct_eq(&token.key_hash)) {
                return Err(Refused::AlteredToken(*id));
            }
            check_token(token, hello, now)?;
            joining(state, hello, now).map(|node| Plan::Admit(node, *id))
        }
    }
}

/// The longest text in which a node may name the version of its software.
const MAX_VERSION_CHARS: usize = 100;

fn returning(state: &MeshState, member: &NodeRecord, hello: &Hello) -> Result<Plan, Refused> {
    if matches!(member.membership, Membership::Revoked(_)) {
        return Err(Refused::Revoked);
    }
    if member.wireguard_key != hello.wireguard_key {
        return Err(Refused::KeyChanged);
    }
    if member.cluster != hello.cluster {
        return Err(Refused::MovedCluster { now: member.cluster.clone(), asked: hello.cluster.clone() });
    }
    check_prefixes(state, member.id, &hello.prefixes)?;
    let next = NodeRecord { prefixes: hello.prefixes.clone(), version: version(hello), ..member.clone() };
    if next == *member {
        return Ok(Plan::Welcome(member.id));
    }
    let revision = if next.prefixes == member.prefixes { member.revision } else { state.revision.next() };
    Ok(Plan::Update(NodeRecord { revision, ..next }))
}

fn check_token(token: &TokenRecord, hello: &Hello, now: UnixTime) -> Result<(), Refused> {
    let cluster = token.cluster.clone();
    match token.state(now) {
        TokenState::Active if cluster == hello.cluster => Ok(()),
        TokenState::Active => Err(Refused::OtherCluster { token: cluster, asked: hello.cluster.clone() }),
        TokenState::Expired => Err(Refused::ExpiredToken { at: token.expires_at, cluster }),
        TokenState::UsedUp => Err(Refused::UsedUpToken { uses: token.uses, cluster }),
        TokenState::Revoked => Err(Refused::RevokedToken(cluster)),
    }
}

fn joining(state: &MeshState, hello: &Hello, now: UnixTime) -> Result<NodeRecord, Refused> {
    let id = NodeId::of(&hello.identity_key);
    if let Some(holder) = state.nodes.values().find(|node| node.wireguard_key == hello.wireguard_key) {
        return Err(Refused::KeyTaken(holder.name.clone()));
    }
    // A name that reads as an id could be taken for another node's when somebody is to be revoked.
    let reads_as_id = hello.name.as_str().parse::<NodeId>().is_ok();
    if reads_as_id || state.active().any(|node| node.name == hello.name) {
        return Err(Refused::NameTaken(hello.name.clone()));
    }
    check_prefixes(state, id, &hello.prefixes)?;
    let overlay_index = state.next_overlay_index();
    if !state.overlay.has(overlay_index) {
        return Err(Refused::OverlayExhausted(state.overlay.v4()));
    }
    Ok(NodeRecord {
        id,
        name: hello.name.clone(),
        cluster: hello.cluster.clone(),
        identity_key: hello.identity_key,
        wireguard_key: hello.wireguard_key,
        overlay_index,
        prefixes: hello.prefixes.clone(),
        endpoints: vec![],
        evidence: vec![Evidence { kind: "join-token".to_owned(), appraised_at: now }],
        version: version(hello),
        joined_at: now,
        revision: state.revision.next(),
        membership: Membership::Active,
    })
}

fn check_prefixes(state: &MeshState, id: NodeId, claim: &[Cidr]) -> Result<(), Refused> {
    if claim.len() > MAX_PREFIXES {
        return Err(Refused::TooManyPrefixes(claim.len()));
    }
    check_prefix_claim(claim, &state.overlay.ranges())?;
    for other in state.active().filter(|node| node.id != id) {
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
