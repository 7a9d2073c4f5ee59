//! Names of things in a [`Snapshot`](crate::Snapshot): small integers that index its tables.

use core::fmt;

/// A port of the appliance: a DPDK device with a number fixed at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub u16);

/// A tunnel interface, numbered in the order of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TunnelId(pub u16);

/// A slot of [`Snapshot::adjacencies`](crate::Snapshot::adjacencies).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AdjacencyId(pub u32);

/// A slot of [`Snapshot::neighbors`](crate::Snapshot::neighbors).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NeighborId(pub u32);

/// A worker, numbered from 0 in the order of the configuration. Of every SA one worker is the owner, as long as the SA
/// lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u16);

/// The far end of a tunnel: slab index and generation in one word.
///
/// A packet on its way to the control thread may outlive the peer it came from. The generation
/// keeps it from being taken for a packet of the next peer in the same slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u32);

impl PeerId {
    /// Slot in [`Snapshot::peers`](crate::Snapshot::peers).
    pub fn index(self) -> usize {
        (self.0 & crate::slab::INDEX_MASK) as usize
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "peer {:08x}", self.0)
    }
}
