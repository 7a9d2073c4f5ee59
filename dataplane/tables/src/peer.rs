//! The far end of a tunnel, as the encrypt stage sees it.

use std::net::Ipv4Addr;
use std::sync::Arc;

use dmvpn_esp::OutboundSa;

use crate::ids::{NeighborId, PeerId, TunnelId};
use crate::tunnel::Tunnel;

/// ESP mode (RFC 4303 section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// The GRE header follows the ESP header.
    Transport,
    /// A whole IPv4 packet with the tunnel's end points follows the ESP header.
    Tunnel {
        /// Source of that inner header.
        source: Ipv4Addr,
        /// Destination of that inner header.
        destination: Ipv4Addr,
    },
}

/// Outer addresses, and UDP ports where a NAT is on the way (RFC 3948).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Endpoints {
    /// Our underlay address.
    pub local: Ipv4Addr,
    /// The peer's underlay address, as we see it.
    pub remote: Ipv4Addr,
    /// UDP encapsulation: our port and the peer's.
    pub udp: Option<UdpPorts>,
}

/// Ports of UDP-encapsulated ESP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UdpPorts {
    /// Ours, 4500.
    pub local: u16,
    /// The peer's, as its NAT shows it.
    pub remote: u16,
}

/// How a packet reaches a peer.
#[derive(Debug, Clone)]
pub enum Path {
    /// GRE in the clear; only on a tunnel without an IPsec profile.
    Clear,
    /// GRE under ESP.
    Esp {
        /// The SA to send with.
        sa: Arc<OutboundSa>,
        /// Its mode.
        mode: Mode,
    },
}

/// A peer that packets can be sent to.
#[derive(Debug, Clone)]
pub struct Peer {
    id: PeerId,
    tunnel: TunnelId,
    endpoints: Endpoints,
    path: Path,
    neighbor: NeighborId,
}

/// A clear path was asked for on a protected tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClearOnProtected;

impl Peer {
    /// The only way to make a peer: a protected tunnel takes no clear path, so what the workers can
    /// reach through it is encrypted by construction.
    ///
    /// # Errors
    /// [`ClearOnProtected`] if `tunnel` is protected and `path` is [`Path::Clear`].
    pub fn new(
        id: PeerId,
        tunnel: &Tunnel,
        endpoints: Endpoints,
        path: Path,
        neighbor: NeighborId,
    ) -> Result<Self, ClearOnProtected> {
        if tunnel.protected && matches!(path, Path::Clear) {
            return Err(ClearOnProtected);
        }
        Ok(Self { id, tunnel: tunnel.id, endpoints, path, neighbor })
    }

    /// Its handle.
    pub fn id(&self) -> PeerId {
        self.id
    }

    /// The tunnel it is reached through.
    pub fn tunnel(&self) -> TunnelId {
        self.tunnel
    }

    /// Outer addresses and ports.
    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// In the clear, or by which SA.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Underlay next hop.
    pub fn neighbor(&self) -> NeighborId {
        self.neighbor
    }
}
