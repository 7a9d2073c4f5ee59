//! A cable in memory.

use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

use crate::frame::{Buffer, Frame};
use crate::link::Link;

/// One end of a cable between two ports in memory: what one end sends the other receives, in order.
#[derive(Debug)]
pub struct Loopback<B> {
    incoming: Arc<ArrayQueue<B>>,
    outgoing: Arc<ArrayQueue<B>>,
}

impl<B: Buffer> Loopback<B> {
    /// A cable that holds up to `capacity` packets (at least one) each way.
    pub fn pair(capacity: usize) -> (Self, Self) {
        let left = Arc::new(ArrayQueue::new(capacity.max(1)));
        let right = Arc::new(ArrayQueue::new(capacity.max(1)));
        let here = Self { incoming: Arc::clone(&left), outgoing: Arc::clone(&right) };
        (here, Self { incoming: right, outgoing: left })
    }
}

impl<B: Buffer> Link for Loopback<B> {
    type Buffer = B;

    fn rx(&mut self, frame: &mut Frame<B>) {
        while !frame.is_full()
            && let Some(packet) = self.incoming.pop()
        {
            frame.push(packet);
        }
    }

    fn tx(&mut self, frame: &mut Frame<B>) {
        let room = self.outgoing.capacity() - self.outgoing.len();
        let sent = room.min(frame.len());
        for packet in frame.drain(..sent) {
            // There is room: this is the only end that pushes.
            let _ = self.outgoing.push(packet);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::HeapPool;

    #[test]
    fn what_has_no_room_stays_in_order() {
        let mut pool = HeapPool::new(8);
        let (mut left, mut right) = Loopback::pair(2);
        let mut frame: Frame<_> = [[1], [2], [3]].iter().map(|packet| pool.buffer(packet).unwrap()).collect();
        left.tx(&mut frame);
        assert_eq!(frame.len(), 1);
        let mut arrived = Frame::new();
        right.rx(&mut arrived);
        left.tx(&mut frame);
        right.rx(&mut arrived);
        assert_eq!(arrived.iter().map(|packet| packet.bytes()[0]).collect::<Vec<_>>(), [1, 2, 3]);
    }
}
