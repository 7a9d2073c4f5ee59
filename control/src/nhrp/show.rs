//! What an operator is shown of a machine: plain data.

use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;
use serde::Serialize;

use super::client::Server;
use super::{Kind, Machine};
use crate::time::Instant;

/// One line of the cache: an overlay address and what is known of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CacheEntry {
    /// The overlay address.
    pub overlay: Ipv4Addr,
    /// What sort of entry it is.
    pub kind: EntryKind,
    /// Its underlay address, as it is reached.
    pub nbma: Option<Ipv4Addr>,
    /// Its underlay address as it says itself, where a NAT shows us another.
    pub claimed: Option<Ipv4Addr>,
    /// Bound to a working path.
    pub up: bool,
    /// Nobody else may have the address.
    pub unique: bool,
    /// Traffic passed since the entry was last renewed.
    pub used: bool,
    /// Seconds until it runs out; `None`: never.
    pub expires_in: Option<u64>,
}

/// The sort of a [`CacheEntry`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EntryKind {
    /// Our own address.
    Local,
    /// Configured.
    Static,
    /// Configured, a next hop server.
    Nhs,
    /// Registered with us.
    Dynamic,
    /// Learned by resolution.
    Cached,
    /// A resolution is under way.
    Incomplete,
    /// A resolution failed; not tried again until the entry runs out.
    Negative,
}

/// A next hop server that we register with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NextHopServer {
    /// Its overlay address.
    pub overlay: Ipv4Addr,
    /// Its underlay address.
    pub nbma: Ipv4Addr,
    /// How far we are.
    pub state: NhsState,
    /// Requests sent since the last reply.
    pub unanswered: u32,
    /// Our own address as it sees us, where a NAT is between.
    pub public: Option<Ipv4Addr>,
    /// Seconds until the registration runs out at the server, if it is not renewed.
    pub expires_in: Option<u64>,
}

/// State of a [`NextHopServer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NhsState {
    /// We have no underlay address ourselves.
    Idle,
    /// No path to it yet.
    Connecting,
    /// There is a path; the registration is not accepted yet.
    Registering,
    /// Registered.
    Up,
}

/// A shortcut route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shortcut {
    /// The destinations.
    pub prefix: Ipv4Network,
    /// The overlay address they are sent to.
    pub next_hop: Ipv4Addr,
    /// Its underlay address.
    pub nbma: Option<Ipv4Addr>,
    /// In use; if not, the path is being made and traffic goes by the hub.
    pub up: bool,
    /// Seconds until it runs out.
    pub expires_in: u64,
}

/// What a machine counted since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Packets received, by type: the index is the type of RFC 2332 section 5.2 (1 to 7; 8 is Cisco's
    /// traffic indication).
    pub received: [u64; 9],
    /// Packets sent, by type.
    pub sent: [u64; 9],
    /// Received and not an NHRP packet by RFC 2332.
    pub malformed: u64,
    /// Received without authentication, or with another.
    pub unauthenticated: u64,
    /// Received and against the rules: a foreign address, an unasked answer, a loop.
    pub refused: u64,
    /// Not sent, since a rate or a bound of [`Limits`](super::Limits) forbids.
    pub limited: u64,
}

impl Machine {
    /// The cache, in the order of overlay addresses.
    pub fn entries(&self, now: Instant) -> Vec<CacheEntry> {
        let empty = |overlay, kind| CacheEntry {
            overlay,
            kind,
            nbma: None,
            claimed: None,
            up: false,
            unique: false,
            used: false,
            expires_in: None,
        };
        let local = CacheEntry {
            nbma: self.public_nbma().or(self.nbma),
            claimed: self.public_nbma().and(self.nbma),
            up: self.nbma.is_some(),
            unique: true,
            ..empty(self.config.address.ip(), EntryKind::Local)
        };
        let known = self.entries.iter().map(|(overlay, entry)| {
            let used = entry.peer().and_then(|peer| self.paths.get(peer)).and_then(|path| path.used);
            CacheEntry {
                overlay: *overlay,
                kind: match entry.kind {
                    Kind::Static => EntryKind::Static,
                    Kind::Nhs => EntryKind::Nhs,
                    Kind::Dynamic => EntryKind::Dynamic,
                    Kind::Cached => EntryKind::Cached,
                },
                nbma: Some(entry.nbma),
                claimed: Some(entry.claimed).filter(|claimed| *claimed != entry.nbma),
                up: entry.bound.is_some(),
                unique: entry.unique,
                used: used.is_some_and(|used| entry.lease.is_none_or(|lease| used > lease.renewed)),
                expires_in: entry.lease.map(|lease| lease.expires().since(now).as_secs()),
            }
        });
        let unknown = |target: &Ipv4Addr| !self.entries.contains_key(target);
        let incomplete = self
            .resolutions
            .keys()
            .filter(|target| unknown(target))
            .map(|target| empty(*target, EntryKind::Incomplete));
        let negative = self
            .failures
            .iter()
            .filter(|(target, failure)| {
                failure.until > now && unknown(target) && !self.resolutions.contains_key(target)
            })
            .map(|(target, failure)| CacheEntry {
                expires_in: Some(failure.until.since(now).as_secs()),
                ..empty(*target, EntryKind::Negative)
            });
        let mut all: Vec<_> = std::iter::once(local).chain(known).chain(incomplete).chain(negative).collect();
        all.sort_by_key(|entry| entry.overlay);
        all
    }

    /// The next hop servers, in the order of the configuration.
    pub fn next_hop_servers(&self, now: Instant) -> Vec<NextHopServer> {
        let state = |server: &Server| match (self.nbma, server.up, self.peer_of(server.overlay)) {
            (None, ..) => NhsState::Idle,
            (_, true, _) => NhsState::Up,
            (_, false, Some(_)) => NhsState::Registering,
            (_, false, None) => NhsState::Connecting,
        };
        self.servers
            .iter()
            .map(|server| NextHopServer {
                overlay: server.overlay,
                nbma: server.nbma,
                state: state(server),
                unanswered: server.unanswered,
                public: server.public,
                expires_in: server.registered_until.map(|until| until.since(now).as_secs()),
            })
            .collect()
    }

    /// The shortcuts, in the order of prefixes.
    pub fn shortcuts(&self, now: Instant) -> Vec<Shortcut> {
        self.shortcuts
            .iter()
            .map(|(prefix, shortcut)| {
                let entry = self.entries.get(&shortcut.next_hop);
                Shortcut {
                    prefix: *prefix,
                    next_hop: shortcut.next_hop,
                    nbma: entry.map(|entry| entry.nbma),
                    up: entry.is_some_and(|entry| entry.bound.is_some()),
                    expires_in: shortcut.lease.expires().since(now).as_secs(),
                }
            })
            .collect()
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        self.counters
    }
}
