//! Results: one flat object per case. JSON for programs, a table for people.

use std::io::{self, Write};

use comfy_table::{CellAlignment, Table, presets};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::machine::Machine;

/// What a run of a subcommand has found.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// The subcommand.
    command: &'static str,
    machine: Machine,
    /// Whatever else decides the figures: seed, CPU, seconds, burst and so on.
    settings: Object,
    /// Names of the fields that say which case it is; all others are figures.
    identified_by: Vec<&'static str>,
    cases: Vec<Case>,
}

/// One case: what was measured, and its figures. In JSON both are fields of one flat object.
#[derive(Debug, Default, Clone)]
pub(crate) struct Case {
    identity: Object,
    figures: Object,
}

/// Names with values, in the order in which they were given.
#[derive(Debug, Default, Clone)]
pub(crate) struct Object(Vec<(&'static str, Value)>);

impl Report {
    /// With no cases yet.
    pub(crate) fn new(command: &'static str, machine: Machine, settings: Object) -> Self {
        Self { command, machine, settings, identified_by: Vec::new(), cases: Vec::new() }
    }

    /// Adds a case.
    pub(crate) fn push(&mut self, case: Case) {
        for &(name, _) in &case.identity.0 {
            if !self.identified_by.contains(&name) {
                self.identified_by.push(name);
            }
        }
        self.cases.push(case);
    }

    /// Writes it to the standard output: as one JSON document, or as what the machine is and a table.
    ///
    /// # Errors
    /// Nobody reads it.
    pub(crate) fn print(&self, json: bool) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        if json {
            serde_json::to_writer_pretty(&mut out, self)?;
            writeln!(out)?;
        } else {
            writeln!(out, "{}", self.machine)?;
            let settings: Vec<_> =
                self.settings.0.iter().map(|(name, value)| format!("{name} {}", cell(value))).collect();
            writeln!(out, "{}: {}\n{}", self.command, settings.join(", "), self.table())?;
        }
        Ok(())
    }

    fn table(&self) -> Table {
        table(&self.cases.iter().map(Case::fields).collect::<Vec<_>>())
    }
}

impl Case {
    /// Which case it is: no other one of the report has the same values.
    pub(crate) fn of(identity: Object) -> Self {
        Self { identity, figures: Object::default() }
    }

    /// With one more figure.
    pub(crate) fn figure(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.figures = self.figures.with(name, value);
        self
    }

    fn fields(&self) -> Vec<(&str, &Value)> {
        self.identity.0.iter().chain(&self.figures.0).map(|(name, value)| (*name, value)).collect()
    }
}

impl Object {
    /// With one more value.
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.0.push((name, value.into()));
        self
    }

    /// With another value where it has one of this name.
    pub(crate) fn with_other(mut self, name: &str, value: impl Into<Value>) -> Self {
        if let Some((_, old)) = self.0.iter_mut().find(|(of, _)| *of == name) {
            *old = value.into();
        }
        self
    }
}

impl Serialize for Object {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl Serialize for Case {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fields = self.fields();
        let mut map = serializer.serialize_map(Some(fields.len()))?;
        for (name, value) in fields {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// A line per row, a column per name that any row has, in the order in which they come up.
pub(crate) fn table(rows: &[Vec<(&str, &Value)>]) -> Table {
    let mut columns: Vec<&str> = Vec::new();
    for (name, _) in rows.iter().flatten() {
        if !columns.contains(name) {
            columns.push(name);
        }
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(columns.iter().copied());
    for row in rows {
        let value = |column: &&str| row.iter().find(|(name, _)| name == column).map(|(_, value)| cell(value));
        table.add_row(columns.iter().map(|column| value(column).unwrap_or_default()));
    }
    for (column, name) in table.column_iter_mut().zip(&columns) {
        let is_text = rows.iter().flatten().any(|(of, value)| of == name && value.is_string());
        column.set_cell_alignment(if is_text { CellAlignment::Left } else { CellAlignment::Right });
    }
    table
}

/// A value as people read it: numbers to three or four digits.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => match number.as_f64().unwrap_or_default() {
            x if x == 0.0 || x.abs() >= 100.0 => format!("{x:.0}"),
            x if x.abs() >= 10.0 => format!("{x:.1}"),
            x => format!("{x:.3}"),
        },
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn report() -> Report {
        let settings = Object::default().with("seed", 7);
        let mut report = Report::new("kernel", Machine::sample(), settings);
        for size in [64, 1400] {
            let case = Case::of(Object::default().with("suite", "aes256-sha1").with("size", size));
            report.push(case.figure("mpps", 12.345_678).figure("drops", 0));
        }
        report
    }

    #[test]
    fn a_case_is_one_flat_object_and_the_report_says_what_identifies_it() {
        let json = serde_json::to_value(report()).unwrap();
        assert_eq!(json["command"], "kernel");
        assert_eq!(json["settings"], json!({ "seed": 7 }));
        assert_eq!(json["identified_by"], json!(["suite", "size"]));
        let case = json!({ "suite": "aes256-sha1", "size": 1400, "mpps": 12.345_678, "drops": 0 });
        assert_eq!(json["cases"][1], case);
        for field in ["cpu", "flags", "tsc_hz", "kernel", "hugepages", "rustc", "dpdk", "version"] {
            assert!(!json["machine"][field].is_null(), "{field}");
        }
    }

    #[test]
    fn a_table_has_every_column_and_few_digits() {
        let text = report().table().to_string();
        let lines: Vec<Vec<_>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["suite", "size", "mpps", "drops"]);
        assert_eq!(lines[1], ["aes256-sha1", "64", "12.3", "0"]);
        assert_eq!(lines.len(), 3);
    }
}
