//! A cluster that takes TDX guests only: who joins it over real TLS, and what peers make of it.

#![allow(clippy::unwrap_used, reason = "an unwrap in a test is the assertion that the value is there")]

mod support;

use std::collections::BTreeSet;

use carrick_attest::{
    Blob, Evidence, Kind, Moment, Subject,
    policy::Bundle,
    tdx::{
        self,
        testing::{Platform, Recipe},
    },
};
use carrick_wire::api::AppraisalPolicy;
use support::{Node, Running, start};

#[tokio::test]
async fn a_td_joins_a_cluster_that_takes_tds_and_peers_appraise_it_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = start(dir.path()).await;
    let platform = Platform::new(Recipe::default());
    accept_tds(&coordinator, &platform).await;
    let token = coordinator.token("east", 9).await;

    let quoting = |moment: &Moment, subject: &Subject| vec![quote(&platform, moment, subject, Kind::Tdx)];
    let mut a = coordinator.join_showing(&Node::new(1, "a"), Some(&token), quoting).await.unwrap();
    let b = coordinator.join_showing(&Node::new(2, "b"), Some(&token), quoting).await.unwrap();
    assert!(b.view().members.contains_key(&a.welcome.node), "b appraised a, under the operator's bundle");
    a.until("the peer", |view| view.members.contains_key(&b.welcome.node)).await;
    coordinator.stop().await;
}

#[tokio::test]
async fn who_shows_no_quote_or_a_quote_of_something_else_does_not_join() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = start(dir.path()).await;
    let platform = Platform::new(Recipe::default());
    accept_tds(&coordinator, &platform).await;
    let token = coordinator.token("east", 9).await;

    let refused = coordinator.join(&Node::new(1, "a"), Some(&token)).await.err().unwrap();
    assert!(refused.detail.contains("tdx"), "{refused:?}");
    let of_another_kind =
        |moment: &Moment, subject: &Subject| vec![quote(&platform, moment, subject, Kind::SevSnp)];
    let refused =
        coordinator.join_showing(&Node::new(1, "a"), Some(&token), of_another_kind).await.err().unwrap();
    assert!(refused.detail.contains("report data"), "{refused:?}");
    let mut other = Recipe::default();
    other.body[136] ^= 1;
    let stranger = Platform::new(other);
    let of_a_stranger =
        |moment: &Moment, subject: &Subject| vec![quote(&stranger, moment, subject, Kind::Tdx)];
    let refused =
        coordinator.join_showing(&Node::new(1, "a"), Some(&token), of_a_stranger).await.err().unwrap();
    assert!(refused.detail.contains("PCK certificate"), "{refused:?}");

    let quoting = |moment: &Moment, subject: &Subject| vec![quote(&platform, moment, subject, Kind::Tdx)];
    coordinator.join_showing(&Node::new(1, "a"), Some(&token), quoting).await.unwrap();
    coordinator.stop().await;
}

/// Has every cluster take TDs of a platform, beside join tokens.
async fn accept_tds(coordinator: &Running, platform: &Platform) {
    let before: AppraisalPolicy = coordinator.get("/v1/appraisal-policy").await;
    let mut draft: Bundle = serde_json::from_str(before.signed.bundle.text()).unwrap();
    draft.version += 1;
    draft.default.accept = vec![BTreeSet::from([Kind::JoinToken, Kind::Tdx])];
    draft.default.tdx = Some(tdx::Policy { mrtd: BTreeSet::from(["aa".repeat(48)]), ..platform.policy() });
    let body = serde_json::json!({ "draft": draft }).to_string();
    let answer = coordinator.ask("PUT", "/v1/appraisal-policy", Some(&body)).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
}

fn quote(platform: &Platform, moment: &Moment, subject: &Subject, kind: Kind) -> Evidence {
    let quote = platform.quote(moment.transcript(subject, kind).as_bytes());
    Evidence::Tdx(Box::new(tdx::Evidence { quote: Blob::new(quote).unwrap() }))
}
