//! The log: every notice once, at a limited rate for each kind.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dmvpn_config::Config;

use crate::engine::{Notice, Severity};
use crate::limit::RateLimit;
use crate::time::Instant;

/// Lines of one kind: so many at once, and one per interval after that.
const BURST: u32 = 20;
const INTERVAL: Duration = Duration::from_secs(1);

/// Writes notices to the log.
pub(super) struct Log {
    config: Arc<Config>,
    kinds: BTreeMap<&'static str, Kind>,
}

struct Kind {
    limit: RateLimit,
    /// Lines left out since the last one written.
    suppressed: u64,
}

impl Log {
    pub(super) fn new(config: Arc<Config>) -> Self {
        Self { config, kinds: BTreeMap::new() }
    }

    /// Tunnels have other names from now on.
    pub(super) fn configure(&mut self, config: Arc<Config>) {
        self.config = config;
    }

    pub(super) fn write(&mut self, now: Instant, notice: &Notice) {
        let kind = self
            .kinds
            .entry(notice.kind())
            .or_insert_with(|| Kind { limit: RateLimit::new(INTERVAL, BURST), suppressed: 0 });
        if !kind.limit.allow(now) {
            kind.suppressed += 1;
            return;
        }
        let suppressed = Some(std::mem::take(&mut kind.suppressed)).filter(|lines| *lines > 0);
        let tunnel = notice.tunnel.and_then(|tunnel| self.config.tunnels.get(usize::from(tunnel.0)));
        let tunnel = tunnel.map(|tunnel| tunnel.name.as_str());
        let (kind, what, fault) = (notice.kind(), &notice.what, notice.fault());
        match notice.severity() {
            Severity::Debug => tracing::debug!(kind, tunnel, %fault, suppressed, "{what}"),
            Severity::Info => tracing::info!(kind, tunnel, suppressed, "{what}"),
            Severity::Warning => tracing::warn!(kind, tunnel, %fault, suppressed, "{what}"),
        }
    }
}
