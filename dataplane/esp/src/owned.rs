//! State that one worker writes and everybody may read.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number with a single writer. Atomic only so that others may read it: the writer loads and stores,
/// it never pays for a locked instruction.
///
/// With two writers updates are lost: a sequence number would be sent twice (under AES-GCM that gives
/// the key away), a replayed packet be accepted, a count be short. So an SA has one owner worker, for
/// as long as it lives.
#[derive(Default)]
pub(crate) struct Owned(AtomicU64);

impl Owned {
    pub(crate) const fn new(value: u64) -> Self {
        Self(AtomicU64::new(value))
    }

    #[inline]
    pub(crate) fn load(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// For the owner only.
    #[inline]
    pub(crate) fn store(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// For the owner only.
    #[inline]
    pub(crate) fn add(&self, n: u64) {
        self.store(self.load().wrapping_add(n));
    }
}
