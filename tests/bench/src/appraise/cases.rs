//! Evidence that is good, one case for each kind.

use carrick_attest::{appraise, testing};

use super::paper;

/// An appraisal that can be made again and again.
pub(super) struct Case {
    /// Of what.
    pub(super) name: String,
    /// Makes it; whether the evidence is accepted.
    pub(super) appraise: Box<dyn Fn() -> bool>,
}

/// Every case: what a node with a token shows, then each kind that measures, alone.
pub(super) fn all() -> Vec<Case> {
    let samples = testing::samples().into_iter().map(|sample| Case {
        name: sample.name.to_owned(),
        appraise: Box::new(move || sample.appraise().is_accepted()),
    });
    std::iter::once(join_token()).chain(samples).collect()
}

fn join_token() -> Case {
    let node = paper::Node::new(1);
    let (subject, statements, bundle) = (node.subject(), node.statements(), paper::trusted());
    Case {
        name: "identity + join-token".to_owned(),
        appraise: Box::new(move || appraise(&subject, &statements, &bundle, paper::NOW).is_ok()),
    }
}
