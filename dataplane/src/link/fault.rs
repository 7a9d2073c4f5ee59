//! A bad cable: loss, duplication and reordering around any link.

use std::collections::VecDeque;

use crate::frame::{Buffer, Frame, Pool};
use crate::link::Link;

/// How bad, in packets per thousand of those received.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Lost.
    pub loss: u16,
    /// Delivered twice.
    pub duplication: u16,
    /// Delivered after the packet that follows.
    pub reordering: u16,
}

/// A link whose received packets are lost, doubled and reordered. The same seed and the same packets give
/// the same faults.
#[derive(Debug)]
pub struct FaultInjector<L: Link, P> {
    inner: L,
    pool: P,
    faults: Faults,
    random: u64,
    held: Option<L::Buffer>,
    ready: VecDeque<L::Buffer>,
}

impl<L: Link, P: Pool<Buffer = L::Buffer>> FaultInjector<L, P> {
    /// Wraps `inner`; `pool` is where the copies for duplicates come from.
    pub fn new(inner: L, pool: P, faults: Faults, seed: u64) -> Self {
        Self { inner, pool, faults, random: seed, held: None, ready: VecDeque::new() }
    }

    /// True for `per_thousand` of 1000 calls.
    fn strikes(&mut self, per_thousand: u16) -> bool {
        // SplitMix64 (Steele, Lea, Flood 2014).
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % 1000 < u64::from(per_thousand)
    }

    fn copy(&mut self, packet: &L::Buffer) -> Option<L::Buffer> {
        let mut copy = self.pool.alloc()?;
        copy.append(packet.len())?.copy_from_slice(packet.bytes());
        Some(copy)
    }
}

impl<L: Link, P: Pool<Buffer = L::Buffer>> Link for FaultInjector<L, P> {
    type Buffer = L::Buffer;

    fn rx(&mut self, frame: &mut Frame<L::Buffer>) {
        let mut received = Frame::new();
        self.inner.rx(&mut received);
        if received.is_empty() {
            // No packet follows: the one held back has waited long enough.
            self.ready.extend(self.held.take());
        }
        for packet in received {
            if self.strikes(self.faults.loss) {
                continue;
            }
            if self.strikes(self.faults.duplication) {
                let copy = self.copy(&packet);
                self.ready.extend(copy);
            }
            if self.held.is_none() && self.strikes(self.faults.reordering) {
                self.held = Some(packet);
            } else {
                self.ready.push_back(packet);
                self.ready.extend(self.held.take());
            }
        }
        let room = frame.remaining_capacity().min(self.ready.len());
        frame.extend(self.ready.drain(..room));
    }

    fn tx(&mut self, frame: &mut Frame<L::Buffer>) {
        self.inner.tx(frame);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::{HeapPool, Loopback};

    /// Sends 0..=255 through and returns what comes out.
    fn through(faults: Faults, seed: u64) -> Vec<u8> {
        let mut pool = HeapPool::new(1024);
        let (mut left, right) = Loopback::pair(256);
        let mut right = FaultInjector::new(right, pool.clone(), faults, seed);
        let mut arrived = Vec::new();
        for first in (0..=224).step_by(32) {
            let mut frame: Frame<_> = (first..=first + 31).map(|n: u8| pool.buffer(&[n]).unwrap()).collect();
            left.tx(&mut frame);
            right.rx(&mut frame);
            arrived.extend(frame.iter().map(|packet| packet.bytes()[0]));
        }
        for _ in 0..8 {
            let mut frame = Frame::new();
            right.rx(&mut frame);
            arrived.extend(frame.iter().map(|packet| packet.bytes()[0]));
        }
        assert_eq!(pool.in_use(), 0);
        arrived
    }

    #[test]
    fn a_good_cable_changes_nothing() {
        assert_eq!(through(Faults::default(), 1), (0..=255).collect::<Vec<_>>());
    }

    #[test]
    fn loses_doubles_and_reorders_at_the_given_rate_and_repeatably() {
        let lost = through(Faults { loss: 100, ..Faults::default() }, 1);
        assert!((210..=250).contains(&lost.len()), "{}", lost.len());
        let doubled = through(Faults { duplication: 100, ..Faults::default() }, 1);
        assert!((262..=302).contains(&doubled.len()), "{}", doubled.len());
        let mut swapped = through(Faults { reordering: 100, ..Faults::default() }, 1);
        assert!(!swapped.is_sorted());
        swapped.sort_unstable();
        assert_eq!(swapped, (0..=255).collect::<Vec<_>>());

        let all = Faults { loss: 50, duplication: 50, reordering: 50 };
        assert_eq!(through(all, 7), through(all, 7));
        assert_ne!(through(all, 7), through(all, 8));
    }
}
