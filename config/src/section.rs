//! Reading a TOML table key by key, with every mistake reported where it stands.

use std::net::Ipv4Addr;
use std::ops::{Range, RangeInclusive};

use ipnetwork::Ipv4Network;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::keyword::Keywords;
use crate::model::Secret;
use crate::report::Report;

/// What a key holds.
#[derive(Debug, Clone)]
pub(crate) enum Given<T> {
    /// The key is not there.
    Absent,
    /// The value is wrong, and that is reported.
    Bad,
    /// A good value and its place.
    Is(Spanned<T>),
}

impl<T> Given<T> {
    /// The value and its place, if it is good.
    pub(crate) fn located(self) -> Option<Spanned<T>> {
        match self {
            Self::Is(value) => Some(value),
            Self::Absent | Self::Bad => None,
        }
    }

    /// The value, if it is good.
    pub(crate) fn value(self) -> Option<T> {
        self.located().map(Spanned::into_inner)
    }

    /// The value, or the default where there is no good one.
    pub(crate) fn or(self, default: T) -> T {
        self.value().unwrap_or(default)
    }

    pub(crate) fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    pub(crate) fn is_bad(&self) -> bool {
        matches!(self, Self::Bad)
    }
}

/// A table that is being read. Whoever reads one calls [`Section::finish`] at the end, which refuses the keys that
/// nobody asked for.
#[derive(Debug)]
pub(crate) struct Section<'t> {
    report: &'t Report<'t>,
    table: &'t DeTable<'t>,
    /// Where the section is named.
    span: Range<usize>,
    known: Vec<&'static str>,
    hints: Vec<(&'static str, &'static str)>,
}

/// A table whose keys are names that the user chose, with the place of each name.
pub(crate) type Named<'t> = Vec<(Spanned<String>, Section<'t>)>;

impl<'t> Section<'t> {
    /// The whole document.
    pub(crate) fn root(report: &'t Report<'t>, table: &'t DeTable<'t>) -> Self {
        Self { report, table, span: 0..0, known: Vec::new(), hints: Vec::new() }
    }

    /// The report that this section writes to.
    pub(crate) fn report(&self) -> &'t Report<'t> {
        self.report
    }

    /// Where the section is named.
    pub(crate) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// A word for users who write `key`, which we know of and do not have.
    pub(crate) fn hint(&mut self, key: &'static str, hint: &'static str) {
        self.hints.push((key, hint));
    }

    /// Reports the keys that were not asked for.
    pub(crate) fn finish(self) {
        for key in self.table.keys() {
            let name = key.get_ref().as_ref();
            if self.known.contains(&name) {
                continue;
            }
            let help = if let Some((_, hint)) = self.hints.iter().find(|(hinted, _)| *hinted == name) {
                (*hint).to_owned()
            } else if let Some(near) = nearest(name, &self.known) {
                format!("did you mean `{near}`?")
            } else {
                format!("allowed here: {}", self.known.join(", "))
            };
            self.report.error(key.span(), format!("unknown key `{}`", shown(name)), help);
        }
    }

    /// Reports that `key` is missing, unless it is there.
    pub(crate) fn require<T>(&self, key: &str, given: &Given<T>, help: &str) {
        if given.is_absent() {
            self.missing(key, help);
        }
    }

    /// Reports that `key` is missing.
    pub(crate) fn missing(&self, key: &str, help: &str) {
        if !self.report.is_damaged() {
            self.report.error(self.span(), format!("`{key}` is missing"), help);
        }
    }

    /// A table. Nothing if it is absent or no table.
    pub(crate) fn section(&mut self, key: &'static str) -> Option<Self> {
        let (name, value) = self.entry(key)?;
        self.table_of(name, value)
    }

    /// Whether `key` is there.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Whether `key` holds a text.
    pub(crate) fn is_text(&self, key: &str) -> bool {
        self.table.get(key).is_some_and(|value| value.get_ref().is_str())
    }

    /// A table of tables, in the order of their names.
    pub(crate) fn named(&mut self, key: &'static str) -> Named<'t> {
        let Some(outer) = self.section(key) else { return Vec::new() };
        let entries = outer.table.iter();
        entries
            .filter_map(|(name, value)| {
                let section = outer.table_of(name.span(), value)?;
                Some((Spanned::new(name.span(), name.get_ref().to_string()), section))
            })
            .collect()
    }

    /// `true` or `false`.
    pub(crate) fn flag(&mut self, key: &'static str) -> Given<bool> {
        self.scalar(key, "true or false", |value| match value {
            DeValue::Boolean(flag) => Some(Ok(*flag)),
            _ => None,
        })
    }

    /// A whole number within `range`.
    pub(crate) fn number(&mut self, key: &'static str, range: RangeInclusive<u32>) -> Given<u32> {
        let (from, to) = (*range.start(), *range.end());
        self.scalar(key, &format!("a number from {from} to {to}"), |value| {
            let DeValue::Integer(integer) = value else { return None };
            let number = i128::from_str_radix(integer.as_str(), integer.radix()).ok();
            let number = number.and_then(|number| u32::try_from(number).ok());
            Some(
                number
                    .filter(|number| range.contains(number))
                    .ok_or_else(|| format!("{integer} is out of range")),
            )
        })
    }

    /// Any text.
    pub(crate) fn text(&mut self, key: &'static str) -> Given<String> {
        self.parsed(key, "a text", |text| Ok(text.to_owned()))
    }

    /// A text that `parse` understands; `allowed` says what that is.
    pub(crate) fn parsed<T>(
        &mut self,
        key: &'static str,
        allowed: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Given<T> {
        self.scalar(key, allowed, |value| match value {
            DeValue::String(text) => Some(parse(text)),
            _ => None,
        })
    }

    /// One of some words.
    pub(crate) fn keyword<T: Copy>(&mut self, key: &'static str, keywords: &Keywords<T>) -> Given<T> {
        self.parsed(key, &keywords.allowed(), |word| keywords.find(word))
    }

    /// Key text. It is never shown.
    pub(crate) fn secret(
        &mut self,
        key: &'static str,
        allowed: &str,
        is_good: impl FnOnce(&str) -> bool,
    ) -> Given<Secret> {
        let Some((_, value)) = self.entry(key) else { return Given::Absent };
        if self.report.is_broken(&value.span()) {
            return Given::Bad;
        }
        match value.get_ref() {
            DeValue::String(text) if is_good(text) => {
                Given::Is(Spanned::new(value.span(), Secret::new(text.as_ref())))
            }
            _ => {
                self.report.error(value.span(), format!("not a usable `{key}`"), allowed);
                Given::Bad
            }
        }
    }

    /// One value or an array of them, each understood by `parse`. A wrong one is reported and left out.
    pub(crate) fn list<T>(
        &mut self,
        key: &'static str,
        allowed: &str,
        parse: impl Fn(&DeValue<'_>) -> Option<Result<T, String>>,
    ) -> Option<Vec<Spanned<T>>> {
        let (_, value) = self.entry(key)?;
        let single = std::slice::from_ref(value);
        let items = value.get_ref().as_array().map_or(single, |array| array.as_ref());
        if items.is_empty() {
            self.report.error(value.span(), "an empty list", format!("allowed: {allowed}"));
        }
        if items.iter().all(|item| !matches!(item.get_ref(), DeValue::Array(_) | DeValue::Table(_))) {
            self.report.publish(value.span());
        }
        let items = items.iter().map(|item| self.understand(key, item, allowed, &parse));
        Some(items.filter_map(Given::located).collect())
    }

    /// A value that `parse` understands, which returns nothing for a wrong type; `allowed` says what is right.
    pub(crate) fn scalar<T>(
        &mut self,
        key: &'static str,
        allowed: &str,
        parse: impl FnOnce(&DeValue<'_>) -> Option<Result<T, String>>,
    ) -> Given<T> {
        let Some((_, value)) = self.entry(key) else { return Given::Absent };
        self.report.publish(value.span());
        self.understand(key, value, allowed, parse)
    }

    fn understand<T>(
        &self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        allowed: &str,
        parse: impl FnOnce(&DeValue<'_>) -> Option<Result<T, String>>,
    ) -> Given<T> {
        let span = value.span();
        if self.report.is_broken(&span) {
            return Given::Bad;
        }
        let message = match parse(value.get_ref()) {
            Some(Ok(good)) => return Given::Is(Spanned::new(span, good)),
            Some(Err(message)) => message,
            None => format!("`{key}` cannot be {}", type_name(value.get_ref())),
        };
        self.report.error(span, message, format!("allowed: {allowed}"));
        Given::Bad
    }

    fn entry(&mut self, key: &'static str) -> Option<(Range<usize>, &'t Spanned<DeValue<'t>>)> {
        self.known.push(key);
        self.table.get_key_value(key).map(|(name, value)| (name.span(), value))
    }

    fn table_of(&self, name: Range<usize>, value: &'t Spanned<DeValue<'t>>) -> Option<Self> {
        if let DeValue::Table(table) = value.get_ref() {
            return Some(Self {
                report: self.report,
                table,
                span: name,
                known: Vec::new(),
                hints: Vec::new(),
            });
        }
        if !self.report.is_broken(&value.span()) {
            let message = format!("a section cannot be {}", type_name(value.get_ref()));
            self.report.error(name, message, "write it as [section] or { key = ... }");
        }
        None
    }
}

/// An address and prefix length, as in `192.168.1.1/24`.
pub(crate) fn parse_network(text: &str) -> Result<Ipv4Network, String> {
    let parsed = text.split_once('/').and_then(|(address, length)| {
        let network = Ipv4Network::new(address.parse().ok()?, length.parse().ok()?).ok()?;
        (network.to_string() == text).then_some(network)
    });
    parsed.ok_or_else(|| format!("`{}` is no IPv4 address with a prefix length", shown(text)))
}

/// An IPv4 address.
pub(crate) fn parse_address(text: &str) -> Result<Ipv4Addr, String> {
    text.parse().map_err(|_| format!("`{}` is no IPv4 address", shown(text)))
}

/// The word of `words` that a misspelt one most likely stands for.
pub(crate) fn nearest<'w>(name: &str, words: &[&'w str]) -> Option<&'w str> {
    let scored = words.iter().map(|word| (strsim::damerau_levenshtein(name, word), *word));
    scored.min().filter(|(distance, word)| *distance <= 1 + word.len() / 4).map(|(_, word)| word)
}

/// Text of the user within a message: short, and on one line.
pub(crate) fn shown(text: &str) -> String {
    let mut shown: String =
        text.chars().take(64).map(|character| if character.is_control() { ' ' } else { character }).collect();
    if text.chars().nth(64).is_some() {
        shown.push_str("...");
    }
    shown
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a section",
    }
}
