//! How many nodes a mesh takes: as many as fit into one netmap, which is one message.
//!
//! What a peer is told of a node is mostly its evidence, so that a mesh of nodes with tokens holds several times as many as one of nodes
//! with long quotes.

use std::sync::Arc;

use carrick_wire::session::MAX_TO_NODE;

use crate::{
    refusal::Refused,
    state::{MeshState, NodeRecord},
};

/// What is left for the rest of a netmap, and for what grows by and by: revocations that a node missed, endpoints, proofs in a log that
/// gets longer. Half of it is for members that show more than before.
const RESERVE: usize = 2 * 1024 * 1024;

/// What the peers of a new node's netmap may take, in bytes.
pub(crate) const MOST: usize = MAX_TO_NODE - RESERVE;

/// Whether the netmap still fits once a node is what it is to be: a new one, or one that was a member before.
///
/// # Errors
/// [`Refused::MeshFull`].
pub(crate) fn check(state: &MeshState, node: &NodeRecord, is_new: bool) -> Result<(), Refused> {
    let others = state.members().filter(|other| other.id != node.id).map(Arc::as_ref);
    let length = others.chain([node]).fold(0_usize, |sum, node| sum.saturating_add(weight(state, node)));
    let most = if is_new { MOST } else { MOST + RESERVE / 2 };
    if length > most { Err(Refused::MeshFull) } else { Ok(()) }
}

/// About how many bytes a peer takes in a netmap, and rarely less: ids and names of fields, its evidence, with proof of the moment of each
/// that grows old, its entry in the log with the proof, and its endpoints.
pub(crate) fn weight(state: &MeshState, node: &NodeRecord) -> usize {
    let statements: usize = node.statements.texts().iter().map(|text| in_json(text)).sum();
    // One that is granted something now has no entry yet.
    let entry = in_json(&node.logged.text).max(600) + 60 * node.prefixes.len();
    let depth = 65 - state.log.head.size.leading_zeros() as usize;
    let proofs = 1 + node.statements().iter().filter(|statement| statement.evidence.kind().ages()).count();
    160 + statements + entry + 48 * depth * proofs + 56 * node.endpoints.len().max(4)
}

/// What a text of JSON takes as a string in JSON: every quotation mark and every backslash takes one byte more.
fn in_json(text: &str) -> usize {
    text.len() + text.bytes().filter(|byte| matches!(byte, b'"' | b'\\')).count() + 3
}

#[cfg(test)]
mod tests {
    use carrick_attest::{Blob, Bytes, Evidence, Moment, Statement, nitro};
    use carrick_types::UnixTime;
    use carrick_wire::session::{ToNode, encode};

    use super::*;
    use crate::{
        netmap,
        state::{
            LoggedEntry,
            tests::{empty, node},
        },
        statements::Statements,
    };

    fn showing(n: u8, text: &str) -> NodeRecord {
        let mut node = node(n, 1);
        node.statements = Statements::from_texts(vec![text.to_owned()]);
        node
    }

    #[test]
    fn a_netmap_is_no_longer_than_its_peers_weigh() {
        let mut state = empty();
        let text = r#"{"at":"2026-01-31T12:00:00Z","type":"granted","text":"{\"a\":\"b\"}"}"#;
        let entries = (1..=200_u8).map(|n| {
            let mut node = showing(n, &text.repeat(usize::from(n)));
            node.logged.text = text.repeat(20).into();
            node.logged.position = u64::from(n) - 1;
            node.endpoints =
                (1..=4).map(|port| format!("[2001:db8:1:2:3:4:5:6]:5000{port}").parse().unwrap()).collect();
            node
        });
        let nodes: Vec<NodeRecord> = entries.collect();
        for node in &nodes {
            state.log.tree.write().push(carrick_wire::log::tree::leaf_hash(node.logged.text.as_bytes()));
        }
        state = state.with_all(nodes);
        state.log.head.size = 200;
        let weight: usize = state.members().map(|node| weight(&state, node)).sum();
        let me = node(1, 1).id;
        let netmap = netmap::whole(&state, me, None).unwrap();
        assert_eq!(netmap.peers.len(), 199);
        let length = encode(&ToNode::Netmap(netmap)).len();
        assert!(
            length <= weight && weight < length * 5 / 4,
            "{length} bytes, and {weight} were reckoned with"
        );
    }

    #[test]
    fn proofs_of_the_moment_of_evidence_are_reckoned_with() {
        let size = 100_000;
        let mut state = empty();
        (0..size).for_each(|_| state.log.tree.write().push([1; 32]));
        state.log.head.size = size;
        let moment = Moment {
            log_size: size - 33_333,
            log_head: Bytes([2; 32]),
            salt: Bytes([3; 32]),
            exporter: Bytes([4; 32]),
            policy_version: 1,
            runtime_digest: Bytes([5; 32]),
        };
        let document = Blob::new(vec![6; 300]).unwrap();
        let statement = Statement {
            moment,
            wireguard_key: node(1, 1).wireguard_key,
            evidence: Evidence::Nitro(Box::new(nitro::Evidence { document })),
            appraised_at: UnixTime::from_millis(1),
        };
        let nodes = (1..=200_u8).map(|n| {
            let text = "x".repeat(600).into();
            let logged = LoggedEntry { position: u64::from(n) * 331, text };
            let endpoints =
                (1..=4).map(|port| format!("[2001:db8:1:2:3:4:5:6]:5000{port}").parse().unwrap()).collect();
            NodeRecord {
                statements: Statements::of(std::slice::from_ref(&statement)),
                logged,
                endpoints,
                ..node(n, 1)
            }
        });
        let state = state.with_all(nodes.collect());
        let weight: usize = state.members().map(|node| weight(&state, node)).sum();
        let length = encode(&ToNode::Netmap(netmap::whole(&state, node(200, 1).id, None).unwrap())).len();
        assert!(length <= weight, "{length} bytes, and {weight} were reckoned with");
    }

    #[test]
    fn a_node_that_does_not_fit_any_more_is_not_let_in_and_a_member_has_room_to_change() {
        let text = |length| "x".repeat(length);
        let state = empty().with(showing(1, &text(MOST)));
        let refused = check(&state, &node(2, 2), true).unwrap_err();
        assert!(refused.to_string().contains("no place for another node"), "{refused}");
        let member = showing(1, &text(MOST + 1000));
        check(&state, &member, false).unwrap();
        check(&state, &showing(1, &text(MOST + RESERVE / 2)), false).unwrap_err();
        check(&empty(), &node(2, 2), true).unwrap();
    }
}
