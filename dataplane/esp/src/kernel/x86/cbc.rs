//! AES-CBC: encryption with a packet in each lane, decryption of many blocks of a packet at once.

use std::arch::x86_64::*;

use super::aes::{ROUND_KEYS, Schedule};
use super::lanes::{Lanes, drive};
use super::{AesUnit, Block, load, load_256, load_512, store, store_256, store_512};

/// A packet: its key and its blocks, the first of which is where the IV goes.
pub(crate) type Job<'a> = (&'a Schedule<AesUnit>, &'a mut [Block]);

/// Packets being encrypted, one to a lane, each chained for itself. Round keys stay on the stack of the
/// worker until the next batch, as those of live SAs stay in memory.
struct Encryption<'j, 'a, const N: usize> {
    waiting: std::slice::IterMut<'j, Job<'a>>,
    rounds: usize,
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
    /// 1, or 0 for an idle lane, which stays where it is.
    step: [usize; N],
}

/// Encrypts so many blocks in every lane.
///
/// # Safety
/// From `at` on, every lane must have that many blocks (an idle one, one block) that nothing else
/// refers to, and the CPU the features that the function is for.
type Run<const N: usize> = unsafe fn(&mut State<N>, rounds: usize, blocks: usize);

/// Encrypts whole packets in place, chained from a block of zeros, over 512-bit registers.
#[target_feature(enable = "avx512f,vaes")]
pub(crate) fn encrypt_512(jobs: &mut [Job<'_>]) {
    encrypt(jobs, run_512);
}

/// The same over 256-bit registers.
#[target_feature(enable = "avx2,vaes")]
pub(crate) fn encrypt_256(jobs: &mut [Job<'_>]) {
    encrypt(jobs, run_256);
}

/// The same over 128-bit registers.
#[target_feature(enable = "avx,aes")]
pub(crate) fn encrypt_128(jobs: &mut [Job<'_>]) {
    encrypt(jobs, run_128);
}

/// Long packets go first, so that no lane is left alone with one at the end. The jobs of a call share
/// one key length.
#[inline]
fn encrypt<const N: usize>(jobs: &mut [Job<'_>], run: Run<N>) {
    let Some(rounds) = jobs.first().map(|job| job.0.rounds()) else { return };
    jobs.sort_unstable_by_key(|job| std::cmp::Reverse(job.1.len()));
    let mut spare = [0; 16];
    drive(&mut Encryption {
        waiting: jobs.iter_mut(),
        rounds,
        run,
        state: State {
            keys: [[[0; 16]; N]; ROUND_KEYS],
            chain: [[0; 16]; N],
            at: [std::ptr::null_mut(); N],
            step: [0; N],
        },
        spare: &raw mut spare,
    });
}

impl<const N: usize> Lanes<N> for Encryption<'_, '_, N> {
    #[inline]
    fn refill(&mut self, lane: usize) -> usize {
        let state = &mut self.state;
        if let Some((schedule, blocks)) = self.waiting.next() {
            for (row, key) in state.keys.iter_mut().zip(schedule.round_keys()) {
                row[lane] = *key;
            }
            state.chain[lane] = [0; 16];
            state.at[lane] = blocks.as_mut_ptr();
            state.step[lane] = 1;
            blocks.len()
        } else {
            state.at[lane] = self.spare;
            state.step[lane] = 0;
            0
        }
    }

    #[inline]
    unsafe fn run(&mut self, blocks: usize) {
        // SAFETY: a busy lane points into its own job's blocks, and by the contract of this function
        // has that many left; an idle lane points to `spare`. Who chose `run` has its features.
        unsafe { (self.run)(&mut self.state, self.rounds, blocks) };
    }
}

/// # Safety
/// As for [`Run`], with AVX-512F and VAES.
#[target_feature(enable = "avx512f,vaes")]
unsafe fn run_512(state: &mut State<16>, rounds: usize, blocks: usize) {
    let State { keys, chain, at, step } = state;
    let (keys, last) = (&keys[..rounds], &keys[rounds]);
    let mut s = [_mm512_setzero_si512(); 4];
    for (i, s) in s.iter_mut().enumerate() {
        *s = load_512(chain, i);
    }
    for _ in 0..blocks {
        for (i, s) in s.iter_mut().enumerate() {
            // SAFETY: the caller vouches for the block that each lane is at.
            let block = |lane: usize| unsafe { _mm_loadu_si128(at[4 * i + lane].cast()) };
            let mut text = _mm512_castsi128_si512(block(0));
            text = _mm512_inserti32x4::<1>(text, block(1));
            text = _mm512_inserti32x4::<2>(text, block(2));
            text = _mm512_inserti32x4::<3>(text, block(3));
            *s = _mm512_ternarylogic_epi64::<0x96>(*s, text, load_512(&keys[0], i));
        }
        for key in &keys[1..] {
            for (i, s) in s.iter_mut().enumerate() {
                *s = _mm512_aesenc_epi128(*s, load_512(key, i));
            }
        }
        for (i, s) in s.iter_mut().enumerate() {
            *s = _mm512_aesenclast_epi128(*s, load_512(last, i));
            let parts = [
                _mm512_castsi512_si128(*s),
                _mm512_extracti32x4_epi32::<1>(*s),
                _mm512_extracti32x4_epi32::<2>(*s),
                _mm512_extracti32x4_epi32::<3>(*s),
            ];
            for (lane, part) in (4 * i..).zip(parts) {
                // SAFETY: the caller vouches for the block that each lane is at, and for the next.
                unsafe {
                    _mm_storeu_si128(at[lane].cast(), part);
                    at[lane] = at[lane].add(step[lane]);
                }
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
unsafe fn run_256(state: &mut State<16>, rounds: usize, blocks: usize) {
    let State { keys, chain, at, step } = state;
    let (keys, last) = (&keys[..rounds], &keys[rounds]);
    let mut s = [_mm256_setzero_si256(); 8];
    for (i, s) in s.iter_mut().enumerate() {
        *s = load_256(chain, i);
    }
    for _ in 0..blocks {
        for (i, s) in s.iter_mut().enumerate() {
            // SAFETY: the caller vouches for the block that each lane is at.
            let block = |lane: usize| unsafe { _mm_loadu_si128(at[2 * i + lane].cast()) };
            let text = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(block(0)), block(1));
            *s = _mm256_xor_si256(_mm256_xor_si256(*s, text), load_256(&keys[0], i));
        }
        for key in &keys[1..] {
            for (i, s) in s.iter_mut().enumerate() {
                *s = _mm256_aesenc_epi128(*s, load_256(key, i));
            }
        }
        for (i, s) in s.iter_mut().enumerate() {
            *s = _mm256_aesenclast_epi128(*s, load_256(last, i));
            let parts = [_mm256_castsi256_si128(*s), _mm256_extracti128_si256::<1>(*s)];
            for (lane, part) in (2 * i..).zip(parts) {
                // SAFETY: the caller vouches for the block that each lane is at, and for the next.
                unsafe {
                    _mm_storeu_si128(at[lane].cast(), part);
                    at[lane] = at[lane].add(step[lane]);
                }
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
unsafe fn run_128(state: &mut State<8>, rounds: usize, blocks: usize) {
    let State { keys, chain, at, step } = state;
    let (keys, last) = (&keys[..rounds], &keys[rounds]);
    let mut s = [_mm_setzero_si128(); 8];
    for (i, s) in s.iter_mut().enumerate() {
        *s = load(&chain[i]);
    }
    for _ in 0..blocks {
        for (i, s) in s.iter_mut().enumerate() {
            // SAFETY: the caller vouches for the block that each lane is at.
            let text = unsafe { _mm_loadu_si128(at[i].cast()) };
            *s = _mm_xor_si128(_mm_xor_si128(*s, text), load(&keys[0][i]));
        }
        for key in &keys[1..] {
            for (i, s) in s.iter_mut().enumerate() {
                *s = _mm_aesenc_si128(*s, load(&key[i]));
            }
        }
        for (i, s) in s.iter_mut().enumerate() {
            *s = _mm_aesenclast_si128(*s, load(&last[i]));
            // SAFETY: the caller vouches for the block that each lane is at, and for the next.
            unsafe {
                _mm_storeu_si128(at[i].cast(), *s);
                at[i] = at[i].add(step[i]);
            }
        }
    }
    for (chain, s) in chain.iter_mut().zip(s) {
        store(chain, s);
    }
}

/// Decrypts whole packets in place over 512-bit registers. The first block of each is the IV, and is
/// left as it is.
///
/// From the end to the beginning, so that the ciphertext before a piece is still there to be XORed.
#[target_feature(enable = "avx512f,vaes")]
pub(crate) fn decrypt_512(jobs: &mut [Job<'_>]) {
    for (schedule, blocks) in jobs {
        let mut end = blocks.len();
        while end > 1 {
            let start = end.saturating_sub(16).max(1);
            let piece = &mut blocks[start - 1..end];
            match (end - start).div_ceil(4) {
                1 => piece_512::<1>(schedule, piece),
                2 => piece_512::<2>(schedule, piece),
                3 => piece_512::<3>(schedule, piece),
                _ => piece_512::<4>(schedule, piece),
            }
            end = start;
        }
    }
}

/// Decrypts all of `piece` but its first block, up to `4 * V` blocks.
#[target_feature(enable = "avx512f,vaes")]
#[inline]
fn piece_512<const V: usize>(schedule: &Schedule<AesUnit>, piece: &mut [Block]) {
    let blocks = piece.len() - 1;
    let (keys, last) = schedule.split();
    let key = |key: &Block| _mm512_broadcast_i32x4(load(key));
    let before: *mut i64 = piece.as_mut_ptr().cast();
    let mut masks = [0_u8; V];
    let mut s = [_mm512_setzero_si512(); V];
    for (i, (mask, s)) in masks.iter_mut().zip(&mut s).enumerate() {
        // Quadwords of this register that are part of the piece.
        // There is at least one.
        *mask = 0xff >> (8 - 2 * (blocks - 4 * i).min(4));
        // SAFETY: stays in `piece`, which has `blocks` blocks of two quadwords after the first; what
        // a mask leaves out is not touched.
        let text = unsafe { _mm512_maskz_loadu_epi64(*mask, before.wrapping_add(8 * i + 2)) };
        *s = _mm512_xor_si512(text, key(&keys[0]));
    }
    for round_key in &keys[1..] {
        let round_key = key(round_key);
        for s in &mut s {
            *s = _mm512_aesdec_epi128(*s, round_key);
        }
    }
    // All is read before anything is written.
    for (i, (mask, s)) in masks.into_iter().zip(&mut s).enumerate() {
        // SAFETY: as above, with the block before each.
        let chain = unsafe { _mm512_maskz_loadu_epi64(mask, before.wrapping_add(8 * i)) };
        *s = _mm512_xor_si512(_mm512_aesdeclast_epi128(*s, key(last)), chain);
    }
    for (i, (mask, s)) in masks.into_iter().zip(s).enumerate() {
        // SAFETY: as above.
        unsafe { _mm512_mask_storeu_epi64(before.wrapping_add(8 * i + 2), mask, s) };
    }
}

/// The same over 256-bit registers.
#[target_feature(enable = "avx2,vaes")]
pub(crate) fn decrypt_256(jobs: &mut [Job<'_>]) {
    for (schedule, blocks) in jobs {
        let mut rest = &mut **blocks;
        loop {
            rest = match rest.len() {
                17.. => piece_256::<8>(schedule, rest),
                9.. => piece_256::<4>(schedule, rest),
                5.. => piece_256::<2>(schedule, rest),
                3.. => piece_256::<1>(schedule, rest),
                2 => piece_128::<1>(schedule, rest),
                _ => break,
            }
        }
    }
}

/// Decrypts the last `2 * V` of more blocks than that, and returns the blocks before them.
#[target_feature(enable = "avx2,vaes")]
#[inline]
fn piece_256<'a, const V: usize>(schedule: &Schedule<AesUnit>, blocks: &'a mut [Block]) -> &'a mut [Block] {
    let (keys, last) = schedule.split();
    let key = |key: &Block| _mm256_broadcastsi128_si256(load(key));
    let rest = blocks.len() - 2 * V;
    let piece = &blocks[rest - 1..];
    let mut s = [_mm256_setzero_si256(); V];
    for (i, s) in s.iter_mut().enumerate() {
        *s = _mm256_xor_si256(load_256(&piece[1..], i), key(&keys[0]));
    }
    for round_key in &keys[1..] {
        let round_key = key(round_key);
        for s in &mut s {
            *s = _mm256_aesdec_epi128(*s, round_key);
        }
    }
    // All is read before anything is written.
    for (i, s) in s.iter_mut().enumerate() {
        *s = _mm256_xor_si256(_mm256_aesdeclast_epi128(*s, key(last)), load_256(piece, i));
    }
    let (rest, piece) = blocks.split_at_mut(rest);
    for (pair, s) in piece.as_chunks_mut().0.iter_mut().zip(s) {
        store_256(pair, s);
    }
    rest
}

/// The same over 128-bit registers.
#[target_feature(enable = "avx,aes")]
pub(crate) fn decrypt_128(jobs: &mut [Job<'_>]) {
    for (schedule, blocks) in jobs {
        let mut rest = &mut **blocks;
        loop {
            rest = match rest.len() {
                9.. => piece_128::<8>(schedule, rest),
                5.. => piece_128::<4>(schedule, rest),
                2.. => piece_128::<1>(schedule, rest),
                _ => break,
            }
        }
    }
}

/// Decrypts the last `V` of more blocks than that, and returns the blocks before them.
#[target_feature(enable = "avx,aes")]
#[inline]
fn piece_128<'a, const V: usize>(schedule: &Schedule<AesUnit>, blocks: &'a mut [Block]) -> &'a mut [Block] {
    let (keys, last) = schedule.split();
    let rest = blocks.len() - V;
    let piece = &blocks[rest - 1..];
    let mut s = [_mm_setzero_si128(); V];
    for (s, block) in s.iter_mut().zip(&piece[1..]) {
        *s = _mm_xor_si128(load(block), load(&keys[0]));
    }
    for round_key in &keys[1..] {
        let round_key = load(round_key);
        for s in &mut s {
            *s = _mm_aesdec_si128(*s, round_key);
        }
    }
    // All is read before anything is written.
    for (s, before) in s.iter_mut().zip(piece) {
        *s = _mm_xor_si128(_mm_aesdeclast_si128(*s, load(last)), load(before));
    }
    let (rest, piece) = blocks.split_at_mut(rest);
    for (block, s) in piece.iter_mut().zip(s) {
        store(block, s);
    }
    rest
}
