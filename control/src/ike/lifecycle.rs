//! The life of peers and their IKE SAs: coming up, being replaced, going down.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use dmvpn_tables::{PeerId, TunnelId};
use rand_core::Rng;

use super::api::{DownReason, Event, ExchangeKind, NoticeKind, Reason};
use super::exchange::MessageIds;
use super::informational::{self, DeletedSa};
use super::machine::{Machine, Owner};
use super::main_mode::Phase;
use super::nat_t::PORT_NATT;
use super::payload::notification;
use super::peer::{Peer, PeerKey};
use super::quick_mode::Quick;
use super::sa::{Authenticated, Established, IkeSa, Link, Purpose, RETIREMENT, rekey_after};
use crate::time::Instant;

/// Two IKE SAs that were begun by both ends and came up within this time are two answers to the same
/// need.
const CROSSING: Duration = Duration::from_secs(10);
/// Time from a main mode that failed to the next one for the same peer.
const RETRY: Duration = Duration::from_secs(10);
/// Wait before a lost IKE SA is made anew; as much again may be added at random.
const RECONNECT: Duration = Duration::from_secs(1);
/// How often a peer is told of SPIs that we do not know.
const SPI_INTERVAL: Duration = Duration::from_secs(1);
/// Peers at one address that are told of an unknown SPI.
const SPI_PEERS: usize = 4;

impl Machine {
    /// A main mode has proved who the far end is: gives its IKE SA to the peer.
    pub(super) fn attach(&mut self, now: Instant, link: Link, proved: Authenticated) {
        let name = link.name();
        self.beginning.remove(&name);
        let Some(id) = self.peer_for(now, &link, &proved) else {
            if !link.initiator {
                self.env.problem(link.remote, Some(link.tunnel), ExchangeKind::MainMode, Reason::Limit);
            }
            self.main_mode_failed(now, &link, Reason::Limit);
            return;
        };
        if proved.initial_contact {
            self.forget_earlier(now, id, link.started);
        }
        let Authenticated { keys, last_block, proposal, nat, support, lifetime, .. } = proved;
        let (initiator, purpose, tunnel, remote) = (link.initiator, link.purpose, link.tunnel, link.remote);
        let established = Established {
            peer: id,
            keys,
            last_block,
            proposal,
            nat,
            support,
            since: now,
            rekey_at: now + rekey_after(&mut self.env.rng, lifetime, initiator),
            replacing: false,
            expires: now + lifetime,
            retire_at: None,
            seen: MessageIds::default(),
            quick: std::collections::BTreeMap::new(),
        };
        self.sas.insert(name, IkeSa { link, phase: Phase::Established(Box::new(established)) });
        self.touched.extend([Owner::Sa(name), Owner::Peer(id)]);
        self.env.counters.ike_up += 1;
        self.env.notice(remote, Some(tunnel), NoticeKind::IkeUp);
        self.succeed(now, id, name);
        // Now we know something of the far end that it must not forget.
        for name in &self.beginning {
            if let Some(IkeSa { link, .. }) = self.sas.get_mut(name)
                && (link.tunnel, link.remote.ip()) == (tunnel, remote.ip())
            {
                link.purpose.initial_contact = false;
            }
        }
        let wanted = self.peers.get(&id).is_some_and(|peer| peer.wanted && !peer.has_path());
        if purpose.child || (initiator && wanted) {
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.wanted |= !peer.has_path();
            }
            self.request_child(now, id);
        }
    }

    /// The peer whose IKE SA this becomes: a known one, or a new one.
    fn peer_for(&mut self, now: Instant, link: &Link, proved: &Authenticated) -> Option<PeerId> {
        let key = PeerKey::new(link.tunnel, link.remote, proved.nat, proved.identity.clone());
        if let Some(id) = self.by_key.get(&key).copied() {
            let peer = self.peers.get_mut(&id)?;
            (peer.local, peer.remote, peer.reconnect_at) = (link.local, link.remote, None);
            peer.set_nat(proved.nat, now);
            peer.hear(now);
            return Some(id);
        }
        if self.peers_at(link.tunnel, *link.remote.ip()).count() >= self.env.limits.peers_per_address {
            return None;
        }
        let id = PeerId(self.handles.alloc()?);
        let addresses = (link.local, link.remote);
        let peer = Peer::new(id, link.tunnel, proved.identity.clone(), addresses, proved.nat, now);
        self.env.event(Event::PeerUp {
            peer: id,
            tunnel: peer.tunnel,
            endpoints: peer.endpoints(proved.nat.any()),
            identity: peer.identity.clone(),
            initiator: link.initiator,
        });
        self.by_key.insert(key, id);
        self.peers.insert(id, peer);
        Some(id)
    }

    /// The peer says that it knows nothing from before (RFC 2407 section 4.6.3.3): what it had made
    /// before the main mode that says so began is of no use. Others at its address are not concerned,
    /// nor is anybody with another identity.
    fn forget_earlier(&mut self, now: Instant, id: PeerId, began: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let stale: Vec<_> =
            peer.children.values().filter(|child| child.since < began).map(|child| child.id).collect();
        stale.into_iter().for_each(|child| peer.remove_child(&mut self.env, now, child));
        let stale: Vec<u64> = peer.sas.clone();
        for name in stale {
            let earlier = self.established(name).is_some_and(|sa| sa.since < began);
            if earlier {
                self.take_sa(now, name);
            }
        }
    }

    /// A new IKE SA of a peer: the others retire. If both ends began one at the same time, both keep the
    /// same one, which their cookies decide.
    fn succeed(&mut self, now: Instant, id: PeerId, name: u64) {
        let Some(new) = self.sas.get(&name).map(|sa| (sa.link.cookies(), sa.link.initiator)) else { return };
        let Some(peer) = self.peers.get(&id) else { return };
        let mut retiring = Vec::new();
        let mut keep = true;
        for other in &peer.sas {
            let Some(IkeSa { link, phase: Phase::Established(sa) }) = self.sas.get(other) else { continue };
            let crossing =
                link.initiator != new.1 && sa.retire_at.is_none() && now.since(sa.since) < CROSSING;
            if crossing && link.cookies() > new.0 {
                keep = false;
            } else {
                retiring.push(*other);
            }
        }
        if !keep {
            retiring.push(name);
        }
        if let Some(peer) = self.peers.get_mut(&id) {
            // The one to use stands last.
            let position = if keep { peer.sas.len() } else { peer.sas.len().saturating_sub(1) };
            peer.sas.insert(position, name);
        }
        for name in retiring {
            self.touched.insert(Owner::Sa(name));
            if let Some(sa) = self.established_mut(name) {
                sa.retire_at.get_or_insert(now + RETIREMENT);
            }
        }
        while let Some(peer) = self.peers.get(&id)
            && peer.sas.len() > self.env.limits.ike_sas_per_peer
            && let Some(oldest) = peer.sas.first().copied()
        {
            self.take_sa(now, oldest);
        }
    }

    /// The IKE SA to use for a peer.
    pub(super) fn current_sa(&self, id: PeerId) -> Option<u64> {
        self.peers.get(&id)?.sas.last().copied()
    }

    /// Makes a pair of ESP SAs: at once, or once there is an IKE SA.
    pub(super) fn request_child(&mut self, now: Instant, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        self.touched.insert(Owner::Peer(id));
        peer.rekey_begun();
        let (tunnel, local, remote) = (peer.tunnel, peer.local, peer.remote);
        if let Some(name) = self.current_sa(id) {
            if let Some(Err(reason)) = self.with(now, name, None, |context| context.begin())
                && let Some(peer) = self.peers.get_mut(&id)
            {
                self.env.problem(remote, Some(tunnel), ExchangeKind::QuickMode, reason);
                peer.child_failed(&mut self.env, now, reason);
            }
        } else {
            self.reconnect(now, id, tunnel, (local, remote), true);
        }
    }

    /// Replaces the IKE SA of a peer, if that is not under way.
    pub(super) fn rekey_ike(&mut self, now: Instant, id: PeerId) {
        let Some(peer) = self.peers.get(&id) else { return };
        let (tunnel, addresses) = (peer.tunnel, (peer.local, peer.remote));
        if let Some(name) = self.current_sa(id) {
            self.touched.insert(Owner::Sa(name));
            if let Some(sa) = self.established_mut(name) {
                sa.replacing = true;
            }
        }
        self.reconnect(now, id, tunnel, addresses, false);
    }

    /// Begins a main mode for a peer, if none is under way.
    pub(super) fn reconnect(
        &mut self,
        now: Instant,
        id: PeerId,
        tunnel: TunnelId,
        addresses: (SocketAddrV4, SocketAddrV4),
        child: bool,
    ) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.reconnect_at = None;
        }
        let under_way = self.beginning_for(id).next();
        if let Some(sa) = under_way.and_then(|name| self.sas.get_mut(&name)) {
            sa.link.purpose.child |= child;
            return;
        }
        self.begin_main_mode(
            now,
            tunnel,
            addresses,
            Purpose { child, peer: Some(id), initial_contact: false },
        );
    }

    /// A main mode came to nothing.
    pub(super) fn main_mode_failed(&mut self, now: Instant, link: &Link, reason: Reason) {
        self.touched.insert(Owner::Sa(link.name()));
        self.beginning.remove(&link.name());
        self.half_open.leave(link.name());
        self.forget_beginning(link);
        let reason = match (reason, link.hint) {
            (
                Reason::Timeout,
                Some(notification::PAYLOAD_MALFORMED | notification::AUTHENTICATION_FAILED),
            )
            | (Reason::Timeout, Some(notification::INVALID_HASH_INFORMATION)) => Reason::Secret,
            (Reason::Timeout, Some(notification::NO_PROPOSAL_CHOSEN)) => Reason::NoProposal,
            (reason, _) => reason,
        };
        if !link.initiator {
            // Anybody can begin one and leave it; only what was wrong with a message was worth a word.
            self.env.counters.unfinished += 1;
            return;
        }
        self.env.counters.failed += 1;
        let failed = NoticeKind::Failed { exchange: ExchangeKind::MainMode, reason };
        self.env.notice(link.remote, Some(link.tunnel), failed);
        let Some(id) = link.purpose.peer.filter(|id| self.peers.contains_key(id)) else {
            if link.purpose.child {
                let (tunnel, remote) = (link.tunnel, *link.remote.ip());
                self.env.event(Event::Failed { tunnel, remote, reason });
            }
            return;
        };
        let dead =
            self.peers.get(&id).is_some_and(|peer| peer.heard < link.started) && reason == Reason::Timeout;
        if dead {
            self.peer_down(now, id, DownReason::Unresponsive, reason);
            return;
        }
        self.touched.insert(Owner::Peer(id));
        if let Some(name) = self.current_sa(id) {
            self.touched.insert(Owner::Sa(name));
            if let Some(sa) = self.established_mut(name) {
                (sa.replacing, sa.rekey_at) = (false, now + RETRY);
            }
        }
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.child_failed(&mut self.env, now, reason);
            if peer.sas.is_empty() && peer.has_path() {
                peer.reconnect_at = Some(now + RETRY);
            }
        }
        self.reap(now, id, DownReason::Expired);
    }

    /// The peer has deleted an IKE SA: the one the message came by, or another of its own.
    pub(super) fn deleted(&mut self, now: Instant, by: u64, cookies: DeletedSa) {
        let Some(id) = self.established(by).map(|sa| sa.peer) else { return };
        let Some(peer) = self.peers.get(&id) else { return };
        let concerned = peer
            .sas
            .iter()
            .copied()
            .find(|name| self.sas.get(name).is_some_and(|sa| sa.link.cookies() == cookies));
        if let Some(name) = concerned {
            self.end_sa(now, name, DownReason::Deleted);
        }
    }

    /// Takes leave of a peer.
    pub(super) fn disconnect(&mut self, now: Instant, id: PeerId, reason: DownReason) {
        let Some(peer) = self.peers.get(&id) else { return };
        let spis: Vec<u32> = peer.children.values().map(|child| child.spi_in).collect();
        let sas = peer.sas.clone();
        if let Some(name) = self.current_sa(id).filter(|_| !spis.is_empty()) {
            self.with(now, name, None, |context| informational::send_delete_esp(context, spis));
        }
        for name in sas {
            self.with(now, name, None, informational::send_delete_sa);
        }
        let beginning: Vec<u64> = self.beginning_for(id).collect();
        for name in beginning {
            self.touched.insert(Owner::Sa(name));
            self.beginning.remove(&name);
            self.sas.remove(&name);
        }
        self.peer_down(now, id, reason, Reason::Cancelled);
    }

    /// Ends everything of a tunnel.
    pub(super) fn clear_tunnel(&mut self, now: Instant, tunnel: TunnelId) {
        let peers: Vec<PeerId> =
            self.peers.values().filter(|peer| peer.tunnel == tunnel).map(|peer| peer.id).collect();
        peers.into_iter().for_each(|id| self.disconnect(now, id, DownReason::Reconfigured));
        let begun: Vec<u64> =
            self.sas.iter().filter(|(_, sa)| sa.link.tunnel == tunnel).map(|(name, _)| *name).collect();
        for name in begun {
            if let Some(sa) = self.sas.remove(&name) {
                self.main_mode_failed(now, &sa.link, Reason::Cancelled);
            }
        }
        self.rearm(now);
    }

    /// The peer's NAT has moved it: an authentic ESP packet says so.
    pub(super) fn moved(&mut self, now: Instant, id: PeerId, to: SocketAddrV4) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let (key, local) = (peer.key(), SocketAddrV4::new(*peer.local.ip(), PORT_NATT));
        peer.hear(now);
        if peer.move_to(&mut self.env, now, local, to) {
            self.follow(now, id, &key);
        }
    }

    /// Takes note of a peer's new place.
    pub(super) fn follow(&mut self, now: Instant, id: PeerId, old: &PeerKey) {
        self.by_key.remove(old);
        let Some(peer) = self.peers.get(&id) else { return };
        let (key, local, remote) = (peer.key(), peer.local, peer.remote);
        for name in peer.sas.clone() {
            if let Some(sa) = self.sas.get_mut(&name) {
                (sa.link.local, sa.link.remote) = (local, remote);
            }
        }
        if let Some(stale) = self.by_key.insert(key.clone(), id) {
            // The place of a peer with the same identity: it has been there before it moved away.
            self.peer_down(now, stale, DownReason::Unresponsive, Reason::Timeout);
            self.by_key.insert(key, id);
        }
    }

    /// Tells whoever sends with an SPI that nobody holds.
    pub(super) fn unknown_spi(&mut self, now: Instant, spi: u32, remote: Ipv4Addr) {
        let tunnels: Vec<TunnelId> = self.env.tunnels.keys().copied().collect();
        let peers: Vec<PeerId> =
            tunnels.into_iter().flat_map(|tunnel| self.peers_at(tunnel, remote)).take(SPI_PEERS).collect();
        for id in peers {
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            if peer.spi_told_at.is_some_and(|at| now.since(at) < SPI_INTERVAL) {
                continue;
            }
            // An SPI that the peer itself receives by: somebody sent it back to us. Many a peer takes a DELETE for
            // either direction, and would end what it receives by.
            if peer.children.values().any(|child| child.spi_out == spi) {
                continue;
            }
            peer.spi_told_at = Some(now);
            if let Some(name) = self.current_sa(id) {
                self.with(now, name, None, |context| informational::send_delete_esp(context, vec![spi]));
            }
        }
    }

    /// Replaces the pair in use, unless the peer is about to.
    pub(super) fn rekey_child(&mut self, now: Instant, id: PeerId) {
        let theirs = self
            .current_sa(id)
            .and_then(|name| self.established(name))
            .is_some_and(|sa| sa.quick.values().any(Quick::is_theirs));
        if theirs {
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.rekey_later(now);
            }
        } else {
            self.request_child(now, id);
        }
    }

    /// An IKE SA nears its end: it is worth another one if the peer has ESP SAs.
    pub(super) fn rekey_if_used(&mut self, now: Instant, name: u64, id: PeerId) {
        if let Some(sa) = self.established_mut(name) {
            sa.replacing = true;
        }
        if self.peers.get(&id).is_some_and(Peer::has_path) {
            self.rekey_ike(now, id);
        }
    }

    pub(super) fn quick_mode_unanswered(&mut self, now: Instant, name: u64, id: PeerId) {
        if let Some(peer) = self.peers.get(&id) {
            let (remote, tunnel) = (peer.remote, peer.tunnel);
            self.env.problem(remote, Some(tunnel), ExchangeKind::QuickMode, Reason::Timeout);
        }
        self.take_sa(now, name);
        if self.current_sa(id).is_some() {
            self.request_child(now, id);
        } else if let Some(peer) = self.peers.get(&id) {
            let (tunnel, addresses) = (peer.tunnel, (peer.local, peer.remote));
            self.reconnect(now, id, tunnel, addresses, true);
        }
    }

    /// Ends an IKE SA. Its peer's ESP SAs stay; if it was the last one, another is made for them.
    pub(super) fn end_sa(&mut self, now: Instant, name: u64, reason: DownReason) {
        let Some(id) = self.established(name).map(|sa| sa.peer) else { return };
        let negotiating = self.established(name).is_some_and(|sa| sa.quick.values().any(Quick::is_ours));
        self.take_sa(now, name);
        let successor = self.current_sa(id);
        if let Some(successor) = successor {
            // Both ends may have chosen the other's: then the one that is left is the one to use.
            self.touched.insert(Owner::Sa(successor));
            if let Some(sa) = self.established_mut(successor) {
                sa.retire_at = None;
            }
        }
        let wait = RECONNECT + Duration::from_millis(u64::from(self.env.rng.next_u32() % 3000));
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if negotiating && peer.wanted {
            self.request_child(now, id);
            return;
        }
        if negotiating {
            peer.rekey_later(now);
        }
        if successor.is_none() && peer.has_path() {
            peer.reconnect_at = Some(now + wait);
        }
        self.reap(now, id, reason);
    }

    /// Removes an IKE SA and what hangs on it.
    fn take_sa(&mut self, now: Instant, name: u64) {
        let Some(id) = self.established(name).map(|sa| sa.peer) else { return };
        self.with(now, name, None, |context| {
            for state in std::mem::take(&mut context.sa.quick).into_values() {
                context.drop_state(state);
            }
        });
        if let Some(sa) = self.sas.remove(&name) {
            self.forget_beginning(&sa.link);
            self.env.counters.ike_down += 1;
            self.env.notice(sa.link.remote, Some(sa.link.tunnel), NoticeKind::IkeDown);
        }
        self.touched.extend([Owner::Sa(name), Owner::Peer(id)]);
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.sas.retain(|other| *other != name);
        }
    }

    /// Lets a peer go that has no SA of either kind, nor one on its way.
    pub(super) fn reap(&mut self, now: Instant, id: PeerId, reason: DownReason) {
        let empty = self.peers.get(&id).is_some_and(|peer| peer.sas.is_empty() && !peer.has_path());
        if empty && self.beginning_for(id).next().is_none() {
            self.peer_down(now, id, reason, Reason::Timeout);
        }
    }

    pub(super) fn peer_down(&mut self, now: Instant, id: PeerId, reason: DownReason, failure: Reason) {
        let sas = self.peers.get(&id).map(|peer| peer.sas.clone()).unwrap_or_default();
        sas.into_iter().for_each(|name| self.take_sa(now, name));
        let Some(mut peer) = self.peers.remove(&id) else { return };
        self.touched.insert(Owner::Peer(id));
        peer.remove_children(&mut self.env, now);
        self.by_key.remove(&peer.key());
        self.handles.free(id.0);
        let (tunnel, remote) = (peer.tunnel, *peer.remote.ip());
        self.env.event(Event::PeerDown { peer: id, tunnel, remote, reason });
        if peer.wanted {
            self.env.event(Event::Failed { tunnel, remote, reason: failure });
        }
    }

    /// Main modes of ours, under way, for a peer that we have already.
    pub(super) fn beginning_for(&self, id: PeerId) -> impl Iterator<Item = u64> {
        let purpose = move |name: &u64| self.sas.get(name).and_then(|sa| sa.link.purpose.peer);
        self.beginning.iter().copied().filter(move |name| purpose(name) == Some(id))
    }

    pub(super) fn established(&self, name: u64) -> Option<&Established> {
        match &self.sas.get(&name)?.phase {
            Phase::Established(sa) => Some(sa),
            _ => None,
        }
    }

    fn established_mut(&mut self, name: u64) -> Option<&mut Established> {
        match &mut self.sas.get_mut(&name)?.phase {
            Phase::Established(sa) => Some(sa),
            _ => None,
        }
    }
}
