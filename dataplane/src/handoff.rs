//! Packets between workers. An SA belongs to one worker, which alone counts its sequence numbers and moves its
//! replay window; whoever else gets a packet for it hands the packet over.

use std::iter;
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

use crate::frame::{Buffer, Entry, Frame};

/// One worker's end of the rings between all workers.
#[derive(Debug)]
pub struct Handoff<B> {
    me: usize,
    /// What waits for each worker.
    rings: Arc<[ArrayQueue<B>]>,
}

impl<B: Buffer> Handoff<B> {
    /// The ends of all `workers`, in order (one worker at least), with room for `capacity` packets waiting for each.
    pub fn between(workers: usize, capacity: usize) -> Vec<Self> {
        let rings: Arc<[_]> = (0..workers.max(1)).map(|_| ArrayQueue::new(capacity.max(1))).collect();
        (0..rings.len()).map(|me| Self { me, rings: Arc::clone(&rings) }).collect()
    }

    /// This worker's number, from 0.
    pub fn worker(&self) -> usize {
        self.me
    }

    /// Number of workers.
    pub fn workers(&self) -> usize {
        self.rings.len()
    }

    /// Which worker owns the SA with this SPI, in either direction.
    pub fn owner(&self, spi: u32) -> usize {
        // Peers choose SPIs as they like; the first multiplication spreads patterns (Fibonacci hashing), the second
        // scales to the number of workers.
        let hash = u64::from(spi.wrapping_mul(0x9e37_79b9));
        ((hash * self.rings.len() as u64) >> 32) as usize
    }

    /// Gives `packet` to worker `to`, which it enters at `entry`; back if that one has too many waiting.
    pub(crate) fn give(&self, to: usize, entry: Entry, mut packet: B) -> Result<(), B> {
        packet.meta_mut().entry = entry as u8;
        match self.rings.get(to) {
            Some(ring) => ring.push(packet),
            None => Err(packet),
        }
    }

    /// Takes up to `most` packets that wait for this worker, and says how many.
    pub(crate) fn take(&self, most: usize, frame: &mut Frame<B>) -> usize {
        let before = frame.len();
        let most = most.min(frame.remaining_capacity());
        frame.extend(iter::from_fn(|| self.rings.get(self.me)?.pop()).take(most));
        frame.len() - before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::HeapPool;

    #[test]
    fn packets_arrive_in_order_and_no_more_than_there_is_room() {
        let mut pool = HeapPool::new(8);
        let ends = Handoff::between(2, 3);
        for (n, entry) in [(1, Entry::Encrypt), (2, Entry::Decrypt), (3, Entry::Encrypt)] {
            assert!(ends[0].give(1, entry, pool.buffer(&[n]).unwrap()).is_ok());
        }
        assert!(ends[0].give(1, Entry::Decrypt, pool.buffer(&[4]).unwrap()).is_err());

        let mut frame = Frame::new();
        assert_eq!(ends[0].take(9, &mut frame), 0);
        assert_eq!(ends[1].take(2, &mut frame), 2);
        assert_eq!(ends[1].take(2, &mut frame), 1);
        let arrived: Vec<_> = frame.iter().map(|packet| (packet.bytes()[0], packet.meta().entry())).collect();
        assert_eq!(arrived, [(1, Entry::Encrypt), (2, Entry::Decrypt), (3, Entry::Encrypt)]);
    }

    #[test]
    fn every_worker_owns_about_as_many_spis() {
        let ends = Handoff::<crate::link::HeapBuffer>::between(3, 1);
        for stride in [1, 2, 256, 1 << 20] {
            let mut owned = [0; 3];
            for n in 0..3000u32 {
                owned[ends[0].owner(n.wrapping_mul(stride))] += 1;
            }
            assert!(owned.iter().all(|&count| (800..1200).contains(&count)), "{stride}: {owned:?}");
        }
    }
}
