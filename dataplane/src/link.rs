//! Where packets come from and go to.

mod fault;
mod heap;
mod loopback;

pub use fault::{FaultInjector, Faults};
pub use heap::{HeapBuffer, HeapPool};
pub use loopback::Loopback;

use crate::frame::{Buffer, Frame};

/// One worker's share of a port: one receive queue and one transmit queue. A packet is an Ethernet frame
/// without FCS.
pub trait Link {
    /// What it carries.
    type Buffer: Buffer;

    /// Moves packets that have arrived to the end of `frame`, as many as there are and `frame` has room for.
    fn rx(&mut self, frame: &mut Frame<Self::Buffer>);

    /// Sends from the front of `frame`. What is sent leaves the frame; what the queue has no room for stays, in
    /// order.
    fn tx(&mut self, frame: &mut Frame<Self::Buffer>);
}
