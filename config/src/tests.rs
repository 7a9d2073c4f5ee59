//! The whole way from text to configuration or diagnostics.

mod accept;
mod golden;
mod properties;
mod refuse;
mod reload;

use std::path::{Path, PathBuf};

use crate::{Config, examine_text};

/// A text of the examples' folder.
fn example(name: &str) -> String {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "examples", name].iter().collect();
    std::fs::read_to_string(path).unwrap()
}

/// An example without its section on dead peers.
fn without_detection(text: &str) -> String {
    let is_header = |line: &str| line.starts_with('[');
    let start =
        text.lines().position(|line| is_header(line) && line.contains("dead-peer-detection")).unwrap();
    let end = start + 1 + text.lines().skip(start + 1).position(is_header).unwrap();
    let kept = text.lines().enumerate().filter(|(number, _)| !(start..end).contains(number));
    kept.map(|(_, line)| format!("{line}\n")).collect()
}

/// The configuration of a text without errors.
#[track_caller]
fn accepted(text: &str) -> Config {
    let examined = examine_text(text, "box.toml");
    let findings: Vec<String> = examined.diagnostics.iter().map(ToString::to_string).collect();
    examined.config.unwrap_or_else(|| panic!("{}", findings.join("\n\n")))
}

/// Checks that a change of an example's text is refused with one error, at `offending`, which says `parts`.
#[track_caller]
fn refused_in(file: &str, from: &str, to: &str, offending: &str, parts: &[&str]) {
    let text = example(file);
    assert!(text.contains(from), "{file} has no {from}");
    let examined = examine_text(&text.replacen(from, to, 1), file);
    let shown: Vec<String> = examined.diagnostics.iter().map(ToString::to_string).collect();
    let [only] = examined.diagnostics.as_slice() else {
        panic!("{} findings:\n{}", shown.len(), shown.join("\n\n"))
    };
    assert!(examined.config.is_none(), "not refused: {}", shown[0]);
    assert_eq!(only.excerpt.as_ref().unwrap().offending(), offending, "{}", shown[0]);
    for part in parts {
        assert!(shown[0].contains(part), "nothing about {part} in:\n{}", shown[0]);
    }
}

fn golden_folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src/tests/golden"))
}
