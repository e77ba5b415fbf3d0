//! The mesh that the golden tests print.

use std::collections::{BTreeMap, BTreeSet};

use carrick_attest::{Bundle, Signed, SignedBundle, policy::ClusterPolicy};
use carrick_types::{CoordinatorSecret, LeaseProfile, MeshId, OperatorSecret, UnixTime};
use carrick_wire::api::{AppraisalPolicy, Evidence, Refusal, Topology};

use crate::verb::InForce;

/// 2026-01-31T12:00:00Z.
pub(crate) const NOW: UnixTime = UnixTime::from_millis(1_769_860_800_000);

/// Two clusters; of their four nodes two are online, one is suspended, one is revoked.
pub(crate) fn topology() -> Topology {
    serde_json::from_str(TOPOLOGY).unwrap()
}

/// The operator, whose key the coordinator holds.
pub(crate) fn operator() -> OperatorSecret {
    OperatorSecret::from_bytes([1; 32])
}

/// Version 3 of a policy bundle that says something of one cluster.
pub(crate) fn in_force() -> InForce {
    let east = ClusterPolicy {
        lease: LeaseProfile::Strict,
        reattest_s: 600,
        runtime_digests: BTreeSet::from(["11".repeat(32)]),
        ..ClusterPolicy::default()
    };
    let bundle = Bundle {
        mesh: MeshId::from_bytes([1; 16]),
        version: 3,
        expires_at: "2026-03-02T12:00:00Z".parse().unwrap(),
        coordinator_key: CoordinatorSecret::from_bytes([9; 32]).public(),
        former_operators: vec![],
        rotate_keys_s: 86_400,
        log_restart: None,
        default: ClusterPolicy::default(),
        clusters: BTreeMap::from([("east".parse().unwrap(), east)]),
    };
    let signed = SignedBundle {
        operator: operator().public(),
        successions: vec![],
        bundle: Signed::seal(&bundle, &operator()),
    };
    InForce::read(AppraisalPolicy { signed, operator_key_held: true, suspends: vec![] }).unwrap()
}

/// Evidence with two claims.
pub(crate) fn evidence() -> Vec<Evidence> {
    serde_json::from_str(
        r#"[{"kind": "join-token", "appraised_at": "2026-01-31T11:00:00Z", "decision": "accepted", "claims": [
             {"name": "operator", "value": "iojj", "verdict": "accepted", "reason": "signed the token"},
             {"name": "uses", "value": "3", "verdict": "unchecked", "reason": ""}]}]"#,
    )
    .unwrap()
}

/// Of a member, and of somebody under the same name who never became one.
pub(crate) fn refusals() -> Vec<Refusal> {
    serde_json::from_str(
        r#"[{"at": "2026-01-31T11:59:00Z", "node": "aaaaaaaaaaaaaaaaaaaaaaaaam", "name": "east-2", "cluster": "east",
             "code": "evidence", "detail": "evidence tpm: pcr 7 is 00, expected: one of the reference values",
             "evidence": [{"kind": "tpm", "appraised_at": "2026-01-31T11:59:00Z", "decision": "refused", "claims": [
               {"name": "pcr 7", "value": "00", "verdict": "refused", "reason": "one of the reference values"}]}]},
            {"at": "2026-01-31T11:50:00Z", "node": null, "name": "east-2", "cluster": "east",
             "code": "token", "detail": "the join token is used up", "evidence": []}]"#,
    )
    .unwrap()
}

const TOPOLOGY: &str = r#"{
  "mesh": "mmmmmmmmmmmmmmmmmmmmmmmmme", "revision": 42,
  "clusters": [{"name": "east", "nodes": 2}, {"name": "west", "nodes": 1}],
  "nodes": [
    {"id": "aaaaaaaaaaaaaaaaaaaaaaaaai", "name": "east-1", "cluster": "east", "state": "active", "online": true,
     "public_key": "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=", "prefixes": ["10.1.0.0/24", "fd00:1::/64"],
     "overlay_ips": ["100.64.0.2", "fd00:c::2"], "endpoints": ["192.0.2.1:51820", "[2001:db8::9]:51820"],
     "evidence": [{"kind": "join-token", "appraised_at": "2026-01-31T11:00:00Z", "decision": "accepted"}],
     "lease": "available", "lease_expires": "2026-01-31T12:00:28Z", "suspended": null, "trust": "evidence", "joined_at": "2026-01-31T11:00:00Z", "revoked": null, "version": "0.1.0 (0123456789ab)"},
    {"id": "aaaaaaaaaaaaaaaaaaaaaaaaam", "name": "east-2", "cluster": "east", "state": "expired", "online": false,
     "public_key": "CAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAg=", "prefixes": [],
     "overlay_ips": ["100.64.0.3"], "endpoints": [],
     "evidence": [{"kind": "join-token", "appraised_at": "2026-01-31T11:55:00Z", "decision": "refused"}],
     "lease": "available", "lease_expires": null, "suspended": "cluster east takes tpm", "trust": "evidence", "joined_at": "2026-01-31T11:55:00Z", "revoked": null, "version": "0.1.0"},
    {"id": "aaaaaaaaaaaaaaaaaaaaaaaaae", "name": "east-0", "cluster": "east", "state": "revoked", "online": false,
     "public_key": "CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=", "prefixes": ["10.1.9.0/24"],
     "overlay_ips": ["100.64.0.1"], "endpoints": ["192.0.2.9:51820"], "evidence": [],
     "lease": "available", "lease_expires": null, "suspended": null, "trust": "evidence", "joined_at": "2026-01-29T12:00:00Z",
     "revoked": {"at": "2026-01-31T11:59:00Z", "reason": "lost"}, "version": "0.1.0"},
    {"id": "aaaaaaaaaaaaaaaaaaaaaaaaaq", "name": "west-1", "cluster": "west", "state": "active", "online": true,
     "public_key": "CgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgo=", "prefixes": ["10.2.0.0/24"],
     "overlay_ips": ["100.64.0.4"], "endpoints": ["[2001:db8::1]:51820"], "evidence": [],
     "lease": "available", "lease_expires": null, "suspended": null, "trust": "evidence", "joined_at": "2026-01-31T11:59:48Z", "revoked": null, "version": "0.1.0"}],
  "workloads": [],
  "links": [
    {"from": "aaaaaaaaaaaaaaaaaaaaaaaaai", "to": "aaaaaaaaaaaaaaaaaaaaaaaaaq", "path": "direct",
     "endpoint": "[2001:db8::1]:51820", "rtt_ms": 0.42, "last_handshake": "2026-01-31T11:59:50Z",
     "rx_bytes": 1536, "tx_bytes": 10},
    {"from": "aaaaaaaaaaaaaaaaaaaaaaaaaq", "to": "aaaaaaaaaaaaaaaaaaaaaaaaai", "path": "direct",
     "endpoint": "192.0.2.1:51820", "rtt_ms": null, "last_handshake": null, "rx_bytes": 10, "tx_bytes": 1536},
    {"from": "aaaaaaaaaaaaaaaaaaaaaaaaai", "to": "aaaaaaaaaaaaaaaaaaaaaaaaam", "path": "relay",
     "endpoint": "192.0.2.200:3478", "rtt_ms": 17.3, "last_handshake": "2026-01-31T11:58:00Z",
     "rx_bytes": 0, "tx_bytes": 0}]
}"#;
