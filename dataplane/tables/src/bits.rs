//! Sets of small numbers that index dense arrays.

/// A set of numbers below `64 * WORDS`. The rank of a member, which is how many smaller ones there are,
/// is its place in an array that holds something for each member and nothing else.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BitSet<const WORDS: usize> {
    words: [u64; WORDS],
    /// Members in the words before each.
    before: [u16; WORDS],
}

impl<const WORDS: usize> Default for BitSet<WORDS> {
    fn default() -> Self {
        Self { words: [0; WORDS], before: [0; WORDS] }
    }
}

impl<const WORDS: usize> BitSet<WORDS> {
    /// The rank of `number`, if it is a member.
    #[inline]
    pub(crate) fn rank(&self, number: usize) -> Option<usize> {
        let word = *self.words.get(number / 64)?;
        (word >> (number % 64) & 1 != 0).then(|| self.position(number))
    }

    /// How many members are smaller than `number`: the rank that it has or would have.
    #[inline]
    pub(crate) fn position(&self, number: usize) -> usize {
        let smaller = self.words[number / 64] & ((1 << (number % 64)) - 1);
        usize::from(self.before[number / 64]) + smaller.count_ones() as usize
    }

    /// Makes `number` a member; false if it was one.
    pub(crate) fn insert(&mut self, number: usize) -> bool {
        let bit = 1 << (number % 64);
        let new = self.words[number / 64] & bit == 0;
        if new {
            self.words[number / 64] |= bit;
            self.before[number / 64 + 1..].iter_mut().for_each(|before| *before += 1);
        }
        new
    }

    /// Makes `number` no member; nothing happens if it was none.
    pub(crate) fn remove(&mut self, number: usize) {
        let bit = 1 << (number % 64);
        if self.words[number / 64] & bit != 0 {
            self.words[number / 64] &= !bit;
            self.before[number / 64 + 1..].iter_mut().for_each(|before| *before -= 1);
        }
    }
}
