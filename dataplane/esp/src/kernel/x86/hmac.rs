//! HMAC with a packet in each lane: first the inner hashes of all packets, each as long as its packet,
//! and then the outer ones, which all take one block.

use arrayvec::ArrayVec;

use super::lanes::{Lanes, RUN, drive, longest_first};
use crate::burst::BURST;
use crate::kernel::{MacKeys, MacLane, Tag};

/// A block of the hashes here.
pub(super) type Chunk = [u8; 64];

/// Words of the longest digest.
pub(super) const WORDS_MAX: usize = 8;

/// Digests, by word and job.
type Digests<const N: usize> = [[u32; N]; WORDS_MAX];

/// What idle lanes read.
static IDLE: [Chunk; RUN] = [[0; 64]; RUN];

/// What the lanes are at.
#[repr(C, align(64))]
pub(super) struct State<const N: usize> {
    /// Hash states, by word and lane.
    pub(super) words: [[u32; N]; WORDS_MAX],
    /// Next block.
    pub(super) at: [*const Chunk; N],
    /// Whether the lane has a packet.
    pub(super) busy: [bool; N],
}

/// A hash with blocks of 64 bytes.
pub(super) trait Hash<const N: usize> {
    /// Words of the digest.
    const WORDS: usize;

    /// States after inner and outer key; `None` if the keys are for another hash.
    fn pads(keys: &MacKeys) -> Option<(&[u32], &[u32])>;

    /// A word as it is written into blocks and tags.
    #[inline]
    fn bytes(word: u32) -> [u8; 4] {
        word.to_be_bytes()
    }

    /// The length field.
    #[inline]
    fn length(bits: u64) -> [u8; 8] {
        bits.to_be_bytes()
    }

    /// Writes the last blocks of a message, the last bytes of which are `rest`, and says how many.
    ///
    /// # Safety
    /// The CPU must have the features that the hash is for.
    #[inline]
    unsafe fn pad(rest: &[u8], bits: u64, tail: &mut [Chunk; 2]) -> usize {
        *tail = [[0; 64]; 2];
        tail[0][..rest.len()].copy_from_slice(rest);
        tail[0][rest.len()] = 0x80;
        let blocks = if rest.len() < LENGTH_AT { 1 } else { 2 };
        tail[blocks - 1][LENGTH_AT..].copy_from_slice(&Self::length(bits));
        blocks
    }

    /// Mixes so many blocks into the state of every lane.
    ///
    /// # Safety
    /// From `at` on, every lane must have that many blocks, and the CPU the features that the hash is
    /// for.
    unsafe fn compress(state: &mut State<N>, blocks: usize);

    /// Mixes a message that is no more than a digest into the state of every lane. `at` is of no
    /// meaning then.
    ///
    /// # Safety
    /// The CPU must have the features that the hash is for.
    #[inline]
    unsafe fn compress_digests(state: &mut State<N>, digests: &Digests<N>) {
        let mut messages = [[0; 64]; N];
        for (lane, message) in messages.iter_mut().enumerate() {
            for (bytes, word) in message.as_chunks_mut().0.iter_mut().zip(&digests[..Self::WORDS]) {
                *bytes = Self::bytes(word[lane]);
            }
            message[4 * Self::WORDS] = 0x80;
            message[LENGTH_AT..]
                .copy_from_slice(&Self::length(outer_bits(Self::WORDS).unsigned_abs().into()));
        }
        state.at = messages.each_ref().map(std::ptr::from_ref);
        // SAFETY: every lane points to one block; the caller vouches for the features.
        unsafe { Self::compress(state, 1) };
    }
}

/// Where in a block the length of the message is.
pub(super) const LENGTH_AT: usize = 56;

/// Length of the message of the outer hash, the block of key before it included.
#[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "of a few words")]
pub(super) const fn outer_bits(words: usize) -> i32 {
    (64 + 4 * words as i32) * 8
}

/// Computes the tags of all jobs, at most a burst, which are all for the hash `H`.
///
/// # Safety
/// The CPU must have the features that `H` is for.
#[inline(always)]
pub(super) unsafe fn tags<H: Hash<N>, const N: usize>(jobs: &mut [MacLane<'_>]) {
    let mut tails = [[[0; 64]; 2]; N];
    if let Some(first) = jobs.first().map(|job| Blocks::of(job.data))
        && jobs.iter().all(|job| Blocks::of(job.data) == first)
    {
        for jobs in jobs.chunks_mut(N) {
            // SAFETY: passed on; all are of so many blocks.
            unsafe { alike::<H, N>(jobs, first, &mut tails) };
        }
        return;
    }
    let mut digests = [[0; BURST]; WORDS_MAX];
    drive(&mut Inner::<H, N> {
        waiting: longest_first(jobs.iter().map(|job| job.data.len())),
        jobs,
        current: [0; N],
        in_tail: [false; N],
        state: State::idle(),
        tails: &mut tails,
        digests: &mut digests,
        hash: std::marker::PhantomData,
    });
    for (group, jobs) in jobs.chunks_mut(N).enumerate() {
        let digests = digests.each_ref().map(|row| std::array::from_fn(|lane| row[group * N + lane]));
        // SAFETY: passed on.
        unsafe { outer::<H, N>(jobs, &digests) };
    }
}

/// Blocks of a message.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Blocks {
    /// Those that are all data.
    whole: usize,
    /// Those with padding and length.
    tail: usize,
}

impl Blocks {
    #[inline(always)]
    fn of(data: &[u8]) -> Self {
        Self { whole: data.len() / 64, tail: if data.len() % 64 < LENGTH_AT { 1 } else { 2 } }
    }
}

/// Computes the tags of up to `N` jobs that are all of so many blocks: nothing is to be begun while others go on.
///
/// # Safety
/// They must be, and the CPU must have the features that `H` is for.
#[inline(always)]
unsafe fn alike<H: Hash<N>, const N: usize>(
    jobs: &mut [MacLane<'_>],
    blocks: Blocks,
    tails: &mut [[Chunk; 2]; N],
) {
    let mut state = State::idle();
    // An idle lane reads what the first one does.
    state.at = [jobs[0].data.as_ptr().cast(); N];
    for (lane, job) in jobs.iter().enumerate() {
        if let Some((inner, _)) = H::pads(job.keys) {
            state.load(lane, inner);
            state.at[lane] = job.data.as_ptr().cast();
        }
    }
    if blocks.whole > 0 {
        // SAFETY: every lane points to the data of a job that has so many; the caller vouches for the features.
        unsafe { H::compress(&mut state, blocks.whole) };
    }
    for ((job, tail), at) in jobs.iter().zip(&mut *tails).zip(&mut state.at) {
        let bits = (64 + job.data.len() as u64) * 8;
        // SAFETY: the caller vouches for the features.
        unsafe { H::pad(job.data.as_chunks::<64>().1, bits, tail) };
        *at = tail.as_ptr();
    }
    state.at[jobs.len()..].fill(tails[0].as_ptr());
    // SAFETY: every lane points to a tail, which is of two blocks; the caller vouches for the features.
    unsafe { H::compress(&mut state, blocks.tail) };
    // SAFETY: passed on.
    unsafe { outer::<H, N>(jobs, &state.words) };
}

/// Hashes the inner digests of up to `N` jobs under their outer keys.
///
/// # Safety
/// The CPU must have the features that `H` is for.
#[inline(always)]
unsafe fn outer<H: Hash<N>, const N: usize>(jobs: &mut [MacLane<'_>], digests: &Digests<N>) {
    let mut state = State::idle();
    for (lane, job) in jobs.iter().enumerate() {
        if let Some((_, outer)) = H::pads(job.keys) {
            state.load(lane, outer);
        }
    }
    // SAFETY: the caller vouches for the features.
    unsafe { H::compress_digests(&mut state, digests) };
    for (lane, job) in jobs.iter_mut().enumerate() {
        let Tag(tag) = &mut job.tag;
        for (bytes, words) in tag.iter_mut().zip(&state.words[..H::WORDS]) {
            *bytes = H::bytes(words[lane]);
        }
    }
}

/// Packets whose inner hashes are computed, one to a lane.
struct Inner<'j, 'a, H, const N: usize> {
    jobs: &'j [MacLane<'a>],
    /// Jobs not begun yet, the longest last.
    waiting: ArrayVec<usize, BURST>,
    /// Job of each busy lane.
    current: [usize; N],
    /// Whether the lane is at its last blocks, those with padding and length.
    in_tail: [bool; N],
    state: State<N>,
    /// The last blocks of a message. Not a part of this, since borrows of the whole would
    /// invalidate the pointers of lanes.
    tails: &'j mut [[Chunk; 2]; N],
    digests: &'j mut Digests<BURST>,
    hash: std::marker::PhantomData<H>,
}

impl<H: Hash<N>, const N: usize> Lanes<N> for Inner<'_, '_, H, N> {
    #[inline(always)]
    fn refill(&mut self, lane: usize) -> usize {
        if self.state.busy[lane] {
            let job = self.current[lane];
            if !self.in_tail[lane] {
                return self.tail(lane, job);
            }
            for word in 0..H::WORDS {
                self.digests[word][job] = self.state.words[word][lane];
            }
        }
        self.begin(lane)
    }

    #[inline(always)]
    unsafe fn run(&mut self, blocks: usize) {
        // SAFETY: a busy lane points into the data of its job or to its own tail, and by the contract
        // of this function has that many blocks left; an idle lane points to as many as a run may
        // have. Who made the lanes has the features.
        unsafe { H::compress(&mut self.state, blocks) };
        for at in &mut self.state.at {
            *at = at.wrapping_add(blocks);
        }
    }
}

impl<H: Hash<N>, const N: usize> Inner<'_, '_, H, N> {
    /// Takes the next job into a lane.
    #[inline(always)]
    fn begin(&mut self, lane: usize) -> usize {
        let next = self.waiting.pop().and_then(|job| Some((job, H::pads(self.jobs[job].keys)?.0)));
        let Some((job, inner)) = next else {
            self.state.busy[lane] = false;
            self.state.at[lane] = IDLE.as_ptr();
            return 0;
        };
        self.state.load(lane, inner);
        self.current[lane] = job;
        let chunks = self.jobs[job].data.as_chunks().0;
        if chunks.is_empty() {
            return self.tail(lane, job);
        }
        self.in_tail[lane] = false;
        self.state.at[lane] = chunks.as_ptr();
        chunks.len()
    }

    /// Goes over to the last blocks.
    #[inline(always)]
    fn tail(&mut self, lane: usize, job: usize) -> usize {
        let data = self.jobs[job].data;
        // One block of key went before.
        let bits = (64 + data.len() as u64) * 8;
        self.in_tail[lane] = true;
        // SAFETY: who made the lanes has the features.
        let blocks = unsafe { H::pad(data.as_chunks::<64>().1, bits, &mut self.tails[lane]) };
        self.state.at[lane] = self.tails[lane].as_ptr();
        blocks
    }
}

impl<const N: usize> State<N> {
    #[inline(always)]
    fn idle() -> Self {
        Self { words: [[0; N]; WORDS_MAX], at: [IDLE.as_ptr(); N], busy: [false; N] }
    }

    /// Sets the state of a lane, which is busy from now on.
    #[inline(always)]
    fn load(&mut self, lane: usize, state: &[u32]) {
        for (words, word) in self.words.iter_mut().zip(state) {
            words[lane] = *word;
        }
        self.busy[lane] = true;
    }
}
