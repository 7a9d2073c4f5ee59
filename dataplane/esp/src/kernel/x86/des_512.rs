//! Triple DES in CBC mode with a block in each byte lane of 512-bit registers: register `j` has byte `j` of all of them.
//!
//! An S-box is one lookup in a register, and every permutation of bits a sum of products with matrices: neither key
//! nor data ever makes an address or a branch. To encrypt, a lane is a packet, since each block depends on the one before
//! it; to decrypt, a lane is a block.

use std::arch::x86_64::*;

use arrayvec::ArrayVec;

use super::des::{
    Block, FINAL_PERMUTATION, INITIAL_PERMUTATION, Linear, PERMUTATION, ROUNDS, SECOND, SECOND_NEXT,
    SUBSTITUTIONS, Schedule,
};
use super::lanes::{Lanes, RUN, drive, longest_first};
use super::transpose_quarters;
use crate::burst::BURST;

/// Blocks side by side.
const LANES: usize = 64;

/// A packet: its key and its blocks, the first of which is where the IV goes.
pub(crate) type Job<'a> = (&'a Schedule, &'a mut [Block]);

/// Encrypts whole packets in place, chained from a block of zeros.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,gfni")]
pub(super) fn encrypt(jobs: &mut [Job<'_>]) {
    let mut spare = [[0; 8]; RUN];
    let spare = spare.as_mut_ptr();
    drive(&mut Encryption {
        waiting: longest_first(jobs.iter().map(|job| job.1.len())),
        jobs,
        keys: Keys::new(),
        chain: [const { Row([0; LANES]) }; 8],
        at: [spare; LANES],
        spare,
    });
}

/// Decrypts whole packets in place. The first block of each is the IV, and is left as it is.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,gfni")]
pub(super) fn decrypt(jobs: &mut [Job<'_>]) {
    let mut batch = Batch {
        keys: Keys::new(),
        text: Blocks([[0; 8]; LANES]),
        before: Blocks([[0; 8]; LANES]),
        pieces: ArrayVec::new(),
        lanes: 0,
    };
    for (schedule, blocks) in jobs {
        // From the end, so that the ciphertext before a piece is still there.
        let mut rest = &mut **blocks;
        while rest.len() > 1 {
            let piece = (rest.len() - 1).min(LANES - batch.lanes);
            rest = batch.push(schedule, rest, piece);
            if batch.lanes == LANES {
                batch.decrypt();
            }
        }
    }
    if batch.lanes > 0 {
        batch.decrypt();
    }
}

/// A byte of every lane.
#[repr(C, align(64))]
struct Row([u8; LANES]);

/// The blocks of all lanes.
#[repr(C, align(64))]
struct Blocks([Block; LANES]);

/// Round keys by round, S-box and lane. They stay on the stack of the worker until the next batch, as those of live SAs
/// stay in memory.
struct Keys([[Row; 8]; ROUNDS]);

/// Packets being encrypted, one to a lane, each chained for itself.
struct Encryption<'j, 'a> {
    jobs: &'j mut [Job<'a>],
    /// Jobs not begun yet, the longest last.
    waiting: ArrayVec<usize, BURST>,
    keys: Keys,
    /// Last ciphertext block, before the final permutation, which the initial one of the next would undo.
    chain: [Row; 8],
    /// Next block.
    at: [*mut Block; LANES],
    /// What idle lanes work on. Not a part of this, since borrows of the whole would invalidate their pointers.
    spare: *mut Block,
}

impl Lanes<LANES> for Encryption<'_, '_> {
    fn refill(&mut self, lane: usize) -> usize {
        // The longest come first: after one without blocks there is nothing to do.
        let Some(job) = self.waiting.pop().filter(|&job| !self.jobs[job].1.is_empty()) else {
            self.at[lane] = self.spare;
            return 0;
        };
        let (schedule, blocks) = &mut self.jobs[job];
        let rows = self.keys.0.as_flattened_mut().iter_mut();
        for (row, key) in rows.zip(schedule.round_keys.as_flattened()) {
            row.0[lane] = *key;
        }
        for row in &mut self.chain {
            row.0[lane] = 0;
        }
        self.at[lane] = blocks.as_mut_ptr();
        blocks.len()
    }

    #[inline(always)]
    unsafe fn run(&mut self, blocks: usize) {
        // SAFETY: a busy lane points into its own job's blocks, and by the contract of this function
        // has that many left; an idle lane points to `spare`, which has as many as a run may have. Who
        // made the lanes has the features.
        unsafe { encrypt_blocks(&self.keys, &mut self.chain, &self.at, blocks) };
        for at in &mut self.at {
            *at = at.wrapping_add(blocks);
        }
    }
}

/// Encrypts so many blocks in every lane.
///
/// # Safety
/// From `at` on, every lane must have that many blocks that nothing else refers to but idle lanes.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,gfni")]
unsafe fn encrypt_blocks(keys: &Keys, chain: &mut [Row; 8], at: &[*mut Block; LANES], blocks: usize) {
    let mut state = chain.each_ref().map(|row| load(&row.0));
    let mut text = Blocks([[0; 8]; LANES]);
    for block in 0..blocks {
        for (text, at) in text.0.iter_mut().zip(at) {
            // SAFETY: the caller vouches for the blocks that each lane has.
            *text = unsafe { *at.add(block) };
        }
        let plain = begin(&text);
        let input = std::array::from_fn(|i| _mm512_xor_si512(state[i], plain[i]));
        state = rounds(keys, input);
        for (text, blocks) in text.0.as_flattened_mut().chunks_exact_mut(64).zip(end(state)) {
            store(text, blocks);
        }
        for (text, at) in text.0.iter().zip(at) {
            // SAFETY: the caller vouches for the blocks that each lane has.
            unsafe { *at.add(block) = *text };
        }
    }
    for (row, state) in chain.iter_mut().zip(state) {
        store(&mut row.0, state);
    }
}

/// Blocks being decrypted, one to a lane: pieces of packets.
struct Batch<'a> {
    keys: Keys,
    text: Blocks,
    /// The ciphertext before that of each lane.
    before: Blocks,
    pieces: ArrayVec<Job<'a>, LANES>,
    /// How many are in use.
    lanes: usize,
}

impl<'a> Batch<'a> {
    /// Takes the last `count` of more blocks than that, and returns the blocks before them.
    fn push(&mut self, schedule: &'a Schedule, blocks: &'a mut [Block], count: usize) -> &'a mut [Block] {
        let lanes = self.lanes..self.lanes + count;
        let rest = blocks.len() - count;
        self.before.0[lanes.clone()].copy_from_slice(&blocks[rest - 1..][..count]);
        self.text.0[lanes.clone()].copy_from_slice(&blocks[rest..]);
        let (rest, piece) = blocks.split_at_mut(rest);
        self.pieces.push((schedule, piece));
        self.lanes = lanes.end;
        rest
    }

    /// Decrypts all lanes, and empties them.
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,gfni")]
    fn decrypt(&mut self) {
        self.expand_keys();
        let plain = end(rounds(&self.keys, begin(&self.text)));
        let before = self.before.0.as_flattened().chunks_exact(64);
        for ((text, before), plain) in
            self.text.0.as_flattened_mut().chunks_exact_mut(64).zip(before).zip(plain)
        {
            store(text, _mm512_xor_si512(plain, load(before)));
        }
        let mut text = &self.text.0[..];
        for (_, piece) in self.pieces.drain(..) {
            let (these, rest) = text.split_at(piece.len());
            piece.copy_from_slice(these);
            text = rest;
        }
        self.lanes = 0;
    }

    /// Brings the round keys of all pieces to their lanes. It is done for all of them together, row by row, since storing
    /// the rows is what takes long.
    #[target_feature(enable = "avx512f,avx512bw")]
    fn expand_keys(&mut self) {
        let mut lane = 0;
        let mut pieces = ArrayVec::<(u64, &[u8]), LANES>::new();
        for (schedule, piece) in &self.pieces {
            // All lanes from here on: the next piece overrides those after this one.
            pieces.push((u64::MAX << lane, schedule.round_keys.as_flattened()));
            lane += piece.len();
        }
        for (i, row) in self.keys.0.as_flattened_mut().iter_mut().enumerate() {
            let mut keys = _mm512_setzero_si512();
            for (lanes, round_keys) in &pieces {
                keys = _mm512_mask_set1_epi8(keys, *lanes, round_keys[i].cast_signed());
            }
            store(&mut row.0, keys);
        }
    }
}

impl Keys {
    fn new() -> Self {
        Self([const { [const { Row([0; LANES]) }; 8] }; ROUNDS])
    }
}

/// The halves of blocks, the left one first, as the rounds take them.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,gfni")]
#[inline]
fn begin(blocks: &Blocks) -> [__m512i; 8] {
    let bytes = blocks.0.as_flattened();
    let eights = std::array::from_fn(|i| _mm512_permutexvar_epi8(turn_eight(), load(&bytes[64 * i..])));
    apply(&INITIAL_PERMUTATION, &turn(eights))
}

/// The blocks that the halves are of, eight to a register.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,gfni")]
#[inline]
fn end(halves: [__m512i; 8]) -> [__m512i; 8] {
    turn(apply(&FINAL_PERMUTATION, &halves)).map(|eight| _mm512_permutexvar_epi8(turn_eight(), eight))
}

/// All three passes (FIPS 46-3, RFC 2451). Between them the final permutation meets the initial one and both fall
/// away; the halves change places.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,gfni")]
#[inline]
fn rounds(keys: &Keys, halves: [__m512i; 8]) -> [__m512i; 8] {
    let [a, b, c, d, e, f, g, h] = halves;
    let (mut left, mut right) = ([a, b, c, d], [e, f, g, h]);
    for pass in keys.0.as_chunks::<16>().0 {
        for [even, odd] in pass.as_chunks().0 {
            left = round(left, &right, even);
            right = round(right, &left, odd);
        }
        (left, right) = (right, left);
    }
    let ([a, b, c, d], [e, f, g, h]) = (left, right);
    [a, b, c, d, e, f, g, h]
}

/// Adds to one half what the cipher function makes of the other.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,gfni")]
#[inline]
fn round(half: [__m512i; 4], other: &[__m512i; 4], keys: &[Row; 8]) -> [__m512i; 4] {
    let next = _mm512_set1_epi8(SECOND_NEXT);
    let substituted: [__m512i; 4] = std::array::from_fn(|j| {
        let second = _mm512_gf2p8affine_epi64_epi8::<0>(other[j], _mm512_set1_epi64(SECOND));
        // By the mask in `next`, from the next byte or from this one.
        let second = _mm512_ternarylogic_epi64::<0xca>(next, other[(j + 1) % 4], second);
        let lookup = |input: __m512i, i: usize| {
            // Of the index it takes six bits.
            let index = _mm512_xor_si512(input, load(&keys[i].0));
            _mm512_permutexvar_epi8(index, load(&SUBSTITUTIONS[i].0))
        };
        _mm512_or_si512(lookup(other[j], 2 * j), lookup(second, 2 * j + 1))
    });
    let permuted = apply(&PERMUTATION, &substituted);
    std::array::from_fn(|j| _mm512_xor_si512(half[j], permuted[j]))
}

#[target_feature(enable = "avx512f,gfni")]
#[inline]
fn apply<const IN: usize, const OUT: usize>(
    function: &Linear<IN, OUT>,
    bytes: &[__m512i; IN],
) -> [__m512i; OUT] {
    let mut sums = [_mm512_setzero_si512(); OUT];
    for (sum, matrices) in sums.iter_mut().zip(function) {
        for (byte, matrix) in bytes.iter().zip(matrices) {
            let product = _mm512_gf2p8affine_epi64_epi8::<0>(*byte, _mm512_set1_epi64(*matrix));
            *sum = _mm512_xor_si512(*sum, product);
        }
    }
    sums
}

/// Turns a matrix of 8 by 8 bytes over its diagonal, as an index.
#[target_feature(enable = "avx512f")]
#[inline]
fn turn_eight() -> __m512i {
    const INDEX: [u8; 64] = {
        let mut index = [0; 64];
        let mut i = 0;
        while i < 64 {
            index[i as usize] = i % 8 * 8 + i / 8;
            i += 1;
        }
        index
    };
    load(&INDEX)
}

/// Turns a matrix of 8 by 8 words of 64 bits over its diagonal.
#[target_feature(enable = "avx512f")]
#[inline]
fn turn(rows: [__m512i; 8]) -> [__m512i; 8] {
    let [a, b, c, d, e, f, g, h] = rows;
    let low = |a, b| _mm512_unpacklo_epi64(a, b);
    let high = |a, b| _mm512_unpackhi_epi64(a, b);
    let [a0, a2, a4, a6] = transpose_quarters([low(a, b), low(c, d), low(e, f), low(g, h)]);
    let [a1, a3, a5, a7] = transpose_quarters([high(a, b), high(c, d), high(e, f), high(g, h)]);
    [a0, a1, a2, a3, a4, a5, a6, a7]
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load(bytes: &[u8]) -> __m512i {
    let bytes = &bytes[..64];
    // SAFETY: reads the 64 bytes; no alignment is asked for.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn store(bytes: &mut [u8], value: __m512i) {
    let bytes = &mut bytes[..64];
    // SAFETY: writes the 64 bytes; no alignment is asked for.
    unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), value) }
}
