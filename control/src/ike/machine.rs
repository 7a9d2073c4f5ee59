//! The machine: who is who, and what comes in goes where.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use dmvpn_config::model::Profile;
use dmvpn_tables::{HandlePool, PeerId, TunnelId};
use rand_core::Rng;

use super::api::{DownReason, Event, ExchangeKind, Input, Limits, NoticeKind, Output, Reason};
use super::dh::DhDone;
use super::env::{Bound, Env};
use super::exchange::{Answered, Fingerprint};
use super::half_open::{Admission, HalfOpen};
use super::informational;
use super::main_mode::{self, Accepted, Phase, Received, Refusal, Step};
use super::nat_t::{Nat, PORT_IKE};
use super::payload::{Chain, Exchange, Header, Kind, Notify, notification};
use super::peer::{Peer, PeerKey};
use super::quick_mode::Context;
use super::sa::{IkeSa, Link, Purpose};
use super::status::{Counters, EspSaStatus, IkeSaStatus};
use crate::time::{Instant, Timers};

/// IKEv1 for every protected tunnel of this box.
pub struct Machine {
    pub(super) env: Env,
    /// Every IKE SA, by our cookie.
    pub(super) sas: BTreeMap<u64, IkeSa>,
    /// Main modes that others began, by who sent message 1.
    begun: BTreeMap<(SocketAddrV4, u64), u64>,
    /// Main modes of ours that are not complete, by our cookie: few, where there may be many IKE SAs.
    pub(super) beginning: BTreeSet<u64>,
    pub(super) half_open: HalfOpen,
    pub(super) peers: BTreeMap<PeerId, Peer>,
    pub(super) by_key: BTreeMap<PeerKey, PeerId>,
    pub(super) handles: HandlePool,
    pub(super) timers: Timers<Owner>,
    /// Whose deadlines may have changed.
    pub(super) touched: BTreeSet<Owner>,
}

/// Who has a deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Owner {
    Sa(u64),
    Peer(PeerId),
}

impl Machine {
    /// A machine without tunnels. Everything it draws at random comes from `seed`: the same seed and
    /// inputs give the same outputs.
    pub fn new(seed: [u8; 32], limits: Limits) -> Self {
        let mut env = Env::new(seed, limits);
        let peers = u32::try_from(limits.peers).unwrap_or(u32::MAX);
        let handles = HandlePool::new(peers, env.rng.next_u32());
        Self {
            env,
            sas: BTreeMap::new(),
            begun: BTreeMap::new(),
            beginning: BTreeSet::new(),
            half_open: HalfOpen::default(),
            peers: BTreeMap::new(),
            by_key: BTreeMap::new(),
            handles,
            timers: Timers::new(),
            touched: BTreeSet::new(),
        }
    }

    /// Binds a profile to a tunnel, or changes it. `local` is our underlay address there; `None` while we
    /// have none. If either is another than before, the tunnel's peers go down first.
    ///
    /// Where tunnels share an address, a main mode that a far end begins belongs to the lowest of them
    /// whose profile takes one of its proposals: nothing in main mode names a tunnel.
    pub fn set_profile(
        &mut self,
        now: Instant,
        tunnel: TunnelId,
        profile: Arc<Profile>,
        local: Option<Ipv4Addr>,
    ) {
        if self.env.tunnels.get(&tunnel).is_some_and(|bound| bound.local == local && bound.profile == profile)
        {
            return;
        }
        self.clear_tunnel(now, tunnel);
        self.env.tunnels.insert(tunnel, Bound { profile, local });
    }

    /// Takes the profile away. The tunnel's peers go down.
    pub fn remove_profile(&mut self, now: Instant, tunnel: TunnelId) {
        self.clear_tunnel(now, tunnel);
        self.env.tunnels.remove(&tunnel);
    }

    /// Takes what happened.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Datagram { local, remote, payload } => self.datagram(now, local, remote, &payload),
            Input::Dh(done) => self.computed(now, done),
            Input::Connect { tunnel, remote } => self.connect(now, tunnel, remote),
            Input::RekeyIke { peer } => self.rekey_ike(now, peer),
            Input::RekeyEsp { peer } | Input::SequenceNearEnd { peer, .. } => self.request_child(now, peer),
            Input::Disconnect { peer } => self.disconnect(now, peer, DownReason::Disconnected),
            Input::PeerMoved { peer, to } => self.moved(now, peer, to),
            Input::Alive { peer } => {
                if let Some(peer) = self.peer_mut(peer) {
                    peer.hear(now);
                }
            }
            Input::Probe { peer } => self.doubt(now, peer),
            Input::InboundUsed { peer, spi } => {
                self.touched.insert(Owner::Peer(peer));
                if let Some(peer) = self.peers.get_mut(&peer) {
                    peer.inbound_used(&mut self.env, now, spi);
                }
            }
            Input::UnknownSpi { spi, remote } => self.unknown_spi(now, spi, remote),
        }
        self.rearm(now);
    }

    /// Does what is due. To be called when [`poll_timeout`](Self::poll_timeout) has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(owner) = self.timers.pop_due(now) {
            self.touched.insert(owner);
            match owner {
                Owner::Sa(name) => self.tick_sa(now, name),
                Owner::Peer(id) => self.tick_peer(now, id),
            }
            self.rearm(now);
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// The next thing to do. To be called until it gives `None` after every call of the others.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.env.outputs.pop_front()
    }

    /// What was done, and what was refused and why.
    pub fn counters(&self) -> &Counters {
        &self.env.counters
    }

    /// Every IKE SA, for an operator to read.
    pub fn ike_sas(&self, now: Instant) -> impl Iterator<Item = IkeSaStatus> {
        self.sas.values().map(move |IkeSa { link, phase }| {
            let established = if let Phase::Established(sa) = phase { Some(sa) } else { None };
            let peer = established.and_then(|sa| self.peers.get(&sa.peer));
            let nat = established.map_or_else(Nat::default, |sa| sa.nat);
            let end = established
                .map_or_else(|| link.started + link.life(), |sa| sa.retire_at.unwrap_or(sa.expires));
            IkeSaStatus {
                tunnel: link.tunnel,
                peer: peer.map(|peer| peer.id),
                identity: peer.map(|peer| peer.identity.clone()),
                local: link.local,
                remote: link.remote,
                initiator: link.initiator,
                cookie_i: link.cookie_i,
                cookie_r: link.cookie_r,
                proposal: phase.proposal(),
                state: if established.is_some_and(|sa| sa.retire_at.is_some()) {
                    "retiring"
                } else {
                    phase.name()
                },
                age: now.since(established.map_or_else(|| link.started, |sa| sa.since)),
                remaining: end - now,
                nat_local: nat.local,
                nat_remote: nat.remote,
            }
        })
    }

    /// Every pair of ESP SAs, for an operator to read.
    pub fn esp_sas(&self, now: Instant) -> impl Iterator<Item = EspSaStatus> {
        self.peers.values().flat_map(move |peer| {
            let sending = peer.sending().map(|child| child.id);
            peer.children.values().map(move |child| EspSaStatus {
                child: child.id,
                tunnel: peer.tunnel,
                peer: peer.id,
                inbound: child.spi_in,
                outbound: child.spi_out,
                sending: sending == Some(child.id),
                proposal: child.proposal,
                pfs: child.pfs,
                mode: child.mode,
                endpoints: peer.endpoints(child.udp),
                age: now.since(child.since),
                remaining: child.expires - now,
            })
        })
    }

    /// An ISAKMP message.
    fn datagram(&mut self, now: Instant, local: SocketAddrV4, remote: SocketAddrV4, payload: &[u8]) {
        self.env.counters.received += 1;
        let Ok((header, body)) = Header::decode(payload) else {
            self.env.counters.bad_header += 1;
            return;
        };
        let received = Received { header, body, fingerprint: Fingerprint::of(payload), local, remote };
        match header.exchange {
            Exchange::AGGRESSIVE => self.env.counters.aggressive_mode += 1,
            Exchange::MAIN if header.message_id == 0 && header.cookie_i != 0 => {
                if header.cookie_r == 0 {
                    self.first_message(now, &received);
                } else {
                    self.main_message(now, &received);
                }
            }
            Exchange::QUICK | Exchange::INFORMATIONAL if header.cookie_i != 0 => {
                self.phase2_message(now, &received)
            }
            _ => self.env.counters.bad_header += 1,
        }
    }

    /// The IKE SA that a message's cookies belong to, by our cookie.
    fn find(&self, header: &Header) -> Option<u64> {
        let fits = |name: u64, initiator: bool| {
            self.sas.get(&name).is_some_and(|IkeSa { link, .. }| {
                let answer_to_first = initiator && link.cookie_r == 0;
                link.initiator == initiator
                    && link.cookie_i == header.cookie_i
                    && (link.cookie_r == header.cookie_r || answer_to_first)
            })
        };
        match (header.cookie_i, header.cookie_r) {
            (ours, _) if fits(ours, true) => Some(ours),
            (_, ours) if fits(ours, false) => Some(ours),
            _ => None,
        }
    }

    /// Message 1 of a main mode that somebody begins.
    fn first_message(&mut self, now: Instant, received: &Received<'_>) {
        let Received { header, local, remote, .. } = *received;
        if let Some(name) = self.begun.get(&(remote, header.cookie_i)).copied() {
            self.env.counters.duplicates += 1;
            self.repeat_answer(name, received);
            return;
        }
        if self.sas.contains_key(&header.cookie_i) {
            // Our own message 1, reflected.
            self.env.counters.replayed += 1;
            return;
        }
        if header.is_encrypted() {
            self.env.counters.bad_encryption += 1;
            return;
        }
        let bound_here = |(_, bound): &(&TunnelId, &Bound)| bound.local == Some(*local.ip());
        let tunnels: Vec<TunnelId> = self.env.tunnels.iter().filter(bound_here).map(|(id, _)| *id).collect();
        let Some(first_tunnel) = tunnels.first().copied() else {
            self.env.counters.unexpected += 1;
            return;
        };
        let known = tunnels.iter().any(|tunnel| self.peers_at(*tunnel, *remote.ip()).next().is_some());
        let draw = self.env.rng.next_u64();
        let admission = self.half_open.admit(&self.env.limits, *remote.ip(), known, draw);
        if admission == Admission::Refused {
            self.env.counters.limited += 1;
            return;
        }
        let accepted = Chain::decode(header.next, received.body).map_err(Refusal::from).and_then(|chain| {
            let mut tries =
                tunnels.iter().map(|tunnel| Ok((*tunnel, Accepted::read(&self.env, *tunnel, &chain)?)));
            let mut result = tries.next().unwrap_or(Err(Refusal::Unexpected));
            while result.is_err() {
                let Some(next) = tries.next() else { break };
                result = next.or(result);
            }
            result
        });
        let (tunnel, accepted) = match accepted {
            Ok(accepted) => accepted,
            Err(Refusal::Because(reason)) => {
                self.env.problem(remote, Some(first_tunnel), ExchangeKind::MainMode, reason);
                if reason == Reason::NoProposal {
                    self.hint(&header, local, remote, notification::NO_PROPOSAL_CHOSEN);
                }
                return;
            }
            Err(Refusal::Unexpected) => {
                self.env.counters.unexpected += 1;
                return;
            }
        };
        if let Admission::InPlaceOf(victim) = admission {
            self.env.counters.evicted += 1;
            self.forget_half_open(victim);
        }
        let cookie_r = self.env.cookie();
        let mut link = Link {
            cookie_i: header.cookie_i,
            cookie_r,
            initiator: false,
            tunnel,
            local,
            remote,
            origin: remote,
            started: now,
            request: None,
            answered: None,
            hint: None,
            purpose: Purpose::default(),
        };
        let phase = accepted.answer(&mut self.env, &mut link, received.fingerprint);
        self.half_open.enter(cookie_r, *remote.ip());
        self.begun.insert((remote, header.cookie_i), cookie_r);
        self.sas.insert(cookie_r, IkeSa { link, phase });
        self.touched.insert(Owner::Sa(cookie_r));
    }

    /// A later message of a main mode.
    fn main_message(&mut self, now: Instant, received: &Received<'_>) {
        let Some(name) = self.find(&received.header) else {
            self.env.counters.unknown_cookies += 1;
            return;
        };
        if self.repeat_answer(name, received) {
            self.env.counters.duplicates += 1;
            return;
        }
        let Some(IkeSa { mut link, phase }) = self.sas.remove(&name) else { return };
        let same_place = (received.local, received.remote) == (link.local, link.remote);
        let step = if !matches!(phase, Phase::ExpectMain5(_)) && !same_place {
            Step::Stay(phase, Refusal::Unexpected)
        } else {
            phase.receive(&mut self.env, &mut link, received)
        };
        self.step(now, link, step);
    }

    /// A Diffie-Hellman computation is done. What waited for it may be gone.
    fn computed(&mut self, now: Instant, done: DhDone) {
        let Some(owner) = self.env.jobs.redeem(done.ticket) else { return };
        if let Some(message_id) = owner.message_id {
            self.with(now, owner.sa, None, |context| context.computed(message_id, done.result));
            return;
        }
        let Some(IkeSa { mut link, phase }) = self.sas.remove(&owner.sa) else { return };
        let step = match done.result {
            Ok(computed) => phase.computed(&mut self.env, now, &mut link, computed),
            Err(reason) => Step::Fail(reason),
        };
        self.step(now, link, step);
    }

    /// Carries on with an IKE SA that was taken out for its transition.
    fn step(&mut self, now: Instant, link: Link, step: Step) {
        let name = link.name();
        self.touched.insert(Owner::Sa(name));
        match step {
            Step::Stay(phase, Refusal::Unexpected) => {
                self.env.counters.unexpected += 1;
                self.sas.insert(name, IkeSa { link, phase });
            }
            Step::Stay(phase, Refusal::Because(reason)) => {
                self.env.problem(link.remote, Some(link.tunnel), ExchangeKind::MainMode, reason);
                if reason == Reason::Secret && !link.initiator && link.hint.is_none() {
                    self.hint_to(&link, notification::AUTHENTICATION_FAILED);
                    let link = Link { hint: Some(notification::AUTHENTICATION_FAILED), ..link };
                    self.sas.insert(name, IkeSa { link, phase });
                } else {
                    self.sas.insert(name, IkeSa { link, phase });
                }
            }
            Step::Next(phase) => {
                if !link.initiator && phase.is_reachable() {
                    self.half_open.reached(name);
                }
                self.sas.insert(name, IkeSa { link, phase });
            }
            Step::Proved(authenticated) => {
                self.half_open.leave(name);
                self.attach(now, link, *authenticated);
            }
            Step::Fail(reason) => self.main_mode_failed(now, &link, reason),
        }
    }

    /// A message of quick mode or of an informational exchange.
    fn phase2_message(&mut self, now: Instant, received: &Received<'_>) {
        let Received { header, body, fingerprint, local, remote } = *received;
        let by_cookie = if header.cookie_r == 0 { Some(header.cookie_i) } else { self.find(&header) };
        let Some((name, sa)) = by_cookie.and_then(|name| Some((name, self.sas.get_mut(&name)?))) else {
            self.env.counters.unknown_cookies += 1;
            return;
        };
        let Phase::Established(established) = &sa.phase else {
            if header.exchange == Exchange::INFORMATIONAL && !header.is_encrypted() {
                let notify = Chain::decode(header.next, body)
                    .ok()
                    .and_then(|chain| chain.one(Kind::NOTIFY).and_then(|body| Notify::decode(body).ok()));
                self.env.counters.plain_notifies += 1;
                if let Some(notify) = notify.filter(|_| remote == sa.link.remote && sa.link.initiator) {
                    sa.link.hint = Some(notify.kind);
                    let kind = NoticeKind::PlainNotify { kind: notify.kind };
                    self.env.notice(remote, Some(sa.link.tunnel), kind);
                }
            } else {
                self.env.counters.unexpected += 1;
            }
            return;
        };
        if !header.is_encrypted() || header.message_id == 0 {
            self.env.counters.bad_encryption += 1;
            return;
        }
        let elsewhere = ((local, remote) != (sa.link.local, sa.link.remote)).then_some((local, remote));
        if elsewhere.is_some() && !established.nat.remote {
            self.env.counters.unexpected += 1;
            return;
        }
        let quick = header.exchange == Exchange::QUICK;
        let result = self.with(now, name, elsewhere, |context| {
            if quick {
                context.receive(header, body, fingerprint).map(|()| None)
            } else {
                informational::receive(context, header, body)
            }
        });
        let tunnel = self.sas.get(&name).map(|sa| sa.link.tunnel);
        match result {
            Some(Ok(Some(cookies))) => self.deleted(now, name, cookies),
            Some(Err(Refusal::Because(reason))) => {
                let exchange = if quick { ExchangeKind::QuickMode } else { ExchangeKind::Informational };
                self.env.problem(remote, tunnel, exchange, reason);
            }
            Some(Err(Refusal::Unexpected)) => self.env.counters.unexpected += 1,
            Some(Ok(None)) | None => {}
        }
    }

    /// Works on an established IKE SA and its peer.
    pub(super) fn with<R>(
        &mut self,
        now: Instant,
        name: u64,
        elsewhere: Option<(SocketAddrV4, SocketAddrV4)>,
        work: impl FnOnce(&mut Context<'_>) -> R,
    ) -> Option<R> {
        let IkeSa { link, phase } = self.sas.get_mut(&name)?;
        let Phase::Established(sa) = phase else { return None };
        let peer = self.peers.get_mut(&sa.peer)?;
        let id = peer.id;
        self.touched.extend([Owner::Sa(name), Owner::Peer(id)]);
        let before = elsewhere.is_some().then(|| (peer.key(), peer.remote));
        let mut context = Context { env: &mut self.env, now, link, sa, peer, elsewhere };
        let result = work(&mut context);
        if sa.seen.is_worn() && sa.rekey_at > now && sa.retire_at.is_none() && !sa.replacing {
            sa.rekey_at = now;
        }
        if let Some((key, remote)) = before
            && peer.remote != remote
        {
            self.follow(now, id, &key);
        }
        Some(result)
    }

    /// Sends the last answer again if its question came again.
    fn repeat_answer(&mut self, name: u64, received: &Received<'_>) -> bool {
        let Some(IkeSa { link, .. }) = self.sas.get_mut(&name) else { return false };
        let Some(answered) = link.answered.as_mut().filter(|answered| answered.is_to(received.fingerprint))
        else {
            return false;
        };
        if let Some(answer) = Answered::again(answered) {
            let answer = answer.to_vec();
            self.env.counters.repeated += 1;
            self.env.send(link.local, link.remote, answer);
        }
        true
    }

    /// Sends an unprotected notification: a hint for the far end's operator.
    fn hint(&mut self, to: &Header, local: SocketAddrV4, remote: SocketAddrV4, kind: u16) {
        let notify = Notify { protocol: 1, spi: Vec::new(), kind, data: Vec::new() };
        let mut chain = super::payload::ChainBuilder::new();
        chain.push(Kind::NOTIFY, notify.encode());
        let header = Header {
            next: Kind::NOTIFY,
            exchange: Exchange::INFORMATIONAL,
            flags: 0,
            message_id: self.env.rng.next_u32().max(1),
            ..*to
        };
        let message = header.encode(&chain.encode());
        self.env.send(local, remote, message);
    }

    fn hint_to(&mut self, link: &Link, kind: u16) {
        let header = Header {
            cookie_i: link.cookie_i,
            cookie_r: link.cookie_r,
            next: Kind::NONE,
            exchange: Exchange::MAIN,
            flags: 0,
            message_id: 0,
        };
        self.hint(&header, link.local, link.remote, kind);
    }

    /// Begins a main mode.
    pub(super) fn begin_main_mode(
        &mut self,
        now: Instant,
        tunnel: TunnelId,
        (local, remote): (SocketAddrV4, SocketAddrV4),
        purpose: Purpose,
    ) {
        let cookie_i = self.env.cookie();
        let mut link = Link {
            cookie_i,
            cookie_r: 0,
            initiator: true,
            tunnel,
            local,
            remote,
            origin: remote,
            started: now,
            request: None,
            answered: None,
            hint: None,
            purpose,
        };
        if let Some(phase) = main_mode::begin(&mut self.env, now, &mut link) {
            self.sas.insert(cookie_i, IkeSa { link, phase });
            self.beginning.insert(cookie_i);
            self.touched.insert(Owner::Sa(cookie_i));
        }
    }

    /// Somebody wants a path.
    fn connect(&mut self, now: Instant, tunnel: TunnelId, remote: Ipv4Addr) {
        let Some(local) = self.env.tunnels.get(&tunnel).and_then(|bound| bound.local) else {
            self.env.event(Event::Failed { tunnel, remote, reason: Reason::NotConfigured });
            return;
        };
        let there = |link: &Link| link.tunnel == tunnel && *link.remote.ip() == remote;
        let under_way =
            self.beginning.iter().find(|name| self.sas.get(name).is_some_and(|sa| there(&sa.link)));
        if let Some(sa) = under_way.and_then(|name| self.sas.get_mut(name)) {
            sa.link.purpose.child = true;
            if let Some(peer) = sa.link.purpose.peer.and_then(|id| self.peers.get_mut(&id)) {
                peer.wanted |= peer.sending().is_none();
            }
            return;
        }
        let peers: Vec<PeerId> = self.peers_at(tunnel, remote).collect();
        let known = |id: &&PeerId, what: fn(&Peer) -> bool| self.peers.get(id).is_some_and(what);
        if peers.iter().any(|id| known(&id, |peer| peer.sending().is_some())) {
            return;
        }
        let coming = peers.iter().find(|id| known(id, Peer::has_path)).copied();
        if let Some(id) = coming.or_else(|| peers.first().copied()) {
            if let Some(peer) = self.peer_mut(id) {
                peer.wanted = true;
            }
            // Where the peer's own quick mode is under way, that is waited for.
            if coming.is_none() {
                self.request_child(now, id);
            }
            return;
        }
        let addresses = (SocketAddrV4::new(local, PORT_IKE), SocketAddrV4::new(remote, PORT_IKE));
        let purpose = Purpose { child: true, peer: None, initial_contact: true };
        self.begin_main_mode(now, tunnel, addresses, purpose);
    }

    /// The peers of a tunnel at an address.
    pub(super) fn peers_at(&self, tunnel: TunnelId, address: Ipv4Addr) -> impl Iterator<Item = PeerId> {
        let from = PeerKey::first_at(tunnel, address);
        self.by_key.range(from..).take_while(move |(key, _)| key.is_at(tunnel, address)).map(|(_, id)| *id)
    }

    fn peer_mut(&mut self, id: PeerId) -> Option<&mut Peer> {
        self.touched.insert(Owner::Peer(id));
        self.peers.get_mut(&id)
    }

    /// Drops a main mode that somebody else began.
    pub(super) fn forget_half_open(&mut self, name: u64) {
        self.half_open.leave(name);
        self.touched.insert(Owner::Sa(name));
        if let Some(sa) = self.sas.remove(&name) {
            self.forget_beginning(&sa.link);
        }
    }

    pub(super) fn forget_beginning(&mut self, link: &Link) {
        if !link.initiator {
            self.begun.remove(&(link.origin, link.cookie_i));
        }
    }
}
