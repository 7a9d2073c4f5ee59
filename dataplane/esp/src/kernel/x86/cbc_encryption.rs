//! AES-CBC encryption with a packet in each lane, since each block depends on the one before it.

use std::arch::x86_64::*;

use arrayvec::ArrayVec;

use super::aes::{ROUND_KEYS, Rounds, Schedule};
use super::lanes::{Lanes, RUN, drive, longest_first};
use super::{AesUnit, Block, load, load_256, load_512, store, store_256, store_512};
use crate::burst::BURST;

/// A packet: its key and its blocks, the first of which is where the IV goes.
pub(crate) type Job<'a> = (&'a Schedule<AesUnit>, &'a mut [Block]);

/// Packets being encrypted, one to a lane, each chained for itself. Round keys stay on the stack of the
/// worker until the next batch, as those of live SAs stay in memory.
struct Encryption<'j, 'a, const N: usize> {
    jobs: &'j mut [Job<'a>],
    /// Jobs not begun yet, the longest last.
    waiting: ArrayVec<usize, BURST>,
    run: Run<N>,
    state: State<N>,
    /// What idle lanes work on. Not a part of this, since borrows of the whole would invalidate their pointers.
    spare: *mut Block,
}

/// What the lanes are at.
#[repr(C, align(64))]
struct State<const N: usize> {
    /// Round keys by round and lane, so that neighbouring lanes load as one register.
    keys: [[Block; N]; ROUND_KEYS],
    /// Last ciphertext block.
    chain: [Block; N],
    /// Next block.
    at: [*mut Block; N],
}

/// Encrypts so many blocks in every lane.
///
/// # Safety
/// From `at` on, every lane must have that many blocks that nothing else refers to but idle lanes, and
/// the CPU the features that the function is for.
///
/// Lanes from `lanes` on are idle: registers that hold no others are left out, since then a step takes no
/// longer than its rounds.
type Run<const N: usize> = unsafe fn(&mut State<N>, blocks: usize, lanes: usize);

/// Encrypts whole packets in place, chained from a block of zeros, over 512-bit registers. All are under keys of
/// so many rounds.
#[target_feature(enable = "avx512f,vaes")]
pub(super) fn encrypt_512(jobs: &mut [Job<'_>], rounds: Rounds) {
    encrypt(
        jobs,
        match rounds {
            Rounds::Aes128 => run_512::<10>,
            Rounds::Aes192 => run_512::<12>,
            Rounds::Aes256 => run_512::<14>,
        },
    );
}

/// The same over 256-bit registers.
#[target_feature(enable = "avx2,vaes")]
pub(super) fn encrypt_256(jobs: &mut [Job<'_>], rounds: Rounds) {
    encrypt(
        jobs,
        match rounds {
            Rounds::Aes128 => run_256::<10>,
            Rounds::Aes192 => run_256::<12>,
            Rounds::Aes256 => run_256::<14>,
        },
    );
}

/// The same over 128-bit registers.
#[target_feature(enable = "avx,aes")]
pub(super) fn encrypt_128(jobs: &mut [Job<'_>], rounds: Rounds) {
    encrypt(
        jobs,
        match rounds {
            Rounds::Aes128 => run_128::<10>,
            Rounds::Aes192 => run_128::<12>,
            Rounds::Aes256 => run_128::<14>,
        },
    );
}

#[inline(always)]
fn encrypt<const N: usize>(jobs: &mut [Job<'_>], run: Run<N>) {
    let mut spare = [[0; 16]; RUN];
    let spare = spare.as_mut_ptr();
    drive(&mut Encryption {
        waiting: longest_first(jobs.iter().map(|job| job.1.len())),
        jobs,
        run,
        state: State { keys: [[[0; 16]; N]; ROUND_KEYS], chain: [[0; 16]; N], at: [spare; N] },
        spare,
    });
}

impl<const N: usize> Lanes<N> for Encryption<'_, '_, N> {
    #[inline(always)]
    fn refill(&mut self, lane: usize) -> usize {
        let state = &mut self.state;
        // The longest come first: after one without blocks there is nothing to do.
        let Some(job) = self.waiting.pop().filter(|&job| !self.jobs[job].1.is_empty()) else {
            state.at[lane] = self.spare;
            return 0;
        };
        let (schedule, blocks) = &mut self.jobs[job];
        for (row, key) in state.keys.iter_mut().zip(schedule.round_keys()) {
            row[lane] = *key;
        }
        state.chain[lane] = [0; 16];
        state.at[lane] = blocks.as_mut_ptr();
        blocks.len()
    }

    #[inline(always)]
    unsafe fn run(&mut self, blocks: usize) {
        let lanes = self.state.at.iter().rposition(|&at| at != self.spare).map_or(0, |last| last + 1);
        // SAFETY: a busy lane points into its own job's blocks, and by the contract of this function
        // has that many left; an idle lane points to `spare`, which has as many as a run may have. Who
        // chose `run` has its features.
        unsafe { (self.run)(&mut self.state, blocks, lanes) };
        for at in &mut self.state.at {
            *at = at.wrapping_add(blocks);
        }
    }
}

/// Asks for the text that comes later: so many lanes are more than the CPU sees by itself that they are read
/// from the beginning to the end.
#[inline]
fn prefetch_text<const N: usize>(at: &[*mut Block; N], block: usize, blocks: usize) {
    /// Blocks of a cache line.
    const LINE: usize = 4;
    /// What has been asked for with the packet.
    const BEFORE: usize = 4 * LINE;
    if block.is_multiple_of(LINE) && block + BEFORE < blocks {
        for at in at {
            // SAFETY: a prefetch reads nothing and cannot fault; SSE is part of x86-64.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(block + BEFORE).cast()) };
        }
    }
}

/// # Safety
/// As for [`Run`], with AVX-512F and VAES.
#[target_feature(enable = "avx512f,vaes")]
unsafe fn run_512<const ROUNDS: usize>(state: &mut State<16>, blocks: usize, lanes: usize) {
    // SAFETY: passed on.
    unsafe {
        match lanes.div_ceil(4) {
            1 => registers_512::<ROUNDS, 1>(state, blocks),
            2 => registers_512::<ROUNDS, 2>(state, blocks),
            _ => registers_512::<ROUNDS, 4>(state, blocks),
        }
    }
}

/// The first `V` registers of lanes.
///
/// # Safety
/// As for [`Run`], with AVX-512F and VAES.
#[target_feature(enable = "avx512f,vaes")]
unsafe fn registers_512<const ROUNDS: usize, const V: usize>(state: &mut State<16>, blocks: usize) {
    let State { keys, chain, at } = state;
    let mut s: [__m512i; V] = std::array::from_fn(|i| load_512(chain, i));
    for block in 0..blocks {
        prefetch_text(at, block, blocks);
        for (i, s) in s.iter_mut().enumerate() {
            // SAFETY: the caller vouches for the blocks that each lane has.
            let text = |lane: usize| unsafe { _mm_loadu_si128(at[4 * i + lane].add(block).cast()) };
            let mut texts = _mm512_castsi128_si512(text(0));
            texts = _mm512_inserti32x4::<1>(texts, text(1));
            texts = _mm512_inserti32x4::<2>(texts, text(2));
            texts = _mm512_inserti32x4::<3>(texts, text(3));
            *s = _mm512_ternarylogic_epi64::<0x96>(*s, texts, load_512(&keys[0], i));
        }
        for key in &keys[1..ROUNDS] {
            for (i, s) in s.iter_mut().enumerate() {
                *s = _mm512_aesenc_epi128(*s, load_512(key, i));
            }
        }
        for (i, s) in s.iter_mut().enumerate() {
            *s = _mm512_aesenclast_epi128(*s, load_512(&keys[ROUNDS], i));
            let parts = [
                _mm512_castsi512_si128(*s),
                _mm512_extracti32x4_epi32::<1>(*s),
                _mm512_extracti32x4_epi32::<2>(*s),
                _mm512_extracti32x4_epi32::<3>(*s),
            ];
            for (lane, part) in (4 * i..).zip(parts) {
                // SAFETY: the caller vouches for the blocks that each lane has.
                unsafe { _mm_storeu_si128(at[lane].add(block).cast(), part) };
            }
        }
    }
    for (chain, s) in chain.as_chunks_mut().0.iter_mut().zip(s) {
        store_512(chain, s);
    }
}

/// # Safety
/// As for [`Run`], with AVX2 and VAES.
#[target_feature(enable = "avx2,vaes")]
unsafe fn run_256<const ROUNDS: usize>(state: &mut State<16>, blocks: usize, lanes: usize) {
    // SAFETY: passed on.
    unsafe {
        match lanes.div_ceil(2) {
            1 | 2 => registers_256::<ROUNDS, 2>(state, blocks),
            3 | 4 => registers_256::<ROUNDS, 4>(state, blocks),
            _ => registers_256::<ROUNDS, 8>(state, blocks),
        }
    }
}

/// The first `V` registers of lanes.
///
/// # Safety
/// As for [`Run`], with AVX2 and VAES.
#[target_feature(enable = "avx2,vaes")]
unsafe fn registers_256<const ROUNDS: usize, const V: usize>(state: &mut State<16>, blocks: usize) {
    let State { keys, chain, at } = state;
    let mut s: [__m256i; V] = std::array::from_fn(|i| load_256(chain, i));
    for block in 0..blocks {
        prefetch_text(at, block, blocks);
        for (i, s) in s.iter_mut().enumerate() {
            // SAFETY: the caller vouches for the blocks that each lane has.
            let text = |lane: usize| unsafe { _mm_loadu_si128(at[2 * i + lane].add(block).cast()) };
            let texts = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(text(0)), text(1));
            *s = _mm256_xor_si256(_mm256_xor_si256(*s, texts), load_256(&keys[0], i));
        }
        for key in &keys[1..ROUNDS] {
            for (i, s) in s.iter_mut().enumerate() {
                *s = _mm256_aesenc_epi128(*s, load_256(key, i));
            }
        }
        for (i, s) in s.iter_mut().enumerate() {
            *s = _mm256_aesenclast_epi128(*s, load_256(&keys[ROUNDS], i));
            let parts = [_mm256_castsi256_si128(*s), _mm256_extracti128_si256::<1>(*s)];
            for (lane, part) in (2 * i..).zip(parts) {
                // SAFETY: the caller vouches for the blocks that each lane has.
                unsafe { _mm_storeu_si128(at[lane].add(block).cast(), part) };
            }
        }
    }
    for (chain, s) in chain.as_chunks_mut().0.iter_mut().zip(s) {
        store_256(chain, s);
    }
}

/// # Safety
/// As for [`Run`], with AVX and AES-NI.
#[target_feature(enable = "avx,aes")]
unsafe fn run_128<const ROUNDS: usize>(state: &mut State<8>, blocks: usize, lanes: usize) {
    // SAFETY: passed on.
    unsafe {
        match lanes {
            1..=4 => registers_128::<ROUNDS, 4>(state, blocks),
            _ => registers_128::<ROUNDS, 8>(state, blocks),
        }
    }
}

/// The first `V` registers of lanes.
///
/// # Safety
/// As for [`Run`], with AVX and AES-NI.
#[target_feature(enable = "avx,aes")]
unsafe fn registers_128<const ROUNDS: usize, const V: usize>(state: &mut State<8>, blocks: usize) {
    let State { keys, chain, at } = state;
    let mut s: [__m128i; V] = std::array::from_fn(|i| load(&chain[i]));
    for block in 0..blocks {
        for (i, s) in s.iter_mut().enumerate() {
            // SAFETY: the caller vouches for the blocks that each lane has.
            let text = unsafe { _mm_loadu_si128(at[i].add(block).cast()) };
            *s = _mm_xor_si128(_mm_xor_si128(*s, text), load(&keys[0][i]));
        }
        for key in &keys[1..ROUNDS] {
            for (i, s) in s.iter_mut().enumerate() {
                *s = _mm_aesenc_si128(*s, load(&key[i]));
            }
        }
        for (i, s) in s.iter_mut().enumerate() {
            *s = _mm_aesenclast_si128(*s, load(&keys[ROUNDS][i]));
            // SAFETY: the caller vouches for the blocks that each lane has.
            unsafe { _mm_storeu_si128(at[i].add(block).cast(), *s) };
        }
    }
    for (chain, s) in chain.iter_mut().zip(s) {
        store(chain, s);
    }
}
