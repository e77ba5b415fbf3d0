//! What differs between two bundles, a line for each difference.

use std::collections::BTreeSet;

use carrick_attest::Bundle;
use serde::Serialize;
use serde_json::Value;

/// The longest value that is shown whole, in characters.
const LONGEST: usize = 72;

/// The differences, by path: `lease: "available" -> "strict"`, `+ path: what is new`, `- path: what is gone`.
pub(super) fn changes(before: &Bundle, after: &Bundle) -> Vec<String> {
    let mut lines = Vec::new();
    differ("", json(before).as_ref(), json(after).as_ref(), &mut lines);
    lines
}

/// Every value below one, with its path.
pub(super) fn leaves(value: &impl Serialize) -> Vec<(String, String)> {
    let mut found = Vec::new();
    if let Some(value) = json(value) {
        collect("", &value, &mut found);
    }
    found
}

fn json(value: &impl Serialize) -> Option<Value> {
    // Whatever an operator signs is plain data.
    serde_json::to_value(value).ok()
}

fn differ(path: &str, before: Option<&Value>, after: Option<&Value>, lines: &mut Vec<String>) {
    match (before, after) {
        (before, after) if before == after => {}
        (Some(Value::Object(before)), Some(Value::Object(after))) => {
            let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
            for key in keys {
                differ(&below(path, key), before.get(key), after.get(key), lines);
            }
        }
        (Some(Value::Array(before)), Some(Value::Array(after))) => {
            let gone: Vec<_> = before.iter().filter(|value| !after.contains(value)).collect();
            let new: Vec<_> = after.iter().filter(|value| !before.contains(value)).collect();
            if gone.is_empty() && new.is_empty() {
                lines.push(format!("{path}: in another order, or another number of times"));
            }
            lines.extend(gone.iter().map(|value| format!("- {path}: {}", short(value))));
            lines.extend(new.iter().map(|value| format!("+ {path}: {}", short(value))));
        }
        (Some(before), Some(after)) => lines.push(format!("{path}: {} -> {}", short(before), short(after))),
        (Some(gone), None) => lines.extend(marked('-', path, gone)),
        (None, Some(new)) => lines.extend(marked('+', path, new)),
        (None, None) => {}
    }
}

fn marked(mark: char, path: &str, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    collect(path, value, &mut found);
    found.into_iter().map(|(path, value)| format!("{mark} {path}: {value}")).collect()
}

fn collect(path: &str, value: &Value, found: &mut Vec<(String, String)>) {
    if let Some(fields) = value.as_object().filter(|fields| !fields.is_empty()) {
        for (key, value) in fields {
            collect(&below(path, key), value, found);
        }
    } else if let Some(values) = value.as_array().filter(|values| values.iter().any(takes_a_line)) {
        for value in values {
            collect(path, value, found);
        }
    } else {
        found.push((path.to_owned(), short(value)));
    }
}

/// Whether an element of a list is too long to be shown beside others.
fn takes_a_line(value: &Value) -> bool {
    value.is_object() || value.to_string().len() > 24
}

fn below(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// A value in one line, cut where it is long.
fn short(value: &Value) -> String {
    let text = value.to_string();
    let cut: String = text.chars().take(LONGEST).collect();
    if cut.len() == text.len() { text } else { format!("{cut}... ({} bytes)", text.len()) }
}

#[cfg(test)]
mod tests {
    use carrick_attest::policy::ClusterPolicy;
    use carrick_types::LeaseProfile;

    use super::*;
    use crate::fixture;

    #[test]
    fn every_difference_is_a_line_and_what_stays_is_none() {
        let before = fixture::in_force().bundle;
        assert_eq!(changes(&before, &before), Vec::<String>::new());
        let mut after = Bundle { version: before.version + 1, ..before.clone() };
        after.default.lease = LeaseProfile::Strict;
        let east = after.clusters.values_mut().next().unwrap();
        east.runtime_digests = BTreeSet::from(["22".repeat(32)]);
        after.clusters.insert("west".parse().unwrap(), ClusterPolicy::default());
        assert_eq!(
            changes(&before, &after),
            [
                "- clusters.east.runtime_digests: \"1111111111111111111111111111111111111111111111111111111111111111\"",
                "+ clusters.east.runtime_digests: \"2222222222222222222222222222222222222222222222222222222222222222\"",
                "+ clusters.west.accept: [[\"join-token\"]]",
                "+ clusters.west.lease: \"available\"",
                "+ clusters.west.reattest_s: 3600",
                "default.lease: \"available\" -> \"strict\"",
                "version: 3 -> 4",
            ]
        );
        assert_eq!(changes(&after, &before).len(), 7, "and back");
    }

    #[test]
    fn a_long_value_is_cut() {
        let text = short(&Value::String("x".repeat(1000)));
        assert!(text.len() < 100 && text.ends_with("(1002 bytes)"), "{text}");
    }
}
