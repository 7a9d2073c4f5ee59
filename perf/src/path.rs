//! `path`: the whole packet path in memory.

use anyhow::ensure;
use clap::Args;
use dmvpn_dataplane::{Buffer, ControlEnd, Counters, Handoff, Stage, Worker};
use dmvpn_dpdk::{Clock, Mbuf, Mempool};
use dmvpn_esp::{OpenJob, open};
use dmvpn_tables::Publisher;
use dmvpn_wire::{View, eth};

use crate::bare;
use crate::cases::{Cases, Direction, Setup};
use crate::network::{Network, WAN_MTU};
use crate::port::MemoryPort;
use crate::progress;
use crate::report::{Case, Object, Report};
use crate::rig::Rig;
use crate::stats::{Samples, in_turns, median_of_each};
use crate::traffic::{ESP, Flow, GRE, Traffic, seal_at_spokes};

/// The whole five-stage worker path in memory on one core, from the packets that a port has received to the packets that
/// it is given to send; beside it, in turns, the bare kernels on the same packets.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    cases: Cases,
}

/// Packets that are prepared, and then timed.
const BATCH: usize = 256;
/// Batches of a turn. What a turn took is the median of them.
const BATCHES: usize = 8;
const BUFFERS: u32 = 4096;

/// Runs all cases.
///
/// # Errors
/// The machine does not let us, or a packet was lost or damaged.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let cases = &arguments.cases;
    let rig = Rig::start(Vec::new())?;
    let cpu = cases.cpu()?;
    let _pinned = rig.pin(cpu)?;
    let pool = Mempool::new(&rig.eal, BUFFERS, WAN_MTU)?;
    let mut report = Report::new("path", rig.machine(), cases.settings(cpu));
    let setups = cases.setups();
    let progress = progress::bar(setups.len() as u64, "path");
    for setup in setups {
        for case in measure(&rig, &pool, setup, cases)? {
            report.push(case);
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    report.print(cases.json)
}

/// Measures a case, and its variant if there is one.
fn measure(rig: &Rig, pool: &Mempool, setup: Setup, cases: &Cases) -> anyhow::Result<Vec<Case>> {
    let variants = cases.variants(setup);
    let mut benches = variants
        .iter()
        .map(|(_, setup)| Bench::new(rig.clock, pool, *setup, cases.seed))
        .collect::<Result<Vec<_>, _>>()?;
    let mut contenders: Vec<(usize, Contender)> =
        (0..benches.len()).flat_map(|bench| [(bench, Contender::Path), (bench, Contender::Kernel)]).collect();
    let figures = in_turns(rig.clock, cases.time(), &mut contenders, |&mut (bench, contender)| {
        benches[bench].turn(contender)
    })?;
    let mut results = Vec::new();
    for (number, (bench, (name, setup))) in benches.iter().zip(variants).enumerate() {
        let (path, kernel) = (&figures[2 * number], &figures[2 * number + 1]);
        let mut identity = setup.identity();
        if let Some(name) = name {
            identity = identity.with("setting", name);
        }
        let mut case = bench.case(identity, rig.hz(), path, &kernel[0]);
        if number > 0 {
            case = case.figure("throughput_to_first", figures[0][0].ratio(&path[0]));
        }
        results.push(case);
    }
    Ok(results)
}

/// Who takes turns.
#[derive(Debug, Clone, Copy)]
enum Contender {
    Path,
    Kernel,
}

/// Cycles per packet: in all, and of each stage.
type Cycles = [f64; FIGURES];
const FIGURES: usize = 1 + Stage::ALL.len();

/// A hub with a worker, and the traffic of a case.
struct Bench {
    clock: Clock,
    pool: Mempool,
    setup: Setup,
    network: Network,
    traffic: Traffic,
    worker: Worker<MemoryPort<Mbuf>, Mempool>,
    control: ControlEnd<Mbuf>,
    wan: MemoryPort<Mbuf>,
    lan: MemoryPort<Mbuf>,
    _publisher: Publisher,
}

impl Bench {
    fn new(clock: Clock, pool: &Mempool, setup: Setup, seed: u64) -> anyhow::Result<Self> {
        let network = Network::new(setup.kernel, setup.suite.0, setup.peers, seed)?;
        let traffic = Traffic::new(setup.direction, setup.size, &network, seed);
        let (publisher, readers) = Publisher::new(network.snapshot.clone(), 1);
        let (wan, lan) = (MemoryPort::new(setup.burst), MemoryPort::new(setup.burst));
        let mut parts = readers.into_iter().zip(Handoff::between(1, 1));
        let Some((reader, handoff)) = parts.next() else { unreachable!("one worker") };
        let (worker, control) = Worker::new(vec![wan.clone(), lan.clone()], pool.clone(), reader, handoff);
        Ok(Self {
            clock,
            pool: pool.clone(),
            setup,
            network,
            traffic,
            worker,
            control,
            wan,
            lan,
            _publisher: publisher,
        })
    }

    /// What has come out.
    fn case(&self, identity: Object, hz: f64, path: &[Samples; FIGURES], kernel: &Samples) -> Case {
        let [cycles, stages @ ..] = path;
        let ns = cycles.median() * 1e9 / hz;
        let mut case = Case::of(identity)
            .figure("mpps", 1e3 / ns)
            .figure("gbps", self.setup.size.mean() * 8.0 / ns)
            .figure("ns_per_packet", ns)
            .figure("cycles_per_packet", cycles.median())
            .figure("kernel_cycles", kernel.median())
            .figure("ratio_to_kernel", kernel.ratio(cycles));
        for (stage, cycles) in Stage::ALL.iter().zip(stages) {
            case = case.figure(stage.name(), cycles.median());
        }
        case.figure("drops", self.drops())
            .figure("least_cycles", cycles.min())
            .figure("spread", cycles.spread())
            .figure("rounds", cycles.len())
    }

    /// So many batches that the caches hold what they would if there was nothing else.
    fn turn(&mut self, contender: Contender) -> anyhow::Result<Cycles> {
        let batches = (0..BATCHES).map(|_| match contender {
            Contender::Path => self.path(),
            Contender::Kernel => self.kernel(),
        });
        Ok(median_of_each(&batches.collect::<Result<Vec<_>, _>>()?))
    }

    fn kernel(&mut self) -> anyhow::Result<Cycles> {
        let Self { clock, network, traffic, pool, setup, .. } = self;
        let cycles = bare::cycles(*clock, network, traffic, pool, BATCH, setup.burst)?;
        let mut figures = [0.0; _];
        figures[0] = cycles as f64 / BATCH as f64;
        Ok(figures)
    }

    fn path(&mut self) -> anyhow::Result<Cycles> {
        let flows: Vec<Flow> = (0..BATCH).map(|_| self.traffic.next()).collect();
        let frames = self.prepare(&flows)?;
        let (input, output) = match self.setup.direction {
            Direction::Encap => (&self.lan, &self.wan),
            Direction::Decap => (&self.wan, &self.lan),
            Direction::Hairpin => (&self.wan, &self.wan),
        };
        input.fill(frames);
        let stages = stage_cycles(&self.control.counters);

        let clock = self.clock;
        let begin = clock.cycles();
        for _ in 0..BATCH.div_ceil(self.setup.burst) {
            self.worker.poll(clock.micros(clock.cycles()), || clock.cycles());
        }
        let cycles = clock.cycles() - begin;

        let mut sent = output.sent();
        ensure!(
            input.is_drained() && sent.len() == flows.len(),
            "{} of {} packets came out; {:?}",
            sent.len(),
            flows.len(),
            self.control.counters.drops().filter(|(_, count)| *count > 0).collect::<Vec<_>>()
        );
        let sample = usize::from(flows[0].number()) % flows.len();
        self.check(&flows[sample], &mut sent[sample])?;
        while self.control.punts.poll().is_some() {}

        let mut figures = [0.0; _];
        figures[0] = cycles as f64;
        for (figure, (after, before)) in
            figures[1..].iter_mut().zip(stage_cycles(&self.control.counters).iter().zip(stages))
        {
            *figure = (after - before) as f64;
        }
        Ok(figures.map(|cycles| cycles / BATCH as f64))
    }

    /// Frames as the hub receives them.
    fn prepare(&mut self, flows: &[Flow]) -> anyhow::Result<Vec<Mbuf>> {
        let Self { network, pool, setup, .. } = self;
        if setup.direction == Direction::Encap {
            return flows.iter().map(|flow| flow.lan_frame(pool)).collect();
        }
        let mut frames =
            flows.iter().map(|flow| flow.wan_frame(network, pool)).collect::<Result<Vec<_>, _>>()?;
        seal_at_spokes(network, &mut frames, flows)?;
        Ok(frames)
    }

    /// Checks what became of a packet: that the host or spoke that it is for can read it.
    fn check(&self, flow: &Flow, frame: &mut Mbuf) -> anyhow::Result<()> {
        let hops = 1;
        let Some(to) = flow.to else { return flow.check(hops, &frame.bytes()[eth::Header::LEN..]) };
        let receiver = self.network.receiver(to)?;
        let packet = &mut frame.bytes_mut()[ESP..];
        let mut jobs = [OpenJob::new(&receiver, packet)];
        open(&mut jobs);
        let opened = jobs[0].result()?;
        let begin = ESP + opened.offset;
        flow.check(hops, &frame.bytes()[begin + GRE..begin + opened.len])
    }

    /// Packets lost.
    fn drops(&self) -> u64 {
        self.control.counters.drops().map(|(_, count)| count).sum()
    }
}

fn stage_cycles(counters: &Counters) -> [u64; Stage::ALL.len()] {
    Stage::ALL.map(|stage| counters.stage(stage).ticks.value())
}
