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
}

/// Everything that workers forward by. Cloning shares all tables: the control thread edits its own
/// copy (copy-on-write, a page at a time) and publishes clones of it.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Counts up with every publication.
    pub version: u64,
    /// Destination prefix to adjacency.
    pub fib: Fib,
    /// What routes lead to.
    pub adjacencies: Paged<Adjacency>,
    /// Stations on the ports' links.
    pub neighbors: Paged<Option<Neighbor>>,
    /// Tunnel peers, by [`PeerId::index`](crate::PeerId::index).
    pub peers: Paged<Option<Arc<Peer>>>,
    /// Inbound SAs, by the slot bits of their SPI.
    pub inbound: Paged<Option<Arc<Inbound>>>,
    /// Tunnel interfaces, by number.
    pub tunnels: Arc<[Tunnel]>,
    /// Ports, by number.
    pub ports: Arc<[PortInfo]>,
}

impl Snapshot {
    /// The inbound SA of an SPI.
    pub fn inbound_sa(&self, spi: u32) -> Option<&Arc<Inbound>> {
        let entry = self.inbound.get((spi & INDEX_MASK) as usize)?.as_ref()?;
        (entry.sa.spi() == spi).then_some(entry)
    }

    /// The peer of a handle, if it is still the one that the handle was made for.
    pub fn peer(&self, id: crate::PeerId) -> Option<&Arc<Peer>> {
        self.peers.get(id.index())?.as_ref().filter(|peer| peer.id() == id)
    }
}
