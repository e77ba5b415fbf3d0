//! What was measured, for people and for programs.

use serde::Serialize;

use super::case::{Case, Measured};
use crate::{machine::Machine, table::aligned};

/// Whom the others are compared with.
const REFERENCE: &str = "wireguard-go";

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    machine: Machine,
    seconds: u64,
    rounds: u64,
    versions: Vec<String>,
    /// What was not measured, since it was not found.
    missing: Vec<String>,
    rows: Vec<Row>,
}

/// One figure of everybody.
#[derive(Debug, Serialize)]
struct Row {
    case: String,
    figure: String,
    values: Vec<Value>,
}

/// One figure of one contender.
#[derive(Debug, Serialize)]
struct Value {
    of: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    samples: Vec<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    median: Option<f64>,
    /// For one of the reference in this run.
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failed: Option<String>,
}

impl Figures {
    pub(super) fn new(seconds: u64, rounds: u64, versions: Vec<String>, missing: Vec<String>) -> Self {
        Self { machine: Machine::this(), seconds, rounds, versions, missing, rows: Vec::new() }
    }

    pub(super) fn add(&mut self, case: Case, of: &'static str, measured: Measured) {
        for (figure, sample) in measured {
            let value = self.value(case, figure, of);
            value.samples.push(sample);
            value.median = median(&value.samples);
        }
        self.compare();
    }

    pub(super) fn fail(&mut self, case: Case, of: &'static str, error: &anyhow::Error) {
        self.value(case, "failed", of).failed = Some(format!("{error:#}"));
    }

    fn value(&mut self, case: Case, figure: &str, of: &'static str) -> &mut Value {
        let case = case.to_string();
        let same = |row: &Row| row.case == case && row.figure == figure;
        let at = self.rows.iter().position(same).unwrap_or_else(|| {
            self.rows.push(Row { case, figure: figure.to_owned(), values: Vec::new() });
            self.rows.len() - 1
        });
        let values = &mut self.rows[at].values;
        let at = values.iter().position(|value| value.of == of).unwrap_or_else(|| {
            values.push(Value { of, samples: Vec::new(), median: None, ratio: None, failed: None });
            values.len() - 1
        });
        &mut values[at]
    }

    fn compare(&mut self) {
        for row in &mut self.rows {
            let reference =
                row.values.iter().find(|value| value.of == REFERENCE).and_then(|value| value.median);
            // Nothing is so many times zero.
            let reference = reference.filter(|median| *median != 0.0);
            for value in row.values.iter_mut().filter(|value| value.of != REFERENCE) {
                value.ratio = value.median.zip(reference).map(|(median, reference)| median / reference);
            }
        }
    }

    /// For people.
    pub(crate) fn to_table(&self) -> String {
        let mut names: Vec<&str> = Vec::new();
        for value in self.rows.iter().flat_map(|row| &row.values) {
            if !names.contains(&value.of) {
                names.push(value.of);
            }
        }
        let head = std::iter::once("").chain(names.iter().copied()).map(str::to_owned).collect();
        let row = |row: &Row| {
            let cell =
                |name: &&str| row.values.iter().find(|value| value.of == *name).map_or("-".to_owned(), cell);
            std::iter::once(format!("{}: {}", row.case, row.figure)).chain(names.iter().map(cell)).collect()
        };
        let rows: Vec<Vec<String>> = std::iter::once(head).chain(self.rows.iter().map(row)).collect();
        let missing: String =
            self.missing.iter().map(|missing| format!("NOT MEASURED: {missing}\n")).collect();
        let failed: String = self
            .rows
            .iter()
            .flat_map(|row| row.values.iter().map(move |value| (&row.case, value)))
            .filter_map(|(case, value)| Some((case, value.of, value.failed.as_ref()?)))
            .map(|(case, of, reason)| format!("FAILED: {case}: {of}: {reason}\n"))
            .collect();
        format!(
            "{}; {} s each, medians of {}; (times {REFERENCE})\n{}\n\n{}{missing}{failed}",
            self.machine,
            self.seconds,
            self.rounds,
            self.versions.join("; "),
            aligned(&rows)
        )
    }
}

fn cell(value: &Value) -> String {
    let Some(median) = value.median else { return "failed".to_owned() };
    let precision = if median >= 100.0 {
        0
    } else if median >= 10.0 {
        1
    } else {
        2
    };
    let ratio = value.ratio.map(|ratio| format!(" ({ratio:.2})")).unwrap_or_default();
    format!("{median:.precision$}{ratio}")
}

fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (sorted.get((sorted.len().max(1) - 1) / 2)?, sorted.get(sorted.len() / 2)?);
    Some(f64::midpoint(*low, *high))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_no_ratio_to_nothing() {
        let mut figures = Figures::new(1, 1, Vec::new(), Vec::new());
        figures.add(Case::Handshakes, "carrick", vec![("%", 1.0)]);
        figures.add(Case::Handshakes, REFERENCE, vec![("%", 0.0)]);
        assert_eq!(figures.rows[0].values[0].ratio, None);
    }

    #[test]
    fn what_has_failed_has_no_figure() {
        let mut figures = Figures::new(1, 1, Vec::new(), Vec::new());
        figures.add(Case::Handshakes, REFERENCE, vec![("handshakes/s", 1.0)]);
        figures.fail(Case::Handshakes, "carrick", &anyhow::anyhow!("not one was answered"));
        let (table, json) = (figures.to_table(), serde_json::to_string(&figures).unwrap());
        assert!(table.contains("handshakes: failed") && json.contains("not one was answered"), "{table}");
        assert!(table.ends_with("FAILED: handshakes: carrick: not one was answered\n"), "{table}");
        assert!(!json.contains("ratio") && !json.contains("null"), "{json}");
    }

    #[test]
    fn a_ratio_is_of_medians_and_against_the_reference() {
        let mut figures =
            Figures::new(1, 3, Vec::new(), vec!["gotatun not found: cargo install gotatun-cli".to_owned()]);
        for (carrick, reference) in [(4.0, 2.0), (5.0, 2.5), (9.0, 1.0)] {
            figures.add(Case::Tcp1, "carrick", vec![("Gbit/s", carrick)]);
            figures.add(Case::Tcp1, REFERENCE, vec![("Gbit/s", reference)]);
        }
        let row = &figures.rows[0];
        assert_eq!((row.values[0].median, row.values[0].ratio), (Some(5.0), Some(2.5)));
        assert_eq!((row.values[1].median, row.values[1].ratio), (Some(2.0), None));
        let table = figures.to_table();
        assert!(table.contains("5.00 (2.50)") && table.contains("NOT MEASURED: gotatun"), "{table}");
    }
}
