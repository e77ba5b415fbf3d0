//! Evidence that is good, one case for each kind.

use carrick_attest::{Statement, Subject, TrustedBundle};
use carrick_types::UnixTime;

use super::paper;

/// All that an appraisal takes.
pub(super) struct Case {
    pub(super) subject: Subject,
    pub(super) statements: Vec<Statement>,
    pub(super) bundle: TrustedBundle,
    pub(super) at: UnixTime,
}

impl Case {
    /// The kinds that are shown.
    pub(super) fn name(&self) -> String {
        let kinds: Vec<&str> =
            self.statements.iter().map(|statement| statement.evidence.kind().as_str()).collect();
        kinds.join(" + ")
    }
}

/// Every case. A kind is added here once there is evidence of it to appraise: recorded, or of a test authority.
pub(super) fn all() -> Vec<Case> {
    vec![join_token()]
}

fn join_token() -> Case {
    let node = paper::Node::new(1);
    Case { subject: node.subject(), statements: node.statements(), bundle: paper::trusted(), at: paper::NOW }
}
