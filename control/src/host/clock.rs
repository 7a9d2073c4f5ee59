//! The clock, and what makes this run of the program differ from others.

use std::io;
use std::time::{Instant as Monotonic, SystemTime, UNIX_EPOCH};

use crate::engine::Start;
use crate::time::Instant;

/// The machine's monotonic clock, counted from the start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    start: Monotonic,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self { start: Monotonic::now() }
    }

    pub(super) fn now(&self) -> Instant {
        Instant::ZERO + self.start.elapsed()
    }
}

/// A seed from the operating system, and the date.
pub(super) fn entropy() -> io::Result<Start> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(io::Error::other)?;
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let unix_seconds = u32::try_from(since_epoch.as_secs()).unwrap_or(u32::MAX);
    Ok(Start { seed, unix_seconds })
}
