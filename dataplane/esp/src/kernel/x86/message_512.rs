//! Message blocks of sixteen lanes, for hashes with a packet in each 32-bit lane of 512-bit registers.

use std::arch::x86_64::*;

use super::hmac::{Chunk, LENGTH_AT};
use super::transpose_quarters;

/// Packets side by side.
pub(super) const LANES: usize = 16;

/// How many blocks before its own a block is asked for: so many lanes are more than the CPU sees by itself
/// that they are read from the beginning to the end.
const AHEAD: usize = 4;

/// As [`Hash::pad`], but without a copy in small pieces, which the wide load after it would have to
/// wait for.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
pub(super) fn pad(rest: &[u8], length: [u8; 8], tail: &mut [Chunk; 2]) -> usize {
    let end = 1_u64 << (rest.len() % 64);
    // SAFETY: the mask leaves the bytes of `rest`.
    let text = unsafe { _mm512_maskz_loadu_epi8(end - 1, rest.as_ptr().cast()) };
    let text = _mm512_mask_mov_epi8(text, end, _mm512_set1_epi8(0x80_u8.cast_signed()));
    let length = _mm512_set1_epi64(i64::from_ne_bytes(length));
    let [first, second] = tail.each_mut().map(|chunk| std::ptr::from_mut(chunk).cast());
    if rest.len() < LENGTH_AT {
        // SAFETY: 64 bytes; no alignment is asked for.
        unsafe { _mm512_storeu_si512(first, _mm512_mask_mov_epi64(text, 0x80, length)) };
        return 1;
    }
    // SAFETY: twice 64 bytes; no alignment is asked for.
    unsafe {
        _mm512_storeu_si512(first, text);
        _mm512_storeu_si512(second, _mm512_maskz_mov_epi64(0x80, length));
    }
    2
}

/// Asks for the block that comes later.
#[inline]
pub(super) fn prefetch_messages(at: &[*const Chunk; LANES], block: usize, blocks: usize) {
    if block + AHEAD < blocks {
        for at in at {
            // SAFETY: a prefetch reads nothing and cannot fault; SSE is part of x86-64.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(block + AHEAD).cast()) };
        }
    }
}

/// The sixteen message words of a block, each of all lanes, as the bytes are or turned from big-endian.
///
/// # Safety
/// Every pointer must be to more blocks than that.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
pub(super) unsafe fn messages<const BIG_ENDIAN: bool>(
    at: &[*const Chunk; LANES],
    block: usize,
) -> [__m512i; 16] {
    let order = _mm512_broadcast_i32x4(_mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203));
    let mut rows = [_mm512_setzero_si512(); 16];
    for (row, at) in rows.iter_mut().zip(at) {
        // SAFETY: 64 bytes of a block, as the caller vouches.
        *row = unsafe { _mm512_loadu_si512(at.wrapping_add(block).cast()) };
        if BIG_ENDIAN {
            *row = _mm512_shuffle_epi8(*row, order);
        }
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
        let quarters = transpose_quarters([fours[j], fours[4 + j], fours[8 + j], fours[12 + j]]);
        [rows[j], rows[4 + j], rows[8 + j], rows[12 + j]] = quarters;
    }
    rows
}
