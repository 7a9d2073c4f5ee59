//! Proof that a path carries packets and leads to whom it should, before traffic is given to it.
//!
//! An SA can be up where ESP is filtered on the way, a clear path is never known to work, and behind one NAT there may be
//! several stations. So a station is asked for its own address over the path itself, by a resolution request that
//! nobody may pass on: only the right station, reached by this path, can answer. Until then traffic stays
//! on the way by the hub.

use std::net::Ipv4Addr;
use std::time::Duration;

use dmvpn_tables::PeerId;

use super::machine::{Machine, Timer};
use super::packet::{Message, code};
use super::resolution::Question;
use super::{Output, ResolutionFailure};
use crate::time::Instant;

/// The first interval; the others double it.
const INTERVAL: Duration = Duration::from_millis(250);

/// Requests before the path counts as not working: after 0, 0.25, 0.75, 1.75 and 3.75 seconds; it fails after 7.75.
const TRIES: u32 = 5;

/// A path being tried for an overlay address.
#[derive(Debug)]
pub(super) struct Proof {
    pub(super) peer: PeerId,
    id: u32,
    tries: u32,
}

impl Machine {
    /// Tries whether `overlay` is at `peer`; binds it then.
    pub(super) fn prove(&mut self, now: Instant, overlay: Ipv4Addr, peer: PeerId) {
        if self.proofs.get(&overlay).is_some_and(|proof| proof.peer == peer) {
            return;
        }
        self.drop_proof(overlay);
        let id = self.question(Question::Proof(overlay));
        self.proofs.insert(overlay, Proof { peer, id, tries: 0 });
        self.proof_due(now, overlay);
    }

    pub(super) fn proof_due(&mut self, now: Instant, overlay: Ipv4Addr) {
        let (Some(own), Some(proof)) = (self.nbma, self.proofs.get_mut(&overlay)) else { return };
        if proof.tries >= TRIES {
            self.disprove(now, overlay, ResolutionFailure::NoPath);
            return;
        }
        let (id, peer) = (proof.id, proof.peer);
        let wait = INTERVAL * (1 << proof.tries.min(TRIES));
        proof.tries += 1;
        let mut packet = self.resolution_packet(own, id, overlay);
        packet.hop_count = 1;
        self.send(peer, packet);
        self.timers.set(Timer::Proof(overlay), now + wait);
    }

    pub(super) fn proof_answered(&mut self, now: Instant, overlay: Ipv4Addr, message: &Message) {
        let proven =
            message.entries.iter().any(|cie| cie.code == code::SUCCESS && cie.protocol == Some(overlay));
        match self.proofs.get(&overlay).map(|proof| proof.peer) {
            Some(peer) if proven => {
                self.drop_proof(overlay);
                self.bind(now, overlay, peer);
            }
            _ => self.disprove(now, overlay, ResolutionFailure::NoPath),
        }
    }

    /// The path being tried for `overlay` is none; what it was made for ends.
    pub(super) fn disprove(&mut self, now: Instant, overlay: Ipv4Addr, why: ResolutionFailure) {
        let Some(peer) = self.drop_proof(overlay) else { return };
        match self.entries.get(&overlay).and_then(|entry| entry.peer()) {
            // It was to move there. It stays where it is.
            Some(bound) => {
                let nbma = self.paths.get(bound).map(|path| path.nbma);
                if let (Some(entry), Some(nbma)) = (self.entries.get_mut(&overlay), nbma) {
                    entry.nbma = nbma;
                }
                for target in self.resolving(overlay) {
                    self.resolution_failed(now, target, why);
                }
            }
            None => self.path_failed(now, overlay, why),
        }
        if self.paths.get(peer).is_some_and(|path| path.bound.is_empty()) {
            self.outputs.push_back(Output::Release { peer });
        }
    }

    pub(super) fn drop_proof(&mut self, overlay: Ipv4Addr) -> Option<PeerId> {
        let proof = self.proofs.remove(&overlay)?;
        self.outstanding.remove(&proof.id);
        self.timers.cancel(Timer::Proof(overlay));
        Some(proof.peer)
    }

    pub(super) fn proving_at(&self, peer: PeerId) -> Vec<Ipv4Addr> {
        self.proofs.iter().filter(|(_, proof)| proof.peer == peer).map(|(overlay, _)| *overlay).collect()
    }
}
