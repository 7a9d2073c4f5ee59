//! Getting past the syntax errors of a text.

use std::ops::Range;

use toml::de::{DeTable, Error};
use zeroize::Zeroizing;

/// How many lines are given up before the rest of a text goes unread.
const MOST_LINES: usize = 64;

/// What the TOML parser says about a text.
#[derive(Debug)]
pub(crate) struct SyntaxError {
    /// Where.
    pub span: Range<usize>,
    /// What.
    pub message: String,
}

/// The text with every line blanked that would keep the parser from reading on, and what was wrong with those.
/// All positions stay the same.
///
/// The parser itself gets past most errors, but it ends at a line that is no assignment.
pub(crate) fn readable(text: &str) -> (Zeroizing<String>, Vec<SyntaxError>) {
    let mut readable = Zeroizing::new(text.to_owned());
    let mut errors = Vec::new();
    while errors.len() < MOST_LINES {
        let (_, found) = DeTable::parse_recoverable(&readable);
        let Some(error) =
            found.iter().map(syntax_error).find(|error| error.message.starts_with("key with no value"))
        else {
            break;
        };
        let start = readable[..error.span.start].rfind('\n').map_or(0, |newline| newline + 1);
        let end = readable[start..].find('\n').map_or(readable.len(), |newline| start + newline);
        if readable[start..end].trim().is_empty() {
            break;
        }
        readable.replace_range(start..end, &" ".repeat(end - start));
        errors.push(error);
    }
    (readable, errors)
}

/// A finding of the parser.
pub(crate) fn syntax_error(error: &Error) -> SyntaxError {
    SyntaxError { span: error.span().unwrap_or(0..0), message: error.message().to_owned() }
}
