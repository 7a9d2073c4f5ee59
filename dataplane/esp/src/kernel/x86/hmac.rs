//! HMAC with a packet in each lane.

use arrayvec::ArrayVec;

use super::lanes::{Lanes, drive};
use crate::burst::BURST;
use crate::kernel::{MacKeys, MacLane};

/// A block of the hashes here.
pub(super) type Chunk = [u8; 64];

/// Packets being authenticated, one to a lane.
struct Hmac<'j, 'a, H, const N: usize> {
    jobs: &'j mut [MacLane<'a>],
    /// Jobs not begun yet, the shortest first.
    waiting: ArrayVec<usize, BURST>,
    /// Job and stage of each lane.
    current: [Option<(usize, Stage)>; N],
    state: State<N>,
    /// The last blocks of a message, with padding and length. Not a part of this, since borrows of the whole would
    /// invalidate the pointers of lanes.
    tails: &'j mut [[Chunk; 2]; N],
    hash: std::marker::PhantomData<H>,
}

/// What the lanes are at.
#[repr(C, align(64))]
pub(super) struct State<const N: usize> {
    /// Hash states.
    pub(super) words: [[u32; 8]; N],
    /// Next block.
    pub(super) at: [*const Chunk; N],
    /// 1, or 0 for an idle lane, which stays where it is.
    pub(super) step: [usize; N],
}

/// Where in its message a lane is.
#[derive(Clone, Copy)]
enum Stage {
    /// The whole blocks of the data.
    Body,
    /// The rest of the data with padding.
    Tail,
    /// The digest of all that under the outer key.
    Outer,
}

/// A hash with blocks of 64 bytes and big-endian words.
pub(super) trait Hash<const N: usize> {
    /// Words of the digest.
    const WORDS: usize;

    /// States after inner and outer key; `None` if the keys are for another hash.
    fn pads(keys: &MacKeys) -> Option<(&[u32], &[u32])>;

    /// Mixes so many blocks into the state of every lane.
    ///
    /// # Safety
    /// From `at` on, every lane must have that many blocks (an idle one, one), and the CPU the
    /// features that the hash is for.
    unsafe fn compress(state: &mut State<N>, blocks: usize);
}

/// Computes the tags of all jobs, which are all for the hash `H`.
///
/// # Safety
/// The CPU must have the features that `H` is for.
#[inline]
pub(super) unsafe fn tags<H: Hash<N>, const N: usize>(jobs: &mut [MacLane<'_>]) {
    let mut waiting: ArrayVec<usize, BURST> = (0..jobs.len()).collect();
    waiting.sort_unstable_by_key(|&job| jobs[job].data.len());
    let mut tails = [[[0; 64]; 2]; N];
    let mut hmac = Hmac::<H, N> {
        jobs,
        waiting,
        current: [None; N],
        state: State { words: [[0; 8]; N], at: [std::ptr::null(); N], step: [0; N] },
        tails: &mut tails,
        hash: std::marker::PhantomData,
    };
    drive(&mut hmac);
}

impl<H: Hash<N>, const N: usize> Lanes<N> for Hmac<'_, '_, H, N> {
    #[inline]
    fn refill(&mut self, lane: usize) -> usize {
        match self.current[lane] {
            Some((job, Stage::Body)) => self.tail(lane, job),
            Some((job, Stage::Tail)) => self.outer(lane, job),
            Some((job, Stage::Outer)) => {
                self.write(lane, job);
                self.begin(lane)
            }
            None => self.begin(lane),
        }
    }

    #[inline]
    unsafe fn run(&mut self, blocks: usize) {
        // SAFETY: a busy lane points into the data of its job or to its own tail, and by the contract
        // of this function has that many blocks left; an idle lane points to its tail. Who made the
        // lanes has the features.
        unsafe { H::compress(&mut self.state, blocks) };
    }
}

impl<H: Hash<N>, const N: usize> Hmac<'_, '_, H, N> {
    /// Takes the next job into a lane.
    fn begin(&mut self, lane: usize) -> usize {
        let next = self.waiting.pop().and_then(|job| Some((job, H::pads(self.jobs[job].keys)?.0)));
        let Some((job, inner)) = next else {
            self.current[lane] = None;
            self.state.at[lane] = self.tails[lane].as_ptr();
            self.state.step[lane] = 0;
            return 0;
        };
        self.load(lane, inner);
        let chunks = self.jobs[job].data.as_chunks().0;
        if chunks.is_empty() {
            return self.tail(lane, job);
        }
        self.current[lane] = Some((job, Stage::Body));
        self.state.at[lane] = chunks.as_ptr();
        chunks.len()
    }

    /// Pads what the whole blocks of the data left over.
    fn tail(&mut self, lane: usize, job: usize) -> usize {
        let data = self.jobs[job].data;
        let rest = data.as_chunks::<64>().1;
        let tail = self.tails[lane].as_flattened_mut();
        tail.fill(0);
        tail[..rest.len()].copy_from_slice(rest);
        tail[rest.len()] = 0x80;
        let blocks = if rest.len() < 56 { 1 } else { 2 };
        // One block of key went before.
        let bits = (64 + data.len() as u64) * 8;
        tail[blocks * 64 - 8..blocks * 64].copy_from_slice(&bits.to_be_bytes());
        self.current[lane] = Some((job, Stage::Tail));
        self.state.at[lane] = self.tails[lane].as_ptr();
        blocks
    }

    /// Goes over from the inner digest to the outer hash.
    fn outer(&mut self, lane: usize, job: usize) -> usize {
        let tail = &mut self.tails[lane][0];
        *tail = [0; 64];
        for (bytes, word) in tail.as_chunks_mut().0.iter_mut().zip(&self.state.words[lane][..H::WORDS]) {
            *bytes = word.to_be_bytes();
        }
        tail[4 * H::WORDS] = 0x80;
        let bits = (64 + 4 * H::WORDS as u64) * 8;
        tail[56..].copy_from_slice(&bits.to_be_bytes());
        if let Some((_, outer)) = H::pads(self.jobs[job].keys) {
            self.load(lane, outer);
        }
        self.current[lane] = Some((job, Stage::Outer));
        self.state.at[lane] = self.tails[lane].as_ptr();
        1
    }

    /// Sets the state of a lane and makes it move.
    fn load(&mut self, lane: usize, state: &[u32]) {
        self.state.words[lane][..H::WORDS].copy_from_slice(state);
        self.state.step[lane] = 1;
    }

    fn write(&mut self, lane: usize, job: usize) {
        let tag = self.jobs[job].tag.as_chunks_mut().0;
        for (bytes, word) in tag.iter_mut().zip(&self.state.words[lane][..H::WORDS]) {
            *bytes = word.to_be_bytes();
        }
    }
}
