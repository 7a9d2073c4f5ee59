//! NHRP (RFC 2332) with Cisco's extensions: who is reachable where, and the shorter way to him.
//!
//! One [`Machine`] serves one tunnel, as a next hop server (hub), as its client (spoke), or as both. It is
//! pure: inputs ([`Input`]) and time go in, [`Output`]s and one deadline come out. It knows nothing of
//! sockets, IPsec or forwarding tables; whoever owns it (the engine) gives it *paths*: a path is a
//! [`PeerId`] together with the underlay (NBMA) address that the peer was seen at.
//!
//! ```text
//!   packet in ──► packet::decode ──► authentication ──► for us? ──┬─► registration server (server)
//!                                                                 ├─► registration client (client)
//!                                                                 ├─► resolution: answer, or take the answer
//!                                                                 ├─► traffic indication (redirect)
//!                                                                 ├─► purge, error indication
//!                                                                 └─► not for us: transit
//! ```
//!
//! What is learned ends in two kinds of facts for the engine: a *binding* ([`Output::Bind`]: this overlay
//! address is directly reachable at that peer) and a *shortcut* ([`Output::AddRoute`]: this prefix is
//! best sent to that bound overlay address). What was learned by resolution is given out only after the path has
//! proved to work, so traffic stays on the way by the hub until then.

use std::net::Ipv4Addr;

use dmvpn_config::Nhrp;
use dmvpn_tables::PeerId;
use ipnetwork::Ipv4Network;
use serde::Serialize;

mod auth;
mod cache;
mod client;
mod complaint;
mod event;
mod machine;
pub mod packet;
mod paths;
mod proof;
mod purge;
mod redirect;
mod resolution;
mod responder;
mod server;
pub mod show;

pub use event::{Event, Fault, Misbehavior, ResolutionFailure};
pub use machine::{Machine, foundation};

/// What a machine is told to be.
#[derive(Debug, Clone)]
pub struct Config {
    /// Our overlay address with the prefix length of the tunnel's network. With a prefix length of 32 any
    /// overlay address may register.
    pub address: Ipv4Network,
    /// `protocols nhrp tunnel`.
    pub nhrp: Nhrp,
    /// Bounds on memory and on what peers may make us send.
    pub limits: Limits,
    /// Where registration request ids begin. RFC 2332 section 5.2.3 wants them to grow across restarts: seconds
    /// since the Unix epoch do.
    pub first_request_id: u32,
    /// Seed of jitter and of the ids of resolution requests.
    pub seed: u64,
}

/// Bounds on memory and on what peers may make us send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Overlay addresses known by registration or resolution, in all.
    pub entries: usize,
    /// The same, for one peer.
    pub entries_per_peer: usize,
    /// Resolutions under way or lately failed.
    pub resolutions: usize,
    /// Shortcut routes.
    pub shortcuts: usize,
    /// (peer, destination) pairs remembered to limit traffic indications.
    pub redirects: usize,
    /// Packets that one peer may make us originate without being asked a question (traffic indications
    /// and error indications), per second.
    pub unsolicited_per_second: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 65_536,
            entries_per_peer: 16,
            resolutions: 1_024,
            shortcuts: 16_384,
            redirects: 4_096,
            unsolicited_per_second: 20,
        }
    }
}

/// What happens to a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input<'a> {
    /// An NHRP packet, from its fixed header on.
    Packet {
        /// Who sent it: proved by its SA, or on a clear tunnel the peer of the outer source address.
        from: PeerId,
        /// The packet.
        bytes: &'a [u8],
    },
    /// A path works: packets can be sent to `peer` from now on. Given again when `nbma` changes.
    PeerUp {
        /// The peer.
        peer: PeerId,
        /// Its underlay address as we see it, on our side of any NAT.
        nbma: Ipv4Addr,
        /// A NAT is between us (IKE found one). A clear tunnel does not know and says `false`.
        natted: bool,
    },
    /// A path is gone. `peer` is not used again unless told to be up again.
    PeerDown {
        /// The peer.
        peer: PeerId,
    },
    /// The path asked for by [`Output::Connect`] could not be made.
    ConnectFailed {
        /// The address of the request.
        nbma: Ipv4Addr,
    },
    /// A packet from `from` left through the tunnel that it came in by: it could go a shorter way.
    Redirect {
        /// Who sent the packet.
        from: PeerId,
        /// The packet, from its (inner) IPv4 header on, as forwarded.
        packet: &'a [u8],
    },
    /// A packet to `destination` met a next hop on the tunnel that is not bound.
    Resolve {
        /// The packet's destination.
        destination: Ipv4Addr,
    },
    /// Packets passed between us and `peer`, either way, since this was last told. Bindings and shortcuts
    /// of a peer in use are renewed at two thirds of their holding time; others expire.
    Used {
        /// The peer.
        peer: PeerId,
        /// How many, NHRP packets included.
        packets: u64,
    },
}

/// What a machine wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send an NHRP packet (GRE protocol 0x2001) to a peer.
    Send {
        /// Whom to.
        to: PeerId,
        /// From the fixed header on.
        packet: Vec<u8>,
    },
    /// Make a path to this underlay address. [`Input::PeerUp`] or [`Input::ConnectFailed`] is to follow;
    /// the request is not repeated before one of them. Where there is such a path already, say so again with `PeerUp`.
    Connect {
        /// The underlay address.
        nbma: Ipv4Addr,
        /// The overlay address that is expected behind it.
        overlay: Ipv4Addr,
    },
    /// `overlay` is directly reachable at `peer`, in place of what was said of it before.
    Bind {
        /// An overlay address.
        overlay: Ipv4Addr,
        /// Whose it is.
        peer: PeerId,
        /// How it was learned.
        kind: Kind,
    },
    /// `overlay` is not directly reachable any more.
    Unbind {
        /// An overlay address that was bound.
        overlay: Ipv4Addr,
    },
    /// Packets for `prefix` are best sent to `next_hop`, which is bound to `peer`; in place of what was said of
    /// this prefix before.
    AddRoute {
        /// The destinations. Never shorter than 8 bits, and never our own network or addresses.
        prefix: Ipv4Network,
        /// A bound overlay address.
        next_hop: Ipv4Addr,
        /// The peer it is bound to.
        peer: PeerId,
    },
    /// The shortcut for `prefix` is over.
    RemoveRoute {
        /// A prefix that had a route.
        prefix: Ipv4Network,
    },
    /// Whether `peer` gets a copy of the multicast that we send into the tunnel. Nobody does who was not named.
    Multicast {
        /// The peer.
        peer: PeerId,
        /// In the list from now on, or no longer.
        member: bool,
    },
    /// Nothing is bound to `peer` any more: its path may be torn down.
    Release {
        /// The peer.
        peer: PeerId,
    },
    /// There is doubt whether `peer` is still there (another claims its address, or it does not answer): find out,
    /// and say [`Input::PeerDown`] if it is gone.
    Probe {
        /// The peer.
        peer: PeerId,
    },
    /// Something an operator may want to know.
    Event(Event),
}

/// How an overlay address came to be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Configured.
    Static,
    /// Configured, a next hop server of ours.
    Nhs,
    /// It registered with us.
    Dynamic,
    /// Learned by resolution.
    Cached,
}

/// Where a destination goes by the routing table **without the shortcuts of this machine**: a
/// shortcut must not make its own resolution impossible.
pub trait Routes {
    /// The longest match for `destination`.
    fn lookup(&self, destination: Ipv4Addr) -> Route;
}

/// An answer of [`Routes::lookup`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// An address of ours.
    Local,
    /// It leaves the tunnel here: a LAN, or any other way out.
    OffTunnel {
        /// The matching prefix.
        prefix: Ipv4Network,
    },
    /// It goes through this tunnel.
    Overlay {
        /// The overlay address to send to; for a destination in the tunnel's own network, the destination itself.
        next_hop: Ipv4Addr,
        /// The matching prefix.
        prefix: Ipv4Network,
    },
    /// No route.
    None,
}

#[cfg(test)]
mod tests;
