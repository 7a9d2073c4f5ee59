//! Dead peer detection (RFC 3706): when a peer is probed, and when it is given up.

use std::time::Duration;

use dmvpn_tables::{PeerId, TunnelId};
use rand_core::Rng;

use super::api::{DownReason, Reason};
use super::informational;
use super::machine::{Machine, Owner};
use super::peer::{Peer, Probe};
use crate::time::Instant;

/// Time between two probes that are not answered, at least.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// How long a peer is probed that somebody doubts, where dead peer detection is switched off.
const DOUBT: Duration = Duration::from_secs(10);

impl Machine {
    /// When dead peer detection has something to do for a peer.
    pub(super) fn probe_at(&self, peer: &Peer) -> Option<Instant> {
        if let Some(probe) = peer.probe {
            return Some(probe.next);
        }
        let detection = self.env.profile(peer.tunnel)?.ike.dead_peer_detection?;
        let supported = self.established(*peer.sas.last()?)?.support.dpd;
        supported.then(|| peer.heard + seconds(detection.interval))
    }

    /// Probes a peer that has not been heard of for long, and gives up one that does not answer.
    pub(super) fn detect_dead_peer(&mut self, now: Instant, id: PeerId) {
        let Some(peer) = self.peers.get(&id).filter(|peer| self.probe_at(peer).is_some_and(|at| at <= now))
        else {
            return;
        };
        if peer.probe.is_some_and(|probe| probe.dead_at <= now) {
            self.env.counters.dpd_dead += 1;
            self.peer_down(now, id, DownReason::Unresponsive, Reason::Timeout);
            return;
        }
        let (interval, timeout) = self.detection(peer.tunnel);
        // A timeout shorter than the interval still leaves time for an answer.
        let dead_at = (peer.heard + timeout).max(now + 2 * PROBE_INTERVAL);
        let probe = peer.probe.unwrap_or_else(|| {
            let sequence = self.env.rng.next_u32() >> 1;
            Probe { sequence, next: now, dead_at }
        });
        let step = (timeout.saturating_sub(interval) / 5).max(PROBE_INTERVAL);
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.probe = Some(Probe { next: (now + step).min(probe.dead_at), ..probe });
        }
        if let Some(name) = self.current_sa(id) {
            self.with(now, name, None, |context| informational::send_probe(context, probe.sequence));
        }
    }

    /// Somebody doubts that a peer lives.
    pub(super) fn doubt(&mut self, now: Instant, id: PeerId) {
        let Some(peer) = self.peers.get(&id).filter(|peer| peer.probe.is_none()) else { return };
        let supported =
            self.current_sa(id).and_then(|name| self.established(name)).is_some_and(|sa| sa.support.dpd);
        if !supported {
            // A main mode asks the same question.
            self.rekey_ike(now, id);
            return;
        }
        let (interval, timeout) = self.detection(peer.tunnel);
        let dead_at = now + timeout.saturating_sub(interval).max(2 * PROBE_INTERVAL);
        let sequence = self.env.rng.next_u32() >> 1;
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.probe = Some(Probe { sequence, next: now, dead_at });
        }
        self.detect_dead_peer(now, id);
        self.touched.insert(Owner::Peer(id));
    }

    /// Interval and timeout of dead peer detection.
    fn detection(&self, tunnel: TunnelId) -> (Duration, Duration) {
        let detection = self.env.profile(tunnel).and_then(|profile| profile.ike.dead_peer_detection);
        detection.map_or((Duration::ZERO, DOUBT), |detection| {
            (seconds(detection.interval), seconds(detection.timeout))
        })
    }
}

fn seconds(seconds: u32) -> Duration {
    Duration::from_secs(u64::from(seconds))
}
