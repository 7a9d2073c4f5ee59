//! Lines of a configuration file as they may be shown: without secrets.

use std::ops::Range;

use crate::diagnostic::Excerpt;

/// What stands in a shown line in the place of a value that may be a secret.
const MASK: &str = "***";

/// Names of keys that hold secrets.
pub(crate) const SECRET_KEYS: [&str; 2] = ["cisco-authentication", "pre-shared-secret"];

/// The line around the start of `span`, marked where `span` lies. `hidden` is sorted by its starts.
pub(crate) fn excerpt(text: &str, hidden: &[Range<usize>], span: Range<usize>) -> Excerpt {
    let at = floor_boundary(text, span.start);
    let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let end = text[at..].find('\n').map_or(text.len(), |newline| at + newline);
    let end = if text[start..end].ends_with('\r') { end - 1 } else { end };
    let mut shown = String::new();
    let mut width = 0;
    let mut mark = None;
    let mut marked = 0;
    let mut position = start;
    while position < end {
        let piece_start = position;
        let mask = hidden.iter().rfind(|range| range.contains(&position));
        let piece_width = if let Some(mask) = mask {
            shown.push_str(MASK);
            position = ceil_boundary(text, mask.end.min(end));
            MASK.len()
        } else {
            let Some(character) = text[position..].chars().next() else { break };
            shown.push(if character.is_control() { ' ' } else { character });
            position += character.len_utf8();
            1
        };
        if position > span.start && mark.is_none() {
            mark = Some(width);
        }
        if mark.is_some() && piece_start < span.end {
            marked = width + piece_width - mark.unwrap_or(0);
        }
        width += piece_width;
    }
    Excerpt {
        line: 1 + text[..start].matches('\n').count(),
        column: 1 + text[start..at.min(end).max(start)].chars().count(),
        text: shown,
        mark: (mark.unwrap_or(width), marked),
    }
}

/// Comments that name a secret key, which may be an old secret.
pub(crate) fn suspect_comments(text: &str) -> Vec<Range<usize>> {
    let comment = |line: &Line<'_>| {
        let at = line.text.find('#')?;
        let names_secret = SECRET_KEYS.iter().any(|key| line.text[at..].contains(key));
        names_secret.then(|| line.range(at))
    };
    lines(text).filter_map(|line| comment(&line)).collect()
}

/// Parts of a text with syntax errors that may be secrets. The parsed tree does not tell all values of such a text,
/// so whatever stands behind an equals sign is suspect unless it is known to be public, and so is every line that
/// could be the inside of a value.
pub(crate) fn suspect_values(text: &str, public: &[Range<usize>]) -> Vec<Range<usize>> {
    let has_long_strings = text.contains("\"\"\"") || text.contains("'''");
    let mut found = Vec::new();
    let mut follows_secret = false;
    for line in lines(text) {
        if let Some(sign) = line.text.find('=') {
            let behind = &line.text[sign + 1..];
            let value = line.range(sign + 1 + behind.len() - behind.trim_start().len());
            let shown = public.iter().filter(|span| value.contains(&span.start));
            let mut at = value.start;
            for span in shown {
                found.push(at..span.start);
                at = at.max(span.end.min(value.end));
            }
            found.push(at..value.end);
            follows_secret = resembles_secret(&line.text[..sign]);
        } else if !line.text.trim_start().starts_with('[') {
            if has_long_strings || follows_secret || line.text.contains(['"', '\'']) {
                found.push(line.range(0));
            }
            follows_secret |= resembles_secret(line.text);
        }
    }
    found.retain(|range| !text[range.clone()].trim().is_empty());
    found
}

struct Line<'t> {
    start: usize,
    /// Without the line feed.
    text: &'t str,
}

impl Line<'_> {
    fn range(&self, from: usize) -> Range<usize> {
        self.start + from..self.start + self.text.len()
    }
}

fn lines(text: &str) -> impl Iterator<Item = Line<'_>> {
    let mut start = 0;
    text.split_inclusive('\n').map(move |line| {
        let line_start = start;
        start += line.len();
        Line { start: line_start, text: line.trim_end_matches(['\n', '\r']) }
    })
}

/// Whether a key, perhaps misspelt, may be that of a secret.
fn resembles_secret(key: &str) -> bool {
    let key = key.rsplit('.').next().unwrap_or(key).trim().trim_matches(['"', '\'']).to_lowercase();
    ["auth", "psk", "pass", "secret"].iter().any(|part| key.contains(part))
        || SECRET_KEYS.iter().any(|secret| strsim::levenshtein(&key, secret) <= 4)
}

fn floor_boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

fn ceil_boundary(text: &str, at: usize) -> usize {
    (at..text.len()).find(|&at| text.is_char_boundary(at)).unwrap_or(text.len())
}
