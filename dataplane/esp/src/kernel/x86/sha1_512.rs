//! SHA-1 (FIPS 180-4) with a packet in each 32-bit lane of 512-bit registers.

use std::arch::x86_64::*;

use super::hmac::{Chunk, Hash, State};
use crate::kernel::MacKeys;

/// Packets side by side.
pub(super) const LANES: usize = 16;

pub(super) struct Sha1;

impl Hash<LANES> for Sha1 {
    const WORDS: usize = 5;

    fn pads(keys: &MacKeys) -> Option<(&[u32], &[u32])> {
        match keys {
            MacKeys::Sha1(pads) => Some((&pads.inner, &pads.outer)),
            _ => None,
        }
    }

    unsafe fn compress(state: &mut State<LANES>, blocks: usize) {
        // SAFETY: passed on.
        unsafe { sha1(state, blocks) }
    }
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

/// # Safety
/// As for [`Hash::compress`], with AVX-512F and AVX-512BW.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn sha1(state: &mut State<LANES>, blocks: usize) {
    let State { words, at, step } = state;
    // Where each lane has its state, in words.
    let places = _mm512_set_epi32(120, 112, 104, 96, 88, 80, 72, 64, 56, 48, 40, 32, 24, 16, 8, 0);
    let words: *mut i32 = words.as_flattened_mut().as_mut_ptr().cast();
    let mut h = [_mm512_setzero_si512(); 5];
    for (i, h) in h.iter_mut().enumerate() {
        // SAFETY: `i` is below the 8 words of a state, and `places` within the 16 states.
        *h = unsafe { _mm512_i32gather_epi32::<4>(places, words.wrapping_add(i)) };
    }
    for _ in 0..blocks {
        // SAFETY: the caller vouches for the block that each lane is at.
        let mut w = unsafe { messages(at) };
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
        for (h, s) in h.iter_mut().zip(s) {
            *h = _mm512_add_epi32(*h, s);
        }
        for (at, step) in at.iter_mut().zip(&*step) {
            *at = at.wrapping_add(*step);
        }
    }
    for (i, h) in h.into_iter().enumerate() {
        // SAFETY: as for the gather.
        unsafe { _mm512_i32scatter_epi32::<4>(words.wrapping_add(i), places, h) };
    }
}

/// The sixteen message words, each of all lanes.
///
/// # Safety
/// Every pointer must be to a block.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
unsafe fn messages(at: &[*const Chunk; LANES]) -> [__m512i; 16] {
    let order = _mm512_broadcast_i32x4(_mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203));
    let mut rows = [_mm512_setzero_si512(); 16];
    for (row, at) in rows.iter_mut().zip(at) {
        // SAFETY: 64 bytes of a block, as the caller vouches.
        *row = _mm512_shuffle_epi8(unsafe { _mm512_loadu_si512(at.cast()) }, order);
    }
    // A matrix of 16 by 16 words is turned over its diagonal: pairs of words, pairs of pairs, and then
    // the four quarters of the registers.
    let mut fours = [_mm512_setzero_si512(); 16];
    for i in 0..4 {
        let [a, b, c, d] = [rows[4 * i], rows[4 * i + 1], rows[4 * i + 2], rows[4 * i + 3]];
        let (ab_low, ab_high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let (cd_low, cd_high) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        fours[4 * i] = _mm512_unpacklo_epi64(ab_low, cd_low);
        fours[4 * i + 1] = _mm512_unpackhi_epi64(ab_low, cd_low);
        fours[4 * i + 2] = _mm512_unpacklo_epi64(ab_high, cd_high);
        fours[4 * i + 3] = _mm512_unpackhi_epi64(ab_high, cd_high);
    }
    // Now quarter `q` of `fours[4 * i + j]` is word `4 * q + j` of lanes `4 * i` to `4 * i + 3`.
    for j in 0..4 {
        let [a, b, c, d] = [fours[j], fours[4 + j], fours[8 + j], fours[12 + j]];
        let (ab_even, ab_odd) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b));
        let (cd_even, cd_odd) = (_mm512_shuffle_i32x4::<0x88>(c, d), _mm512_shuffle_i32x4::<0xdd>(c, d));
        rows[j] = _mm512_shuffle_i32x4::<0x88>(ab_even, cd_even);
        rows[8 + j] = _mm512_shuffle_i32x4::<0xdd>(ab_even, cd_even);
        rows[4 + j] = _mm512_shuffle_i32x4::<0x88>(ab_odd, cd_odd);
        rows[12 + j] = _mm512_shuffle_i32x4::<0xdd>(ab_odd, cd_odd);
    }
    rows
}
