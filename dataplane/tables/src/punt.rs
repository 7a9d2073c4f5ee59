//! What passes between workers and the control thread besides snapshots.

use std::net::{Ipv4Addr, SocketAddrV4};

use crate::ids::{NeighborId, PeerId, PortId, TunnelId, WorkerId};

/// Why a worker hands a packet to the control thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PuntReason {
    /// An ARP packet; from its Ethernet header on.
    Arp {
        /// Where it came in.
        port: PortId,
    },
    /// DHCP for a client on `port`; from the IPv4 header on.
    Dhcp {
        /// Where it came in.
        port: PortId,
    },
    /// UDP 500, or UDP 4500 with the non-ESP marker, to an address of ours; from the IPv4 header on.
    Ike {
        /// Where it came in.
        port: PortId,
        /// The worker that received it.
        worker: WorkerId,
    },
    /// NHRP; from the NHRP header on. `peer` is who sent it, proved by its SA; on a tunnel without
    /// IPsec there is only the outer source address.
    Nhrp {
        /// The tunnel it came in by.
        tunnel: TunnelId,
        /// The peer whose SA it came in by.
        peer: Option<PeerId>,
        /// Outer source address.
        source: Ipv4Addr,
    },
    /// An IPv4 packet for an address of ours, or multicast that came through `tunnel`.
    Local {
        /// The tunnel it came in by, if it did.
        tunnel: Option<TunnelId>,
    },
    /// Forwarded, or to be forwarded, by [`Adjacency::Resolving`](crate::Adjacency::Resolving): resolve
    /// its destination. `held`: it had no way meanwhile, so the control thread may send it later.
    Unresolved {
        /// The tunnel of the next hop.
        tunnel: TunnelId,
        /// The packet was not forwarded.
        held: bool,
    },
    /// The destination is on the link of `port` and has no neighbor entry yet.
    Glean {
        /// The port of the connected network.
        port: PortId,
    },
    /// The next hop's Ethernet address is not known; the finished packet from its IPv4 header on.
    NeighborUnresolved {
        /// The next hop.
        neighbor: NeighborId,
    },
    /// A packet left through the tunnel that it came in by: tell `peer` of the shorter way.
    Redirect {
        /// The tunnel.
        tunnel: TunnelId,
        /// The peer the packet came from.
        peer: Option<PeerId>,
        /// Outer source address of that peer, where there is no SA.
        source: Ipv4Addr,
    },
    /// The TTL ended here: answer with ICMP time exceeded.
    TtlExceeded,
    /// Larger than the way out takes and not to be fragmented: answer with ICMP fragmentation needed.
    FragmentationNeeded {
        /// What would fit, in bytes.
        mtu: u16,
    },
    /// No route: answer with ICMP network unreachable.
    Unreachable,
    /// An authentic ESP packet came from another address or port than before; from the NHRP or IPv4
    /// header on, after the packet itself went its way (so without content).
    PeerMoved {
        /// Who moved.
        peer: PeerId,
        /// Where to.
        to: SocketAddrV4,
    },
    /// ESP with an SPI that we do not know; the outer IPv4 header and 8 bytes of what follows.
    UnknownSpi {
        /// The SPI.
        spi: u32,
    },
}

/// A packet for the control thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Punt {
    /// Why.
    pub reason: PuntReason,
    /// The packet, from where `reason` says.
    pub packet: Vec<u8>,
}

/// A packet from the control thread, and the stage where it enters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inject {
    /// A whole Ethernet frame (ARP, DHCP): to egress.
    Frame {
        /// The port to send it on.
        port: PortId,
        /// From the destination address on.
        frame: Vec<u8>,
    },
    /// An IPv4 packet of our own: to forward, without a TTL decrement or a redirect.
    Packet(Vec<u8>),
    /// A GRE payload for a peer (NHRP): to encrypt.
    Gre {
        /// Who it is for.
        peer: PeerId,
        /// GRE protocol type, e.g. 0x2001.
        protocol: u16,
        /// What follows the GRE header.
        payload: Vec<u8>,
    },
    /// An IPv4 multicast packet of our own, for every peer of a tunnel's list: to encrypt.
    Multicast {
        /// The tunnel.
        tunnel: TunnelId,
        /// From the IPv4 header on.
        packet: Vec<u8>,
    },
}
