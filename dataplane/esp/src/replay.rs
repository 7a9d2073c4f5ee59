//! Anti-replay window (RFC 4303 section 3.4.3), as a ring of 64-bit words (RFC 6479).

use crate::owned::Owned;

const WORD: u32 = u64::BITS;

/// Words that lie beside the top of the window, in its cache line: enough for 64 packets.
const INLINE_WORDS: usize = 2;

/// Size of an anti-replay window in packets: a multiple of 64 from 64 to 4096.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WindowSize(u32);

/// A window size that is not a multiple of 64 from 64 to 4096.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an anti-replay window of {0} packets: it must be a multiple of 64 from 64 to 4096")]
pub struct WindowSizeError(pub u32);

impl WindowSize {
    /// Checks a size.
    ///
    /// # Errors
    /// [`WindowSizeError`] unless it is a multiple of 64 from 64 to 4096.
    pub const fn new(packets: u32) -> Result<Self, WindowSizeError> {
        if packets >= WORD && packets <= 4096 && packets.is_multiple_of(WORD) {
            Ok(Self(packets))
        } else {
            Err(WindowSizeError(packets))
        }
    }

    /// In packets.
    pub const fn packets(self) -> u32 {
        self.0
    }
}

/// 64 packets.
impl Default for WindowSize {
    fn default() -> Self {
        Self(WORD)
    }
}

/// Which sequence numbers have been accepted. One writer: see [`Owned`].
pub(crate) struct ReplayWindow {
    /// Highest sequence number accepted; 0 before the first packet.
    top: Owned,
    words: Words,
}

/// At least one word more than the window, so that a word can be cleared ahead of it as a whole, and a
/// power of two of them. Bit `n % 64` of word `n / 64 % words` stands for sequence number `n`.
enum Words {
    /// Of a window of 64 packets.
    Inline([Owned; INLINE_WORDS]),
    /// Of a window of `size` packets.
    Heap { words: Box<[Owned]>, size: u32 },
}

impl ReplayWindow {
    pub(crate) fn new(size: WindowSize) -> Self {
        let count = size.0 as usize / WORD as usize + 1;
        let words = if count <= INLINE_WORDS {
            Words::Inline(Default::default())
        } else {
            let words = std::iter::repeat_with(Owned::default).take(count.next_power_of_two()).collect();
            Words::Heap { words, size: size.0 }
        };
        Self { top: Owned::default(), words }
    }

    /// Highest sequence number accepted; 0 before the first.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "only 32-bit numbers are stored")]
    pub(crate) fn top(&self) -> u32 {
        self.top.load() as u32
    }

    /// Whether a packet with this number may be new. Changes nothing: the packet is not yet proved.
    #[inline]
    pub(crate) fn may_accept(&self, sequence: u32) -> bool {
        let top = self.top();
        if sequence > top {
            return true;
        }
        // RFC 4303 section 3.3.3: the first packet has number 1.
        sequence != 0 && top - sequence < self.size() && self.word(sequence).load() & bit(sequence) == 0
    }

    /// Accepts the number of an authenticated packet, once; `false` if it is a replay after all.
    #[inline]
    pub(crate) fn accept(&self, sequence: u32) -> bool {
        if !self.may_accept(sequence) {
            return false;
        }
        let top = self.top();
        if sequence > top {
            self.clear_words(top / WORD, sequence / WORD);
            self.top.store(sequence.into());
        }
        let word = self.word(sequence);
        word.store(word.load() | bit(sequence));
        true
    }

    /// Forgets the words after `old` up to `new`, each once.
    fn clear_words(&self, old: u32, new: u32) {
        let words = self.words();
        let steps = ((new - old) as usize).min(words.len());
        for step in 0..steps {
            words[(new as usize - step) & (words.len() - 1)].store(0);
        }
    }

    fn word(&self, sequence: u32) -> &Owned {
        let words = self.words();
        &words[(sequence / WORD) as usize & (words.len() - 1)]
    }

    fn words(&self) -> &[Owned] {
        match &self.words {
            Words::Inline(words) => words,
            Words::Heap { words, .. } => words,
        }
    }

    fn size(&self) -> u32 {
        match self.words {
            Words::Inline(_) => WORD,
            Words::Heap { size, .. } => size,
        }
    }
}

fn bit(sequence: u32) -> u64 {
    1 << (sequence % WORD)
}

#[cfg(test)]
mod tests;
