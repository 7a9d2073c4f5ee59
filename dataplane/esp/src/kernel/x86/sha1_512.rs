//! SHA-1 (FIPS 180-4) with a packet in each 32-bit lane of 512-bit registers.

use std::arch::asm;
use std::arch::x86_64::*;

use arrayvec::ArrayVec;

use super::hmac::{Chunk, Hash, State, WORDS_MAX, outer_bits, tags};
use super::message_512::{self, LANES, messages, prefetch_messages};
use super::sha_ni;
use crate::kernel::{MacKeys, MacLane};

/// So many packets are hashed sooner, four at a time, on the SHA extensions.
const FEW: usize = 8;

/// Words of the digest.
const WORDS: usize = 5;

struct Sha1;

/// Computes the tags of all jobs, at most a burst. Needs the SHA extensions too.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn hmac(jobs: &mut [MacLane<'_>]) {
    // SAFETY: these are the features, and every CPU with them that this is called on has the others.
    unsafe { tags::<Sha1, LANES>(jobs) }
}

impl Hash<LANES> for Sha1 {
    const WORDS: usize = WORDS;

    #[inline(always)]
    fn pads(keys: &MacKeys) -> Option<(&[u32], &[u32])> {
        match keys {
            MacKeys::Sha1(pads) => Some((&pads.inner, &pads.outer)),
            _ => None,
        }
    }

    #[inline(always)]
    unsafe fn pad(rest: &[u8], bits: u64, tail: &mut [Chunk; 2]) -> usize {
        // SAFETY: passed on.
        unsafe { message_512::pad(rest, Self::length(bits), tail) }
    }

    #[inline(always)]
    unsafe fn compress(state: &mut State<LANES>, blocks: usize) {
        let busy = state.busy.iter().filter(|&&busy| busy).count();
        // SAFETY: passed on.
        unsafe { if busy > FEW { compress(state, blocks, None) } else { compress_few(state, blocks) } }
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
pub(super) unsafe fn compress(
    state: &mut State<LANES>,
    blocks: usize,
    digests: Option<&[[u32; LANES]; WORDS_MAX]>,
) {
    let mut h = load(&state.words);
    // One loop for both, so that the rounds are there once and inlined: a call would pass all words
    // through memory.
    for block in 0..blocks {
        let message = match digests {
            Some(digests) => digest_message(digests),
            None => {
                prefetch_messages(&state.at, block, blocks);
                // SAFETY: the caller vouches for the blocks that each lane has.
                unsafe { messages::<true>(&state.at, block) }
            }
        };
        h = rounds(h, message);
    }
    for (words, h) in state.words.iter_mut().zip(h) {
        // SAFETY: 16 words; no alignment is asked for.
        unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), h) };
    }
}

/// The same where few lanes are busy.
///
/// # Safety
/// As for [`Hash::compress`], with the SHA extensions and an idle lane.
unsafe fn compress_few(state: &mut State<LANES>, blocks: usize) {
    let (busy, idle): (ArrayVec<usize, LANES>, ArrayVec<usize, LANES>) =
        (0..LANES).partition(|&lane| state.busy[lane]);
    for lanes in busy.chunks(sha_ni::LANES) {
        let four = std::array::from_fn(|i| *lanes.get(i).unwrap_or(&idle[0]));
        // SAFETY: passed on.
        unsafe { sha_ni::sha1(state, four, blocks) };
    }
}

/// Digests with padding and length.
#[target_feature(enable = "avx512f")]
#[inline]
fn digest_message(digests: &[[u32; LANES]; WORDS_MAX]) -> [__m512i; 16] {
    let mut message = [_mm512_setzero_si512(); 16];
    message[..WORDS].copy_from_slice(&load(digests));
    message[WORDS] = _mm512_set1_epi32(i32::MIN);
    message[15] = _mm512_set1_epi32(outer_bits(WORDS));
    message
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load(words: &[[u32; LANES]; WORDS_MAX]) -> [__m512i; WORDS] {
    // SAFETY: 16 words each; no alignment is asked for.
    std::array::from_fn(|i| unsafe { _mm512_loadu_si512(words[i].as_ptr().cast()) })
}

/// The function of round `t` as a table of three bits (FIPS 180-4 section 4.1.1).
const fn function(t: usize) -> i32 {
    match t {
        0..20 => 0xca,
        40..60 => 0xe8,
        _ => 0x96,
    }
}

/// The constant of round `t` (FIPS 180-4 section 4.2.1).
const fn constant(t: usize) -> i32 {
    let k: u32 = match t {
        0..20 => 0x5a82_7999,
        20..40 => 0x6ed9_eba1,
        40..60 => 0x8f1b_bcdc,
        _ => 0xca62_c1d6,
    };
    k.cast_signed()
}

/// Holds the compiler to computing a message word together with the round that takes it. Left alone it
/// computes all of them first, which are more than there are registers.
#[target_feature(enable = "avx512f")]
#[inline]
fn pin(word: &mut __m512i, state: &mut __m512i) {
    // SAFETY: no instruction at all.
    unsafe {
        asm!(
            "/* {0} {1} */",
            inout(zmm_reg) * word,
            inout(zmm_reg) * state,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
}

/// One block of all lanes (FIPS 180-4 section 6.1.2).
#[target_feature(enable = "avx512f")]
#[inline]
fn rounds(h: [__m512i; WORDS], mut w: [__m512i; 16]) -> [__m512i; WORDS] {
    let mut s = h;
    macro_rules! rounds {
        ($($t:literal)*) => {$(
            if $t >= 16 {
                let two = _mm512_xor_si512(w[($t + 13) % 16], w[($t + 8) % 16]);
                let four = _mm512_ternarylogic_epi32::<0x96>(two, w[($t + 2) % 16], w[$t % 16]);
                w[$t % 16] = _mm512_rol_epi32::<1>(four);
            }
            // The words move on by one place per round: here their names do.
            let (a, b, c, d) = (s[(80 - $t) % 5], s[(81 - $t) % 5], s[(82 - $t) % 5], s[(83 - $t) % 5]);
            let e = &mut s[(84 - $t) % 5];
            pin(&mut w[$t % 16], e);
            let input = _mm512_add_epi32(w[$t % 16], _mm512_set1_epi32(const { constant($t) }));
            let mixed = _mm512_ternarylogic_epi32::<{ function($t) }>(b, c, d);
            *e = _mm512_add_epi32(_mm512_add_epi32(*e, input), mixed);
            *e = _mm512_add_epi32(*e, _mm512_rol_epi32::<5>(a));
            s[(81 - $t) % 5] = _mm512_rol_epi32::<30>(b);
        )*};
    }
    rounds!(
        0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32
        33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62
        63 64 65 66 67 68 69 70 71 72 73 74 75 76 77 78 79
    );
    std::array::from_fn(|i| _mm512_add_epi32(h[i], s[i]))
}
