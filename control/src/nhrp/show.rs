//! What an operator is shown of a machine: plain data.

use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;
use serde::Serialize;

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
