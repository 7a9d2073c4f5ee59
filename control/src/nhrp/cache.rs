//! The cache: overlay addresses, where they are, and the shortcuts that lead to them.
//!
//! An entry is *bound* while a path carries it, and *waiting* while it has an address and wants a path there.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use dmvpn_config::Multicast;
use dmvpn_tables::PeerId;
use ipnetwork::Ipv4Network;

use super::machine::{Machine, Timer};
use super::{Event, Kind, Output, ResolutionFailure};
use crate::time::Instant;

/// A path that went down within this time after it was taken into use does count as a failure to make it.
const SETTLED: Duration = Duration::from_secs(60);

/// What is known of an overlay address.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    /// Where it is reached.
    pub(super) nbma: Ipv4Addr,
    /// Where it says it is: behind a NAT, another address.
    pub(super) claimed: Ipv4Addr,
    /// The path it is bound to, and since when.
    pub(super) bound: Option<(PeerId, Instant)>,
    pub(super) unique: bool,
    /// Until when it holds; what is configured has none.
    pub(super) lease: Option<Lease>,
    /// Shortcuts by way of it.
    pub(super) shortcuts: BTreeSet<Ipv4Network>,
}

/// A holding time that began.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lease {
    pub(super) renewed: Instant,
    pub(super) holding: Duration,
}

/// A shortcut route; in force while its next hop is bound.
#[derive(Debug)]
pub(super) struct Shortcut {
    pub(super) next_hop: Ipv4Addr,
    /// The destination that was asked for, to be asked for again.
    pub(super) target: Ipv4Addr,
    pub(super) lease: Lease,
}

impl Entry {
    pub(super) fn configured(kind: Kind, nbma: Ipv4Addr) -> Self {
        Self { kind, nbma, claimed: nbma, bound: None, unique: true, lease: None, shortcuts: BTreeSet::new() }
    }

    pub(super) fn peer(&self) -> Option<PeerId> {
        self.bound.map(|(peer, _)| peer)
    }
}

impl Lease {
    pub(super) fn new(now: Instant, seconds: u16) -> Self {
        Self { renewed: now, holding: Duration::from_secs(seconds.into()) }
    }

    pub(super) fn expires(self) -> Instant {
        self.renewed + self.holding
    }

    /// From when on traffic counts as a reason to ask again: a burst at the beginning alone is none.
    pub(super) fn settled(self) -> Instant {
        self.renewed + self.holding / 3
    }

    /// When to ask again if it is in use.
    pub(super) fn stale(self) -> Instant {
        self.renewed + self.holding * 2 / 3
    }
}

impl Machine {
    pub(super) fn peer_of(&self, overlay: Ipv4Addr) -> Option<PeerId> {
        self.entries.get(&overlay)?.peer()
    }

    /// Whether `peer` is one of our next hop servers.
    pub(super) fn is_server(&self, peer: PeerId) -> bool {
        self.paths.get(peer).is_some_and(|path| {
            path.bound
                .iter()
                .any(|overlay| self.entries.get(overlay).is_some_and(|entry| entry.kind == Kind::Nhs))
        })
    }

    pub(super) fn peer_up(&mut self, now: Instant, peer: PeerId, nbma: Ipv4Addr, natted: bool) {
        self.connecting.remove(&nbma);
        self.paths.insert(peer, nbma, natted, self.config.limits.unsolicited_per_second, now);
        let bound: Vec<_> = self.paths.get(peer).into_iter().flat_map(|path| &path.bound).copied().collect();
        for overlay in bound {
            if let Some(entry) = self.entries.get_mut(&overlay) {
                entry.nbma = nbma;
            }
        }
        for overlay in self.waiting_at(nbma) {
            self.claim_path(now, overlay);
        }
    }

    pub(super) fn peer_down(&mut self, now: Instant, peer: PeerId) {
        let proving = self.proving_at(peer);
        let Some(path) = self.paths.remove(peer) else { return };
        for overlay in proving {
            self.disprove(now, overlay, ResolutionFailure::NoPath);
        }
        self.redirects.retain(|(to, _), _| *to != peer);
        for overlay in path.bound {
            let Some(entry) = self.entries.get_mut(&overlay) else { continue };
            let short_lived = entry.bound.is_some_and(|(_, since)| now.since(since) < SETTLED);
            let kind = entry.kind;
            self.lose_path(overlay);
            match kind {
                Kind::Static => {
                    self.claim_path(now, overlay);
                }
                Kind::Nhs => self.server_lost(now, overlay),
                Kind::Dynamic => self.forget(overlay),
                // Both ends may have made a path; the other one serves as well.
                Kind::Cached => {
                    if !self.claim_path(now, overlay) {
                        if short_lived {
                            self.path_failed(now, overlay, ResolutionFailure::NoPath);
                        } else {
                            self.forget(overlay);
                        }
                    }
                }
            }
        }
        if self.multicast.remove(&peer) {
            self.outputs.push_back(Output::Multicast { peer, member: false });
        }
    }

    /// Takes a path at the address of `overlay` for it, if there is a free one: what is configured is bound to it, what was
    /// learned is tried first. If there is none it waits for one.
    pub(super) fn claim_path(&mut self, now: Instant, overlay: Ipv4Addr) -> bool {
        let Some(entry) = self.entries.get(&overlay) else { return false };
        let (kind, nbma) = (entry.kind, entry.nbma);
        // Only the owner of a path can be told by its address alone: where two share a NAT's address, what is
        // bound already is somebody else's.
        let free = self.paths.at(nbma).find(|peer| {
            kind == Kind::Nhs
                || self.paths.get(*peer).is_some_and(|path| path.bound.iter().all(|other| *other == overlay))
        });
        match free {
            Some(peer) if kind == Kind::Cached => {
                self.waiting.remove(&(nbma, overlay));
                if self.peer_of(overlay) != Some(peer) {
                    self.prove(now, overlay, peer);
                }
            }
            Some(peer) => self.bind(now, overlay, peer),
            None => {
                self.waiting.insert((nbma, overlay));
            }
        }
        free.is_some()
    }

    /// Binds `overlay`, an entry, to `peer`, and brings its shortcuts into force.
    pub(super) fn bind(&mut self, now: Instant, overlay: Ipv4Addr, peer: PeerId) {
        let Some(path) = self.paths.get_mut(peer) else { return };
        let Some(entry) = self.entries.get_mut(&overlay) else { return };
        self.waiting.remove(&(entry.nbma, overlay));
        let before = entry.peer();
        if before == Some(peer) {
            return;
        }
        let kind = entry.kind;
        let nbma = path.nbma;
        path.bound.insert(overlay);
        entry.nbma = nbma;
        entry.bound = Some((peer, now));
        self.outputs.push_back(Output::Bind { overlay, peer, kind });
        let shortcuts: Vec<_> = entry.shortcuts.iter().copied().collect();
        for prefix in shortcuts {
            self.outputs.push_back(Output::AddRoute { prefix, next_hop: overlay, peer });
            if before.is_none() {
                self.event(Event::ShortcutUp { prefix, next_hop: overlay, nbma });
            }
        }
        if let Some(before) = before {
            self.detach(before, overlay);
        }
        self.update_multicast(peer);
        self.path_made(overlay);
        if kind == Kind::Nhs {
            self.server_reached(now, overlay);
        }
    }

    /// Takes back what was said of `overlay`, whose path is gone or to be left.
    fn lose_path(&mut self, overlay: Ipv4Addr) {
        let Some(entry) = self.entries.get_mut(&overlay) else { return };
        let Some((peer, _)) = entry.bound.take() else { return };
        let shortcuts: Vec<_> = entry.shortcuts.iter().copied().collect();
        for prefix in shortcuts {
            self.outputs.push_back(Output::RemoveRoute { prefix });
            self.event(Event::ShortcutDown { prefix });
        }
        self.outputs.push_back(Output::Unbind { overlay });
        self.detach(peer, overlay);
    }

    /// `overlay` does not need `peer` any more.
    fn detach(&mut self, peer: PeerId, overlay: Ipv4Addr) {
        let Some(path) = self.paths.get_mut(peer) else { return };
        path.bound.remove(&overlay);
        if path.bound.is_empty() {
            self.outputs.push_back(Output::Release { peer });
        }
        self.update_multicast(peer);
    }

    /// Removes an entry, its shortcuts and what was said of them.
    pub(super) fn forget(&mut self, overlay: Ipv4Addr) {
        self.lose_path(overlay);
        self.drop_proof(overlay);
        let Some(entry) = self.entries.remove(&overlay) else { return };
        self.waiting.remove(&(entry.nbma, overlay));
        self.timers.cancel(Timer::Entry(overlay));
        for prefix in entry.shortcuts {
            self.shortcuts.remove(&prefix);
            self.timers.cancel(Timer::Shortcut(prefix));
        }
        if entry.kind == Kind::Dynamic {
            self.event(Event::Unregistered { overlay });
        }
    }

    pub(super) fn forget_shortcut(&mut self, prefix: Ipv4Network) {
        let Some(shortcut) = self.shortcuts.remove(&prefix) else { return };
        self.timers.cancel(Timer::Shortcut(prefix));
        let Some(entry) = self.entries.get_mut(&shortcut.next_hop) else { return };
        entry.shortcuts.remove(&prefix);
        if entry.bound.is_some() {
            self.outputs.push_back(Output::RemoveRoute { prefix });
            self.event(Event::ShortcutDown { prefix });
        }
    }

    /// Adds a shortcut by way of an entry, or renews it; in force at once if the entry is bound.
    pub(super) fn add_shortcut(&mut self, prefix: Ipv4Network, shortcut: Shortcut) {
        let next_hop = shortcut.next_hop;
        match self.shortcuts.get(&prefix) {
            Some(old) if old.next_hop != next_hop => {
                // The route is replaced, not removed: no packet of it goes astray.
                if let Some(entry) = self.entries.get_mut(&old.next_hop) {
                    entry.shortcuts.remove(&prefix);
                }
            }
            None if self.shortcuts.len() >= self.config.limits.shortcuts => {
                self.event(Event::LimitReached);
                return;
            }
            _ => {}
        }
        let Some(entry) = self.entries.get_mut(&next_hop) else { return };
        let fresh = entry.shortcuts.insert(prefix);
        self.timers.set(Timer::Shortcut(prefix), shortcut.lease.stale());
        self.shortcuts.insert(prefix, shortcut);
        if let (true, Some(peer)) = (fresh, entry.peer()) {
            let nbma = entry.nbma;
            self.outputs.push_back(Output::AddRoute { prefix, next_hop, peer });
            self.event(Event::ShortcutUp { prefix, next_hop, nbma });
        }
    }

    /// An overlay address may be learned: it is a station of the tunnel's network and not ourselves.
    pub(super) fn is_station(&self, overlay: Ipv4Addr) -> bool {
        let network = self.config.address;
        if overlay == network.ip()
            || overlay.is_multicast()
            || overlay.is_broadcast()
            || overlay.is_unspecified()
        {
            return false;
        }
        match network.prefix() {
            32 => true,
            31 => network.contains(overlay),
            _ => network.contains(overlay) && overlay != network.network() && overlay != network.broadcast(),
        }
    }

    /// Entries that came from peers: what [`Limits::entries`](super::Limits::entries) bounds.
    pub(super) fn learned(&self) -> usize {
        self.entries.len().saturating_sub(self.config.nhrp.maps.len())
    }

    pub(super) fn waiting_at(&self, nbma: Ipv4Addr) -> Vec<Ipv4Addr> {
        let all = (nbma, Ipv4Addr::UNSPECIFIED)..=(nbma, Ipv4Addr::BROADCAST);
        self.waiting.range(all).map(|(_, overlay)| *overlay).collect()
    }

    /// Asks for a path, once until the answer.
    pub(super) fn connect(&mut self, nbma: Ipv4Addr, overlay: Ipv4Addr) {
        if self.connecting.insert(nbma) {
            self.outputs.push_back(Output::Connect { nbma, overlay });
        }
    }

    fn update_multicast(&mut self, peer: PeerId) {
        let kind = match self.config.nhrp.multicast {
            Multicast::None => return,
            Multicast::Dynamic => Kind::Dynamic,
            Multicast::Nhs => Kind::Nhs,
        };
        let member = self.paths.get(peer).is_some_and(|path| {
            path.bound.iter().any(|overlay| self.entries.get(overlay).is_some_and(|entry| entry.kind == kind))
        });
        let changed = if member { self.multicast.insert(peer) } else { self.multicast.remove(&peer) };
        if changed {
            self.outputs.push_back(Output::Multicast { peer, member });
        }
    }
}
