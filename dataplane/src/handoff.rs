//! Packets between workers. Every SA belongs to one worker for life, which alone counts its sequence numbers or moves its
//! replay window; whoever else gets a packet for it hands the packet over.
//!
//! Every worker has a ring to every other. What it has for another it collects, and writes as a whole: so neither of the
//! two waits for the other's cache lines more than once in a batch.

use dmvpn_tables::WorkerId;
use rtrb::{Consumer, Producer, RingBuffer};

use crate::counters::{Counters, DropReason};
use crate::frame::{Buffer, Entry, Frame};

/// Bytes of a packet that are asked for when it is taken over. Of what follows the CPU sees by itself that it will be needed.
const AHEAD: usize = 512;

/// One worker's end of the rings between all workers.
#[derive(Debug)]
pub struct Handoff<B> {
    me: WorkerId,
    /// To each worker, itself included for simplicity.
    to: Vec<Outgoing<B>>,
    /// From each worker.
    from: Vec<Consumer<B>>,
    /// The ring to look into first, next time.
    next: usize,
}

/// What is for one other worker.
#[derive(Debug)]
struct Outgoing<B> {
    collected: Frame<B>,
    ring: Producer<B>,
}

impl<B: Buffer> Handoff<B> {
    /// The ends of all `workers`, in order (one worker at least), with room for `capacity` packets between any two.
    pub fn between(workers: usize, capacity: usize) -> Vec<Self> {
        let workers = workers.max(1);
        let end = |me| Self { me: WorkerId(me), to: Vec::new(), from: Vec::new(), next: 0 };
        let mut ends: Vec<_> = (0..=u16::MAX).take(workers).map(end).collect();
        let workers = ends.len();
        for (from, to) in (0..workers).flat_map(|from| (0..workers).map(move |to| (from, to))) {
            let (producer, consumer) = RingBuffer::new(if from == to { 0 } else { capacity.max(1) });
            ends[from].to.push(Outgoing { collected: Frame::new(), ring: producer });
            ends[to].from.push(consumer);
        }
        ends
    }

    /// Which worker this is.
    #[inline]
    pub fn worker(&self) -> WorkerId {
        self.me
    }

    /// Number of workers.
    pub fn workers(&self) -> usize {
        self.to.len()
    }

    /// Collects `packet` for worker `to`, which it enters at `entry`. It leaves with the next [`send`](Self::send).
    pub(crate) fn give(&mut self, to: WorkerId, entry: Entry, mut packet: B, counters: &Counters) {
        packet.meta_mut().entry = entry as u8;
        let Some(outgoing) = self.to.get_mut(usize::from(to.0)) else {
            return counters.count_drop(DropReason::HandoffFull);
        };
        if outgoing.collected.is_full() {
            outgoing.send(counters);
        }
        outgoing.collected.push(packet);
    }

    /// Sends what was collected. What finds no room is dropped.
    pub(crate) fn send(&mut self, counters: &Counters) {
        for outgoing in self.to.iter_mut().filter(|outgoing| !outgoing.collected.is_empty()) {
            outgoing.send(counters);
        }
    }

    /// Takes up to `most` packets that wait for this worker, and says how many. They are in the caches of who gave them:
    /// what they consist of is asked for, and arrives while the worker does something else.
    pub(crate) fn take(&mut self, most: usize, frame: &mut Frame<B>) -> usize {
        let before = frame.len();
        let end = before + most.min(frame.remaining_capacity());
        self.next = (self.next + 1) % self.from.len();
        let (last, first) = self.from.split_at_mut(self.next);
        for ring in first.iter_mut().chain(last) {
            let count = ring.slots().min(end - frame.len());
            frame.extend(ring.read_chunk(count).into_iter().flatten());
        }
        let taken = &frame[before..];
        taken.iter().for_each(Buffer::prefetch_handle);
        taken.iter().for_each(|packet| packet.prefetch_to_write(AHEAD));
        taken.len()
    }
}

impl<B: Buffer> Outgoing<B> {
    fn send(&mut self, counters: &Counters) {
        let count = self.collected.len().min(self.ring.slots());
        if let Ok(chunk) = self.ring.write_chunk_uninit(count) {
            counters.handed_over.add(chunk.fill_from_iter(self.collected.drain(..count)) as u64);
        }
        for _ in self.collected.drain(..) {
            counters.count_drop(DropReason::HandoffFull);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::frame::FRAME_SIZE;
    use crate::link::{HeapBuffer, HeapPool};

    #[test]
    fn packets_arrive_in_order_and_no_more_than_there_is_room() {
        let (mut pool, counters) = (HeapPool::new(8), Counters::new(0));
        let mut ends = Handoff::between(2, 3);
        for (n, entry) in [(1, Entry::Encrypt), (2, Entry::Decrypt), (3, Entry::Encrypt), (4, Entry::Decrypt)]
        {
            ends[0].give(WorkerId(1), entry, pool.buffer(&[n]).unwrap(), &counters);
        }
        let mut frame = Frame::new();
        assert_eq!(ends[1].take(9, &mut frame), 0, "not yet");
        ends[0].send(&counters);
        assert_eq!((counters.handed_over.value(), counters.dropped(DropReason::HandoffFull)), (3, 1));

        assert_eq!(ends[0].take(9, &mut frame), 0);
        assert_eq!(ends[1].take(2, &mut frame), 2);
        assert_eq!(ends[1].take(2, &mut frame), 1);
        let arrived: Vec<_> = frame.iter().map(|packet| (packet.bytes()[0], packet.meta().entry())).collect();
        assert_eq!(arrived, [(1, Entry::Encrypt), (2, Entry::Decrypt), (3, Entry::Encrypt)]);
    }

    #[test]
    fn who_gives_much_does_not_keep_out_who_gives_little() {
        let (mut pool, counters) = (HeapPool::new(100), Counters::new(0));
        let mut ends = Handoff::between(3, 100);
        for _ in 0..90 {
            ends[0].give(WorkerId(2), Entry::Encrypt, pool.buffer(&[0]).unwrap(), &counters);
        }
        ends[1].give(WorkerId(2), Entry::Encrypt, pool.buffer(&[1]).unwrap(), &counters);
        ends[..2].iter_mut().for_each(|end| end.send(&counters));
        let arrived = (0..3).any(|_| {
            let mut frame = Frame::new();
            assert_eq!(ends[2].take(4, &mut frame), 4);
            frame.iter().any(|packet| packet.bytes() == [1])
        });
        assert!(arrived);
    }

    /// Workers as threads, each giving to all others as fast as it can.
    #[test]
    fn what_arrives_between_threads_is_in_order_and_what_does_not_is_counted() {
        const WORKERS: usize = 3;
        const PACKETS: u32 = 20_000;
        let pool = HeapPool::new(512);
        let counters: [Counters; WORKERS] = std::array::from_fn(|_| Counters::new(0));
        let accounted = || -> u64 {
            counters.iter().map(|one| one.taken_over.value() + one.dropped(DropReason::HandoffFull)).sum()
        };
        let work = |mut end: Handoff<HeapBuffer>| {
            let (WorkerId(number), mut pool) = (end.worker(), pool.clone());
            let me = usize::from(number);
            let mut next = [0; WORKERS];
            let mut last = [None; WORKERS];
            while accounted() < (WORKERS * (WORKERS - 1)) as u64 * u64::from(PACKETS) {
                for to in (0..WORKERS).filter(|to| *to != me) {
                    for count in (next[to]..PACKETS).take(24) {
                        let content = [&number.to_be_bytes()[1..], &count.to_be_bytes()].concat();
                        let Some(packet) = pool.buffer(&content) else { break };
                        let receiver = WorkerId(u16::try_from(to).unwrap());
                        end.give(receiver, Entry::Encrypt, packet, &counters[me]);
                        next[to] = count + 1;
                    }
                }
                end.send(&counters[me]);
                let mut frame = Frame::new();
                end.take(FRAME_SIZE / 2, &mut frame);
                counters[me].taken_over.add(frame.len() as u64);
                for packet in frame {
                    let (from, number) = packet.bytes().split_first().unwrap();
                    let number = u32::from_be_bytes(number.try_into().unwrap());
                    assert!(last[usize::from(*from)].replace(number) < Some(number), "from {from}");
                }
            }
        };
        thread::scope(|scope| {
            for end in Handoff::between(WORKERS, 64) {
                scope.spawn(|| work(end));
            }
        });
        let sum = |count: fn(&Counters) -> u64| counters.iter().map(count).sum::<u64>();
        assert!(sum(|one| one.handed_over.value()) > 0);
        assert_eq!(sum(|one| one.handed_over.value()), sum(|one| one.taken_over.value()));
        assert_eq!(pool.in_use(), 0);
    }
}
