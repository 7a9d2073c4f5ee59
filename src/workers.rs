//! The worker threads: their cores, what they do when idle, and the control thread's ends of their rings.

use std::hint;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, SyncSender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, ensure};
use core_affinity::CoreId;
use dmvpn_config::{Dataplane, IdlePolicy};
use dmvpn_control::host;
use dmvpn_dataplane::{ControlEnd, Counters, Handoff, Link, Worker};
use dmvpn_dpdk::{Clock, Eal, Mbuf, Mempool, RegisteredThread};
use dmvpn_tables::{Inject, Punt, Reader};

/// Packets of one worker that may wait for another, which owns their SAs.
const HANDOFF: usize = 1024;

/// The worker threads. They run until this is dropped, and then send what they have taken in.
#[derive(Debug)]
pub struct Crew {
    members: Vec<Member>,
    stop: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Member {
    thread: JoinHandle<()>,
    counters: Arc<Counters>,
}

impl Crew {
    /// Starts a worker on each CPU of the configuration, with its queue of every port, and returns when all poll.
    ///
    /// # Errors
    /// A thread cannot be started, or cannot run on its CPU.
    pub fn start<L: Link<Buffer = Mbuf> + Send + 'static>(
        eal: &Eal,
        pool: &Mempool,
        config: &Dataplane,
        queues: Vec<Vec<L>>,
        readers: Vec<Reader>,
    ) -> anyhow::Result<(Self, Rings)> {
        let mut crew = Self { members: Vec::new(), stop: Arc::default() };
        let mut rings = Rings { ends: Vec::new(), next: 0 };
        let handoffs = Handoff::between(queues.len(), HANDOFF);
        let parts = queues.into_iter().zip(readers).zip(handoffs);
        for (number, (((queues, reader), handoff), &cpu)) in parts.zip(&config.workers).enumerate() {
            let (worker, end) = Worker::new(queues, pool.clone(), reader, handoff);
            let counters = Arc::clone(&end.counters);
            let job = Job {
                worker,
                counters: Arc::clone(&counters),
                cpu,
                rest: Rest { policy: config.idle, empty: 0 },
                stop: Arc::clone(&crew.stop),
            };
            let (started, outcome) = mpsc::sync_channel(1);
            let eal = eal.clone();
            let thread = thread::Builder::new()
                .name(format!("worker{number}"))
                .spawn(move || job.run(&eal, &started))
                .context("cannot start a thread")?;
            crew.members.push(Member { thread, counters });
            outcome.recv().context("a worker ended at its start")??;
            rings.ends.push(end);
        }
        Ok((crew, rings))
    }

    /// What each worker counts.
    pub fn counters(&self) -> impl Iterator<Item = Arc<Counters>> {
        self.members.iter().map(|member| Arc::clone(&member.counters))
    }

    /// How often each worker has polled.
    pub fn polls(&self) -> impl Iterator<Item = u64> {
        self.members.iter().map(|member| member.counters.polls.value())
    }

    /// Whether a worker has ended without being told to.
    pub fn has_lost_one(&self) -> bool {
        self.members.iter().any(|member| member.thread.is_finished())
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for member in self.members.drain(..) {
            // A worker that has panicked said so already, and there is nothing left to do for it.
            let _ = member.thread.join();
        }
    }
}

/// The control thread's ends of all workers' rings.
#[derive(Debug)]
pub struct Rings {
    ends: Vec<ControlEnd<Mbuf>>,
    /// The worker to hear first, next time.
    next: usize,
}

impl host::Workers for Rings {
    fn poll_punt(&mut self) -> Option<Punt> {
        let (before, after) = self.ends.split_at_mut(self.next);
        let punt = after.iter_mut().chain(before).find_map(|end| end.punts.poll());
        self.next = (self.next + 1) % self.ends.len().max(1);
        punt
    }

    /// To the first worker, which hands over what belongs to another: so packets stay in order.
    fn inject(&mut self, inject: Inject) {
        if let Some(end) = self.ends.first_mut() {
            // A full ring counts what it refuses.
            let _ = end.injector.send(inject);
        }
    }
}

/// What a worker thread does.
struct Job<L: Link<Buffer = Mbuf>> {
    worker: Worker<L, Mempool>,
    counters: Arc<Counters>,
    cpu: usize,
    rest: Rest,
    stop: Arc<AtomicBool>,
}

impl<L: Link<Buffer = Mbuf>> Job<L> {
    /// Polls at most, after it was told to stop, for what it has been given before.
    const LAST_POLLS: usize = 64;

    fn run(mut self, eal: &Eal, started: &SyncSender<anyhow::Result<()>>) {
        let registered = match self.settle(eal) {
            Ok(registered) => registered,
            Err(error) => return drop(started.send(Err(error))),
        };
        let clock = Clock::new(eal);
        let _ = started.send(Ok(()));
        while !self.stop.load(Ordering::Relaxed) {
            let begin = clock.cycles();
            let worked = self.worker.poll(clock.micros(begin), || clock.cycles());
            self.rest.after(worked);
            let time = if worked { &self.counters.busy } else { &self.counters.idle };
            time.add(clock.cycles() - begin);
        }
        for _ in 0..Self::LAST_POLLS {
            if !self.worker.poll(clock.micros(clock.cycles()), || clock.cycles()) {
                break;
            }
        }
        // Its packets go back to their pool while the pool still knows this thread.
        drop(self.worker);
        drop(registered);
    }

    fn settle(&self, eal: &Eal) -> anyhow::Result<RegisteredThread> {
        ensure!(
            core_affinity::set_for_current(CoreId { id: self.cpu }),
            "a worker cannot run on CPU {}",
            self.cpu
        );
        Ok(eal.register_thread()?)
    }
}

/// What a worker does between two polls.
struct Rest {
    policy: IdlePolicy,
    /// Polls without work, in a row.
    empty: u32,
}

impl Rest {
    /// Empty polls before the first sleep: about as long as the shortest sleep takes.
    const SPIN: u32 = 256;
    const FIRST_SLEEP: Duration = Duration::from_micros(16);
    const LONGEST_SLEEP: Duration = Duration::from_millis(1);

    fn after(&mut self, worked: bool) {
        if worked {
            self.empty = 0;
            return;
        }
        self.empty = self.empty.saturating_add(1);
        match self.sleep() {
            None => hint::spin_loop(),
            Some(time) => thread::sleep(time),
        }
    }

    /// How long to sleep after so many empty polls: not at all, then twice as long every time.
    fn sleep(&self) -> Option<Duration> {
        match self.policy {
            IdlePolicy::Busy => None,
            IdlePolicy::Adaptive => {
                let sleeps = self.empty.checked_sub(Self::SPIN)?;
                Some((Self::FIRST_SLEEP * (1 << sleeps.min(16))).min(Self::LONGEST_SLEEP))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_in_growing_steps_and_wakes_at_once() {
        let mut rest = Rest { policy: IdlePolicy::Adaptive, empty: Rest::SPIN - 1 };
        assert_eq!(rest.sleep(), None);
        let mut slept = Vec::new();
        for _ in 0..40 {
            rest.empty += 1;
            slept.extend(rest.sleep());
        }
        assert_eq!(slept[..3], [16, 32, 64].map(Duration::from_micros));
        assert!(slept.is_sorted());
        assert_eq!(slept.last(), Some(&Rest::LONGEST_SLEEP));
        rest.after(true);
        assert_eq!(rest.sleep(), None);
        assert_eq!(Rest { policy: IdlePolicy::Busy, empty: u32::MAX }.sleep(), None);
        assert_eq!(Rest { policy: IdlePolicy::Adaptive, empty: u32::MAX }.sleep(), Some(Rest::LONGEST_SLEEP));
    }
}
