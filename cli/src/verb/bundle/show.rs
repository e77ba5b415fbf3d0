//! `carrick bundle show`.

use std::{collections::BTreeSet, fmt::Write as _, time::SystemTime};

use anyhow::Result;
use carrick_attest::{Bundle, Kind, policy::ClusterPolicy};
use carrick_types::{LeaseProfile, OperatorKey, OperatorPin, UnixTime};
use clap::{Args, ValueEnum};
use comfy_table::Cell;
use serde::Serialize;
use serde_json::{Value, json};

use super::{InForce, change::leaves, draft};
use crate::{
    human::{age, count, relative},
    output::{OutputAs, Paint, print, print_json, table},
    remote::Remote,
    runtime,
};

/// Show the policy bundle that is in force
#[derive(Debug, Args)]
pub(super) struct Show {
    #[command(flatten)]
    output: OutputAs<Format>,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Format {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
    /// What follows it while nothing else changes, to be edited and signed
    Draft,
    /// As its operator signed it
    Signed,
}

#[derive(Debug, Serialize)]
struct Shown<'a> {
    operator: OperatorKey,
    operator_pin: OperatorPin,
    operator_key_held: bool,
    bundle: &'a Bundle,
}

impl Show {
    pub(super) fn run(self) -> Result<()> {
        let api = self.remote.api()?;
        let in_force = runtime::call(InForce::of(&api))?;
        let operator = in_force.operator();
        match self.output.format {
            Format::Table => print(&text(&in_force, SystemTime::now().into(), Paint::on_stdout())),
            Format::Json => print_json(&Shown {
                operator,
                operator_pin: OperatorPin::of(&operator),
                operator_key_held: in_force.answer.operator_key_held,
                bundle: &in_force.bundle,
            }),
            Format::Draft => print(&draft::to_text(&in_force.draft(SystemTime::now().into()))?),
            Format::Signed => print_json(&in_force.answer.signed),
        }
    }
}

fn text(in_force: &InForce, now: UnixTime, paint: Paint) -> String {
    let InForce { answer, bundle } = in_force;
    let held = if answer.operator_key_held { ", whose key the coordinator holds" } else { "" };
    let former = match bundle.former_operators.len() {
        0 => String::new(),
        number => format!(", after {}", count(number as u64, "other")),
    };
    let rotate = match bundle.rotate_keys_s {
        u32::MAX => "only where an operator asks for one".to_owned(),
        seconds => format!("every {}", age(std::time::Duration::from_secs(seconds.into()))),
    };
    let restart = bundle.log_restart.map(|head| format!("with entry {}", head.size));
    let mut text = String::new();
    for (key, value) in [
        ("Mesh", bundle.mesh.to_string()),
        ("Version", bundle.version.to_string()),
        ("Expires", format!("{} ({})", bundle.expires_at, relative(bundle.expires_at, now))),
        ("Signed by", format!("{}{held}{former}", answer.signed.operator)),
        ("Coordinator", bundle.coordinator_key.to_string()),
        ("New keys", rotate),
    ]
    .into_iter()
    .chain(restart.map(|restart| ("Log restart", restart)))
    {
        let _ = writeln!(text, "{key:<13}{value}");
    }
    let policies: Vec<(&str, &ClusterPolicy)> = bundle
        .clusters
        .iter()
        .map(|(name, policy)| (name.as_str(), policy))
        .chain([("(others)", &bundle.default)])
        .collect();
    text.push('\n');
    text.push_str(&clusters_table(&policies, paint));
    for (name, policy) in policies {
        for (kind, section) in sections(policy) {
            let _ = writeln!(text, "\n{name}, {kind}:");
            for (path, value) in leaves(&section) {
                let _ = writeln!(text, "  {path}: {value}");
            }
        }
    }
    text
}

fn clusters_table(policies: &[(&str, &ClusterPolicy)], paint: Paint) -> String {
    let rows = policies.iter().map(|(name, policy)| {
        let lease = match policy.lease {
            LeaseProfile::Available => "available",
            LeaseProfile::Strict => "strict",
        };
        let digests = match policy.runtime_digests.len() {
            0 => "any".to_owned(),
            number => number.to_string(),
        };
        [
            Cell::new(name),
            Cell::new(accepted(policy)),
            Cell::new(lease),
            Cell::new(age(policy.reattest_after())),
            Cell::new(digests),
        ]
    });
    table(["CLUSTER", "ACCEPTS", "LEASE", "NEW EVIDENCE EVERY", "AGENTS"], rows, paint)
}

/// `join-token+tpm, sev-snp`: all kinds of a set, any of the sets.
fn accepted(policy: &ClusterPolicy) -> String {
    let set = |set: &BTreeSet<Kind>| set.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join("+");
    policy.accept.iter().map(set).collect::<Vec<_>>().join(", ")
}

/// Reference values, roots and issuers: the agents that may run, and what each kind has.
fn sections(policy: &ClusterPolicy) -> Vec<(String, Value)> {
    const NOT_SECTIONS: [&str; 3] = ["accept", "lease", "reattest_s"];
    let Ok(Value::Object(fields)) = serde_json::to_value(policy) else { return Vec::new() };
    let of = |(name, value): (String, Value)| match value {
        Value::Object(_) => Some((name, value)),
        Value::Array(_) => Some(("agents".to_owned(), json!({ (name): value }))),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    };
    fields.into_iter().filter(|(name, _)| !NOT_SECTIONS.contains(&name.as_str())).filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{self, NOW};

    #[test]
    fn the_bundle_in_force_is_a_page() {
        assert_eq!(
            text(&fixture::in_force(), NOW, Paint::Plain),
            "\
Mesh         aeaqcaibaeaqcaibaeaqcaibae
Version      3
Expires      2026-03-02T12:00:00Z (in 30d)
Signed by    iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w=, whose key the coordinator holds
Coordinator  /RckOFqgx1tk+3jNYC+h2ZH96/drE8WO1wLqyDXp9hg=
New keys     every 24h

CLUSTER   ACCEPTS     LEASE      NEW EVIDENCE EVERY  AGENTS
east      join-token  strict     10m                 1
(others)  join-token  available  60m                 any

east, agents:
  runtime_digests: \"1111111111111111111111111111111111111111111111111111111111111111\"
"
        );
    }
}
