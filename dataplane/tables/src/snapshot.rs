//! One consistent view of everything that workers forward by.

use std::net::Ipv4Addr;
use std::sync::Arc;

use dmvpn_wire::MacAddr;

use crate::adjacency::{Adjacency, Neighbor};
use crate::fib::Fib;
use crate::paged::Paged;
use crate::peer::Peer;
use crate::sa::Inbound;
use crate::slab::INDEX_MASK;
use crate::tunnel::Tunnel;

/// A port as the packet path sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortInfo {
    /// Its Ethernet address.
    pub mac: MacAddr,
    /// Largest IPv4 packet it takes, in bytes.
    pub mtu: u16,
    /// Its IPv4 address, unspecified while it has none.
    pub address: Ipv4Addr,
    /// Protected tunnels run over it: nothing may come in by it in the clear from where such a tunnel leads.
    pub underlay: bool,
}

/// Everything that workers forward by. Cloning shares all tables: the control thread edits its own
/// copy (copy-on-write, a page at a time) and publishes clones of it.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Destination prefix to adjacency.
    pub fib: Fib,
    /// What routes lead to.
    pub adjacencies: Paged<Adjacency>,
    /// Stations on the ports' links.
    pub neighbors: Paged<Option<Neighbor>>,
    /// Tunnel peers, by [`PeerId::index`](crate::PeerId::index).
    pub peers: Paged<Option<Peer>>,
    /// Inbound SAs, by the slot bits of their SPI.
    pub inbound: Paged<Option<Inbound>>,
    /// Tunnel interfaces, by number.
    pub tunnels: Arc<[Tunnel]>,
    /// Ports, by number.
    pub ports: Arc<[PortInfo]>,
}

impl Snapshot {
    /// The inbound SA of an SPI.
    #[inline]
    pub fn inbound_sa(&self, spi: u32) -> Option<&Inbound> {
        self.inbound_slot(spi)?.as_ref().filter(|entry| entry.spi() == spi)
    }

    /// The slot of an SPI; what is in it may belong to another SPI.
    #[inline]
    pub fn inbound_slot(&self, spi: u32) -> Option<&Option<Inbound>> {
        self.inbound.get((spi & INDEX_MASK) as usize)
    }

    /// The peer of a handle, if it is still the one that the handle was made for.
    #[inline]
    pub fn peer(&self, id: crate::PeerId) -> Option<&Peer> {
        self.peers.get(id.index())?.as_ref().filter(|peer| peer.id() == id)
    }
}

#[cfg(test)]
mod tests {
    use dmvpn_esp::{InboundSa, KeyMaterial, WindowSize};

    use super::*;
    use crate::ids::{NeighborId, PeerId, TunnelId};
    use crate::peer::{Endpoints, Mode, Path};
    use crate::slab::HandlePool;

    fn inbound(spi: u32, peer: PeerId) -> Inbound {
        let keys = KeyMaterial::new("aes128gcm".parse().unwrap(), &[1; 20], &[]).unwrap();
        let sa = Arc::new(InboundSa::new(spi, &keys, WindowSize::default()));
        Inbound::new(sa, peer, TunnelId(0), Mode::Transport, Ipv4Addr::LOCALHOST, None)
    }

    fn peer(id: PeerId) -> Peer {
        let tunnel = Tunnel {
            id: TunnelId(0),
            address: Ipv4Addr::UNSPECIFIED,
            local: Ipv4Addr::UNSPECIFIED,
            key: None,
            mtu: 1400,
            ttl: None,
            tos: None,
            dont_fragment: false,
            protected: false,
            redirect: false,
            multicast: Arc::default(),
        };
        let any = Ipv4Addr::UNSPECIFIED;
        let endpoints = Endpoints { local: any, remote: any, udp: None };
        Peer::new(id, &tunnel, endpoints, Path::Clear, NeighborId(0)).unwrap()
    }

    /// What the slot holds now must not be found by a handle of before.
    #[test]
    fn an_old_handle_finds_nothing() {
        let mut pool = HandlePool::new(1, 7);
        let mut tables = Snapshot::default();
        let mut last = None;
        for _ in 0..3 {
            let handle = pool.alloc().unwrap();
            let id = PeerId(handle);
            tables.inbound.set(id.index(), Some(inbound(handle, id)));
            tables.peers.set(id.index(), Some(peer(id)));
            assert_eq!(tables.inbound_sa(handle).unwrap().sa.spi(), handle);
            assert_eq!(tables.peer(id).unwrap().id(), id);
            if let Some(last) = last.replace(handle) {
                assert!(tables.inbound_sa(last).is_none() && tables.peer(PeerId(last)).is_none());
            }
            pool.free(handle);
        }
        for stray in [0, 255, u32::MAX] {
            assert!(tables.inbound_sa(stray).is_none() && tables.peer(PeerId(stray)).is_none());
        }
    }
}
