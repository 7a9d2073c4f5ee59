//! Safe DPDK: its environment ([`Eal`]), packet memory ([`Mempool`], [`Mbuf`]) and [`Port`]s with their
//! [`Queue`]s. All unsafe code of the appliance but the cipher kernels' is here.
//!
//! What makes it safe:
//! - An [`Mbuf`] has exactly one owner. It moves into a frame when it is received, and out of it when the
//!   driver takes it to send.
//! - Queues come from starting a port, and a port is stopped when the last of them is gone: a queue that
//!   exists can be polled.
//! - Pools live until the EAL is cleaned up, and it is cleaned up only when nothing that was made from it
//!   exists and every mbuf is back in its pool.

mod clock;
mod device;
mod eal;
mod error;
mod mbuf;
mod mempool;
mod port;

pub use clock::Clock;
pub use device::{Device, NotADevice};
pub use eal::{Eal, EalOptions, Memory, RegisteredThread};
pub use error::{Errno, Error};
pub use mbuf::Mbuf;
pub use mempool::Mempool;
pub use port::{Configured, Port, PortOptions, PortStats, Queue, Spread, Started};
