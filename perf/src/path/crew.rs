//! Several workers, each on a thread and CPU of its own, as in the appliance.

use std::hint;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::{self, JoinHandle};

use anyhow::{Context, ensure};
use crossbeam::utils::CachePadded;
use dmvpn_dataplane::{Counters, Handoff, PuntReceiver, Worker};
use dmvpn_dpdk::{Clock, Mbuf, Mempool};
use dmvpn_tables::{Publisher, Reader};

use crate::cases::{Direction, Setup};
use crate::network::{LAN, Network, WAN};
use crate::path::{dropped, prepare};
use crate::port::MemoryPort;
use crate::rig::Rig;
use crate::stats::median_of_each;
use crate::traffic::{Flow, Traffic};

/// Packets of a batch that each worker receives: so many that it does not matter that of the SAs that they need, one worker
/// owns a few more than the other.
pub(super) const BATCH: usize = 2048;
/// Batches of a turn. What a turn took is the median of them.
const BATCHES: usize = 4;
/// Packets between two workers: all of a batch, since none may be lost if the operating system stops one of them.
const HANDOFF: usize = 2 * BATCH;
/// Seconds after which packets that have not come out are lost.
const PATIENCE: u64 = 5;

/// Workers on threads. They end when this is dropped.
pub(super) struct Crew {
    setup: Setup,
    network: Network,
    pool: Mempool,
    members: Vec<Member>,
    _publisher: Publisher,
}

struct Member {
    traffic: Traffic,
    work: SyncSender<Vec<Mbuf>>,
    done: Receiver<Done>,
    counters: Arc<Counters>,
    /// Dropped last, after `work`, whose end is its end.
    _thread: Joined,
}

/// What a worker made of a batch: when it began and ended, in cycles, and what came out.
struct Done {
    begin: u64,
    end: u64,
    _sent: Vec<Mbuf>,
}

/// What the workers of a crew know of each other.
struct Meeting {
    /// How often a worker was ready to begin.
    ready: AtomicU64,
    /// Packets that each has sent since it started.
    sent: Vec<CachePadded<AtomicU64>>,
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
    ) -> anyhow::Result<Self> {
        let network = Network::new(setup.kernel, setup.suite.0, setup.peers, seed)?;
        let (publisher, readers) = Publisher::new(network.snapshot.clone(), cpus.len());
        let meeting =
            Meeting { ready: AtomicU64::new(0), sent: cpus.iter().map(|_| CachePadded::default()).collect() };
        let meeting = Arc::new(meeting);
        let mut members = Vec::new();
        let parts = readers.into_iter().zip(Handoff::between(cpus.len(), HANDOFF)).zip(cpus);
        for (number, ((reader, handoff), &cpu)) in parts.enumerate() {
            let (work, to_do) = mpsc::sync_channel(1);
            let (finished, done) = mpsc::sync_channel(1);
            let (ready, started) = mpsc::sync_channel(1);
            let (rig, pool, meeting) = (rig.clone(), pool.clone(), Arc::clone(&meeting));
            let thread = thread::Builder::new().name(format!("worker{number}")).spawn(move || {
                let pinned = match rig.pin(cpu) {
                    Ok(pinned) => pinned,
                    Err(error) => return drop(ready.send(Err(error))),
                };
                let (bench, counters) = Bench::new(rig.clock, pool, setup, reader, handoff, meeting);
                let _ = ready.send(Ok(counters));
                bench.run(&to_do, &finished);
                drop(pinned);
            })?;
            let _thread = Joined(Some(thread));
            let counters = started.recv().context("a worker ended at its start")??;
            let traffic = Traffic::new(setup.direction, setup.size, &network, seed + number as u64)
                .of_queue(number, cpus.len());
            members.push(Member { traffic, work, done, counters, _thread });
        }
        Ok(Self { setup, network, pool: pool.clone(), members, _publisher: publisher })
    }

    /// Cycles per packet, of all workers together, from when the first begins until all packets are out.
    ///
    /// # Errors
    /// A packet was lost.
    pub(super) fn turn(&mut self) -> anyhow::Result<[f64; 1]> {
        let batches = (0..BATCHES).map(|_| self.batch()).collect::<Result<Vec<_>, _>>()?;
        Ok(median_of_each(&batches))
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

    fn batch(&mut self) -> anyhow::Result<[f64; 1]> {
        let Self { setup, network, pool, members, .. } = self;
        let mut batches = Vec::new();
        for member in &mut *members {
            let flows: Vec<Flow> = (0..BATCH).map(|_| member.traffic.next()).collect();
            batches.push(prepare(network, pool, setup.direction, &flows)?);
        }
        // The first worker is on the CPU of this thread, which has nothing left to do when that one begins.
        for (member, frames) in members.iter().zip(batches).rev() {
            member.work.send(frames).ok().context("a worker has ended")?;
        }
        let done = members.iter().map(|member| member.done.recv()).collect::<Result<Vec<_>, _>>();
        let done = done.context("packets were lost")?;
        let begin = done.iter().map(|done| done.begin).min().unwrap_or_default();
        let end = done.iter().map(|done| done.end).max().unwrap_or_default();
        let dropped: Vec<_> = members.iter().flat_map(|member| dropped(&member.counters)).collect();
        ensure!(dropped.is_empty(), "dropped: {dropped:?}");
        Ok([(end - begin) as f64 / (BATCH * done.len()) as f64])
    }
}

/// What a thread runs.
struct Bench {
    clock: Clock,
    worker: Worker<MemoryPort<Mbuf>, Mempool>,
    number: usize,
    input: MemoryPort<Mbuf>,
    output: MemoryPort<Mbuf>,
    meeting: Arc<Meeting>,
    punts: PuntReceiver<Mbuf>,
}

impl Bench {
    fn new(
        clock: Clock,
        pool: Mempool,
        setup: Setup,
        reader: Reader,
        handoff: Handoff<Mbuf>,
        meeting: Arc<Meeting>,
    ) -> (Self, Arc<Counters>) {
        let number = handoff.worker();
        let (wan, lan) = (MemoryPort::new(setup.burst), MemoryPort::new(setup.burst));
        let (worker, control) = Worker::new(vec![wan.clone(), lan.clone()], pool, reader, handoff);
        let (input, output) = match setup.direction {
            Direction::Encap => (lan, wan),
            Direction::Decap => (wan, lan),
            Direction::Hairpin => (wan.clone(), wan),
        };
        let punts = control.punts;
        (Self { clock, worker, number, input, output, meeting, punts }, control.counters)
    }

    fn run(mut self, to_do: &Receiver<Vec<Mbuf>>, finished: &SyncSender<Done>) {
        let workers = self.meeting.sent.len() as u64;
        for (round, frames) in (1..).zip(to_do) {
            self.input.fill(frames);
            // All begin at once.
            self.meeting.ready.fetch_add(1, Ordering::AcqRel);
            while self.meeting.ready.load(Ordering::Acquire) < workers * round {
                hint::spin_loop();
            }
            let Some((begin, end)) = self.batch(workers * round * BATCH as u64) else { return };
            if finished.send(Done { begin, end, _sent: self.output.sent() }).is_err() {
                return;
            }
        }
    }

    /// Polls until all workers together have sent `goal` packets since they started; when that began and ended. `None` if
    /// they never do.
    fn batch(&mut self, goal: u64) -> Option<(u64, u64)> {
        let Self { clock, worker, meeting, punts, .. } = self;
        let sent = &meeting.sent[self.number];
        let before = sent.load(Ordering::Relaxed);
        let begin = clock.cycles();
        let last = begin + PATIENCE * clock.hz();
        loop {
            let now = clock.cycles();
            worker.poll(clock.micros(now), || clock.cycles());
            // As the control thread would: a worker that the operating system has stopped may report much in one batch.
            while punts.poll().is_some() {}
            sent.store(before + self.output.sent_count() as u64, Ordering::Release);
            if meeting.sent.iter().map(|sent| sent.load(Ordering::Acquire)).sum::<u64>() >= goal {
                return Some((begin, clock.cycles()));
            }
            if now > last {
                return None;
            }
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
