//! AES-CBC decryption: many blocks of a packet at once, since each depends on ciphertext only.

use std::arch::x86_64::*;

use super::aes::Schedule;
use super::cbc_encryption::Job;
use super::{AesUnit, Block, load, load_256, store, store_256};

/// Blocks that are decrypted together over 512-bit registers.
const PIECE: usize = 16;

/// Decrypts whole packets in place over 512-bit registers. The first block of each is the IV, and is
/// left as it is.
#[target_feature(enable = "avx512f,vaes")]
pub(super) fn decrypt_512(jobs: &mut [Job<'_>]) {
    for (schedule, blocks) in jobs {
        let Some((iv, blocks)) = blocks.split_first_mut() else { continue };
        let mut before = _mm512_broadcast_i32x4(load(iv));
        for piece in blocks.chunks_mut(PIECE) {
            before = match piece.len().div_ceil(4) {
                1 => piece_512::<1>(schedule, piece, before),
                2 => piece_512::<2>(schedule, piece, before),
                3 => piece_512::<3>(schedule, piece, before),
                _ => piece_512::<4>(schedule, piece, before),
            };
        }
    }
}

/// Decrypts up to `4 * V` blocks, where the last quarter of `before` is the ciphertext before them.
/// Returns the last register of ciphertext.
#[target_feature(enable = "avx512f,vaes")]
#[inline]
fn piece_512<const V: usize>(
    schedule: &Schedule<AesUnit>,
    piece: &mut [Block],
    mut before: __m512i,
) -> __m512i {
    let (keys, last) = schedule.split();
    let key = |key: &Block| _mm512_broadcast_i32x4(load(key));
    let place = |i: usize, piece: *mut Block| piece.wrapping_add(4 * i).cast::<i64>();
    // Quadwords of each register that are part of the piece; there is at least one.
    let masks: [u8; V] = std::array::from_fn(|i| 0xff >> (8 - 2 * (piece.len() - 4 * i).min(4)));
    // SAFETY: what a mask leaves is part of `piece`.
    let text: [__m512i; V] =
        std::array::from_fn(|i| unsafe { _mm512_maskz_loadu_epi64(masks[i], place(i, piece.as_mut_ptr())) });
    let mut s = text.map(|text| _mm512_xor_si512(text, key(&keys[0])));
    for round_key in &keys[1..] {
        let round_key = key(round_key);
        for s in &mut s {
            *s = _mm512_aesdec_epi128(*s, round_key);
        }
    }
    for i in 0..V {
        // Each block meets the ciphertext of the one before it.
        let chain = _mm512_alignr_epi64::<6>(text[i], before);
        let plain = _mm512_xor_si512(_mm512_aesdeclast_epi128(s[i], key(last)), chain);
        before = text[i];
        // SAFETY: what a mask leaves is part of `piece`.
        unsafe { _mm512_mask_storeu_epi64(place(i, piece.as_mut_ptr()), masks[i], plain) };
    }
    before
}

/// The same over 256-bit registers.
#[target_feature(enable = "avx2,vaes")]
pub(super) fn decrypt_256(jobs: &mut [Job<'_>]) {
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
pub(super) fn decrypt_128(jobs: &mut [Job<'_>]) {
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
