//! `compare`: two reports, case by case.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::Args;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::report::table;

/// Ratios of two reports (of `--json`), case by case: what the second has of the first.
///
/// Whether a case differs at all is judged by the spread of its rounds in both: a ratio within is "same".
#[derive(Args)]
pub(crate) struct Arguments {
    /// The report to compare with.
    a: PathBuf,
    /// The report to compare.
    b: PathBuf,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// What is needed of a report.
#[derive(Deserialize)]
struct Results {
    command: String,
    machine: Value,
    identified_by: Vec<String>,
    cases: Vec<Map<String, Value>>,
}

/// A case of both reports: what identifies it, ratios (or both figures, where the first is 0 and the second is not), and the
/// verdict.
type Row = Vec<(String, Value)>;

/// Prints the ratios.
///
/// # Errors
/// A file cannot be read, or is no report; or no case is in both.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let (a, b) = (load(&arguments.a)?, load(&arguments.b)?);
    ensure!(a.command == b.command, "one report is of {}, the other of {}", a.command, b.command);
    if a.machine["cpu"] != b.machine["cpu"] {
        eprintln!("dmvpn-perf: these reports are from different CPUs");
    }
    let rows = rows(&a, &b);
    ensure!(!rows.is_empty(), "the reports have no case in common");
    let alone = (a.cases.len() + b.cases.len()).saturating_sub(2 * rows.len());
    if alone > 0 {
        eprintln!("dmvpn-perf: {alone} cases are in one of the reports alone");
    }
    if arguments.json {
        let objects: Vec<Map<String, Value>> =
            rows.into_iter().map(|row| row.into_iter().collect()).collect();
        writeln!(io::stdout(), "{}", serde_json::to_string_pretty(&objects)?)?;
    } else {
        let rows: Vec<Vec<(&str, &Value)>> =
            rows.iter().map(|row| row.iter().map(|(name, value)| (name.as_str(), value)).collect()).collect();
        writeln!(io::stdout(), "{}", table(&rows))?;
    }
    Ok(())
}

fn load(path: &Path) -> anyhow::Result<Results> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no report of this program", path.display()))
}

fn rows(a: &Results, b: &Results) -> Vec<Row> {
    let key = |case: &Map<String, Value>| -> Vec<String> {
        b.identified_by.iter().map(|name| case.get(name).unwrap_or(&Value::Null).to_string()).collect()
    };
    let first: BTreeMap<_, _> = a.cases.iter().map(|case| (key(case), case)).collect();
    b.cases
        .iter()
        .filter_map(|case| Some(row(&b.identified_by, first.get(&key(case))?, case)))
        .filter(|row| row.len() > b.identified_by.len())
        .collect()
}

/// Ratios of all figures that both have.
fn row(identified_by: &[String], a: &Map<String, Value>, b: &Map<String, Value>) -> Row {
    let mut row: Row =
        identified_by.iter().map(|name| (name.clone(), b.get(name).cloned().unwrap_or_default())).collect();
    let number = |case: &Map<String, Value>, name: &str| case.get(name).and_then(Value::as_f64);
    for name in b.keys().filter(|name| !identified_by.contains(name) && *name != SPREAD) {
        match (number(a, name), number(b, name)) {
            (Some(0.0), Some(0.0)) | (None, _) | (_, None) => {}
            // Drops, for example.
            (Some(0.0), Some(b)) => row.push((name.clone(), format!("0 -> {b}").into())),
            (Some(a), Some(b)) => row.push((name.clone(), (b / a).into())),
        }
    }
    if let (Some(old), Some(new)) = (number(a, TIME), number(b, TIME)) {
        let spread = number(a, SPREAD).unwrap_or_default() + number(b, SPREAD).unwrap_or_default();
        row.push(("verdict".to_owned(), verdict(new / old, spread).into()));
    }
    row
}

/// The figure that decides which is better, less being better.
const TIME: &str = "ns_per_packet";
/// How far rounds differ, as a part of that.
const SPREAD: &str = "spread";

fn verdict(ratio: f64, spread: f64) -> &'static str {
    match ratio - 1.0 {
        change if change.abs() <= spread => "same",
        change if change < 0.0 => "faster",
        _ => "slower",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn results(cases: Value) -> Results {
        let report = json!({
            "command": "path", "machine": { "cpu": "x" }, "identified_by": ["suite", "size"], "cases": cases,
        });
        serde_json::from_value(report).unwrap()
    }

    #[test]
    fn cases_are_found_again_and_judged_by_their_spread() {
        let a = results(json!([
            { "suite": "s", "size": 64, "ns_per_packet": 100.0, "mpps": 10.0, "drops": 0, "spread": 0.02 },
            { "suite": "s", "size": "imix", "ns_per_packet": 200.0, "mpps": 5.0, "drops": 0, "spread": 0.1 },
            { "suite": "t", "size": 64, "ns_per_packet": 1.0 },
        ]));
        let b = results(json!([
            { "suite": "s", "size": "imix", "ns_per_packet": 170.0, "mpps": 6.0, "drops": 3, "spread": 0.1 },
            { "suite": "s", "size": 64, "ns_per_packet": 80.0, "mpps": 12.5, "drops": 0, "spread": 0.02 },
            { "suite": "t", "size": 65, "ns_per_packet": 1.0 },
        ]));
        let rows: Vec<Value> =
            rows(&a, &b).into_iter().map(|row| row.into_iter().collect::<Map<_, _>>().into()).collect();
        assert_eq!(
            rows,
            [
                json!({ "suite": "s", "size": "imix", "ns_per_packet": 0.85, "mpps": 1.2, "drops": "0 -> 3", "verdict": "same" }),
                json!({ "suite": "s", "size": 64, "ns_per_packet": 0.8, "mpps": 1.25, "verdict": "faster" }),
            ]
        );
        assert_eq!(verdict(1.3, 0.1), "slower");
    }
}
