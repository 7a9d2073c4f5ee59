//! Progress bars, for whoever waits at a terminal.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar up to `len`, on the standard error; nothing where that is no terminal.
pub(crate) fn bar(len: u64, what: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(len).with_message(what);
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {percent} % {eta}") {
        bar.set_style(style);
    }
    bar
}
