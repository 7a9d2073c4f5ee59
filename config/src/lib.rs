//! The configuration: what it means ([`model`]), how it is read and what is wrong with it.
//!
//! A file is read in three steps, each of which goes on after a mistake, so that all mistakes are told at once:
//! the TOML tree with the place of every key and value, then each section in itself (vocabulary, types, ranges,
//! defaults), then the rules that span sections (references, addresses, routes, packet sizes).

#![forbid(unsafe_code)]

mod check;
mod delta;
mod diagnostic;
mod draft;
mod excerpt;
mod keyword;
mod load;
pub mod model;
mod overhead;
mod render;
mod report;
mod section;
mod syntax;
mod topology;

#[cfg(test)]
mod tests;

use std::path::Path;

use toml::de::DeTable;
use zeroize::Zeroizing;

pub use delta::ConfigDelta;
pub use diagnostic::{Diagnostic, Excerpt, Severity};
pub use model::*;

/// What is in a configuration file.
#[derive(Debug, Clone)]
pub struct Examined {
    /// The configuration; `None` if there is an error among the findings.
    pub config: Option<Config>,
    /// Errors and warnings, in the order of the file.
    pub diagnostics: Vec<Diagnostic>,
}

impl Examined {
    /// The configuration, or what is wrong. Warnings do not count where there is no error.
    pub fn into_result(self) -> Result<Config, Vec<Diagnostic>> {
        self.config.ok_or(self.diagnostics)
    }
}

/// Reads and checks a configuration file.
///
/// # Errors
/// Everything that is wrong with it, at once. (Warnings alone are no error: see [`examine`].)
pub fn load(path: &Path) -> Result<Config, Vec<Diagnostic>> {
    examine(path).into_result()
}

/// Reads and checks a configuration text. `file_name` is for the diagnostics.
///
/// # Errors
/// Everything that is wrong with it, at once.
pub fn parse(text: &str, file_name: &str) -> Result<Config, Vec<Diagnostic>> {
    examine_text(text, file_name).into_result()
}

/// Reads and checks a configuration file, with warnings.
pub fn examine(path: &Path) -> Examined {
    let file = path.display().to_string();
    let problem = match std::fs::read(path) {
        Ok(bytes) => match String::from_utf8(bytes) {
            Ok(text) => return examine_text(&Zeroizing::new(text), &file),
            Err(error) => format!("not UTF-8 text: byte {} is wrong", error.utf8_error().valid_up_to()),
        },
        Err(error) => format!("cannot be read: {error}"),
    };
    let diagnostic =
        Diagnostic { severity: Severity::Error, file, excerpt: None, message: problem, help: None };
    Examined { config: None, diagnostics: vec![diagnostic] }
}

/// Reads and checks a configuration text, with warnings.
pub fn examine_text(text: &str, file_name: &str) -> Examined {
    let (readable, mut syntax_errors) = syntax::readable(text);
    let (tree, errors) = DeTable::parse_recoverable(&readable);
    syntax_errors.extend(errors.iter().map(syntax::syntax_error));
    let report = report::Report::new(text, tree.get_ref(), syntax_errors);
    let draft = load::load(&report, tree.get_ref());
    let config =
        (!report.is_damaged()).then(|| check::check(draft, &report)).filter(|_| !report.has_errors());
    Examined { config, diagnostics: report.into_diagnostics(file_name, tree.get_ref()) }
}
