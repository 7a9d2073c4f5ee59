//! What a route leads to.

use std::net::Ipv4Addr;

use dmvpn_wire::MacAddr;

use crate::ids::{NeighborId, PeerId, PortId, TunnelId};

/// What the forwarding table's entries point at. Many routes share one adjacency, so when a next hop
/// changes, one slot changes, however many routes lead there. With its tag in a byte of its own, workers tell them apart by one jump.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Adjacency {
    /// No way there: ICMP destination unreachable.
    #[default]
    Unreachable,
    /// An address of this box: to the control thread.
    Local,
    /// A connected network: the destination itself is the next hop, and is not resolved yet (ARP).
    Glean(PortId),
    /// A next hop on a port's link.
    Neighbor(NeighborId),
    /// A peer of a tunnel, directly.
    Tunnel(PeerId),
    /// An overlay next hop without a path of its own yet. Packets go through `via`, a next hop
    /// server, if there is one, and the control thread is told (rate-limited) so that it resolves.
    Resolving {
        /// The tunnel that the next hop belongs to.
        tunnel: TunnelId,
        /// The next hop server to use meanwhile; `None`: the packet is handed to the control thread.
        via: Option<PeerId>,
    },
}

impl Adjacency {
    /// The peer that packets go to, if they go through a tunnel.
    #[inline]
    pub fn peer(&self) -> Option<PeerId> {
        match *self {
            Self::Tunnel(peer) => Some(peer),
            Self::Resolving { via, .. } => via,
            _ => None,
        }
    }
}

/// A station on a port's link: what the egress stage writes in front of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbor {
    /// The port it is reached by.
    pub port: PortId,
    /// Its IPv4 address.
    pub address: Ipv4Addr,
    /// Its Ethernet address; `None` until ARP has answered.
    pub mac: Option<MacAddr>,
}
