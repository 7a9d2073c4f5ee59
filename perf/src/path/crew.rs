//! Several workers, each on a thread and CPU of its own, as in the appliance.

use std::array;
use std::hint;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::{Context, ensure};
use crossbeam::utils::CachePadded;
use dmvpn_dataplane::{Counters, Handoff, PuntReceiver, Stage, Worker};
use dmvpn_dpdk::{Clock, Mbuf, Mempool};
use dmvpn_tables::{Publisher, Reader};

use crate::cases::{Direction, Setup};
use crate::network::{LAN, Network, WAN};
use crate::path::{Cycles, dropped, prepare, stage_cycles};
use crate::port::MemoryPort;
use crate::rig::Rig;
use crate::stats::{median_of_each, run_delay};
use crate::traffic::{Flow, Traffic};

/// Packets of a batch that each worker receives: so many that it does not matter that of the SAs that they need, one worker
/// owns a few more than the other, nor that at the end one waits for the other; and that most of them are in no core's own
/// cache when they are received, like those of a NIC.
pub(super) const BATCH: usize = 8192;
/// Batches of a turn. What a turn took is the median of them.
const BATCHES: usize = 3;
/// Packets between two workers: all of a batch, since none may be lost if the operating system stops one of them.
const HANDOFF: usize = 2 * BATCH;
/// Seconds after which packets that have not come out are lost.
const PATIENCE: u64 = 5;

/// Workers on threads. They end when this is dropped.
pub(super) struct Crew {
    members: Vec<Member>,
    _publishers: Vec<Publisher>,
}

/// What the workers of a crew have in common.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Company {
    /// They are those of one box.
    Together,
    /// Each is the only one of a box of its own: they do nothing together but run at the same time.
    Apart,
}

struct Member {
    /// Tells it to run a batch.
    go: SyncSender<()>,
    done: Receiver<anyhow::Result<Span>>,
    counters: Arc<Counters>,
    /// Dropped last, after `go`, whose end is its end.
    _thread: Joined,
}

/// A batch of a worker.
struct Span {
    /// When it began and ended, in cycles.
    begin: u64,
    end: u64,
    /// Cycles of its stages.
    stages: [u64; Stage::ALL.len()],
    /// Somebody else had the CPU meanwhile.
    disturbed: bool,
}

/// What the workers of a crew know of each other.
struct Meeting {
    /// How often a worker was ready to begin.
    ready: AtomicU64,
    /// Packets that each has sent since it started.
    sent: Vec<CachePadded<AtomicU64>>,
}

/// A worker's place in a box.
struct Place {
    /// For one at a time, since the far ends of SAs are none of theirs. Each prepares its own packets, so that they lie in
    /// the caches of no other CPU.
    network: Arc<Mutex<Network>>,
    traffic: Traffic,
    reader: Reader,
    handoff: Handoff<Mbuf>,
}

/// A thread to wait for.
struct Joined(Option<JoinHandle<()>>);

impl Crew {
    /// A worker on each of `cpus`.
    ///
    /// # Errors
    /// A thread does not start, or not on its CPU.
    pub(super) fn start(
        rig: &Rig,
        pool: &Mempool,
        setup: Setup,
        seed: u64,
        cpus: &[usize],
        company: Company,
    ) -> anyhow::Result<Self> {
        let boxes = match company {
            Company::Together => vec![u16::try_from(cpus.len())?],
            Company::Apart => vec![1; cpus.len()],
        };
        let (mut places, mut publishers) = (Vec::new(), Vec::new());
        for workers in boxes {
            let network = Network::new(setup.kernel, setup.suite.0, setup.peers, workers, seed)?;
            let (publisher, readers) = Publisher::new(network.snapshot.clone(), workers.into());
            publishers.push(publisher);
            let first = seed + places.len() as u64;
            let traffic = |queue| {
                let traffic = Traffic::new(setup.direction, setup.size, &network, first + u64::from(queue));
                traffic.of_queue(queue, workers)
            };
            let traffics: Vec<_> = (0..workers).map(traffic).collect();
            let network = Arc::new(Mutex::new(network));
            let ends = readers.into_iter().zip(Handoff::between(workers.into(), HANDOFF)).zip(traffics);
            places.extend(ends.map(|((reader, handoff), traffic)| Place {
                network: Arc::clone(&network),
                traffic,
                reader,
                handoff,
            }));
        }
        let meeting = Arc::new(Meeting {
            ready: AtomicU64::new(0),
            sent: cpus.iter().map(|_| CachePadded::default()).collect(),
        });
        let mut members = Vec::new();
        for (number, (place, &cpu)) in places.into_iter().zip(cpus).enumerate() {
            let (go, orders) = mpsc::sync_channel(1);
            let (finished, done) = mpsc::sync_channel(1);
            let (ready, started) = mpsc::sync_channel(1);
            let (rig, pool, meeting) = (rig.clone(), pool.clone(), Arc::clone(&meeting));
            let thread = thread::Builder::new().name(format!("worker{number}")).spawn(move || {
                let pinned = match rig.pin(cpu) {
                    Ok(pinned) => pinned,
                    Err(error) => return drop(ready.send(Err(error))),
                };
                let (bench, counters) = Bench::new(rig.clock, pool, setup, place, number, meeting);
                let _ = ready.send(Ok(counters));
                bench.run(&orders, &finished);
                drop(pinned);
            })?;
            let _thread = Joined(Some(thread));
            let counters = started.recv().context("a worker ended at its start")??;
            members.push(Member { go, done, counters, _thread });
        }
        Ok(Self { members, _publishers: publishers })
    }

    /// Cycles per packet, of all workers together, from when the first begins until all packets are out; and those of each
    /// stage, which workers run at the same time. Batches in which somebody else had one of the CPUs do not count, unless
    /// somebody always has.
    ///
    /// # Errors
    /// A packet was lost.
    pub(super) fn turn(&mut self) -> anyhow::Result<Cycles> {
        let (mut batches, mut disturbed) = (Vec::new(), Vec::new());
        while batches.len() < BATCHES && disturbed.len() < BATCHES {
            let (cycles, was_disturbed) = self.batch()?;
            if was_disturbed { disturbed.push(cycles) } else { batches.push(cycles) }
        }
        Ok(median_of_each(if batches.is_empty() { &disturbed } else { &batches }))
    }

    /// Packets lost, and the part of them that changed workers.
    pub(super) fn losses(&self) -> (u64, f64) {
        let counters = || self.members.iter().map(|member| &member.counters);
        let drops = counters().flat_map(|counters| counters.drops()).map(|(_, count)| count).sum();
        let received: u64 = counters()
            .flat_map(|counters| [WAN, LAN].map(|port| counters.port(port)))
            .flatten()
            .map(|port| port.rx_packets.value())
            .sum();
        let handed_over: u64 = counters().map(|counters| counters.handed_over.value()).sum();
        (drops, handed_over as f64 / received as f64)
    }

    /// Runs a batch: what it took, and whether it was disturbed.
    fn batch(&mut self) -> anyhow::Result<(Cycles, bool)> {
        let members = &self.members;
        for member in members {
            member.go.send(()).context("a worker has ended")?;
        }
        let done = members.iter().map(|member| member.done.recv()).collect::<Result<Vec<_>, _>>();
        let spans = done.context("a worker has ended")?.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
        let begin = spans.iter().map(|span| span.begin).min().unwrap_or_default();
        let end = spans.iter().map(|span| span.end).max().unwrap_or_default();
        let dropped: Vec<_> = members.iter().flat_map(|member| dropped(&member.counters)).collect();
        ensure!(dropped.is_empty(), "dropped: {dropped:?}");
        let mut cycles = [0.0; _];
        cycles[0] = (end - begin) as f64;
        for (stage, cycles) in cycles[1..].iter_mut().enumerate() {
            *cycles = spans.iter().map(|span| span.stages[stage]).sum::<u64>() as f64;
        }
        let packets = (BATCH * spans.len()) as f64;
        Ok((cycles.map(|cycles| cycles / packets), spans.iter().any(|span| span.disturbed)))
    }
}

/// What a thread runs.
struct Bench {
    clock: Clock,
    pool: Mempool,
    setup: Setup,
    traffic: Traffic,
    worker: Worker<MemoryPort<Mbuf>, Mempool>,
    number: usize,
    input: MemoryPort<Mbuf>,
    output: MemoryPort<Mbuf>,
    meeting: Arc<Meeting>,
    network: Arc<Mutex<Network>>,
    punts: PuntReceiver<Mbuf>,
    counters: Arc<Counters>,
}

impl Bench {
    fn new(
        clock: Clock,
        pool: Mempool,
        setup: Setup,
        place: Place,
        number: usize,
        meeting: Arc<Meeting>,
    ) -> (Self, Arc<Counters>) {
        let Place { network, traffic, reader, handoff } = place;
        let (wan, lan) = (MemoryPort::new(setup.burst), MemoryPort::new(setup.burst));
        let (worker, control) = Worker::new(vec![wan.clone(), lan.clone()], pool.clone(), reader, handoff);
        let (input, output) = match setup.direction {
            Direction::Encap => (lan, wan),
            Direction::Decap => (wan, lan),
            Direction::Hairpin => (wan.clone(), wan),
        };
        let (punts, counters) = (control.punts, control.counters);
        let counted = Arc::clone(&counters);
        let bench = Self {
            clock,
            pool,
            setup,
            traffic,
            worker,
            number,
            input,
            output,
            meeting,
            network,
            punts,
            counters,
        };
        (bench, counted)
    }

    fn run(mut self, orders: &Receiver<()>, finished: &SyncSender<anyhow::Result<Span>>) {
        for (round, ()) in (1..).zip(orders) {
            let span = self.prepare().and_then(|()| self.batch(round));
            drop(self.output.sent());
            let failed = span.is_err();
            if finished.send(span).is_err() || failed {
                return;
            }
        }
    }

    fn prepare(&mut self) -> anyhow::Result<()> {
        let flows: Vec<Flow> = (0..BATCH).map(|_| self.traffic.next()).collect();
        let network = self.network.lock().unwrap_or_else(PoisonError::into_inner);
        self.input.fill(prepare(&network, &mut self.pool, self.setup.direction, &flows)?);
        Ok(())
    }

    /// Waits until all are ready, and polls until all workers together have sent what they received in this round.
    fn batch(&mut self, round: u64) -> anyhow::Result<Span> {
        let Self { clock, worker, meeting, punts, output, counters, .. } = self;
        let (waited, stages) = (run_delay(), stage_cycles(counters));
        let workers = meeting.sent.len() as u64;
        let goal = workers * round * BATCH as u64;
        let sent = &meeting.sent[self.number];
        let before = sent.load(Ordering::Relaxed);

        let last = clock.cycles() + PATIENCE * clock.hz();
        meeting.ready.fetch_add(1, Ordering::AcqRel);
        while meeting.ready.load(Ordering::Acquire) < workers * round {
            ensure!(clock.cycles() < last, "another worker has ended");
            hint::spin_loop();
        }
        let begin = clock.cycles();
        loop {
            let now = clock.cycles();
            worker.poll(clock.micros(now), || clock.cycles());
            // As the control thread would: a worker that the operating system has stopped may report much in one batch.
            while punts.poll().is_some() {}
            sent.store(before + output.sent_count() as u64, Ordering::Release);
            if meeting.sent.iter().map(|sent| sent.load(Ordering::Acquire)).sum::<u64>() >= goal {
                let end = clock.cycles();
                let after = stage_cycles(counters);
                let stages = array::from_fn(|stage| after[stage] - stages[stage]);
                return Ok(Span { begin, end, stages, disturbed: run_delay() != waited });
            }
            ensure!(now < last, "packets were lost");
        }
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            // If it has panicked, it said so.
            let _ = thread.join();
        }
    }
}
