//! A worker under offered load: packets arrive when they are due, whether anybody is ready for them or not.

use std::cell::RefCell;
use std::fs;
use std::rc::Rc;

use anyhow::{Context, ensure};
use dmvpn_dataplane::{Buffer, ControlEnd, Frame, Handoff, Link, Pool, Worker};
use dmvpn_dpdk::{Clock, Mbuf, Mempool};
use dmvpn_tables::Reader;
use hdrhistogram::Histogram;

use crate::cases::{Direction, Setup};
use crate::network::Network;
use crate::stats::{Samples, probe};
use crate::traffic::{Flow, Traffic, seal_at_spokes};

/// Frames as the hub receives them, one behind the other in memory.
#[derive(Default)]
pub(crate) struct Stock {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

/// A port where packets arrive on time, and which sends whatever it is given at once. An arriving packet is copied into a
/// buffer when it is received. Clones are the same port.
#[derive(Clone)]
struct OfferedPort(Rc<RefCell<State>>);

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

/// Who forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contender {
    /// A worker.
    Path,
    /// A loop that sends what it receives.
    Bare,
}

/// How fast packets come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Rate {
    /// As fast as they are taken.
    Full,
    /// One every so many cycles.
    Interval(f64),
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

impl Stock {
    /// So many packets of the traffic, as spokes or hosts send them now, instead of those that there are.
    fn refill(
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

    fn packet(&self, number: usize) -> &[u8] {
        let place = number % self.ends.len().max(1);
        let begin =
            place.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or_default();
        let end = self.ends.get(place).copied().unwrap_or_default();
        self.bytes.get(begin..end).unwrap_or_default()
    }
}

impl OfferedPort {
    fn new(clock: Clock, pool: &Mempool, burst: usize) -> Self {
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

    fn offer(&self, stock: &Rc<Stock>, packets: usize, rate: Rate) {
        let state = &mut *self.0.borrow_mut();
        state.stock = Rc::clone(stock);
        (state.offered, state.taken) = (packets, 0);
        state.interval = rate.interval();
        state.start = state.clock.cycles();
    }

    fn taken(&self) -> usize {
        self.0.borrow().taken
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
        if self.setup.direction == Direction::Encap && !self.stock.ends.is_empty() {
            return Ok(());
        }
        let packets = if self.setup.direction == Direction::Encap { PLAIN } else { packets };
        // Into the memory of the last one, for the same reason for which ports keep theirs.
        self.input.0.borrow_mut().stock = Rc::default();
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
        self.output.0.borrow_mut().departures.clear();
        self.input.offer(&self.stock, packets, rate);
        let start = self.input.0.borrow().start;
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
        let state = &mut *self.output.0.borrow_mut();
        let sent: usize = state.departures.iter().map(|(_, count)| *count as usize).sum();
        ensure!(sent <= packets, "more packets left than arrived");
        let end = state.departures.last().map_or(start, |(at, _)| *at);
        Ok(Window {
            offered: packets,
            lost: packets - sent,
            cycles: end - start,
            longest,
            disturbed: stalled || run_delay() != waited,
            probe: before.max(probe(self.clock)),
            start,
            interval: rate.interval(),
            // The port keeps its memory: new pages would have to be found in the middle of the next window.
            departures: state.departures.clone(),
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

impl Rate {
    /// Cycles from one packet to the next.
    fn interval(self) -> f64 {
        match self {
            Self::Full => 0.0,
            Self::Interval(cycles) => cycles,
        }
    }
}

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

/// Nanoseconds for which this thread could have run, but waited for a CPU.
fn run_delay() -> Option<u64> {
    let text = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().nth(1)?.parse().ok()
}

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

    #[test]
    fn a_stock_is_offered_over_and_over() {
        let stock = Stock { bytes: b"abbccc".to_vec(), ends: vec![1, 3, 6] };
        let packets: Vec<_> = (0..5).map(|number| stock.packet(number)).collect();
        assert_eq!(packets, [&b"a"[..], b"bb", b"ccc", b"a", b"bb"]);
        assert_eq!(Stock::default().packet(3), b"");
    }
}
