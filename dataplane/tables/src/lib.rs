//! What workers forward by, and how it reaches them.
//!
//! The control thread builds [`Snapshot`]s and publishes them ([`publish`]); workers read. Control and
//! data plane know nothing of each other but what is in this crate: tables one way, and [`Punt`] and
//! [`Inject`] for packets.

#![forbid(unsafe_code)]

mod adjacency;
mod bits;
mod encapsulation;
pub mod fib;
mod ids;
pub mod paged;
mod peer;
pub mod publish;
mod punt;
mod sa;
pub mod slab;
mod snapshot;
mod tunnel;

pub use adjacency::{Adjacency, Neighbor};
pub use dmvpn_esp as esp;
pub use encapsulation::{Encapsulation, Extent, Variable};
pub use fib::Fib;
pub use ids::{AdjacencyId, NeighborId, PeerId, PortId, TunnelId, WorkerId};
pub use paged::Paged;
pub use peer::{ClearOnProtected, Endpoints, Mode, Path, Peer, UdpPorts};
pub use publish::{Publisher, Reader};
pub use punt::{Inject, Punt, PuntReason};
pub use sa::Inbound;
pub use slab::HandlePool;
pub use snapshot::{PortInfo, Snapshot};
pub use tunnel::Tunnel;
