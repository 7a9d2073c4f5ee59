//! MD5 (RFC 1321) with a packet in each 32-bit lane of 512-bit registers.

use std::arch::asm;
use std::arch::x86_64::*;

use super::hmac::{Chunk, Hash, State, WORDS_MAX, outer_bits, tags};
use super::message_512::{self, LANES, messages, prefetch_messages};
use crate::kernel::{MacKeys, MacLane};

/// Words of the digest.
const WORDS: usize = 4;

struct Md5;

/// Computes the tags of all jobs, at most a burst.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn hmac(jobs: &mut [MacLane<'_>]) {
    // SAFETY: these are the features.
    unsafe { tags::<Md5, LANES>(jobs) }
}

impl Hash<LANES> for Md5 {
    const WORDS: usize = WORDS;

    #[inline(always)]
    fn pads(keys: &MacKeys) -> Option<(&[u32], &[u32])> {
        match keys {
            MacKeys::Md5(pads) => Some((&pads.inner, &pads.outer)),
            _ => None,
        }
    }

    #[inline(always)]
    fn bytes(word: u32) -> [u8; 4] {
        word.to_le_bytes()
    }

    #[inline(always)]
    fn length(bits: u64) -> [u8; 8] {
        bits.to_le_bytes()
    }

    #[inline(always)]
    unsafe fn pad(rest: &[u8], bits: u64, tail: &mut [Chunk; 2]) -> usize {
        // SAFETY: passed on.
        unsafe { message_512::pad(rest, Self::length(bits), tail) }
    }

    #[inline(always)]
    unsafe fn compress(state: &mut State<LANES>, blocks: usize) {
        // SAFETY: passed on.
        unsafe { compress(state, blocks, None) }
    }

    #[inline(always)]
    unsafe fn compress_digests(state: &mut State<LANES>, digests: &[[u32; LANES]; WORDS_MAX]) {
        // SAFETY: nothing is read by the pointers of the lanes.
        unsafe { compress(state, 1, Some(digests)) }
    }
}

/// Mixes so many blocks into the state of every lane, or messages that are no more than digests: those
/// are words of all lanes already.
///
/// # Safety
/// As for [`Hash::compress`]; but with digests the pointers of the lanes may be any.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn compress(state: &mut State<LANES>, blocks: usize, digests: Option<&[[u32; LANES]; WORDS_MAX]>) {
    let mut h = load(&state.words);
    for block in 0..blocks {
        let message = match digests {
            Some(digests) => digest_message(digests),
            None => {
                prefetch_messages(&state.at, block, blocks);
                // SAFETY: the caller vouches for the blocks that each lane has.
                unsafe { messages::<false>(&state.at, block) }
            }
        };
        h = rounds(h, message);
    }
    for (words, h) in state.words.iter_mut().zip(h) {
        // SAFETY: 16 words; no alignment is asked for.
        unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), h) };
    }
}

/// Digests with padding and length.
#[target_feature(enable = "avx512f")]
#[inline]
fn digest_message(digests: &[[u32; LANES]; WORDS_MAX]) -> [__m512i; 16] {
    let mut message = [_mm512_setzero_si512(); 16];
    message[..WORDS].copy_from_slice(&load(digests));
    message[WORDS] = _mm512_set1_epi32(0x80);
    // The lower word of the length comes first.
    message[14] = _mm512_set1_epi32(outer_bits(WORDS));
    message
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load(words: &[[u32; LANES]; WORDS_MAX]) -> [__m512i; WORDS] {
    // SAFETY: 16 words each; no alignment is asked for.
    std::array::from_fn(|i| unsafe { _mm512_loadu_si512(words[i].as_ptr().cast()) })
}

/// The constants of the operations: `floor(2^32 * abs(sin(t + 1)))` (RFC 1321 section 3.4).
#[rustfmt::skip]
const CONSTANTS: [u32; 64] = [
    0xd76a_a478, 0xe8c7_b756, 0x2420_70db, 0xc1bd_ceee, 0xf57c_0faf, 0x4787_c62a, 0xa830_4613, 0xfd46_9501,
    0x6980_98d8, 0x8b44_f7af, 0xffff_5bb1, 0x895c_d7be, 0x6b90_1122, 0xfd98_7193, 0xa679_438e, 0x49b4_0821,
    0xf61e_2562, 0xc040_b340, 0x265e_5a51, 0xe9b6_c7aa, 0xd62f_105d, 0x0244_1453, 0xd8a1_e681, 0xe7d3_fbc8,
    0x21e1_cde6, 0xc337_07d6, 0xf4d5_0d87, 0x455a_14ed, 0xa9e3_e905, 0xfcef_a3f8, 0x676f_02d9, 0x8d2a_4c8a,
    0xfffa_3942, 0x8771_f681, 0x6d9d_6122, 0xfde5_380c, 0xa4be_ea44, 0x4bde_cfa9, 0xf6bb_4b60, 0xbebf_bc70,
    0x289b_7ec6, 0xeaa1_27fa, 0xd4ef_3085, 0x0488_1d05, 0xd9d4_d039, 0xe6db_99e5, 0x1fa2_7cf8, 0xc4ac_5665,
    0xf429_2244, 0x432a_ff97, 0xab94_23a7, 0xfc93_a039, 0x655b_59c3, 0x8f0c_cc92, 0xffef_f47d, 0x8584_5dd1,
    0x6fa8_7e4f, 0xfe2c_e6e0, 0xa301_4314, 0x4e08_11a1, 0xf753_7e82, 0xbd3a_f235, 0x2ad7_d2bb, 0xeb86_d391,
];

/// The function of operation `t` as a table of three bits (RFC 1321 section 3.4: F, G, H, I).
const fn function(t: usize) -> i32 {
    match t / 16 {
        0 => 0xca,
        1 => 0xe4,
        2 => 0x96,
        _ => 0x39,
    }
}

/// Which message word operation `t` takes.
const fn word(t: usize) -> usize {
    match t / 16 {
        0 => t % 16,
        1 => (5 * t + 1) % 16,
        2 => (3 * t + 5) % 16,
        _ => 7 * t % 16,
    }
}

/// By how much operation `t` rotates.
const fn rotation(t: usize) -> i32 {
    const ROTATIONS: [[i32; 4]; 4] = [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]];
    ROTATIONS[t / 16][t % 4]
}

/// Holds the compiler to the order of the operations. Left alone it adds all constants to all words first, which
/// are more than there are registers.
#[target_feature(enable = "avx512f")]
#[inline]
fn pin(state: &mut __m512i, input: &mut __m512i) {
    // SAFETY: no instruction at all.
    unsafe {
        asm!(
            "/* {0} {1} */",
            inout(zmm_reg) * state,
            inout(zmm_reg) * input,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
}

/// One block of all lanes (RFC 1321 section 3.4).
#[target_feature(enable = "avx512f")]
#[inline]
fn rounds(h: [__m512i; WORDS], w: [__m512i; 16]) -> [__m512i; WORDS] {
    let mut s = h;
    macro_rules! operations {
        ($($t:literal)*) => {$(
            // The words move on by one place per operation: here their names do.
            let (b, c, d) = (s[(65 - $t) % 4], s[(66 - $t) % 4], s[(67 - $t) % 4]);
            let a = &mut s[(64 - $t) % 4];
            let constant = _mm512_set1_epi32(const { CONSTANTS[$t].cast_signed() });
            let mut input = _mm512_add_epi32(w[const { word($t) }], constant);
            pin(a, &mut input);
            let mixed = _mm512_ternarylogic_epi32::<{ function($t) }>(b, c, d);
            *a = _mm512_add_epi32(_mm512_add_epi32(*a, input), mixed);
            *a = _mm512_add_epi32(b, _mm512_rol_epi32::<{ rotation($t) }>(*a));
        )*};
    }
    operations!(
        0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32
        33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63
    );
    std::array::from_fn(|i| _mm512_add_epi32(h[i], s[i]))
}
