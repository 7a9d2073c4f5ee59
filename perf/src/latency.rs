//! `latency`: how long packets are in the data plane, while packets arrive on time and the control plane works.

use std::time::Instant;

use anyhow::Context;
use clap::Args;
use dmvpn_dpdk::{Clock, Mempool};
use dmvpn_tables::Publisher;
use hdrhistogram::Histogram;

use crate::beside;
use crate::cases::{Cases, Setup};
use crate::churn::{Change, Churn, Order};
use crate::network::{Network, WAN_MTU};
use crate::offered::{Bench, Contender, Rate, Window, quickest, quiet};
use crate::progress;
use crate::report::{Case, Report};
use crate::rig::Rig;

/// Latency of the worker path at 10, 50 and 90 % of its own greatest rate, beside a loop that only forwards; with a
/// control plane at rest, and with one that rekeys 2,000 peers and registers 1,000 stations a second.
///
/// Packets arrive on time, and their latency counts from when they were due: who is late pays for all that had to wait.
/// Windows in which somebody else had the core do not count; how many that were, and what the figure is with them, is in
/// the report.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    cases: Cases,
}

/// What is measured where nothing is said.
pub(crate) fn defaults(command: clap::Command) -> clap::Command {
    command
        .mut_arg("ab", |argument| argument.help(beside::AB))
        .mut_arg("kernel", |argument| argument.hide(true))
        .mut_arg("directions", |argument| argument.default_value("encap,decap"))
        .mut_arg("sizes", |argument| argument.default_value("64,imix"))
        .mut_arg("peers", |argument| argument.default_value("1000"))
        .mut_arg("seconds", |argument| argument.default_value("10"))
}

/// Per cent of the path's greatest rate.
const LOADS: [u32; 3] = [10, 50, 90];
/// A rekey is three publications, a registration is one.
const PROGRAM: &[Change] = &[
    Change::Rekey,
    Change::Rekey,
    Change::Rekey,
    Change::Registration,
    Change::Rekey,
    Change::Rekey,
    Change::Rekey,
];
const REKEYS: f64 = 2000.0;
const REGISTRATIONS: f64 = 1000.0;
/// Length of a window, in seconds: shorter than the time between two ticks of an operating system.
const WINDOW: f64 = 0.00125;
/// Packets of a window, at least and at most.
const PACKETS: (f64, f64) = (100.0, 100_000.0);
const BUFFERS: u32 = 8192;

/// Runs all cases.
///
/// # Errors
/// The machine does not let us.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let cases = &arguments.cases;
    cases.ensure_no_kernel()?;
    let rig = Rig::start(Vec::new())?;
    let (cpu, other) = beside::cpus(cases)?;
    let _pinned = rig.pin(cpu)?;
    let pool = Mempool::new(&rig.eal, BUFFERS, WAN_MTU)?;
    let mut report = Report::new("latency", rig.machine(), cases.settings(&[cpu, other]));
    for setup in cases.setups() {
        for (name, setup) in cases.variants(setup) {
            for cell in measure(&rig, &pool, setup, cases, other)? {
                report.push(cell.case(setup, name.clone(), rig.hz())?);
            }
        }
    }
    report.print(cases.json)
}

/// What is known of one load.
struct Cell {
    load: u32,
    churn: bool,
    interval: f64,
    path: Vec<Window>,
    /// The bare loop at the same rate, and at as much of its own greatest rate.
    at_rate: Vec<Window>,
    at_load: Vec<Window>,
    changes: u64,
    change_cycles: u64,
}

fn measure(
    rig: &Rig,
    pool: &Mempool,
    setup: Setup,
    cases: &Cases,
    other: usize,
) -> anyhow::Result<Vec<Cell>> {
    let clock = rig.clock;
    let network = Network::new(setup.kernel, setup.suite.0, setup.peers, 1, cases.seed)?;
    let (publisher, mut readers) = Publisher::new(network.snapshot.clone(), 1);
    let churn = Churn::new(clock, &network, publisher, PROGRAM, cases.seed)?;
    let reader = readers.pop().context("no reader")?;
    let mut bench = Bench::new(clock, pool, setup, &network, reader, cases.seed)?;
    beside::run(rig, other, churn, |control| {
        let path = bench.calibrate(&network, Contender::Path)?;
        let bare = bench.calibrate(&network, Contender::Bare)?;
        let mut cells = Vec::new();
        for churn in [false, true] {
            for load in LOADS {
                let interval = path * 100.0 / f64::from(load);
                let [path, at_rate, at_load] = [(); 3].map(|()| Vec::new());
                cells.push(Cell {
                    load,
                    churn,
                    interval,
                    path,
                    at_rate,
                    at_load,
                    changes: 0,
                    change_cycles: 0,
                });
            }
        }
        let bar = progress::bar(cases.time().as_millis().try_into().unwrap_or(u64::MAX), "latency");
        let begin = Instant::now();
        while begin.elapsed() < cases.time() {
            for cell in &mut cells {
                if cell.churn {
                    control.order(Order::Steady(PUBLICATIONS))?;
                }
                let own = bare * 100.0 / f64::from(cell.load);
                let mut turn = |contender, interval, per_packet, windows: &mut Vec<Window>| {
                    let packets = packets(interval, clock);
                    bench.prepare(&network, packets)?;
                    windows.push(bench.window(contender, packets, Rate::Interval(interval), per_packet)?);
                    anyhow::Ok(())
                };
                turn(Contender::Bare, cell.interval, bare, &mut cell.at_rate)?;
                turn(Contender::Path, cell.interval, path, &mut cell.path)?;
                turn(Contender::Bare, own, bare, &mut cell.at_load)?;
                if cell.churn
                    && let Some(done) = control.order(Order::Rest)?
                {
                    cell.changes += done.changes;
                    cell.change_cycles += done.cycles;
                }
            }
            bar.set_position(begin.elapsed().as_millis().try_into().unwrap_or(u64::MAX));
        }
        bar.finish_and_clear();
        Ok(cells)
    })
}

/// Publications a second.
const PUBLICATIONS: f64 = 3.0 * REKEYS + REGISTRATIONS;

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within PACKETS")]
fn packets(interval: f64, clock: Clock) -> usize {
    (clock.hz() as f64 * WINDOW / interval).clamp(PACKETS.0, PACKETS.1) as usize
}

impl Cell {
    fn case(&self, setup: Setup, name: Option<String>, hz: f64) -> anyhow::Result<Case> {
        let micros =
            |latency: &Histogram<u64>, quantile| latency.value_at_quantile(quantile) as f64 * 1e6 / hz;
        let p999 = |latency: &Histogram<u64>| micros(latency, 0.999);
        let all = [&self.path, &self.at_rate, &self.at_load];
        let quickest = quickest(all.into_iter().flatten());
        let of_quiet = |windows| latency(quiet(windows, quickest), hz);
        let of_all = |windows: &[Window]| latency(windows.iter(), hz);
        let (path, at_rate, at_load) =
            (of_quiet(&self.path)?, of_quiet(&self.at_rate)?, of_quiet(&self.at_load)?);
        let (all_path, all_at_load) = (of_all(&self.path)?, of_all(&self.at_load)?);
        let mut identity = setup.identity().with("load_percent", self.load).with("churn", self.churn);
        if let Some(name) = name {
            identity = identity.with("setting", name);
        }
        let windows = &self.path;
        let lost: usize = windows.iter().map(|window| window.lost).sum();
        Ok(Case::of(identity)
            .figure("mpps", hz / self.interval / 1e6)
            .figure("p50_us", micros(&path, 0.5))
            .figure("p90_us", micros(&path, 0.9))
            .figure("p99_us", micros(&path, 0.99))
            .figure("p999_us", p999(&path))
            .figure("max_us", micros(&path, 1.0))
            .figure("bare_at_rate_p999_us", p999(&at_rate))
            .figure("ratio_at_rate", p999(&path) / p999(&at_rate))
            .figure("bare_at_load_p999_us", p999(&at_load))
            .figure("ratio_at_load", p999(&path) / p999(&at_load))
            .figure("unfiltered_p999_us", p999(&all_path))
            .figure("unfiltered_ratio_at_load", p999(&all_path) / p999(&all_at_load))
            .figure("lost", lost)
            .figure("changes_per_second", self.changes as f64 * hz / self.change_cycles.max(1) as f64)
            .figure("windows", windows.len())
            .figure("filtered", windows.len() - quiet(windows, quickest).count()))
    }
}

/// Latencies of the packets of windows, in cycles up to a second.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "cycles per second")]
fn latency<'a>(windows: impl Iterator<Item = &'a Window>, hz: f64) -> anyhow::Result<Histogram<u64>> {
    let mut latency = Histogram::new_with_max((hz as u64).max(2), 3)?;
    windows.for_each(|window| window.record(&mut latency));
    Ok(latency)
}
