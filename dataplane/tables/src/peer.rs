//! The far end of a tunnel, as the encrypt stage sees it.

use std::net::Ipv4Addr;
use std::sync::Arc;

use dmvpn_esp::OutboundSa;

use crate::encapsulation::Encapsulation;
use crate::ids::{NeighborId, PeerId, TunnelId, WorkerId};
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

/// A peer that packets can be sent to. It has two cache lines to itself, in the table.
#[derive(Debug, Clone)]
#[repr(C, align(64))]
pub struct Peer {
    path: Path,
    id: PeerId,
    neighbor: NeighborId,
    tunnel: TunnelId,
    /// That of the SA, which other workers read here, where nobody writes; any, if there is none.
    owner: WorkerId,
    endpoints: Endpoints,
    encapsulation: Encapsulation,
}

const _: () = assert!(size_of::<Option<Peer>>() == 128);

/// A clear path was asked for on a protected tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClearOnProtected;

impl Peer {
    /// The only way to make a peer: a protected tunnel takes no clear path, so what the workers can
    /// reach through it is encrypted by construction.
    ///
    /// It keeps what its encapsulation takes from the tunnel: when that changes, make its peers anew.
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
        let encapsulation = Encapsulation::new(tunnel, &endpoints, &path);
        let owner = match &path {
            Path::Esp { sa, .. } => WorkerId(sa.owner()),
            Path::Clear => WorkerId(0),
        };
        Ok(Self { path, id, neighbor, tunnel: tunnel.id, owner, endpoints, encapsulation })
    }

    /// Its handle.
    #[inline]
    pub fn id(&self) -> PeerId {
        self.id
    }

    /// The tunnel it is reached through.
    #[inline]
    pub fn tunnel(&self) -> TunnelId {
        self.tunnel
    }

    /// Outer addresses and ports.
    #[inline]
    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// In the clear, or by which SA.
    #[inline]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The worker that seals its packets, which is that of the SA; `None` for a path in the clear, which any worker may use.
    #[inline]
    pub fn owner(&self) -> Option<WorkerId> {
        matches!(self.path, Path::Esp { .. }).then_some(self.owner)
    }

    /// What goes around its packets.
    #[inline]
    pub fn encapsulation(&self) -> &Encapsulation {
        &self.encapsulation
    }

    /// Underlay next hop.
    #[inline]
    pub fn neighbor(&self) -> NeighborId {
        self.neighbor
    }
}

#[cfg(test)]
mod tests {
    use dmvpn_esp::{IvSeed, KeyMaterial};

    use super::*;

    const ENDPOINTS: Endpoints =
        Endpoints { local: Ipv4Addr::new(192, 0, 2, 1), remote: Ipv4Addr::new(198, 51, 100, 2), udp: None };

    fn tunnel(protected: bool) -> Tunnel {
        Tunnel {
            id: TunnelId(3),
            address: Ipv4Addr::new(10, 0, 0, 1),
            local: ENDPOINTS.local,
            key: Some(1),
            mtu: 1400,
            ttl: Some(64),
            tos: None,
            dont_fragment: true,
            protected,
            redirect: true,
            multicast: Arc::default(),
        }
    }

    fn esp() -> Path {
        let keys = KeyMaterial::new("aes128gcm".parse().unwrap(), &[1; 20], &[]).unwrap();
        let sa = Arc::new(OutboundSa::new(0x1000, &keys, IvSeed::new([2; 16])));
        Path::Esp { sa, mode: Mode::Transport }
    }

    #[test]
    fn a_protected_tunnel_takes_no_clear_path() {
        let peer = |protected, path| Peer::new(PeerId(9), &tunnel(protected), ENDPOINTS, path, NeighborId(4));
        assert_eq!(peer(true, Path::Clear).err(), Some(ClearOnProtected));
        assert!(matches!(peer(true, esp()).unwrap().path(), Path::Esp { sa, .. } if sa.spi() == 0x1000));
        assert!(matches!(peer(false, Path::Clear).unwrap().path(), Path::Clear));
        let peer = peer(false, esp()).unwrap();
        assert!(matches!(peer.path(), Path::Esp { .. }));
        assert_eq!((peer.id(), peer.tunnel(), peer.neighbor()), (PeerId(9), TunnelId(3), NeighborId(4)));
        assert_eq!(*peer.endpoints(), ENDPOINTS);
    }
}
