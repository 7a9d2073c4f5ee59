//! Threads for Diffie-Hellman computations, which take milliseconds where the control thread has
//! microseconds.

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::{io, mem};

use crossbeam::channel::{Receiver, Sender, unbounded};

use crate::ike::{DhDone, DhJob};

/// Jobs that wait. The machine bounds those of strangers far below this; what comes on top is refused.
const CAPACITY: usize = 4096;
/// Threads at most: forwarding has the other cores.
const THREADS: usize = 4;

/// A small pool of threads.
pub(super) struct DhPool {
    shared: Arc<Shared>,
    done: Receiver<DhDone>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue<DhJob>>,
    more: Condvar,
}

/// Jobs that wait: those of peers that have proved themselves first, then sources in turn.
struct Queue<J> {
    first: VecDeque<J>,
    others: BTreeMap<Ipv4Addr, VecDeque<J>>,
    turns: VecDeque<Ipv4Addr>,
    len: usize,
    closed: bool,
}

impl DhPool {
    pub(super) fn start() -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let (sender, done) = unbounded();
        let count = thread::available_parallelism().map_or(1, |cpus| cpus.get().div_ceil(2)).min(THREADS);
        let mut pool = Self { shared, done, threads: Vec::new() };
        for number in 0..count {
            let (shared, sender) = (pool.shared.clone(), sender.clone());
            let thread =
                thread::Builder::new().name(format!("dh{number}")).spawn(move || shared.work(&sender))?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    /// Queues a job; gives the answer if there is no room for it.
    pub(super) fn submit(&self, job: DhJob) -> Option<DhDone> {
        let (source, first) = (job.source(), job.authenticated());
        let refused = self.shared.queue().push(source, first, job).err();
        self.shared.more.notify_one();
        refused.map(DhJob::refuse)
    }

    /// A job that has run.
    pub(super) fn poll(&self) -> Option<DhDone> {
        self.done.try_recv().ok()
    }
}

impl Drop for DhPool {
    fn drop(&mut self) {
        self.shared.queue().closed = true;
        self.shared.more.notify_all();
        for thread in mem::take(&mut self.threads) {
            // A thread that panicked has said so, and there is nothing left to do for it.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue<DhJob>> {
        // No invariant spans a panic: jobs run outside the lock.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, done: &Sender<DhDone>) {
        while let Some(job) = self.next() {
            if done.send(job.run()).is_err() {
                break;
            }
        }
    }

    fn next(&self) -> Option<DhJob> {
        let mut queue = self.queue();
        loop {
            if queue.closed {
                return None;
            }
            if let Some(job) = queue.pop() {
                return Some(job);
            }
            queue = self.more.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl<J> Queue<J> {
    fn push(&mut self, source: Ipv4Addr, first: bool, job: J) -> Result<(), J> {
        if self.len >= CAPACITY {
            return Err(job);
        }
        self.len += 1;
        if first {
            self.first.push_back(job);
            return Ok(());
        }
        let waiting = self.others.entry(source).or_default();
        if waiting.is_empty() {
            self.turns.push_back(source);
        }
        waiting.push_back(job);
        Ok(())
    }

    fn pop(&mut self) -> Option<J> {
        let job = self.first.pop_front().or_else(|| {
            let source = self.turns.pop_front()?;
            let waiting = self.others.get_mut(&source)?;
            let job = waiting.pop_front();
            if waiting.is_empty() {
                self.others.remove(&source);
            } else {
                self.turns.push_back(source);
            }
            job
        })?;
        self.len -= 1;
        Some(job)
    }
}

impl<J> Default for Queue<J> {
    fn default() -> Self {
        Self {
            first: VecDeque::new(),
            others: BTreeMap::new(),
            turns: VecDeque::new(),
            len: 0,
            closed: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_take_turns_and_the_proved_go_first() {
        let mut queue = Queue::default();
        let (flood, honest) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2));
        for _ in 0..100 {
            queue.push(flood, false, "flood").unwrap();
        }
        queue.push(honest, false, "honest").unwrap();
        queue.push(honest, true, "proved").unwrap();
        let order: Vec<_> = (0..4).filter_map(|_| queue.pop()).collect();
        assert_eq!(order, ["proved", "flood", "honest", "flood"]);
        assert_eq!(std::iter::from_fn(|| queue.pop()).count(), 98);
        assert!(queue.others.is_empty() && queue.turns.is_empty());
    }

    #[test]
    fn the_queue_is_bounded() {
        let mut queue = Queue::default();
        for n in 0..CAPACITY + 10 {
            assert_eq!(queue.push(Ipv4Addr::LOCALHOST, n % 2 == 0, n).is_ok(), n < CAPACITY);
        }
        assert_eq!(std::iter::from_fn(|| queue.pop()).count(), CAPACITY);
        queue.push(Ipv4Addr::LOCALHOST, false, 1).unwrap();
        assert_eq!(queue.pop(), Some(1));
    }

    #[test]
    fn the_threads_end_with_the_pool() {
        drop(DhPool::start().unwrap());
    }
}
