//! `path`: the whole packet path in memory.

mod crew;

use anyhow::{Context, ensure};
use clap::Args;
use dmvpn_dataplane::{Buffer, ControlEnd, Counters, Handoff, Stage, Worker};
use dmvpn_dpdk::{Clock, Mbuf, Mempool};
use dmvpn_esp::{OpenJob, open};
use dmvpn_tables::Publisher;
use dmvpn_wire::{View, eth};

use crate::bare;
use crate::cases::{Cases, Direction, Setup};
use crate::network::{Network, WAN_MTU};
use crate::path::crew::{Company, Crew};
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
    /// Workers. Several are threads on CPUs of their own that hand packets over to each other as RSS and the owners of SAs
    /// demand; they are compared with one such thread.
    #[arg(long, value_name = "N", default_value = "1", conflicts_with = "ab",
        value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: u16,
}

/// Batches of a turn. What a turn took is the median of them.
const BATCHES: usize = 8;
const BUFFERS: u32 = 4096;
/// Of several: what they are given, what they have sent, and what lies in the caches of their threads.
const BUFFERS_OF_WORKER: u32 = 16_384;

/// Runs all cases.
///
/// # Errors
/// The machine does not let us, or a packet was lost or damaged.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let cases = &arguments.cases;
    let rig = Rig::start(Vec::new())?;
    let workers = usize::from(arguments.workers);
    let cpus = cases.cpus(workers)?;
    let _pinned = rig.pin(cpus[0])?;
    let buffers = if workers > 1 { u32::from(arguments.workers) * BUFFERS_OF_WORKER } else { BUFFERS };
    let pool = Mempool::new(&rig.eal, buffers, WAN_MTU)?;
    let mut report = Report::new("path", rig.machine(), cases.settings(&cpus));
    let setups = cases.setups();
    let progress = progress::bar(setups.len() as u64, "path");
    for setup in setups {
        if workers > 1 {
            report.push(measure_crew(&rig, &pool, setup, cases, &cpus)?);
        } else {
            measure(&rig, &pool, setup, cases)?.into_iter().for_each(|case| report.push(case));
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
        let identity = identity.with("workers", 1);
        let mut case = bench.case(identity, rig.hz(), path, &kernel[0]);
        if number > 0 {
            case = case.figure("throughput_to_first", figures[0][0].ratio(&path[0]));
        }
        results.push(case);
    }
    Ok(results)
}

/// Measures a case with several workers, in turns with one.
fn measure_crew(
    rig: &Rig,
    pool: &Mempool,
    setup: Setup,
    cases: &Cases,
    cpus: &[usize],
) -> anyhow::Result<Case> {
    let start = |cpus, company| Crew::start(rig, pool, setup, cases.seed, cpus, company);
    let mut crews = [
        start(cpus, Company::Together)?,
        start(&cpus[..1], Company::Together)?,
        start(cpus, Company::Apart)?,
    ];
    let mut bench = Bench::new(rig.clock, pool, setup, cases.seed)?;
    let mut contenders = [Some(0), Some(1), Some(2), None];
    let figures = in_turns(rig.clock, cases.time(), &mut contenders, |crew| match *crew {
        Some(crew) => crews[crew].turn(),
        None => bench.turn(Contender::Kernel),
    })?;
    let [all, one, apart, kernel] = [0, 1, 2, 3].map(|contender: usize| &figures[contender][0]);
    let ns = all.typical() * 1e9 / rig.hz();
    let (drops, handed_over) = crews[0].losses();
    let mut case = Case::of(setup.identity().with("workers", cpus.len()))
        .figure("mpps", 1e3 / ns)
        .figure("gbps", setup.size.mean() * 8.0 / ns)
        .figure("ns_per_packet", ns)
        .figure("cycles_per_packet", all.typical())
        .figure("one_worker_cycles", one.typical())
        .figure("throughput_to_one_worker", one.ratio(all))
        .figure("apart_cycles", apart.typical())
        .figure("throughput_to_workers_apart", apart.ratio(all))
        .figure("kernel_cycles", kernel.typical())
        .figure("ratio_to_kernel", kernel.ratio(all) / cpus.len() as f64)
        .figure("handed_over", handed_over);
    for (stage, cycles) in Stage::ALL.iter().zip(&figures[0][1..]) {
        case = case.figure(stage.name(), cycles.typical());
    }
    Ok(case
        .figure("drops", drops)
        .figure("median_cycles", all.median())
        .figure("spread", all.spread())
        .figure("rounds", all.len()))
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
        let network = Network::new(setup.kernel, setup.suite.0, setup.peers, 1, seed)?;
        let traffic = Traffic::new(setup.direction, setup.size, &network, seed);
        let (publisher, readers) = Publisher::new(network.snapshot.clone(), 1);
        let (wan, lan) = (MemoryPort::new(setup.burst), MemoryPort::new(setup.burst));
        let (reader, handoff) =
            readers.into_iter().zip(Handoff::between(1, 1)).next().context("there is one worker")?;
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
        let ns = cycles.typical() * 1e9 / hz;
        let mut case = Case::of(identity)
            .figure("mpps", 1e3 / ns)
            .figure("gbps", self.setup.size.mean() * 8.0 / ns)
            .figure("ns_per_packet", ns)
            .figure("cycles_per_packet", cycles.typical())
            .figure("kernel_cycles", kernel.typical())
            .figure("ratio_to_kernel", kernel.ratio(cycles));
        for (stage, cycles) in Stage::ALL.iter().zip(stages) {
            case = case.figure(stage.name(), cycles.typical());
        }
        case.figure("drops", self.drops())
            .figure("median_cycles", cycles.median())
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
        let cycles = bare::cycles(*clock, network, traffic, pool, setup.size.batch(), setup.burst)?;
        let mut figures = [0.0; _];
        figures[0] = cycles as f64 / setup.size.batch() as f64;
        Ok(figures)
    }

    fn path(&mut self) -> anyhow::Result<Cycles> {
        let (flows, mut sent, cycles) = self.batch()?;
        let sample = usize::from(flows[0].number()) % flows.len();
        self.check(&flows[sample], &mut sent[sample])?;
        Ok(cycles)
    }

    /// Runs a batch through the worker: what went in, what came out, and what that took.
    fn batch(&mut self) -> anyhow::Result<(Vec<Flow>, Vec<Mbuf>, Cycles)> {
        let flows: Vec<Flow> = (0..self.setup.size.batch()).map(|_| self.traffic.next()).collect();
        let frames = prepare(&self.network, &mut self.pool, self.setup.direction, &flows)?;
        let (input, output) = match self.setup.direction {
            Direction::Encap => (&self.lan, &self.wan),
            Direction::Decap => (&self.wan, &self.lan),
            Direction::Hairpin => (&self.wan, &self.wan),
        };
        input.fill(frames);
        let before = stage_cycles(&self.control.counters);

        let clock = self.clock;
        let begin = clock.cycles();
        for _ in 0..flows.len().div_ceil(self.setup.burst) {
            self.worker.poll(clock.micros(clock.cycles()), || clock.cycles());
        }
        let cycles = clock.cycles() - begin;

        let sent = output.sent();
        ensure!(
            input.is_drained() && sent.len() == flows.len() && self.drops() == 0,
            "{} of {} packets came out; dropped: {:?}",
            sent.len(),
            flows.len(),
            dropped(&self.control.counters)
        );
        // What was reported on the way, such as redirects.
        while self.control.punts.poll().is_some() {}

        let mut figures = [0.0; _];
        figures[0] = cycles as f64;
        let stages = stage_cycles(&self.control.counters);
        for (figure, (after, before)) in figures[1..].iter_mut().zip(stages.iter().zip(before)) {
            *figure = (after - before) as f64;
        }
        let packets = flows.len() as f64;
        Ok((flows, sent, figures.map(|cycles| cycles / packets)))
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

/// Frames as the hub receives them.
fn prepare(
    network: &Network,
    pool: &mut Mempool,
    direction: Direction,
    flows: &[Flow],
) -> anyhow::Result<Vec<Mbuf>> {
    if direction == Direction::Encap {
        return flows.iter().map(|flow| flow.lan_frame(pool)).collect();
    }
    let mut frames = flows.iter().map(|flow| flow.wan_frame(network, pool)).collect::<Result<Vec<_>, _>>()?;
    seal_at_spokes(network, &mut frames, flows)?;
    Ok(frames)
}

/// What was dropped, and why.
fn dropped(counters: &Counters) -> Vec<(&'static str, u64)> {
    counters.drops().filter(|(_, count)| *count > 0).map(|(reason, count)| (reason.name(), count)).collect()
}

fn stage_cycles(counters: &Counters) -> [u64; Stage::ALL.len()] {
    Stage::ALL.map(|stage| counters.stage(stage).ticks.value())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::Size;

    fn setup(suite: &str, direction: Direction) -> Setup {
        let suite = suite.parse().unwrap();
        Setup { suite, direction, size: Size::Imix, peers: 50, kernel: dmvpn_esp::Kernel::best(), burst: 32 }
    }

    const DIRECTIONS: [Direction; 3] = [Direction::Encap, Direction::Decap, Direction::Hairpin];

    #[test]
    fn every_packet_comes_out_as_it_should() {
        let rig = Rig::for_tests();
        let _known = rig.eal.register_thread();
        let pool = Mempool::new(&rig.eal, BUFFERS, WAN_MTU).unwrap();
        for suite in ["null", "aes256-sha1", "aes128gcm"] {
            for direction in DIRECTIONS {
                let mut bench = Bench::new(rig.clock, &pool, setup(suite, direction), 7).unwrap();
                for _ in 0..2 {
                    let (flows, mut sent, cycles) = bench.batch().unwrap();
                    for (flow, frame) in flows.iter().zip(&mut sent) {
                        bench.check(flow, frame).unwrap();
                    }
                    let [all, stages @ ..] = cycles;
                    let in_stages: f64 = stages.iter().sum();
                    assert!(in_stages > 0.0 && in_stages <= all, "{in_stages} of {all}");
                }
                assert!(bench.kernel().unwrap()[0] > 0.0);
                assert_eq!(bench.drops(), 0);
            }
        }
    }

    #[test]
    fn a_packet_that_is_not_what_it_should_be_is_noticed() {
        let rig = Rig::for_tests();
        let _known = rig.eal.register_thread();
        let pool = Mempool::new(&rig.eal, BUFFERS, WAN_MTU).unwrap();
        for direction in DIRECTIONS {
            let mut bench = Bench::new(rig.clock, &pool, setup("aes256-sha1", direction), 7).unwrap();
            let (flows, mut sent, _) = bench.batch().unwrap();
            let last = sent[0].len() - 1;
            sent[0].bytes_mut()[last] ^= 1;
            assert!(bench.check(&flows[0], &mut sent[0]).is_err());
            assert!(bench.check(&flows[1], &mut sent[2]).is_err());
        }
    }

    #[test]
    fn several_workers_lose_nothing_and_hand_over() {
        let rig = Rig::for_tests();
        let _known = rig.eal.register_thread();
        let pool = Mempool::new(&rig.eal, 2 * BUFFERS_OF_WORKER, WAN_MTU).unwrap();
        let cpus: Vec<_> = core_affinity::get_core_ids().unwrap().iter().map(|core| core.id).collect();
        let cpus = [cpus[0], cpus[cpus.len() - 1]];
        for direction in DIRECTIONS {
            for company in [Company::Together, Company::Apart] {
                let mut crew = Crew::start(rig, &pool, setup("null", direction), 7, &cpus, company).unwrap();
                assert!(crew.turn().unwrap()[0] > 0.0);
                let (drops, handed_over) = crew.losses();
                assert_eq!(drops, 0);
                if company == Company::Apart || direction == Direction::Decap {
                    assert_eq!(handed_over, 0.0);
                } else {
                    assert!((0.3..0.7).contains(&handed_over), "{handed_over}");
                }
            }
        }
    }
}
