//! `publish`: how soon workers forward by what the control plane has changed, and what that costs them.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use dmvpn_dpdk::Mempool;
use dmvpn_tables::Publisher;
use hdrhistogram::Histogram;

use crate::beside::{self, Beside};
use crate::cases::{Cases, Direction};
use crate::churn::{Change, Churn, Done, Order};
use crate::network::{Network, WAN_MTU};
use crate::offered::{Bench, Contender, QUIET, Rate, Window, quickest};
use crate::progress;
use crate::report::{Case, Report};
use crate::rig::Rig;
use crate::stats::Samples;

/// Time from a change (a peer rekeys, moves, or a station registers with it) to its adoption by the worker, idle and at
/// full load; and what 50,000 changes a second cost a worker at full load.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    cases: Cases,
}

/// What is measured where nothing is said.
pub(crate) fn defaults(command: clap::Command) -> clap::Command {
    command
        .mut_arg("suites", |argument| argument.default_value("aes256-sha1"))
        .mut_arg("ab", |argument| argument.help(beside::AB))
        .mut_arg("kernel", |argument| argument.hide(true))
        .mut_arg("directions", |argument| argument.default_value("encap"))
        .mut_arg("sizes", |argument| argument.default_value("imix"))
        .mut_arg("peers", |argument| argument.default_value("1000,100000"))
        .mut_arg("seconds", |argument| argument.default_value("9"))
}

const PROGRAM: &[Change] = &[Change::Rekey, Change::Move, Change::Registration];
/// Changes a second, of a control plane that is in a hurry.
const STORM: f64 = 50_000.0;
/// Packets of a window at full load: less than what comes between two ticks of an operating system.
const WINDOW: usize = 2048;
const BUFFERS: u32 = 8192;

/// Runs all cases.
///
/// # Errors
/// The machine does not let us.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let cases = &arguments.cases;
    cases.ensure_no_kernel()?;
    ensure!(
        cases.directions == [Direction::Encap],
        "only packets of a LAN can be offered without end: --direction encap"
    );
    let rig = Rig::start(Vec::new())?;
    let (cpu, other) = beside::cpus(cases)?;
    let _pinned = rig.pin(cpu)?;
    let pool = Mempool::new(&rig.eal, BUFFERS, WAN_MTU)?;
    let mut report = Report::new("publish", rig.machine(), cases.settings(&[cpu, other]));
    let setups = cases.setups();
    let bar = progress::bar(3 * setups.len() as u64, "publish");
    for setup in setups {
        for (name, setup) in cases.variants(setup) {
            let identity = |load: &str| {
                let identity = setup.identity().with("load", load);
                match &name {
                    Some(name) => identity.with("setting", name.clone()),
                    None => identity,
                }
            };
            let network = Network::new(setup.kernel, setup.suite.0, setup.peers, 1, cases.seed)?;
            let (publisher, mut readers) = Publisher::new(network.snapshot.clone(), 1);
            let churn = Churn::new(rig.clock, &network, publisher, PROGRAM, cases.seed)?;
            let reader = readers.pop().context("no reader")?;
            let bench = Bench::new(rig.clock, &pool, setup, &network, reader, cases.seed)?;
            let mut trial = Trial { rig: &rig, bench, network: &network, time: cases.time() / 3 };
            let results = beside::run(&rig, other, churn, |control| {
                let idle = trial.one_by_one(control, false)?;
                bar.inc(1);
                let loaded = trial.one_by_one(control, true)?;
                bar.inc(1);
                let storm = trial.storm(control)?;
                bar.inc(1);
                Ok((idle, loaded, storm))
            })?;
            let (idle, loaded, storm) = results;
            report.push(adoption(Case::of(identity("idle")), &idle, rig.hz()));
            report.push(adoption(Case::of(identity("full")), &loaded, rig.hz()));
            report.push(storm.case(Case::of(identity("full, 50000/s")), rig.hz()));
        }
    }
    bar.finish_and_clear();
    report.print(cases.json)
}

/// A worker and what it forwards.
struct Trial<'a> {
    rig: &'a Rig,
    bench: Bench,
    network: &'a Network,
    time: Duration,
}

/// What a storm of changes did.
struct Storm {
    /// Cycles per packet without and with it, by round.
    calm: Samples,
    stormy: Samples,
    /// The longest turns of the worker, in cycles.
    calm_turn: Samples,
    stormy_turn: Samples,
    lost: u64,
    changes: u64,
    cycles: u64,
    publication: Histogram<u64>,
    rounds: usize,
    /// Those that do not count.
    filtered: usize,
}

impl Trial<'_> {
    /// Changes come one by one.
    fn one_by_one(&mut self, control: &mut Beside<'_>, loaded: bool) -> anyhow::Result<Done> {
        self.bench.prepare(self.network, WINDOW)?;
        control.order(Order::OneByOne)?;
        let begin = Instant::now();
        while begin.elapsed() < self.time {
            if loaded {
                self.bench.window(Contender::Path, WINDOW, Rate::Full, 0.0)?;
            } else {
                self.bench.idle(self.rig.clock.hz() / 1000);
            }
        }
        // The last change waits for its adoption.
        control.tell(Order::Rest)?;
        loop {
            self.bench.idle(self.rig.clock.hz() / 1000);
            if let Some(done) = control.answer()? {
                return Ok(done);
            }
        }
    }

    /// Windows with as many changes as there can be, in turns with windows without.
    fn storm(&mut self, control: &mut Beside<'_>) -> anyhow::Result<Storm> {
        let clock = self.rig.clock;
        let per_packet = self.bench.calibrate(self.network, Contender::Path)?;
        let dropped = self.bench.drops();
        let (mut rounds, mut changes, mut cycles) = (Vec::new(), 0, 0);
        let mut publication = Histogram::new_with_max(clock.hz().max(2), 3)?;
        let begin = Instant::now();
        while begin.elapsed() < self.time || rounds.len() < FEWEST {
            let mut round = [None, None];
            let stormy_first = rounds.len() % 2 == 1;
            for stormy in [stormy_first, !stormy_first] {
                control.order(if stormy { Order::Steady(STORM) } else { Order::Spin })?;
                // It has begun.
                self.bench.idle(clock.hz() / 10_000);
                let window = self.bench.window(Contender::Path, WINDOW, Rate::Full, per_packet)?;
                if let Some(done) = control.order(Order::Rest)?
                    && stormy
                {
                    changes += done.changes;
                    cycles += done.cycles;
                    publication.add(&done.publication)?;
                }
                round[usize::from(stormy)] = Some(window);
            }
            let [Some(calm), Some(stormy)] = round else { continue };
            rounds.push([calm, stormy]);
        }
        let quickest = quickest(rounds.iter().flatten()) as f64;
        let counts = |round: &&[Window; 2]| {
            round.iter().all(|window| !window.disturbed && window.probe as f64 <= quickest * QUIET)
        };
        let any = rounds.iter().any(|round| counts(&round));
        let figures = |stormy: usize, figure: fn(&Window) -> f64| {
            let quiet = rounds.iter().filter(|round| !any || counts(round));
            Samples::new(quiet.map(|round| figure(&round[stormy])).collect())
        };
        let missing: usize = rounds.iter().flatten().map(|window| window.lost).sum();
        Ok(Storm {
            calm: figures(0, Window::cycles_per_packet),
            stormy: figures(1, Window::cycles_per_packet),
            calm_turn: figures(0, |window| window.longest as f64),
            stormy_turn: figures(1, |window| window.longest as f64),
            lost: (missing as u64).max(self.bench.drops() - dropped),
            changes,
            cycles,
            publication,
            rounds: rounds.len(),
            filtered: rounds.iter().filter(|round| !counts(round)).count(),
        })
    }
}

/// Rounds without which there is no figure.
const FEWEST: usize = 8;

fn adoption(case: Case, done: &Done, hz: f64) -> Case {
    let micros = |latency: &Histogram<u64>, quantile| latency.value_at_quantile(quantile) as f64 * 1e6 / hz;
    case.figure("changes", done.changes)
        .figure("publication_p50_us", micros(&done.publication, 0.5))
        .figure("publication_p99_us", micros(&done.publication, 0.99))
        .figure("adopted_p50_us", micros(&done.adoption, 0.5))
        .figure("adopted_p99_us", micros(&done.adoption, 0.99))
        .figure("adopted_p999_us", micros(&done.adoption, 0.999))
        .figure("adopted_max_us", micros(&done.adoption, 1.0))
}

impl Storm {
    fn case(&self, case: Case, hz: f64) -> Case {
        let micros = |cycles: f64| cycles * 1e6 / hz;
        let publication = |quantile| micros(self.publication.value_at_quantile(quantile) as f64);
        case.figure("changes", self.changes)
            .figure("changes_per_second", self.changes as f64 * hz / self.cycles.max(1) as f64)
            .figure("publication_p50_us", publication(0.5))
            .figure("publication_p99_us", publication(0.99))
            .figure("mpps", hz / self.stormy.median() / 1e6)
            .figure("calm_mpps", hz / self.calm.median() / 1e6)
            .figure("throughput_lost_percent", (1.0 - self.calm.ratio(&self.stormy)) * 100.0)
            .figure("lost", self.lost)
            .figure("longest_turn_us", micros(self.stormy_turn.median()))
            .figure("calm_longest_turn_us", micros(self.calm_turn.median()))
            .figure("rounds", self.rounds)
            .figure("filtered", self.filtered)
    }
}
