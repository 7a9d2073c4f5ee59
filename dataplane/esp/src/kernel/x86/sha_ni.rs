//! SHA-1 and SHA-256 (FIPS 180-4) on the SHA extensions, a few packets side by side.

use std::arch::asm;
use std::arch::x86_64::*;

use super::hmac::{Chunk, Hash, State};
use crate::kernel::MacKeys;

/// Packets side by side: one waits for the latency of its rounds, this many nearly fill the unit.
pub(super) const LANES: usize = 4;

pub(super) struct Sha1;

pub(super) struct Sha256;

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
        unsafe { sha1(state, [0, 1, 2, 3], blocks) }
    }
}

impl Hash<LANES> for Sha256 {
    const WORDS: usize = 8;

    fn pads(keys: &MacKeys) -> Option<(&[u32], &[u32])> {
        match keys {
            MacKeys::Sha256(pads) => Some((&pads.inner, &pads.outer)),
            _ => None,
        }
    }

    unsafe fn compress(state: &mut State<LANES>, blocks: usize) {
        // SAFETY: passed on.
        unsafe { sha256(state, blocks) }
    }
}

/// Holds the compiler to the order of these calls: without them it schedules one lane after the other,
/// and the overlap is lost.
#[inline]
fn pin(value: &mut __m128i) {
    // SAFETY: no instruction at all.
    unsafe { asm!("/* {0} */", inout(xmm_reg) * value, options(nomem, nostack, preserves_flags)) };
}

/// Four words of a message block, turned from big-endian.
///
/// # Safety
/// `at` must point to a block.
#[target_feature(enable = "ssse3")]
#[inline]
unsafe fn message(at: *const Chunk, i: usize, order: __m128i) -> __m128i {
    // SAFETY: `i` is below 4, so these are 16 of the 64 bytes of the block.
    let bytes = unsafe { _mm_loadu_si128(at.cast::<__m128i>().add(i)) };
    _mm_shuffle_epi8(bytes, order)
}

/// Mixes so many blocks into the states of four lanes; one that is idle may be named more than once.
///
/// # Safety
/// As for [`Hash::compress`], with the SHA extensions.
#[target_feature(enable = "sha,ssse3,sse4.1")]
pub(super) unsafe fn sha1<const N: usize>(state: &mut State<N>, lanes: [usize; LANES], blocks: usize) {
    // The instructions want the first word in the highest place, so all four words are reversed.
    let order = _mm_set_epi64x(0x0001_0203_0405_0607, 0x0809_0a0b_0c0d_0e0f);
    let at = lanes.map(|lane| state.at[lane]);
    let mut abcd = [_mm_setzero_si128(); LANES];
    let mut e0 = abcd;
    for l in 0..LANES {
        let word = |i: usize| state.words[i][lanes[l]].cast_signed();
        abcd[l] = _mm_set_epi32(word(0), word(1), word(2), word(3));
        e0[l] = _mm_set_epi32(word(4), 0, 0, 0);
    }
    for block in 0..blocks {
        let (abcd_before, e_before) = (abcd, e0);
        let mut m = [[_mm_setzero_si128(); LANES]; 4];
        for (i, m) in m.iter_mut().enumerate() {
            for (m, at) in m.iter_mut().zip(at) {
                // SAFETY: the caller vouches for the block that each lane is at.
                *m = unsafe { message(at.wrapping_add(block), i, order) };
            }
        }
        let mut e1 = [_mm_setzero_si128(); LANES];
        // Four rounds, and the message words that come of them.
        macro_rules! group {
            ($i:literal, $e:ident, $next:ident) => {
                for l in 0..LANES {
                    $e[l] = if $i == 0 {
                        _mm_add_epi32($e[l], m[0][l])
                    } else {
                        _mm_sha1nexte_epu32($e[l], m[$i % 4][l])
                    };
                    $next[l] = abcd[l];
                    abcd[l] = _mm_sha1rnds4_epu32::<{ $i / 5 }>(abcd[l], $e[l]);
                    if $i >= 3 && $i <= 18 {
                        m[($i + 1) % 4][l] = _mm_sha1msg2_epu32(m[($i + 1) % 4][l], m[$i % 4][l]);
                    }
                    if $i >= 1 && $i <= 16 {
                        m[($i + 3) % 4][l] = _mm_sha1msg1_epu32(m[($i + 3) % 4][l], m[$i % 4][l]);
                    }
                    if $i >= 2 && $i <= 17 {
                        m[($i + 2) % 4][l] = _mm_xor_si128(m[($i + 2) % 4][l], m[$i % 4][l]);
                    }
                    pin(&mut abcd[l]);
                }
            };
        }
        macro_rules! groups {
            ($($even:literal $odd:literal),*) => {
                $(group!($even, e0, e1); group!($odd, e1, e0);)*
            };
        }
        groups!(0 1, 2 3, 4 5, 6 7, 8 9, 10 11, 12 13, 14 15, 16 17, 18 19);
        for l in 0..LANES {
            e0[l] = _mm_sha1nexte_epu32(e0[l], e_before[l]);
            abcd[l] = _mm_add_epi32(abcd[l], abcd_before[l]);
        }
    }
    for l in 0..LANES {
        let words = [
            _mm_extract_epi32::<3>(abcd[l]),
            _mm_extract_epi32::<2>(abcd[l]),
            _mm_extract_epi32::<1>(abcd[l]),
            _mm_extract_epi32::<0>(abcd[l]),
            _mm_extract_epi32::<3>(e0[l]),
        ];
        for (row, word) in state.words.iter_mut().zip(words) {
            row[lanes[l]] = word.cast_unsigned();
        }
    }
}

/// Round constants of SHA-256 (FIPS 180-4 section 4.2.2), four to a register.
#[rustfmt::skip]
static K: [[u32; 4]; 16] = [
    [0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5], [0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5],
    [0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3], [0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174],
    [0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc], [0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da],
    [0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7], [0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967],
    [0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13], [0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85],
    [0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3], [0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070],
    [0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5], [0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3],
    [0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208], [0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2],
];

/// # Safety
/// As for [`Hash::compress`], with the SHA extensions.
#[target_feature(enable = "sha,ssse3,sse4.1")]
unsafe fn sha256(state: &mut State<LANES>, blocks: usize) {
    let order = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
    let State { words, at, .. } = state;
    // The instructions want the words as A B E F and C D G H, the first in the highest place.
    let mut abef = [_mm_setzero_si128(); LANES];
    let mut cdgh = abef;
    for l in 0..LANES {
        let word = |i: usize| words[i][l].cast_signed();
        abef[l] = _mm_set_epi32(word(0), word(1), word(4), word(5));
        cdgh[l] = _mm_set_epi32(word(2), word(3), word(6), word(7));
    }
    for block in 0..blocks {
        let (abef_before, cdgh_before) = (abef, cdgh);
        let mut m = [[_mm_setzero_si128(); LANES]; 4];
        for (i, m) in m.iter_mut().enumerate() {
            for (m, at) in m.iter_mut().zip(&*at) {
                // SAFETY: the caller vouches for the block that each lane is at.
                *m = unsafe { message(at.wrapping_add(block), i, order) };
            }
        }
        // Four rounds, and the message words that come of them.
        macro_rules! group {
            ($($i:literal)*) => {$(
                let k = &K[$i];
                let k = _mm_set_epi32(
                    k[3].cast_signed(), k[2].cast_signed(), k[1].cast_signed(), k[0].cast_signed(),
                );
                for l in 0..LANES {
                    let wk = _mm_add_epi32(m[$i % 4][l], k);
                    cdgh[l] = _mm_sha256rnds2_epu32(cdgh[l], abef[l], wk);
                    if $i >= 3 && $i <= 14 {
                        let shifted = _mm_alignr_epi8::<4>(m[$i % 4][l], m[($i + 3) % 4][l]);
                        let sum = _mm_add_epi32(m[($i + 1) % 4][l], shifted);
                        m[($i + 1) % 4][l] = _mm_sha256msg2_epu32(sum, m[$i % 4][l]);
                    }
                    abef[l] = _mm_sha256rnds2_epu32(abef[l], cdgh[l], _mm_shuffle_epi32::<0x0e>(wk));
                    if $i >= 1 && $i <= 12 {
                        m[($i + 3) % 4][l] = _mm_sha256msg1_epu32(m[($i + 3) % 4][l], m[$i % 4][l]);
                    }
                    pin(&mut abef[l]);
                }
            )*};
        }
        group!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
        for l in 0..LANES {
            abef[l] = _mm_add_epi32(abef[l], abef_before[l]);
            cdgh[l] = _mm_add_epi32(cdgh[l], cdgh_before[l]);
        }
    }
    for l in 0..LANES {
        let state = [
            _mm_extract_epi32::<3>(abef[l]),
            _mm_extract_epi32::<2>(abef[l]),
            _mm_extract_epi32::<3>(cdgh[l]),
            _mm_extract_epi32::<2>(cdgh[l]),
            _mm_extract_epi32::<1>(abef[l]),
            _mm_extract_epi32::<0>(abef[l]),
            _mm_extract_epi32::<1>(cdgh[l]),
            _mm_extract_epi32::<0>(cdgh[l]),
        ];
        for (row, word) in words.iter_mut().zip(state) {
            row[l] = word.cast_unsigned();
        }
    }
}
