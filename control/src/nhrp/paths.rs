//! Paths: the peers we can send to, where they are, and what hangs on them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use dmvpn_tables::PeerId;

use crate::time::Instant;

/// A working path to a peer.
#[derive(Debug)]
pub(super) struct Path {
    /// Where the peer is, as we see it.
    pub(super) nbma: Ipv4Addr,
    /// A NAT is between us.
    pub(super) natted: bool,
    /// Overlay addresses bound to it.
    pub(super) bound: BTreeSet<Ipv4Addr>,
    /// NHRP packets either way since the engine last told of traffic: what is left of its number is user traffic.
    pub(super) messages: u64,
    /// When user traffic was last told of.
    pub(super) used: Option<Instant>,
    /// What it may still make us send unasked, in packets, as of the time beside.
    budget: (u32, Instant),
}

/// All paths, by peer and by address.
#[derive(Debug, Default)]
pub(super) struct Paths {
    by_peer: BTreeMap<PeerId, Path>,
    by_nbma: BTreeSet<(Ipv4Addr, PeerId)>,
}

impl Paths {
    pub(super) fn get(&self, peer: PeerId) -> Option<&Path> {
        self.by_peer.get(&peer)
    }

    pub(super) fn get_mut(&mut self, peer: PeerId) -> Option<&mut Path> {
        self.by_peer.get_mut(&peer)
    }

    /// Adds a path, or moves it to another address.
    pub(super) fn insert(&mut self, peer: PeerId, nbma: Ipv4Addr, natted: bool, budget: u32, now: Instant) {
        if let Some(path) = self.by_peer.get_mut(&peer) {
            self.by_nbma.remove(&(path.nbma, peer));
            path.nbma = nbma;
            path.natted = natted;
        } else {
            let path =
                Path { nbma, natted, bound: BTreeSet::new(), messages: 0, used: None, budget: (budget, now) };
            self.by_peer.insert(peer, path);
        }
        self.by_nbma.insert((nbma, peer));
    }

    pub(super) fn remove(&mut self, peer: PeerId) -> Option<Path> {
        let path = self.by_peer.remove(&peer)?;
        self.by_nbma.remove(&(path.nbma, peer));
        Some(path)
    }

    /// The peers seen at an address: several where they share a NAT.
    pub(super) fn at(&self, nbma: Ipv4Addr) -> impl Iterator<Item = PeerId> {
        self.by_nbma.range((nbma, PeerId(0))..=(nbma, PeerId(u32::MAX))).map(|(_, peer)| *peer)
    }
}

impl Path {
    /// Whether one more packet may go to this peer unasked; at most `per_second` may.
    pub(super) fn spend(&mut self, per_second: u32, now: Instant) -> bool {
        let (tokens, since) = self.budget;
        let seconds = u32::try_from(now.since(since).as_secs()).unwrap_or(u32::MAX);
        let (tokens, since) = match seconds {
            0 => (tokens, since),
            _ => (tokens.saturating_add(per_second.saturating_mul(seconds)).min(per_second), now),
        };
        self.budget = (tokens.saturating_sub(1), since);
        tokens > 0
    }
}
