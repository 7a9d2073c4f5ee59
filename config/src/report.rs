//! Findings as they are made: byte ranges of one text, turned into diagnostics at the end.

use std::cell::RefCell;
use std::ops::Range;

use toml::de::{DeTable, DeValue};

use crate::diagnostic::{Diagnostic, Severity};
use crate::excerpt::{excerpt, suspect_comments, suspect_values};
use crate::syntax::SyntaxError;

/// Collects the findings about one text.
///
/// A line of the text is shown only when all reading is done, because only then is it known which values are no
/// secrets: every value is hidden that was not read by the name of a public key. So the value of a misspelt
/// `pre-shared-secret` stays hidden too.
#[derive(Debug)]
pub(crate) struct Report<'t> {
    text: &'t str,
    findings: RefCell<Vec<Finding>>,
    public: RefCell<Vec<Range<usize>>>,
    syntax_errors: Vec<Range<usize>>,
    damaged: bool,
}

#[derive(Debug)]
struct Finding {
    severity: Severity,
    span: Range<usize>,
    message: String,
    help: Option<String>,
}

impl<'t> Report<'t> {
    /// A report on `text`, to begin with on what the TOML parser found wrong with it.
    pub(crate) fn new(text: &'t str, root: &DeTable<'_>, errors: Vec<SyntaxError>) -> Self {
        let mut report = Self {
            text,
            findings: RefCell::default(),
            public: RefCell::default(),
            syntax_errors: Vec::new(),
            damaged: false,
        };
        for error in errors {
            report.syntax_error(root, error);
        }
        report
    }

    /// Refuses what stands at `span`. `help` says what is allowed.
    pub(crate) fn error(&self, span: Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        self.add(Severity::Error, span, message.into(), help.into());
    }

    /// Remarks on what stands at `span`.
    pub(crate) fn warning(&self, span: Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        self.add(Severity::Warning, span, message.into(), help.into());
    }

    /// The line number of a position, from 1.
    pub(crate) fn line(&self, at: usize) -> usize {
        1 + self.text.bytes().take(at).filter(|&byte| byte == b'\n').count()
    }

    /// Marks a value as no secret: it may be shown.
    pub(crate) fn publish(&self, span: Range<usize>) {
        self.public.borrow_mut().push(span);
    }

    /// Whether a value holds a syntax error, so that nothing more is to be said about it.
    pub(crate) fn is_broken(&self, value: &Range<usize>) -> bool {
        self.syntax_errors.iter().any(|error| value.start <= error.end && error.start <= value.end)
    }

    /// Whether syntax errors may have swallowed whole keys: then nothing can be called missing.
    pub(crate) fn is_damaged(&self) -> bool {
        self.damaged
    }

    /// Whether the text was refused so far.
    pub(crate) fn has_errors(&self) -> bool {
        self.findings.borrow().iter().any(|finding| finding.severity == Severity::Error)
    }

    /// The findings in the order of the text.
    pub(crate) fn into_diagnostics(self, file: &str, root: &DeTable<'_>) -> Vec<Diagnostic> {
        let mut findings = self.findings.take();
        findings.sort_by_key(|finding| (finding.span.start, finding.span.end));
        let mut hidden = Vec::new();
        values(root, &mut |value| hidden.push(value.span()));
        let mut public = self.public.take();
        hidden.retain(|span| !public.contains(span));
        hidden.extend(suspect_comments(self.text));
        if !self.syntax_errors.is_empty() {
            public.sort_by_key(|span| span.start);
            hidden.extend(suspect_values(self.text, &public));
        }
        hidden.sort_by_key(|span| (span.start, span.end));
        findings
            .into_iter()
            .map(|finding| Diagnostic {
                severity: finding.severity,
                file: file.to_owned(),
                excerpt: Some(excerpt(self.text, &hidden, finding.span)),
                message: finding.message,
                help: finding.help,
            })
            .collect()
    }

    fn add(&self, severity: Severity, span: Range<usize>, message: String, help: String) {
        let help = (!help.is_empty()).then_some(help);
        self.findings.borrow_mut().push(Finding { severity, span, message, help });
    }

    fn syntax_error(&mut self, root: &DeTable<'_>, error: SyntaxError) {
        let SyntaxError { span, message } = error;
        if message == "duplicate key" {
            self.error(span, "this is defined twice", "keep one of the two");
            return;
        }
        let mut value = None;
        values(root, &mut |candidate| {
            let range = candidate.span();
            if range.start <= span.start && span.end <= range.end {
                value = Some(range);
            }
        });
        let known = value.as_ref().is_some_and(|value| self.is_broken(value));
        self.syntax_errors.push(span.clone());
        let Some(value) = value else {
            self.damaged = true;
            self.error(span, format!("not valid TOML: {message}"), "");
            return;
        };
        if known {
            return;
        }
        let bare = self.text.as_bytes().get(value.start).is_some_and(|first| !b"\"'[{".contains(first));
        self.syntax_errors.push(value.clone());
        if bare && !value.is_empty() {
            self.error(value, "neither a number nor true or false", "text is written in quotes: \"...\"");
        } else {
            self.damaged |= value.is_empty() || self.text[value].contains('\n');
            self.error(span, format!("not valid TOML: {message}"), "");
        }
    }
}

/// Calls `visit` with every value that is no table.
fn values<'v>(table: &'v DeTable<'_>, visit: &mut dyn FnMut(&'v toml::Spanned<DeValue<'_>>)) {
    for value in table.values() {
        match value.get_ref() {
            DeValue::Table(inner) => values(inner, visit),
            _ => visit(value),
        }
    }
}
