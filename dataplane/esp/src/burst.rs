//! Bursts of jobs, and the jobs of one kind among them.

use crate::sa::Kind;

/// Jobs that go through the kernels together; longer batches are cut into bursts of this many.
pub(crate) const BURST: usize = 64;

/// Some of the jobs of a burst, by index.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Members(u64);

impl Members {
    pub(crate) fn insert(&mut self, index: usize) {
        self.0 |= 1 << index;
    }

    pub(crate) fn contains(self, index: usize) -> bool {
        self.0 >> index & 1 != 0
    }

    /// Takes out the first member, and all of its kind: a kernel runs on one kind at a time.
    pub(crate) fn take_kind(&mut self, kind_of: impl Fn(usize) -> Kind) -> Option<(Kind, Self)> {
        if self.0 == 0 {
            return None;
        }
        let kind = kind_of(self.0.trailing_zeros() as usize);
        let mut taken = Self::default();
        for index in (0..BURST).filter(|&i| self.contains(i)) {
            if kind_of(index) == kind {
                taken.insert(index);
            }
        }
        self.0 &= !taken.0;
        Some((kind, taken))
    }

    /// The jobs of `burst` that are members.
    pub(crate) fn of<J>(self, burst: &mut [J]) -> impl Iterator<Item = &mut J> {
        self.of_indexed(burst).map(|(_, job)| job)
    }

    /// The same with their indices.
    pub(crate) fn of_indexed<J>(self, burst: &mut [J]) -> impl Iterator<Item = (usize, &mut J)> {
        burst.iter_mut().enumerate().filter(move |(i, _)| self.contains(*i))
    }
}
