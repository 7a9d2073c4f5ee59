//! Bursts of jobs, and the jobs of one kind among them.

use crate::kind::Kind;

/// Jobs that go through the kernels together; longer batches are cut into bursts of this many.
pub(crate) const BURST: usize = 64;

/// How many packets before its own the keys of one are asked for, where packets go one after the other.
pub(crate) const AHEAD: usize = 6;

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
    #[inline]
    pub(crate) fn take_kind(
        &mut self,
        kind_of: impl Fn(usize) -> &'static Kind,
    ) -> Option<(&'static Kind, Self)> {
        let kind = kind_of(self.indices().next()?);
        let mut taken = *self;
        for index in self.indices().filter(|&index| !kind_of(index).is(kind)) {
            taken.0 &= !(1 << index);
        }
        self.0 &= !taken.0;
        Some((kind, taken))
    }

    /// Their indices, ascending.
    pub(crate) fn indices(self) -> impl Iterator<Item = usize> {
        let bits = std::iter::successors(Some(self.0), |&bits| Some(bits & bits.wrapping_sub(1)));
        bits.take_while(|&bits| bits != 0).map(|bits| bits.trailing_zeros() as usize)
    }

    /// The jobs of `burst` that are members.
    pub(crate) fn of<J>(self, burst: &mut [J]) -> impl Iterator<Item = &mut J> {
        burst.iter_mut().enumerate().filter(move |(i, _)| self.contains(*i)).map(|(_, job)| job)
    }
}
