//! What the counters of the workers tell: who lives, who is used, which SA must be replaced.

use std::time::Duration;

use super::{Alarm, Engine};
use crate::time::Instant;
use crate::{ike, nhrp};

/// Every peer is looked at about once in `ROUND` ticks, and at least `AT_LEAST` peers in each.
const TICK: Duration = Duration::from_millis(100);
const ROUND: usize = 20;
const AT_LEAST: usize = 16;
/// A peer that we send to and hear nothing of for so long is asked whether it is there.
const SILENCE: Duration = Duration::from_secs(5);

impl Engine {
    /// Begins to look at counters, if that is not under way.
    pub(super) fn watch_usage(&mut self, now: Instant) {
        self.alarms.set_once(Alarm::Usage, now + TICK);
    }

    /// Looks at the counters of the next peers.
    pub(super) fn observe_some(&mut self, now: Instant) {
        let count = (self.peers.len() / ROUND).max(AT_LEAST).min(self.peers.len());
        for _ in 0..count {
            self.observed = self.peers.after(self.observed).or_else(|| self.peers.after(None));
            self.observe(now);
        }
        if !self.peers.is_empty() {
            self.watch_usage(now);
        }
        self.tables.reclaim();
    }

    fn observe(&mut self, now: Instant) {
        let Some(id) = self.observed else { return };
        let Some(peer) = self.peers.get_mut(id) else { return };
        let observed = peer.observe();
        let tunnel = peer.tunnel;
        let packets = observed.traffic.received + observed.traffic.sent;
        if packets > 0 {
            peer.last_used = Some(now);
        }
        let doubtful = peer.is_doubtful(now, observed.traffic, SILENCE);
        if packets > 0 {
            self.tell_nhrp(now, tunnel, nhrp::Input::Used { peer: id, packets });
        }
        if doubtful {
            self.ike.handle(now, ike::Input::Probe { peer: id });
        }
        if observed.traffic.received > 0 {
            self.ike.handle(now, ike::Input::Alive { peer: id });
        }
        for spi in observed.first_used {
            self.ike.handle(now, ike::Input::InboundUsed { peer: id, spi });
        }
        for spi in observed.near_end {
            self.ike.handle(now, ike::Input::SequenceNearEnd { spi, peer: id });
        }
    }
}
