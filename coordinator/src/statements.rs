//! What a node showed for its grant: each statement's text, as peers get it, and the statement that was read from it, once.

use std::sync::Arc;

use carrick_attest::Statement;

/// The statements that a grant names. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Statements {
    texts: Arc<[String]>,
    parsed: Arc<[Statement]>,
}

impl Statements {
    pub(crate) fn of(statements: &[Statement]) -> Self {
        Self { texts: statements.iter().map(Statement::to_text).collect(), parsed: statements.into() }
    }

    /// As they are stored. One that this version does not understand any more counts for nothing.
    pub(crate) fn from_texts(texts: Vec<String>) -> Self {
        let parsed = texts.iter().filter_map(|text| Statement::from_text(text)).collect();
        Self { texts: texts.into(), parsed }
    }

    /// Byte by byte what the grant names by its hashes.
    pub(crate) fn texts(&self) -> &[String] {
        &self.texts
    }

    pub(crate) fn parsed(&self) -> &[Statement] {
        &self.parsed
    }
}
