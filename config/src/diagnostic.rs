//! What is wrong with a configuration, and where.

use std::fmt;

/// Whether a finding keeps the configuration from being used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// The configuration works, but probably not as meant.
    Warning,
}

/// One finding about a configuration file.
///
/// `Display` renders it over several lines, in the manner of a compiler, without colour and without a line feed at
/// the end. Secrets are masked in every field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// The file, as it was named by the caller.
    pub file: String,
    /// Where in the file; `None` if the file could not be read at all.
    pub excerpt: Option<Excerpt>,
    /// What is wrong.
    pub message: String,
    /// What is allowed, or what to do about it.
    pub help: Option<String>,
}

/// A place in a file, with its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excerpt {
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1, in characters.
    pub column: usize,
    /// The line's text, with secrets masked.
    pub text: String,
    /// The part of `text` that is meant: first character (from 0) and number of characters.
    pub mark: (usize, usize),
}

impl Excerpt {
    /// The text that is meant: empty where something is missing.
    pub fn offending(&self) -> &str {
        let mut bounds = self
            .text
            .char_indices()
            .map(|(at, _)| at)
            .chain(std::iter::once(self.text.len()))
            .skip(self.mark.0);
        let Some(start) = bounds.next() else { return "" };
        let end =
            if self.mark.1 == 0 { start } else { bounds.nth(self.mark.1 - 1).unwrap_or(self.text.len()) };
        self.text.get(start..end).unwrap_or_default()
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.severity, self.message)?;
        let gutter = match &self.excerpt {
            Some(excerpt) => {
                let number = excerpt.line.to_string();
                let gutter = " ".repeat(number.len());
                let (before, carets) = (" ".repeat(excerpt.mark.0), "^".repeat(excerpt.mark.1.max(1)));
                write!(f, "\n{gutter}--> {}:{}:{}", self.file, excerpt.line, excerpt.column)?;
                write!(f, "\n{gutter} |\n{number} | {}\n{gutter} | {before}{carets}", excerpt.text)?;
                gutter
            }
            None => {
                write!(f, "\n --> {}", self.file)?;
                String::from(" ")
            }
        };
        if let Some(help) = &self.help {
            write!(f, "\n{gutter} = {help}")?;
        }
        Ok(())
    }
}
