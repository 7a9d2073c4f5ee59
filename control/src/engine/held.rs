//! Packets that wait for a way to their destination.

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::time::Duration;

use dmvpn_tables::TunnelId;

use crate::time::Instant;

/// Packets per destination; the oldest goes first.
const PACKETS: usize = 4;
/// Destinations.
const DESTINATIONS: usize = 256;
/// How long a packet is worth keeping: a key exchange with a few lost messages.
const PATIENCE: Duration = Duration::from_secs(10);

/// A bounded store of packets, by tunnel and destination.
#[derive(Debug, Default)]
pub(super) struct Held {
    queues: BTreeMap<(TunnelId, Ipv4Addr), Queue>,
}

#[derive(Debug)]
struct Queue {
    until: Instant,
    packets: VecDeque<Vec<u8>>,
}

impl Held {
    /// Keeps a packet; gives it back if there are too many destinations.
    pub(super) fn keep(
        &mut self,
        now: Instant,
        tunnel: TunnelId,
        destination: Ipv4Addr,
        packet: Vec<u8>,
    ) -> Result<(), Vec<u8>> {
        let key = (tunnel, destination);
        if self.queues.len() >= DESTINATIONS && !self.queues.contains_key(&key) {
            return Err(packet);
        }
        let queue = self
            .queues
            .entry(key)
            .or_insert_with(|| Queue { until: now + PATIENCE, packets: VecDeque::with_capacity(PACKETS) });
        if queue.packets.len() == PACKETS {
            queue.packets.pop_front();
        }
        queue.packets.push_back(packet);
        Ok(())
    }

    /// Takes the packets for destinations of a tunnel that have a way now.
    pub(super) fn release(&mut self, tunnel: TunnelId, has_way: impl Fn(Ipv4Addr) -> bool) -> Vec<Vec<u8>> {
        self.take(|(of, destination), _| *of == tunnel && has_way(*destination))
    }

    /// Takes the packets that waited too long.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Vec<u8>> {
        self.take(|_, queue| queue.until <= now)
    }

    /// When [`Held::expire`] has something to take.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.queues.values().map(|queue| queue.until).min()
    }

    fn take(&mut self, which: impl Fn(&(TunnelId, Ipv4Addr), &Queue) -> bool) -> Vec<Vec<u8>> {
        let taken = self.queues.extract_if(.., |key, queue| which(key, queue));
        taken.flat_map(|(_, queue)| queue.packets).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TUNNEL: TunnelId = TunnelId(0);

    fn destination(n: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(0x0a00_0000 + n)
    }

    #[test]
    fn bounded_by_packets_and_destinations() {
        let mut held = Held::default();
        for n in 0..1000 {
            let kept = held.keep(Instant::ZERO, TUNNEL, destination(n), vec![0]).is_ok();
            assert_eq!(kept, n < 256, "{n}");
        }
        for n in 1..=9 {
            held.keep(Instant::ZERO, TUNNEL, destination(3), vec![n]).unwrap();
        }
        let released = held.release(TUNNEL, |to| to == destination(3));
        assert_eq!(released, [[6], [7], [8], [9]]);
        assert_eq!(held.release(TunnelId(1), |_| true).len(), 0);
        assert_eq!(held.release(TUNNEL, |_| true).len(), 255);
        assert_eq!(held.deadline(), None);
    }

    #[test]
    fn patience_ends() {
        let mut held = Held::default();
        held.keep(Instant::ZERO, TUNNEL, destination(1), vec![1]).unwrap();
        let later = Instant::ZERO + Duration::from_secs(1);
        held.keep(later, TUNNEL, destination(2), vec![2]).unwrap();
        let deadline = held.deadline().unwrap();
        assert_eq!(held.expire(deadline), [[1]]);
        assert_eq!(held.deadline(), Some(deadline + Duration::from_secs(1)));
    }
}
