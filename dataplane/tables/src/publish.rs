//! RCU by quiescent states: how snapshots reach workers.
//!
//! One [`Publisher`] on the control thread, one [`Reader`] per worker, and between them for each reader a
//! mailbox for one edition and a word that says what the reader has seen:
//!
//! ```text
//!            publish: put, then announce            refresh: look, take, drop the old, say so
//!  Publisher ------------> mailbox -----------------------------------------------> Reader
//!      ^    \------------> announced (all readers look at this one word)              |
//!      |                                                                              |
//!      +------ displaced editions come back          seen <---------------------------+
//! ```
//!
//! Between two batches a worker holds nothing of the snapshot: that is its quiescent state, and there it
//! calls [`Reader::refresh`]. If nothing is new, that is one load of a word that nobody writes meanwhile.
//!
//! **What is never freed on a worker.** Freeing a snapshot walks tables and wipes keys, so it must happen on
//! the control thread. The publisher keeps a reference to every edition, and gives it up only when it is the
//! only one; that it stays the only one is certain then, since new ones are made from it alone. So whatever a
//! reader drops, it does not drop the last reference, however the threads interleave. The load-bearing line is
//! the comparison in [`Publisher::reclaim`]: were the reference given up as soon as all readers have *reported*
//! something newer, a reader between its report and its drop would be left with the last one.
//!
//! **What "seen" means.** [`Publisher::adopted`] promises that no worker uses an older edition any more, and
//! that [`Publisher::reclaim`] frees it now: keys of a removed SA are wiped then. So a reader stores `seen`
//! after it has dropped its old edition, and with release ordering. The other way round, the old one could
//! still be counted as in use; with a weaker ordering, a batch that used it could still be under way as far as
//! the control thread can tell.
//!
//! **Announcing after putting** makes the common case right, not just safe: a reader that sees the number
//! finds the edition (or a newer one) in its mailbox. The other way round it would find nothing, and look
//! again after the next batch.
//!
//! **A reader that stalls** (or a worker that sleeps) holds one edition, and its mailbox another: the next
//! publication displaces that one, and it comes back. So at most two editions per reader and the newest are
//! alive, however long the stall and however much is published meanwhile; and they share all pages that did
//! not change between them.

use std::collections::VecDeque;

use crossbeam::utils::CachePadded;

use crate::snapshot::Snapshot;
use mailbox::Mailbox;
use sync::{Arc, AtomicU64, Ordering};

/// What a reader that is gone has seen.
const GONE: u64 = u64::MAX;

/// The control thread's end.
#[derive(Debug)]
pub struct Publisher<T = Snapshot> {
    shared: Arc<Shared<T>>,
    /// Every edition that somebody else may hold, the newest last.
    editions: VecDeque<Arc<Edition<T>>>,
    version: u64,
}

/// A worker's end.
#[derive(Debug)]
pub struct Reader<T = Snapshot> {
    // Dropped in this order: the edition first, then the seat says that nobody uses any.
    current: Arc<Edition<T>>,
    seat: Seat<T>,
}

#[derive(Debug)]
struct Shared<T> {
    announced: CachePadded<AtomicU64>,
    readers: Vec<Slot<T>>,
}

#[derive(Debug)]
struct Slot<T> {
    mailbox: Mailbox<Arc<Edition<T>>>,
    seen: CachePadded<AtomicU64>,
}

#[derive(Debug)]
struct Edition<T> {
    version: u64,
    content: T,
}

/// A reader's place among the others.
#[derive(Debug)]
struct Seat<T> {
    shared: Arc<Shared<T>>,
    number: usize,
}

impl<T> Publisher<T> {
    /// A publisher and `readers` readers, which begin with `first` as version 1.
    pub fn new(first: T, readers: usize) -> (Self, Vec<Reader<T>>) {
        let version = 1;
        let slot = || Slot { mailbox: Mailbox::new(), seen: CachePadded::new(AtomicU64::new(version)) };
        let shared = Arc::new(Shared {
            announced: CachePadded::new(AtomicU64::new(version)),
            readers: (0..readers).map(|_| slot()).collect(),
        });
        let first = Arc::new(Edition { version, content: first });
        let readers = (0..readers)
            .map(|number| Reader {
                current: Arc::clone(&first),
                seat: Seat { shared: Arc::clone(&shared), number },
            })
            .collect();
        (Self { shared, editions: VecDeque::from([first]), version }, readers)
    }

    /// Makes `content` what every reader gets when it refreshes next, and frees what nobody uses any more.
    /// Its version, one higher than the last.
    pub fn publish(&mut self, content: T) -> u64 {
        self.version += 1;
        let edition = Arc::new(Edition { version: self.version, content });
        for slot in &self.shared.readers {
            // What a reader did not fetch in time comes back here, and is dropped on this thread.
            drop(slot.mailbox.put(Arc::clone(&edition)));
        }
        self.editions.push_back(edition);
        self.shared.announced.store(self.version, Ordering::Release);
        self.reclaim();
        self.version
    }

    /// Frees the editions that nobody uses any more. `publish` does so too; call it now and then when there
    /// is nothing to publish, so that keys of removed SAs do not linger.
    pub fn reclaim(&mut self) {
        for slot in &self.shared.readers {
            if slot.seen.load(Ordering::Acquire) == GONE {
                drop(slot.mailbox.take());
            }
        }
        let newest = self.version;
        // More than this one: see the module's documentation.
        self.editions.retain(|edition| edition.version == newest || Arc::strong_count(edition) > 1);
    }

    /// Whether no reader uses anything older than `version` any more.
    pub fn adopted(&self, version: u64) -> bool {
        self.shared.readers.iter().all(|slot| slot.seen.load(Ordering::Acquire) >= version)
    }

    /// The version published last.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// How many editions older than the newest were still in use when last looked at: at most two per reader.
    pub fn retired(&self) -> usize {
        self.editions.len().saturating_sub(1)
    }
}

impl<T> Reader<T> {
    /// Adopts the newest edition. Call it between two batches; it never waits.
    #[inline]
    pub fn refresh(&mut self) -> &T {
        if self.seat.shared.announced.load(Ordering::Acquire) > self.current.version {
            self.adopt();
        }
        &self.current.content
    }

    /// What was adopted last.
    #[inline]
    pub fn current(&self) -> &T {
        &self.current.content
    }

    /// The version of [`current`](Self::current).
    #[inline]
    pub fn version(&self) -> u64 {
        self.current.version
    }

    #[cold]
    fn adopt(&mut self) {
        let Some(slot) = self.seat.slot() else { return };
        let Some(newer) = slot.mailbox.take() else { return };
        let version = newer.version;
        // This drops the old edition, which the publisher still holds.
        self.current = newer;
        // Only now: see the module's documentation.
        slot.seen.store(version, Ordering::Release);
    }
}

impl<T> Seat<T> {
    fn slot(&self) -> Option<&Slot<T>> {
        self.shared.readers.get(self.number)
    }
}

impl<T> Drop for Seat<T> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot() {
            slot.seen.store(GONE, Ordering::Release);
        }
    }
}

#[cfg(not(loom))]
mod sync {
    pub(super) use std::sync::Arc;
    pub(super) use std::sync::atomic::{AtomicU64, Ordering};
}

#[cfg(loom)]
mod sync {
    pub(super) use loom::sync::Arc;
    pub(super) use loom::sync::atomic::{AtomicU64, Ordering};
}

#[cfg(not(loom))]
mod mailbox {
    use crossbeam::queue::ArrayQueue;

    /// Room for one thing, lock-free.
    #[derive(Debug)]
    pub(super) struct Mailbox<T>(ArrayQueue<T>);

    impl<T> Mailbox<T> {
        pub(super) fn new() -> Self {
            Self(ArrayQueue::new(1))
        }

        /// Puts `thing` in, and gives what it displaced.
        pub(super) fn put(&self, thing: T) -> Option<T> {
            self.0.force_push(thing)
        }

        pub(super) fn take(&self) -> Option<T> {
            self.0.pop()
        }
    }
}

/// The queue does not run under loom. What the protocol needs of it is that putting and taking are atomic,
/// and that is what this one does; the queue's own memory orderings are its authors' to test.
#[cfg(loom)]
mod mailbox {
    use loom::sync::Mutex;

    #[derive(Debug)]
    pub(super) struct Mailbox<T>(Mutex<Option<T>>);

    impl<T> Mailbox<T> {
        pub(super) fn new() -> Self {
            Self(Mutex::new(None))
        }

        pub(super) fn put(&self, thing: T) -> Option<T> {
            self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).replace(thing)
        }

        pub(super) fn take(&self) -> Option<T> {
            self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
        }
    }
}

#[cfg(test)]
mod tests;
