//! The packet path: five stages on batches of packets.
//!
//! [`Worker::poll`] is the path on one screen. It knows [`Buffer`], [`Pool`] and [`Link`], not DPDK, and reads what
//! the control thread publishes as a [`Snapshot`](dmvpn_tables::Snapshot).

#![forbid(unsafe_code)]

pub mod counters;
pub mod frame;
mod handoff;
mod inject;
mod limit;
pub mod link;
mod ports;
mod punt;
mod stage;
mod stopwatch;
mod worker;

pub use counters::{Counters, DropReason, Stage};
pub use frame::{Buffer, Frame, Meta, Pool};
pub use handoff::Handoff;
pub use link::Link;
pub use punt::{Injector, PuntReceiver};
pub use worker::{ControlEnd, Worker};
