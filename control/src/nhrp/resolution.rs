//! Resolution as the one who asks (RFC 2332 sections 5.2.1 and 5.2.2): from a destination to a binding, a path and a
//! shortcut, and how they are kept while they are used.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use dmvpn_tables::PeerId;
use ipnetwork::Ipv4Network;
use rand_core::Rng;

use super::cache::{Entry, Lease, Shortcut};
use super::machine::{Machine, Received, Timer};
use super::packet::{Body, Cie, Extension, ExtensionKind, Message, MessageKind, Packet, code, flags};
use super::{Event, Kind, ResolutionFailure, Route, Routes};
use crate::time::Instant;

/// Requests for one destination before it counts as not resolvable; 1, 2, 4 and 8 seconds apart.
const TRIES: u32 = 4;

/// How long a path may take to come up.
const PATH_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a destination is left alone after a failure; doubles with each.
const COOL_DOWN: Duration = Duration::from_secs(5);

/// The longest of these times where nobody knew the destination: it may come any moment.
const COOL_DOWN_UNKNOWN: Duration = Duration::from_secs(60);

/// The longest of these times where the direct path does not work.
const COOL_DOWN_NO_PATH: Duration = Duration::from_secs(300);

/// Failures are forgotten this long after their cool-down.
const FORGET: Duration = Duration::from_secs(300);

/// The widest shortcut: what claims to have more of the world answers for one host.
const WIDEST: u8 = 8;

/// What a reply with a certain request id answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    /// Who has this destination?
    Target(Ipv4Addr),
    /// Does the path that this overlay address is to be bound to lead to it?
    Proof(Ipv4Addr),
}

/// A resolution under way.
#[derive(Debug)]
pub(super) struct Resolution {
    id: u32,
    tries: u32,
    /// The peer that was asked last.
    asked: Option<PeerId>,
    /// The answer: a station that a path is being made to.
    next_hop: Option<Ipv4Addr>,
}

/// A destination that could not be resolved.
#[derive(Debug, Clone, Copy)]
pub(super) struct Failure {
    count: u32,
    pub(super) until: Instant,
}

impl Machine {
    /// A packet met a next hop that is not bound.
    pub(super) fn resolve_next_hop(&mut self, now: Instant, destination: Ipv4Addr, routes: &dyn Routes) {
        let Route::Overlay { next_hop, .. } = routes.lookup(destination) else { return };
        match self.entries.get(&next_hop) {
            Some(entry) if entry.bound.is_some() => {}
            // A station that we know by configuration needs a path only; a server has its own way to it.
            Some(Entry { kind: Kind::Static, nbma, .. }) => {
                let nbma = *nbma;
                if !self.cooling(now, next_hop) && !self.claim_path(now, next_hop) {
                    self.connect(nbma, next_hop);
                }
            }
            Some(Entry { kind: Kind::Nhs, .. }) => {}
            _ => self.resolve(now, next_hop, routes),
        }
    }

    /// A destination has a shorter way than its next hop.
    pub(super) fn resolve_destination(&mut self, now: Instant, destination: Ipv4Addr, routes: &dyn Routes) {
        let Route::Overlay { next_hop, .. } = routes.lookup(destination) else { return };
        // A server that is down does not get nearer by asking for it; the next one told us of this way.
        let known =
            self.entries.get(&next_hop).is_some_and(|entry| entry.bound.is_some() || entry.kind == Kind::Nhs);
        if !known {
            self.resolve_next_hop(now, destination, routes);
        } else if self.shortcut_for(destination).is_none() && next_hop != destination {
            self.resolve(now, destination, routes);
        }
    }

    fn resolve(&mut self, now: Instant, target: Ipv4Addr, routes: &dyn Routes) {
        if self.resolutions.contains_key(&target) || self.cooling(now, target) || self.nbma.is_none() {
            return;
        }
        if self.way_to(target, 0, routes).is_none() {
            return;
        }
        if self.resolutions.len() >= self.config.limits.resolutions {
            self.counters.limited += 1;
            return;
        }
        let id = self.question(Question::Target(target));
        self.resolutions.insert(target, Resolution { id, tries: 0, asked: None, next_hop: None });
        self.ask(now, target, routes);
    }

    /// A request id for a question; not to be guessed by who would answer unasked.
    pub(super) fn question(&mut self, question: Question) -> u32 {
        let id = std::iter::repeat_with(|| self.rng.next_u32())
            .find(|id| !self.outstanding.contains_key(id))
            .unwrap_or_default();
        self.outstanding.insert(id, question);
        id
    }

    fn ask(&mut self, now: Instant, target: Ipv4Addr, routes: &dyn Routes) {
        let Some(resolution) = self.resolutions.get(&target) else { return };
        let (id, tries) = (resolution.id, resolution.tries);
        let Some(own) = self.nbma else { return };
        let way = self.way_to(target, tries, routes);
        if let Some(to) = way {
            let packet = self.resolution_packet(own, id, target);
            self.send(to, packet);
        }
        let wait = self.jittered(Duration::from_secs(1 << tries.min(3)));
        self.timers.set(Timer::Resolution(target), now + wait);
        if let Some(resolution) = self.resolutions.get_mut(&target) {
            resolution.tries = tries.saturating_add(1);
            resolution.asked = way.or(resolution.asked);
        }
    }

    /// Whom to ask: the next hop server on the way, else any that is up, another at each try; with none up, the
    /// station itself if it is still reached directly (so shortcuts in use outlive the hub), or whoever the way
    /// leads to.
    fn way_to(&self, target: Ipv4Addr, tries: u32, routes: &dyn Routes) -> Option<PeerId> {
        let next_hop = match routes.lookup(target) {
            Route::Overlay { next_hop, .. } => self.peer_of(next_hop),
            _ => None,
        };
        if let Some(server) = next_hop.filter(|peer| self.is_server(*peer)) {
            return Some(server);
        }
        let up: Vec<_> = self.servers.iter().filter(|server| server.up).collect();
        let turn = usize::try_from(tries).unwrap_or(0).checked_rem(up.len());
        if let Some(server) = turn.and_then(|turn| up.get(turn)) {
            return self.peer_of(server.overlay);
        }
        let direct = self.shortcut_for(target).and_then(|shortcut| self.peer_of(shortcut.next_hop));
        direct.or(next_hop)
    }

    pub(super) fn resolution_packet(&self, own: Ipv4Addr, id: u32, target: Ipv4Addr) -> Packet {
        let client = Cie { prefix: 255, holding_time: self.config.nhrp.holding_time, ..Cie::default() };
        Packet {
            hop_count: u8::MAX,
            source_nbma: own,
            source: self.config.address.ip(),
            destination: target,
            body: Body::Message(Message {
                kind: MessageKind::ResolutionRequest,
                flags: flags::ROUTER | flags::AUTHORITATIVE | flags::SOURCE_STABLE | flags::NAT,
                id,
                entries: vec![client],
            }),
            extensions: vec![
                Extension::entries(ExtensionKind::Responder, Vec::new()),
                Extension::entries(ExtensionKind::ForwardTransit, Vec::new()),
                Extension::entries(ExtensionKind::ReverseTransit, Vec::new()),
                Extension::entries(ExtensionKind::Nat, self.own_nat_entry()),
            ],
            extended: true,
        }
    }

    /// What the NAT extension of our requests and answers holds: our public address, if we are behind a NAT.
    pub(super) fn own_nat_entry(&self) -> Vec<Cie> {
        let entry = |public| Cie {
            prefix: 32,
            nbma: Some(public),
            protocol: Some(self.config.address.ip()),
            ..Cie::default()
        };
        self.public_nbma().map(entry).into_iter().collect()
    }

    pub(super) fn resolution_reply(
        &mut self,
        now: Instant,
        received: Received<'_>,
        message: &Message,
        routes: &dyn Routes,
    ) {
        let destination = received.packet.destination;
        let target = match self.outstanding.get(&message.id).copied() {
            Some(Question::Target(target)) if target == destination => target,
            Some(Question::Proof(overlay)) if overlay == destination => {
                self.proof_answered(now, overlay, message);
                return;
            }
            _ => {
                self.counters.refused += 1;
                return;
            }
        };
        let asked = self.resolutions.get(&target).and_then(|resolution| resolution.asked);
        let Some(sender) = self.paths.get(received.from).map(|path| path.nbma) else { return };
        let Some(cie) = message.entries.iter().find(|cie| cie.code == code::SUCCESS) else {
            // A denial counts only from whom we asked.
            if asked == Some(received.from) {
                let code = message.entries.first().map_or(code::NO_BINDING, |cie| cie.code);
                self.resolution_failed(now, target, ResolutionFailure::Refused(code));
            }
            return;
        };
        let behind_nat = |protocol| {
            let nat = received.packet.extension(ExtensionKind::Nat)?;
            nat.cies().iter().find(|nat| nat.protocol == Some(protocol))?.nbma
        };
        let answer = (|| {
            let next_hop = cie.protocol.filter(|next_hop| self.is_station(*next_hop))?;
            let claimed = cie.nbma?;
            let nbma = behind_nat(next_hop).unwrap_or(claimed);
            if asked == Some(received.from) {
                // Asked for its own address, a station answers from where it is.
                let itself = self.peer_of(next_hop) == Some(received.from) && !self.is_server(received.from);
                return Some((next_hop, claimed, if itself { sender } else { nbma }));
            }
            // The station may answer directly (Cisco does), but then for itself only.
            let itself = nbma == sender || claimed == sender;
            (itself && !self.is_server(received.from)).then_some((next_hop, claimed, sender))
        })();
        let length = cie.prefix_length();
        let (Some((next_hop, claimed, nbma)), Some(length), 1..) = (answer, length, cie.holding_time) else {
            self.counters.refused += 1;
            if asked == Some(received.from) {
                self.resolution_failed(now, target, ResolutionFailure::Unusable);
            }
            return;
        };
        if Some(nbma) == self.nbma || !is_underlay(nbma) {
            self.resolution_failed(now, target, ResolutionFailure::Unusable);
            return;
        }
        if Some(nbma) == self.public_nbma() {
            self.resolution_failed(now, target, ResolutionFailure::SharedAddress);
            return;
        }
        let length = if message.flags & flags::UNIQUE != 0 { 32 } else { length };
        let lease = Lease::new(now, cie.holding_time);
        if !self.learn(now, next_hop, nbma, claimed, lease) {
            self.resolution_failed(now, target, ResolutionFailure::Unusable);
            return;
        }
        self.take_shortcut(target, next_hop, length, lease, routes);
        self.make_path(now, target, next_hop);
    }

    /// Notes a binding that somebody told us, or renews it. What is configured or registered is stronger.
    pub(super) fn learn(
        &mut self,
        now: Instant,
        overlay: Ipv4Addr,
        nbma: Ipv4Addr,
        claimed: Ipv4Addr,
        lease: Lease,
    ) -> bool {
        if !self.entries.contains_key(&overlay) {
            if self.learned() >= self.config.limits.entries {
                self.event(Event::LimitReached);
                return false;
            }
            let entry = Entry { unique: false, ..Entry::configured(Kind::Cached, nbma) };
            self.entries.insert(overlay, entry);
        }
        let Some(entry) = self.entries.get_mut(&overlay) else { return false };
        if entry.kind != Kind::Cached {
            return true;
        }
        let moved = entry.nbma != nbma;
        let old = std::mem::replace(&mut entry.nbma, nbma);
        entry.claimed = claimed;
        entry.lease = Some(lease);
        self.timers.set(Timer::Entry(overlay), lease.stale());
        if moved {
            self.waiting.remove(&(old, overlay));
        }
        // A path that is there is taken; one at the old address serves until then.
        if moved || entry.bound.is_none() {
            self.claim_path(now, overlay);
        }
        true
    }

    fn take_shortcut(
        &mut self,
        target: Ipv4Addr,
        next_hop: Ipv4Addr,
        length: u8,
        lease: Lease,
        routes: &dyn Routes,
    ) {
        let Route::Overlay { next_hop: routed, prefix: own } = routes.lookup(target) else { return };
        if !self.config.nhrp.shortcut || routed == next_hop || target == next_hop {
            return;
        }
        // Never wider than our own route to it, or what the answer is for would take other traffic along.
        let wanted = length.max(own.prefix());
        let network = self.config.address;
        let fits = |prefix: &Ipv4Network| {
            prefix.prefix() >= WIDEST
                && !prefix.contains(network.ip())
                && !network.contains(prefix.ip())
                && self.entries.get(&next_hop).is_some_and(|entry| !prefix.contains(entry.nbma))
        };
        let prefix = [wanted, 32]
            .into_iter()
            .filter_map(|length| Ipv4Network::new(target, length).ok())
            .filter_map(|network| Ipv4Network::new(network.network(), network.prefix()).ok())
            .find(|prefix| fits(prefix) || (prefix.prefix() == 32 && !prefix.contains(network.ip())));
        if let Some(prefix) = prefix {
            self.add_shortcut(prefix, Shortcut { next_hop, target, lease });
        }
    }

    /// The answer is there; now the path.
    fn make_path(&mut self, now: Instant, target: Ipv4Addr, next_hop: Ipv4Addr) {
        let Some(entry) = self.entries.get(&next_hop) else { return };
        let nbma = entry.nbma;
        let proving = self.proofs.contains_key(&next_hop);
        if entry.bound.is_some() && !proving && !self.waiting.contains(&(nbma, next_hop)) {
            self.resolution_done(target);
            return;
        }
        if !proving && self.paths.at(nbma).next().is_some() {
            // All that is there is somebody else's.
            self.path_failed(now, next_hop, ResolutionFailure::SharedAddress);
            self.resolution_failed(now, target, ResolutionFailure::SharedAddress);
            return;
        }
        if let Some(resolution) = self.resolutions.get_mut(&target) {
            resolution.next_hop = Some(next_hop);
        }
        self.timers.set(Timer::Resolution(target), now + PATH_TIMEOUT);
        if !proving {
            self.connect(nbma, next_hop);
        }
    }

    /// `overlay` is bound: what waited for its path is done.
    pub(super) fn path_made(&mut self, overlay: Ipv4Addr) {
        let done: Vec<_> = self.resolving(overlay);
        for target in done {
            self.resolution_done(target);
        }
    }

    /// The path to `overlay` cannot be had: what was learned of it is forgotten, what is configured stays.
    pub(super) fn path_failed(&mut self, now: Instant, overlay: Ipv4Addr, why: ResolutionFailure) {
        let mut targets: BTreeSet<_> = self.resolving(overlay).into_iter().collect();
        if let Some(entry) = self.entries.get(&overlay) {
            targets
                .extend(entry.shortcuts.iter().filter_map(|prefix| Some(self.shortcuts.get(prefix)?.target)));
        }
        targets.insert(overlay);
        match self.entries.get(&overlay) {
            Some(entry) if entry.kind != Kind::Cached => {
                for prefix in entry.shortcuts.clone() {
                    self.forget_shortcut(prefix);
                }
            }
            _ => self.forget(overlay),
        }
        for target in targets {
            self.resolution_failed(now, target, why);
        }
    }

    pub(super) fn connect_failed(&mut self, now: Instant, nbma: Ipv4Addr) {
        self.connecting.remove(&nbma);
        self.servers_unreachable(now, nbma);
        for overlay in self.waiting_at(nbma) {
            let Some(entry) = self.entries.get_mut(&overlay) else { continue };
            match (entry.kind, entry.bound) {
                (Kind::Nhs, _) => {}
                (Kind::Cached, None) => self.path_failed(now, overlay, ResolutionFailure::NoPath),
                // It moved, and cannot be reached there; where it was it still is.
                (_, Some((peer, _))) => {
                    self.waiting.remove(&(nbma, overlay));
                    if let Some(path) = self.paths.get(peer) {
                        entry.nbma = path.nbma;
                    }
                    for target in self.resolving(overlay) {
                        self.resolution_failed(now, target, ResolutionFailure::NoPath);
                    }
                }
                // It waits on: the other side may make the path.
                (Kind::Static | Kind::Dynamic, None) => {
                    self.resolution_failed(now, overlay, ResolutionFailure::NoPath);
                }
            }
        }
    }

    pub(super) fn resolution_due(&mut self, now: Instant, target: Ipv4Addr, routes: &dyn Routes) {
        let Some(resolution) = self.resolutions.get(&target) else { return };
        match resolution.next_hop {
            Some(next_hop) if self.peer_of(next_hop).is_none() => {
                if let Some(entry) = self.entries.get(&next_hop) {
                    self.connecting.remove(&entry.nbma);
                }
                self.path_failed(now, next_hop, ResolutionFailure::NoPath);
            }
            Some(_) => self.resolution_failed(now, target, ResolutionFailure::NoPath),
            None if resolution.tries >= TRIES => {
                self.resolution_failed(now, target, ResolutionFailure::Timeout);
            }
            None => self.ask(now, target, routes),
        }
    }

    pub(super) fn resolution_failed(&mut self, now: Instant, target: Ipv4Addr, why: ResolutionFailure) {
        self.resolution_done(target);
        let longest = match why {
            ResolutionFailure::NoPath | ResolutionFailure::SharedAddress => COOL_DOWN_NO_PATH,
            _ => COOL_DOWN_UNKNOWN,
        };
        let count = self.failures.get(&target).map_or(0, |failure| failure.count);
        let wait = (COOL_DOWN * (1 << count.min(6))).min(longest);
        if self.failures.len() >= self.config.limits.resolutions && !self.failures.contains_key(&target) {
            // Any will do: the number is what counts.
            if let Some((forgotten, _)) = self.failures.pop_first() {
                self.timers.cancel(Timer::Failure(forgotten));
            }
        }
        let until = now + wait;
        self.failures.insert(target, Failure { count: count.saturating_add(1), until });
        self.timers.set(Timer::Failure(target), until + FORGET);
        self.event(Event::ResolutionFailed { target, why });
    }

    fn resolution_done(&mut self, target: Ipv4Addr) {
        self.timers.cancel(Timer::Resolution(target));
        if let Some(resolution) = self.resolutions.remove(&target) {
            self.outstanding.remove(&resolution.id);
        }
    }

    pub(super) fn resolving(&self, next_hop: Ipv4Addr) -> Vec<Ipv4Addr> {
        let waits = |resolution: &Resolution| resolution.next_hop == Some(next_hop);
        self.resolutions
            .iter()
            .filter(|(_, resolution)| waits(resolution))
            .map(|(target, _)| *target)
            .collect()
    }

    fn cooling(&self, now: Instant, target: Ipv4Addr) -> bool {
        self.failures.get(&target).is_some_and(|failure| failure.until > now)
    }

    /// The narrowest shortcut that `destination` would take, in force or not.
    fn shortcut_for(&self, destination: Ipv4Addr) -> Option<&Shortcut> {
        (WIDEST..=32).rev().find_map(|length| {
            let prefix = Ipv4Network::new(destination, length).ok()?;
            self.shortcuts.get(&Ipv4Network::new(prefix.network(), length).ok()?)
        })
    }

    /// Traffic passed between us and `peer`.
    pub(super) fn used(&mut self, now: Instant, peer: PeerId, packets: u64, routes: &dyn Routes) {
        let Some(path) = self.paths.get_mut(peer) else { return };
        if packets <= std::mem::take(&mut path.messages) {
            return;
        }
        path.used = Some(now);
        for overlay in path.bound.clone() {
            let Some(entry) = self.entries.get(&overlay) else { continue };
            let shortcuts: Vec<_> = entry.shortcuts.iter().copied().collect();
            let stale = entry.kind == Kind::Cached && entry.lease.is_some_and(|lease| lease.stale() <= now);
            for prefix in &shortcuts {
                if let Some(shortcut) = self.shortcuts.get(prefix).filter(|s| s.lease.stale() <= now) {
                    let target = shortcut.target;
                    self.resolve(now, target, routes);
                }
            }
            if stale && shortcuts.is_empty() {
                self.resolve(now, overlay, routes);
            }
        }
    }

    pub(super) fn entry_due(&mut self, now: Instant, overlay: Ipv4Addr, routes: &dyn Routes) {
        let Some(entry) = self.entries.get(&overlay) else { return };
        let Some(lease) = entry.lease else { return };
        if lease.expires() <= now {
            self.forget(overlay);
            return;
        }
        self.timers.set(Timer::Entry(overlay), lease.expires());
        let in_use = entry.peer().is_some_and(|peer| self.used_since(peer, lease.settled()));
        // Renewing a shortcut renews its next hop.
        if entry.kind == Kind::Cached && entry.shortcuts.is_empty() && in_use {
            self.resolve(now, overlay, routes);
        }
    }

    pub(super) fn shortcut_due(&mut self, now: Instant, prefix: Ipv4Network, routes: &dyn Routes) {
        let Some(shortcut) = self.shortcuts.get(&prefix) else { return };
        let (lease, target) = (shortcut.lease, shortcut.target);
        if lease.expires() <= now {
            self.forget_shortcut(prefix);
            return;
        }
        self.timers.set(Timer::Shortcut(prefix), lease.expires());
        let peer = self.peer_of(shortcut.next_hop);
        if peer.is_some_and(|peer| self.used_since(peer, lease.settled())) {
            self.resolve(now, target, routes);
        }
    }

    fn used_since(&self, peer: PeerId, since: Instant) -> bool {
        self.paths.get(peer).and_then(|path| path.used).is_some_and(|used| used >= since)
    }
}

/// Whether an address can be a station's on the underlay.
pub(super) fn is_underlay(nbma: Ipv4Addr) -> bool {
    !(nbma.is_unspecified() || nbma.is_multicast() || nbma.is_broadcast() || nbma.is_loopback())
}
