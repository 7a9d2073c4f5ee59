//! A worker under offered load: packets arrive when they are due, whether anybody is ready for them or not.

mod port;

use std::rc::Rc;

use anyhow::{Context, ensure};
use dmvpn_dataplane::{ControlEnd, Frame, Handoff, Link, Worker};
use dmvpn_dpdk::{Clock, Mbuf, Mempool};
use dmvpn_tables::Reader;
use hdrhistogram::Histogram;

use crate::cases::{Direction, Setup};
use crate::network::Network;
use crate::stats::{Samples, probe, run_delay};
use crate::traffic::Traffic;

pub(crate) use self::port::Rate;
use self::port::{OfferedPort, Stock};

/// Who forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contender {
    /// A worker.
    Path,
    /// A loop that sends what it receives.
    Bare,
}

/// What became of the packets of some time.
#[derive(Debug)]
pub(crate) struct Window {
    /// Packets that arrived.
    pub(crate) offered: usize,
    /// Packets that were not sent.
    pub(crate) lost: usize,
    /// From the arrival of the first to the departure of the last.
    pub(crate) cycles: u64,
    /// Cycles of the longest turn of the loop.
    pub(crate) longest: u64,
    /// Somebody else had the CPU meanwhile.
    pub(crate) disturbed: bool,
    /// Cycles that a probe took before or after it, whichever was slower.
    pub(crate) probe: u64,
    start: u64,
    interval: f64,
    departures: Vec<(u64, u32)>,
}

/// A hub's worker between two such ports, and a bare loop between the same.
pub(crate) struct Bench {
    clock: Clock,
    pool: Mempool,
    setup: Setup,
    traffic: Traffic,
    stock: Rc<Stock>,
    worker: Worker<OfferedPort, Mempool>,
    control: ControlEnd<Mbuf>,
    input: OfferedPort,
    output: OfferedPort,
}

/// Cycles that no turn of the loop takes without packets, nor with a single one: about ten microseconds.
const STALL: u64 = 30_000;
/// A turn with packets is a stall if it takes this longer than so many times what its packets take at full load.
const SLOW: f64 = 2.0;

/// Seconds that no window takes.
const PATIENCE: u64 = 20;

impl Bench {
    /// A worker that reads tables by `reader`, and traffic for them.
    ///
    /// # Errors
    /// There is no worker's place.
    pub(crate) fn new(
        clock: Clock,
        pool: &Mempool,
        setup: Setup,
        network: &Network,
        reader: Reader,
        seed: u64,
    ) -> anyhow::Result<Self> {
        let traffic = Traffic::new(setup.direction, setup.size, network, seed);
        let [wan, lan] = [(), ()].map(|()| OfferedPort::new(clock, pool, setup.burst));
        let handoff = Handoff::between(1, 1).pop().context("no worker")?;
        let (worker, control) = Worker::new(vec![wan.clone(), lan.clone()], pool.clone(), reader, handoff);
        let (input, output) = match setup.direction {
            Direction::Encap => (lan, wan),
            Direction::Decap => (wan, lan),
            Direction::Hairpin => (wan.clone(), wan),
        };
        let (pool, stock) = (pool.clone(), Rc::default());
        Ok(Self { clock, pool, setup, traffic, stock, worker, control, input, output })
    }

    /// Makes packets for the next window. Plain ones can be offered again and again, those of spokes once.
    ///
    /// # Errors
    /// There is no memory.
    pub(crate) fn prepare(&mut self, network: &Network, packets: usize) -> anyhow::Result<()> {
        if self.setup.direction == Direction::Encap && !self.stock.is_empty() {
            return Ok(());
        }
        let packets = if self.setup.direction == Direction::Encap { PLAIN } else { packets };
        // Into the memory of the last one, for the same reason for which ports keep theirs.
        self.input.release();
        let stock = Rc::try_unwrap(std::mem::take(&mut self.stock)).unwrap_or_default();
        self.stock = Rc::new(stock.refill(network, &mut self.traffic, &mut self.pool, packets)?);
        Ok(())
    }

    /// Cycles per packet at the greatest rate: the median of some windows.
    ///
    /// # Errors
    /// As for [`Self::window`].
    pub(crate) fn calibrate(&mut self, network: &Network, contender: Contender) -> anyhow::Result<f64> {
        let mut windows = Vec::new();
        for _ in 0..CALIBRATIONS {
            self.prepare(network, CALIBRATION)?;
            windows.push(self.window(contender, CALIBRATION, Rate::Full, 0.0)?);
        }
        let per_packet = quiet(&windows, quickest(&windows)).map(Window::cycles_per_packet);
        Ok(Samples::new(per_packet.collect()).median())
    }

    /// Packets dropped so far.
    pub(crate) fn drops(&self) -> u64 {
        self.control.counters.drops().map(|(_, count)| count).sum()
    }

    /// Lets the worker poll, with nothing to do, for so many cycles.
    pub(crate) fn idle(&mut self, cycles: u64) {
        let begin = self.clock.cycles();
        loop {
            let now = self.clock.cycles();
            if now - begin > cycles {
                break;
            }
            self.worker.poll(self.clock.micros(now), || 0);
        }
    }

    /// Offers packets, and waits until they have left. `per_packet` is what one takes at full load, in cycles, or 0
    /// where that is not known yet.
    ///
    /// # Errors
    /// They do not leave.
    pub(crate) fn window(
        &mut self,
        contender: Contender,
        packets: usize,
        rate: Rate,
        per_packet: f64,
    ) -> anyhow::Result<Window> {
        let before = probe(self.clock);
        let waited = run_delay();
        self.output.forget_departures();
        let start = self.input.offer(&self.stock, packets, rate);
        let limit = PATIENCE * self.clock.hz();
        let (mut longest, mut stalled, mut frame) = (0, false, Frame::new());
        let mut last = start;
        let mut taken = 0;
        loop {
            let worked = match contender {
                Contender::Path => self.worker.poll(self.clock.micros(last), || 0),
                Contender::Bare => {
                    self.input.rx(&mut frame);
                    let received = !frame.is_empty();
                    if received {
                        self.output.tx(&mut frame);
                    }
                    received
                }
            };
            let (now, taken_now) = (self.clock.cycles(), self.input.taken());
            let cycles = now - last;
            longest = longest.max(cycles);
            let expected = (taken_now - taken) as f64 * per_packet * SLOW;
            let is_warm = taken * WARM_UP >= packets;
            stalled |= is_warm && per_packet > 0.0 && cycles as f64 > STALL as f64 + expected;
            (last, taken) = (now, taken_now);
            if taken == packets && !worked {
                break;
            }
            ensure!(now - start < limit, "{taken} of {packets} packets were taken in, and no more");
        }
        // Nobody needs what is punted, but everybody needs the buffers.
        while self.control.punts.poll().is_some() {}
        let departures = self.output.departures();
        let sent: usize = departures.iter().map(|(_, count)| *count as usize).sum();
        ensure!(sent <= packets, "more packets left than arrived");
        let end = departures.last().map_or(start, |(at, _)| *at);
        Ok(Window {
            offered: packets,
            lost: packets - sent,
            cycles: end - start,
            longest,
            disturbed: stalled || run_delay() != waited,
            probe: before.max(probe(self.clock)),
            start,
            interval: rate.interval(),
            departures,
        })
    }
}

/// Windows at full load, to find the greatest rate, and packets of each.
const CALIBRATIONS: usize = 16;
const CALIBRATION: usize = 16_384;

/// Plain packets, offered over and over: as many as a fast cache holds.
const PLAIN: usize = 2048;

/// The first of so many parts of a window warms caches up.
const WARM_UP: usize = 5;

impl Window {
    /// Cycles per packet that was offered.
    pub(crate) fn cycles_per_packet(&self) -> f64 {
        self.cycles as f64 / self.offered.max(1) as f64
    }

    /// Records, for every packet but the first ones, which find cold caches, the cycles from when it was due to when it
    /// had left. Packets leave in the order of their arrival; where some were lost nobody knows which, and nothing is
    /// recorded.
    pub(crate) fn record(&self, latency: &mut Histogram<u64>) {
        if self.lost > 0 {
            return;
        }
        let mut number = 0;
        for &(at, count) in &self.departures {
            for _ in 0..count {
                if number * WARM_UP >= self.offered {
                    latency.saturating_record(at.saturating_sub(self.arrival(number)));
                }
                number += 1;
            }
        }
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "cycles, and not negative")]
    fn arrival(&self, number: usize) -> u64 {
        self.start + (number as f64 * self.interval) as u64
    }
}

/// What the quickest of the probes beside windows took.
pub(crate) fn quickest<'a>(windows: impl IntoIterator<Item = &'a Window>) -> u64 {
    windows.into_iter().map(|window| window.probe).min().unwrap_or_default()
}

/// The windows that count: those in which nobody else had the core, and of these, if there are some, those beside quick
/// probes. All, if somebody else always had.
pub(crate) fn quiet(windows: &[Window], quickest: u64) -> impl Iterator<Item = &Window> {
    let undisturbed = |window: &&Window| !window.disturbed;
    let quick = move |window: &&Window| window.probe as f64 <= quickest as f64 * QUIET;
    let some_undisturbed = windows.iter().any(|window| undisturbed(&window));
    let some_quick = windows.iter().filter(undisturbed).filter(quick).count() >= FEWEST;
    let counts =
        move |window: &&Window| (!some_undisturbed || undisturbed(window)) && (!some_quick || quick(window));
    windows.iter().filter(counts)
}

/// A probe is quick if it took no more than this times what the quickest took.
pub(crate) const QUIET: f64 = 1.05;
/// Windows beside quick probes, if others are not to count.
const FEWEST: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latency_counts_from_when_a_packet_was_due() {
        let window = Window {
            offered: 10,
            lost: 0,
            cycles: 0,
            longest: 0,
            disturbed: false,
            probe: 0,
            start: 1000,
            interval: 100.0,
            // The first two warm up. The others waited for somebody who came at 1900.
            departures: vec![(1050, 1), (1150, 1), (1900, 7), (1930, 1)],
        };
        let mut latency = Histogram::<u64>::new(3).unwrap();
        window.record(&mut latency);
        let recorded: Vec<_> = latency.iter_recorded().map(|value| value.value_iterated_to()).collect();
        assert_eq!(recorded, [30, 100, 200, 300, 400, 500, 600, 700]);
        let mut nothing = Histogram::<u64>::new(3).unwrap();
        Window { lost: 1, ..window }.record(&mut nothing);
        assert!(nothing.is_empty(), "nobody knows which was lost");
    }

    #[test]
    fn disturbed_windows_count_only_where_there_are_no_others() {
        let window = |disturbed, probe| Window {
            offered: 1,
            lost: 0,
            cycles: 0,
            longest: 0,
            disturbed,
            probe,
            start: 0,
            interval: 0.0,
            departures: vec![],
        };
        let mut windows = vec![window(true, 100), window(true, 150)];
        assert_eq!(quiet(&windows, quickest(&windows)).count(), 2);
        windows.extend((0..7).map(|_| window(false, 104)));
        windows.push(window(false, 120));
        assert_eq!(quiet(&windows, quickest(&windows)).count(), 8, "few are beside quick probes");
        windows.push(window(false, 100));
        assert_eq!(quiet(&windows, quickest(&windows)).count(), 8, "enough are");
    }
}
