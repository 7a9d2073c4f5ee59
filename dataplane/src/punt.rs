//! Packets between a worker and the control thread: punted up, injected down, through bounded rings.

use std::fmt;
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;
use dmvpn_tables::{Inject, Punt, PuntReason};

use crate::counters::{Counters, DropReason};
use crate::frame::Buffer;
use crate::limit::Limiter;

/// Packets that may wait for the control thread, per worker.
const PUNT_RING: usize = 1024;
/// Packets that may wait for a worker.
const INJECT_RING: usize = 1024;

/// The control thread's end of what a worker punts.
pub struct PuntReceiver<B> {
    ring: Arc<ArrayQueue<(PuntReason, B)>>,
}

impl<B: Buffer> PuntReceiver<B> {
    /// The oldest packet, its buffer already given back.
    pub fn poll(&mut self) -> Option<Punt> {
        let (reason, buffer) = self.ring.pop()?;
        Some(Punt { reason, packet: buffer.bytes().to_vec() })
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }
}

impl<B> fmt::Debug for PuntReceiver<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PuntReceiver").field("waiting", &self.ring.len()).finish()
    }
}

/// The worker's end.
pub(crate) struct Punter<B> {
    ring: Arc<ArrayQueue<(PuntReason, B)>>,
    limiter: Limiter,
    counters: Arc<Counters>,
}

/// Both ends of a punt ring.
pub(crate) fn punt_ring<B: Buffer>(counters: Arc<Counters>) -> (Punter<B>, PuntReceiver<B>) {
    let ring = Arc::new(ArrayQueue::new(PUNT_RING));
    (Punter { ring: Arc::clone(&ring), limiter: Limiter::new(), counters }, PuntReceiver { ring })
}

impl<B: Buffer> Punter<B> {
    /// Hands a packet up.
    pub(crate) fn punt(&self, reason: PuntReason, packet: B) {
        if self.ring.len() >= share(&reason) {
            self.counters.count_drop(DropReason::PuntFull);
            return;
        }
        match self.ring.push((reason, packet)) {
            Ok(()) => self.counters.count_punt(&reason),
            Err(_) => self.counters.count_drop(DropReason::PuntFull),
        }
    }

    /// Whether the control thread may be bothered with one more packet like this: for this reason, about this `key` (an
    /// address, a peer). `now` in microseconds.
    pub(crate) fn admits(&mut self, reason: &PuntReason, key: u32, now: u64) -> bool {
        self.limiter.admit(reason, key, now)
    }
}

/// How full the ring may be for one more packet like this. Whoever can send us packets at all can send more of them
/// than the control thread takes; that must not be the end of what keeps links and peers up.
fn share(reason: &PuntReason) -> usize {
    match reason {
        // Of peers that have proved themselves.
        PuntReason::Nhrp { peer: Some(_), .. } | PuntReason::PeerMoved { .. } => PUNT_RING,
        // Of anybody, but there is no peer and no link without.
        PuntReason::Ike { .. } | PuntReason::Arp { .. } | PuntReason::Nhrp { peer: None, .. } => {
            PUNT_RING / 2
        }
        // Of anybody.
        _ => PUNT_RING / 4,
    }
}

/// The control thread's end of what it injects into a worker.
///
/// What was injected comes back emptied of its meaning, for its memory to be freed here: workers do not free.
#[derive(Debug)]
pub struct Injector {
    down: Arc<ArrayQueue<Inject>>,
    back: Arc<ArrayQueue<Inject>>,
    /// Sent and not back. Never more than either ring holds, so the worker always finds room in `back`.
    under_way: usize,
    /// Those of the worker. Of them, the control thread writes [`DropReason::InjectFull`] and nothing else.
    counters: Arc<Counters>,
}

impl Injector {
    /// Queues a packet for the worker.
    ///
    /// # Errors
    /// The packet, if the worker has too many waiting. That is counted.
    pub fn send(&mut self, inject: Inject) -> Result<(), Inject> {
        while self.back.pop().is_some() {
            self.under_way -= 1;
        }
        if self.under_way >= INJECT_RING {
            self.counters.count_drop(DropReason::InjectFull);
            return Err(inject);
        }
        self.down.push(inject)?;
        self.under_way += 1;
        Ok(())
    }
}

/// The worker's end.
pub(crate) struct Injections {
    down: Arc<ArrayQueue<Inject>>,
    back: Arc<ArrayQueue<Inject>>,
}

/// Both ends of an inject ring.
pub(crate) fn inject_ring(counters: Arc<Counters>) -> (Injector, Injections) {
    let (down, back) = (Arc::new(ArrayQueue::new(INJECT_RING)), Arc::new(ArrayQueue::new(INJECT_RING)));
    let injector = Injector { down: Arc::clone(&down), back: Arc::clone(&back), under_way: 0, counters };
    (injector, Injections { down, back })
}

impl Injections {
    /// The oldest packet. Give it back with [`Injections::done`].
    pub(crate) fn next(&self) -> Option<Inject> {
        self.down.pop()
    }

    /// Sends a packet back to be freed.
    pub(crate) fn done(&self, inject: Inject) {
        // There is room: see `Injector::under_way`.
        let _ = self.back.push(inject);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Pool;
    use crate::link::{HeapBuffer, HeapPool};

    #[test]
    fn what_anybody_can_send_leaves_room_for_ike_and_for_proved_peers() {
        let counters = Arc::new(Counters::new(0));
        let (punter, mut receiver) = punt_ring::<HeapBuffer>(Arc::clone(&counters));
        let mut pool = HeapPool::new(2 * PUNT_RING);
        for (reason, waiting) in [
            (PuntReason::Local { tunnel: None }, PUNT_RING / 4),
            (
                PuntReason::Ike { port: dmvpn_tables::PortId(0), worker: dmvpn_tables::WorkerId(0) },
                PUNT_RING / 2,
            ),
        ] {
            for _ in 0..PUNT_RING {
                punter.punt(reason, pool.alloc().unwrap());
            }
            assert_eq!(punter.ring.len(), waiting);
        }
        let refused = counters.dropped(DropReason::PuntFull);
        assert_eq!(refused, 2 * PUNT_RING as u64 - PUNT_RING as u64 / 2);
        let nhrp = PuntReason::Nhrp {
            tunnel: dmvpn_tables::TunnelId(0),
            peer: Some(dmvpn_tables::PeerId(1)),
            source: std::net::Ipv4Addr::LOCALHOST,
        };
        for _ in 0..PUNT_RING {
            punter.punt(nhrp, pool.buffer(b"nhrp").unwrap());
        }
        assert_eq!(counters.dropped(DropReason::PuntFull) - refused, PUNT_RING as u64 / 2);
        let received: Vec<_> = std::iter::from_fn(|| receiver.poll()).collect();
        assert_eq!(received.len(), PUNT_RING);
        assert_eq!(received.last(), Some(&Punt { reason: nhrp, packet: b"nhrp".to_vec() }));
        assert_eq!(pool.in_use(), 0);
    }

    #[test]
    fn injected_packets_come_back_and_never_overfill_either_ring() {
        let counters = Arc::new(Counters::new(0));
        let (mut injector, injections) = inject_ring(Arc::clone(&counters));
        for round in 0..3 {
            for _ in 0..INJECT_RING {
                assert!(injector.send(Inject::Packet(vec![round])).is_ok());
            }
            assert!(injector.send(Inject::Packet(vec![])).is_err());
            // Taken but not given back still counts.
            let taken: Vec<_> = std::iter::from_fn(|| injections.next()).collect();
            assert_eq!(taken.len(), INJECT_RING);
            assert!(injector.send(Inject::Packet(vec![])).is_err());
            taken.into_iter().for_each(|inject| injections.done(inject));
            assert_eq!(counters.dropped(DropReason::InjectFull), 2 * (u64::from(round) + 1));
        }
    }
}
