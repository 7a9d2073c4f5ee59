//! What is due when, and doing it.

use dmvpn_tables::PeerId;

use super::api::{DownReason, Output, Reason};
use super::exchange::Due;
use super::informational;
use super::machine::{Machine, Owner};
use super::main_mode::Phase;
use super::nat_t::KEEPALIVE;
use super::peer::{KEEPALIVE_INTERVAL, Peer};
use super::quick_mode::Quick;
use super::sa::IkeSa;
use crate::time::Instant;

impl Machine {
    /// Does what is due with an IKE SA.
    pub(super) fn tick_sa(&mut self, now: Instant, name: u64) {
        let Some(IkeSa { link, phase }) = self.sas.get_mut(&name) else { return };
        if let Phase::Established(sa) = phase {
            let (expires, retire_at, peer) = (sa.expires, sa.retire_at, sa.peer);
            let rekey = sa.rekey_at <= now && !sa.replacing && retire_at.is_none();
            if expires <= now || retire_at.is_some_and(|at| at <= now) {
                self.with(now, name, None, informational::send_delete_sa);
                self.end_sa(now, name, DownReason::Expired);
                return;
            }
            let unanswered = self.with(now, name, None, |context| context.tick()).flatten();
            if unanswered.is_some() {
                // The far end has lost this IKE SA, or is gone: a new main mode tells which.
                self.quick_mode_unanswered(now, name, peer);
            } else if rekey {
                self.rekey_if_used(now, name, peer);
            }
            return;
        }
        if let Some(request) = link.request.as_mut().filter(|request| request.at <= now) {
            match request.due(now, &mut self.env.rng) {
                Due::Repeat => {
                    let (local, remote, message) = (link.local, link.remote, request.message.clone());
                    self.env.counters.repeated += 1;
                    self.env.send(local, remote, message);
                }
                Due::GiveUp => self.give_up(now, name),
            }
        } else if link.started + link.life() <= now {
            self.give_up(now, name);
        }
    }

    /// Does what is due with a peer.
    pub(super) fn tick_peer(&mut self, now: Instant, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let gone = peer.tick_children(&mut self.env, now);
        if let Some(at) = peer.keepalive_at.as_mut().filter(|at| **at <= now) {
            *at = now + KEEPALIVE_INTERVAL;
            let (local, remote) = (peer.local, peer.remote);
            self.env.outputs.push_back(Output::Send {
                local,
                remote,
                marker: false,
                payload: vec![KEEPALIVE],
            });
        }
        let reconnect = peer.reconnect_at.is_some_and(|at| at <= now);
        let (tunnel, addresses) = (peer.tunnel, (peer.local, peer.remote));
        if let Some(name) = self.current_sa(id).filter(|_| !gone.is_empty()) {
            self.with(now, name, None, |context| informational::send_delete_esp(context, gone));
        }
        if reconnect {
            self.reconnect(now, id, tunnel, addresses, false);
        }
        if self.peers.get(&id).and_then(Peer::rekey_at).is_some_and(|at| at <= now) {
            self.rekey_child(now, id);
        }
        self.detect_dead_peer(now, id);
        self.reap(now, id, DownReason::Expired);
    }

    /// Sets the deadlines of whoever was touched.
    pub(super) fn rearm(&mut self, now: Instant) {
        while let Some(owner) = self.touched.pop_first() {
            if let Owner::Peer(id) = owner {
                self.answer_waiting(now, id);
            }
            let deadline = match owner {
                Owner::Sa(name) => self.sas.get(&name).map(IkeSa::deadline),
                Owner::Peer(id) => self.peer_deadline(id),
            };
            match deadline {
                Some(at) => self.timers.set(owner, at.max(now)),
                None => self.timers.cancel(owner),
            }
        }
    }

    /// Whoever waits for a path to a peer is told when nothing is under way any more that may become one. It
    /// need not have been ours: the peer's quick mode may have come to nothing, or a DELETE ended a pair.
    fn answer_waiting(&mut self, now: Instant, id: PeerId) {
        let Some(peer) = self.peers.get(&id).filter(|peer| peer.wanted && !peer.has_path()) else { return };
        let mut sas = peer.sas.iter().filter_map(|name| self.established(*name));
        let negotiating = sas.any(|sa| sa.quick.values().any(|quick| quick.is_ours() || quick.is_theirs()));
        if negotiating || self.beginning_for(id).next().is_some() {
            return;
        }
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.child_failed(&mut self.env, now, Reason::Timeout);
        }
    }

    fn peer_deadline(&self, id: PeerId) -> Option<Instant> {
        let peer = self.peers.get(&id)?;
        let probing = self.probe_at(peer);
        [peer.children_deadline(), peer.rekey_at(), peer.keepalive_at, peer.reconnect_at, probing]
            .into_iter()
            .flatten()
            .min()
    }

    /// A main mode is not answered, or takes too long.
    fn give_up(&mut self, now: Instant, name: u64) {
        if let Some(sa) = self.sas.remove(&name) {
            self.main_mode_failed(now, &sa.link, Reason::Timeout);
        }
    }
}

impl IkeSa {
    /// When it has to be looked at.
    fn deadline(&self) -> Instant {
        let Phase::Established(sa) = &self.phase else {
            let end = self.link.started + self.link.life();
            return self.link.request.as_ref().map_or(end, |request| request.at);
        };
        let rekey = (!sa.replacing && sa.retire_at.is_none()).then_some(sa.rekey_at);
        let quick = sa.quick.values().map(Quick::deadline).min();
        [Some(sa.expires), sa.retire_at, rekey, quick].into_iter().flatten().min().unwrap_or(sa.expires)
    }
}
