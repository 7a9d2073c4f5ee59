//! Around the ports of a worker: how long packets are inside, whether they stay in order, and how many may enter.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;

use dmvpn_dataplane::{Buffer, Frame, Link};
use hdrhistogram::Histogram;

use super::order::{Order, Seen};

/// What the main thread and the taps of a worker share.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    /// Packets that may have entered.
    allowed: AtomicU64,
    /// Packets that have.
    entered: AtomicU64,
    /// How often plain flows have begun anew.
    rounds: AtomicU64,
    /// When the newest packets entered, in cycles. Only the worker reads it.
    stamp: AtomicU64,
}

/// A port with a tap.
pub(crate) struct Tap<L: Link, T> {
    link: L,
    gate: Arc<Gate>,
    ticks: T,
    /// Came together with the last one that was allowed.
    held: Frame<L::Buffer>,
    /// When what the port did not take at once had entered, and how many that was.
    delayed: VecDeque<(u64, usize)>,
    rounds: u64,
    findings: Findings,
    order: Order,
    report: Sender<Findings>,
}

/// What a tap has seen at one port.
#[derive(Debug)]
pub(crate) struct Findings {
    /// Which port.
    pub(crate) port: usize,
    /// Cycles from entering to leaving by this port.
    pub(crate) latency: Histogram<u64>,
    /// Order of what left.
    pub(crate) seen: Seen,
}

impl Gate {
    /// Lets so many more packets enter, of plain flows that begin anew. Nobody else enters meanwhile: it was closed.
    pub(crate) fn open(&self, packets: u64) {
        self.rounds.fetch_add(1, Ordering::Relaxed);
        self.allowed.store(self.entered() + packets, Ordering::Release);
    }

    /// Lets no more enter.
    pub(crate) fn close(&self) {
        self.allowed.store(0, Ordering::Release);
    }

    /// How many have entered.
    pub(crate) fn entered(&self) -> u64 {
        self.entered.load(Ordering::Relaxed)
    }
}

impl<L: Link, T: Fn() -> u64> Tap<L, T> {
    /// A tap at a port; `ticks` count up to `hz` in a second. What it has seen is sent when the worker ends.
    ///
    /// # Errors
    /// There is no memory.
    pub(crate) fn new(
        port: usize,
        link: L,
        gate: Arc<Gate>,
        (ticks, hz): (T, u64),
        report: Sender<Findings>,
    ) -> anyhow::Result<Self> {
        // A second at most, to one part in a hundred.
        let latency = Histogram::new_with_max(hz.max(2), 2)?;
        let findings = Findings { port, latency, seen: Seen::default() };
        let order = Order::default();
        let (held, delayed) = (Frame::new(), VecDeque::new());
        Ok(Self { link, gate, ticks, held, delayed, rounds: 0, findings, order, report })
    }

    fn left(&mut self, stamp: u64, packets: usize, now: u64) {
        self.findings.latency.saturating_record_n(now.wrapping_sub(stamp), packets as u64);
    }
}

impl<L: Link, T: Fn() -> u64> Link for Tap<L, T> {
    type Buffer = L::Buffer;

    fn rx(&mut self, frame: &mut Frame<L::Buffer>) {
        let before = frame.len();
        let entered = self.gate.entered.load(Ordering::Relaxed);
        let allowed = self.gate.allowed.load(Ordering::Acquire).saturating_sub(entered);
        let allowed = usize::try_from(allowed).unwrap_or(usize::MAX);
        if allowed == 0 {
            return;
        }
        if self.held.is_empty() && allowed >= frame.remaining_capacity() {
            self.link.rx(frame);
        } else {
            if self.held.is_empty() {
                self.link.rx(&mut self.held);
            }
            let count = allowed.min(frame.remaining_capacity()).min(self.held.len());
            frame.extend(self.held.drain(..count));
        }
        let count = frame.len() - before;
        if count > 0 {
            self.gate.entered.store(entered + count as u64, Ordering::Relaxed);
            self.gate.stamp.store((self.ticks)(), Ordering::Relaxed);
        }
    }

    fn tx(&mut self, frame: &mut Frame<L::Buffer>) {
        let rounds = self.gate.rounds.load(Ordering::Relaxed);
        if self.rounds != rounds {
            self.rounds = rounds;
            self.order.begin_anew();
        }
        let late: usize = self.delayed.iter().map(|(_, count)| count).sum();
        frame.iter().skip(late).for_each(|packet| self.order.see(packet.bytes()));
        self.delayed
            .push_back((self.gate.stamp.load(Ordering::Relaxed), frame.len() - late.min(frame.len())));

        let before = frame.len();
        self.link.tx(frame);
        let mut sent = before - frame.len();
        let now = (self.ticks)();
        while let Some((stamp, count)) = self.delayed.pop_front() {
            let gone = sent.min(count);
            self.left(stamp, gone, now);
            sent -= gone;
            if gone < count {
                self.delayed.push_front((stamp, count - gone));
                break;
            }
        }
    }
}

impl<L: Link, T> Drop for Tap<L, T> {
    fn drop(&mut self) {
        let latency = self.findings.latency.clone();
        let findings = Findings { port: self.findings.port, latency, seen: self.order.seen() };
        // Nobody may want to know.
        let _ = self.report.send(findings);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use dmvpn_dataplane::link::{HeapPool, Loopback};

    use super::*;

    #[test]
    fn lets_in_what_is_allowed_and_times_it_until_it_has_left() {
        let mut pool = HeapPool::new(16);
        let (near, mut far) = Loopback::pair(8);
        let (report, findings) = mpsc::channel();
        let (gate, now) = (Arc::new(Gate::default()), AtomicU64::new(100));
        let ticks = (|| now.load(Ordering::Relaxed), 1_000_000);
        let mut tap = Tap::new(3, near, Arc::clone(&gate), ticks, report).unwrap();
        let mut packets: Frame<_> = (0..6u8).map(|n| pool.buffer(&[n]).unwrap()).collect();
        far.tx(&mut packets);

        let mut frame = Frame::new();
        tap.rx(&mut frame);
        assert_eq!(frame.len(), 0, "the gate is closed");
        gate.open(4);
        tap.rx(&mut frame);
        tap.rx(&mut frame);
        assert_eq!((frame.len(), gate.entered()), (4, 4));
        now.store(150, Ordering::Relaxed);
        tap.tx(&mut frame);
        gate.close();
        gate.open(2);
        tap.rx(&mut frame);
        assert_eq!(frame.iter().map(|packet| packet.bytes()[0]).collect::<Vec<_>>(), [4, 5]);

        // The far end takes no more than eight, and the last two leave later.
        let more: Frame<_> = (6..10u8).map(|n| pool.buffer(&[n]).unwrap()).collect();
        frame.extend(more);
        now.store(160, Ordering::Relaxed);
        tap.tx(&mut frame);
        assert_eq!(frame.len(), 2);
        far.rx(&mut Frame::new());
        now.store(250, Ordering::Relaxed);
        tap.tx(&mut frame);
        drop(tap);
        let Findings { port, latency, .. } = findings.recv().unwrap();
        assert_eq!((port, latency.len(), latency.min()), (3, 10, 10));
        assert_eq!(
            (latency.value_at_quantile(0.7), latency.value_at_quantile(0.8), latency.max()),
            (50, 50, 100)
        );
    }
}
