//! A port where packets arrive when they are due, and the packets.

use std::cell::RefCell;
use std::rc::Rc;

use dmvpn_dataplane::{Buffer, Frame, Link, Pool};
use dmvpn_dpdk::{Clock, Mbuf, Mempool};

use crate::cases::Direction;
use crate::network::Network;
use crate::traffic::{Flow, Traffic, seal_at_spokes};

/// Frames as the hub receives them, one behind the other in memory.
#[derive(Default)]
pub(super) struct Stock {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

/// A port where packets arrive on time, and which sends whatever it is given at once. An arriving packet is copied into a
/// buffer when it is received. Clones are the same port.
#[derive(Clone)]
pub(super) struct OfferedPort(Rc<RefCell<State>>);

struct State {
    clock: Clock,
    pool: Mempool,
    burst: usize,
    stock: Rc<Stock>,
    /// Packets that arrive in all; the stock over and over.
    offered: usize,
    taken: usize,
    /// When the first one arrives, and cycles from one to the next: none where all are there from the beginning.
    start: u64,
    interval: f64,
    /// When packets were sent, and how many.
    departures: Vec<(u64, u32)>,
}

/// How fast packets come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Rate {
    /// As fast as they are taken.
    Full,
    /// One every so many cycles.
    Interval(f64),
}

impl Stock {
    /// So many packets of the traffic, as spokes or hosts send them now, instead of those that there are.
    ///
    /// # Errors
    /// There is no memory.
    pub(super) fn refill(
        mut self,
        network: &Network,
        traffic: &mut Traffic,
        pool: &mut Mempool,
        packets: usize,
    ) -> anyhow::Result<Self> {
        const AT_A_TIME: usize = 64;
        self.bytes.clear();
        self.ends.clear();
        while self.ends.len() < packets {
            let flows: Vec<Flow> =
                (self.ends.len()..packets).take(AT_A_TIME).map(|_| traffic.next()).collect();
            let frames: Vec<Mbuf> = if traffic.direction() == Direction::Encap {
                flows.iter().map(|flow| flow.lan_frame(pool)).collect::<Result<_, _>>()?
            } else {
                let mut frames: Vec<_> =
                    flows.iter().map(|flow| flow.wan_frame(network, pool)).collect::<Result<_, _>>()?;
                seal_at_spokes(network, &mut frames, &flows)?;
                frames
            };
            for frame in frames {
                self.bytes.extend_from_slice(frame.bytes());
                self.ends.push(self.bytes.len());
            }
        }
        Ok(self)
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    fn packet(&self, number: usize) -> &[u8] {
        let place = number % self.ends.len().max(1);
        let begin =
            place.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or_default();
        let end = self.ends.get(place).copied().unwrap_or_default();
        self.bytes.get(begin..end).unwrap_or_default()
    }
}

impl OfferedPort {
    /// A port that gives up to `burst` packets at a time.
    pub(super) fn new(clock: Clock, pool: &Mempool, burst: usize) -> Self {
        Self(Rc::new(RefCell::new(State {
            clock,
            pool: pool.clone(),
            burst,
            stock: Rc::default(),
            offered: 0,
            taken: 0,
            start: 0,
            interval: 0.0,
            departures: Vec::new(),
        })))
    }

    /// Lets so many packets of the stock arrive from now on, and says when that is.
    pub(super) fn offer(&self, stock: &Rc<Stock>, packets: usize, rate: Rate) -> u64 {
        let state = &mut *self.0.borrow_mut();
        state.stock = Rc::clone(stock);
        (state.offered, state.taken) = (packets, 0);
        state.interval = rate.interval();
        state.start = state.clock.cycles();
        state.start
    }

    /// Gives up the stock.
    pub(super) fn release(&self) {
        self.0.borrow_mut().stock = Rc::default();
    }

    /// Packets that were received.
    pub(super) fn taken(&self) -> usize {
        self.0.borrow().taken
    }

    /// When packets were sent, and how many. The port keeps its memory: new pages would have to be found in the middle of
    /// the next window.
    pub(super) fn departures(&self) -> Vec<(u64, u32)> {
        self.0.borrow().departures.clone()
    }

    /// Forgets them.
    pub(super) fn forget_departures(&self) {
        self.0.borrow_mut().departures.clear();
    }
}

impl State {
    /// Packets that have arrived.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count, and not negative")]
    fn due(&self) -> usize {
        if self.interval <= 0.0 {
            return self.offered;
        }
        let passed = self.clock.cycles().saturating_sub(self.start) as f64;
        ((passed / self.interval) as usize + 1).min(self.offered)
    }
}

impl Link for OfferedPort {
    type Buffer = Mbuf;

    fn rx(&mut self, frame: &mut Frame<Mbuf>) {
        let state = &mut *self.0.borrow_mut();
        if state.taken == state.offered {
            return;
        }
        let count = (state.due() - state.taken).min(state.burst).min(frame.remaining_capacity());
        for _ in 0..count {
            let bytes = state.stock.packet(state.taken);
            let Some(mut buffer) = state.pool.alloc() else { return };
            let Some(room) = buffer.append(bytes.len()) else { return };
            room.copy_from_slice(bytes);
            frame.push(buffer);
            state.taken += 1;
        }
    }

    fn tx(&mut self, frame: &mut Frame<Mbuf>) {
        let state = &mut *self.0.borrow_mut();
        let count = u32::try_from(frame.len()).unwrap_or_default();
        frame.clear();
        state.departures.push((state.clock.cycles(), count));
    }
}

impl Rate {
    /// Cycles from one packet to the next.
    pub(super) fn interval(self) -> f64 {
        match self {
            Self::Full => 0.0,
            Self::Interval(cycles) => cycles,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stock_is_offered_over_and_over() {
        let stock = Stock { bytes: b"abbccc".to_vec(), ends: vec![1, 3, 6] };
        let packets: Vec<_> = (0..5).map(|number| stock.packet(number)).collect();
        assert_eq!(packets, [&b"a"[..], b"bb", b"ccc", b"a", b"bb"]);
        assert_eq!(Stock::default().packet(3), b"");
    }
}
