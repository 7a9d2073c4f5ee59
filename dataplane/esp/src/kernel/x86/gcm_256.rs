//! AES-GCM for ESP over 256-bit registers.
//!
//! Blocks are counted as over 512-bit registers. There are no masks here: pieces that are not all
//! text go through a copy.

use std::arch::x86_64::*;

use super::gcm::{GcmKeys, HEADER_BITS, Product, TEXT, counter_order, has_icv, reduce, reverse_order};
use super::{Block, load, load_256, store, store_256};
use crate::suite::GCM_ICV_LEN;

/// Blocks that are worked on together.
const GROUP: usize = 8;

/// Bytes of them.
const BYTES: usize = GROUP * 16;

/// Encrypts a packet in place and writes its ICV.
#[target_feature(enable = "avx2,vaes,vpclmulqdq,aes,pclmulqdq,sse4.1")]
pub(super) fn seal(keys: &GcmKeys, packet: &mut [u8]) {
    let tag_mask = crypt(keys, packet);
    let tag = _mm_xor_si128(hash(keys, packet), tag_mask);
    if let Some(icv) = packet.last_chunk_mut() {
        store(icv, tag);
    }
}

/// Checks the ICV of a packet, in constant time, and decrypts it in place if that is right.
#[target_feature(enable = "avx2,vaes,vpclmulqdq,aes,pclmulqdq,sse4.1")]
pub(super) fn open(keys: &GcmKeys, packet: &mut [u8]) -> bool {
    let counter = _mm_shuffle_epi8(keys.first_counter(packet), counter_order());
    let tag_mask = keys.schedule.encrypt(counter);
    let authentic = has_icv(packet, _mm_xor_si128(hash(keys, packet), tag_mask));
    if authentic {
        crypt(keys, packet);
    }
    authentic
}

/// Encrypts or decrypts the text of a packet in place, and returns the mask of its tag.
#[target_feature(enable = "avx2,vaes,aes")]
#[inline]
fn crypt(keys: &GcmKeys, packet: &mut [u8]) -> __m128i {
    let end = packet.len() - GCM_ICV_LEN;
    let mut counter = keys.first_counter(packet);
    let mut tag_mask = _mm_setzero_si128();
    let mut at = 0;
    while at < end {
        let left = end - at;
        if at > 0 && left >= 2 * BYTES {
            piece::<GROUP>(keys, packet[at..at + 2 * BYTES].as_chunks_mut().0, counter);
            counter = _mm_add_epi32(counter, _mm_set_epi32(16, 0, 0, 0));
            at += 2 * BYTES;
            continue;
        }
        if at > 0 && left >= BYTES {
            piece::<{ GROUP / 2 }>(keys, packet[at..at + BYTES].as_chunks_mut().0, counter);
        } else {
            let text = at.max(TEXT)..end.min(at + BYTES);
            let inner = text.start - at..text.end - at;
            let mut copy = [[0; 16]; GROUP];
            copy.as_flattened_mut()[inner.clone()].copy_from_slice(&packet[text.clone()]);
            let first = piece::<{ GROUP / 2 }>(keys, &mut copy, counter);
            packet[text].copy_from_slice(&copy.as_flattened()[inner]);
            if at == 0 {
                tag_mask = first;
            }
        }
        counter = _mm_add_epi32(counter, _mm_set_epi32(8, 0, 0, 0));
        at += BYTES;
    }
    tag_mask
}

/// `2 * V` blocks, of which `counter` is the first; returns the first block of the key stream.
#[target_feature(enable = "avx2,vaes")]
#[inline]
fn piece<const V: usize>(keys: &GcmKeys, blocks: &mut [Block], counter: __m128i) -> __m128i {
    let (round_keys, last) = keys.schedule.split();
    let order = _mm256_broadcastsi128_si256(counter_order());
    let mut counters =
        _mm256_add_epi32(_mm256_broadcastsi128_si256(counter), _mm256_set_epi32(1, 0, 0, 0, 0, 0, 0, 0));
    let mut s = [_mm256_setzero_si256(); V];
    let key = _mm256_broadcastsi128_si256(load(&round_keys[0]));
    for s in &mut s {
        *s = _mm256_xor_si256(_mm256_shuffle_epi8(counters, order), key);
        counters = _mm256_add_epi32(counters, _mm256_set_epi32(2, 0, 0, 0, 2, 0, 0, 0));
    }
    for round_key in &round_keys[1..] {
        let key = _mm256_broadcastsi128_si256(load(round_key));
        for s in &mut s {
            *s = _mm256_aesenc_epi128(*s, key);
        }
    }
    let key = _mm256_broadcastsi128_si256(load(last));
    for s in &mut s {
        *s = _mm256_aesenclast_epi128(*s, key);
    }
    for (pair, s) in blocks.as_chunks_mut().0.iter_mut().zip(s) {
        store_256(pair, _mm256_xor_si256(load_256(pair, 0), s));
    }
    _mm256_castsi256_si128(s[0])
}

/// GHASH over additional data, text and their lengths (NIST SP 800-38D section 7.1, steps 5 and 6).
#[target_feature(enable = "avx2,vpclmulqdq,pclmulqdq")]
fn hash(keys: &GcmKeys, packet: &[u8]) -> __m128i {
    let end = packet.len() - GCM_ICV_LEN;
    let bits = (end - TEXT) as u64 * 8;
    let reverse = reverse_order();
    let lengths = _mm_shuffle_epi8(_mm_set_epi64x(HEADER_BITS, bits.cast_signed()), reverse);
    // Block 0, the text, and the block of lengths. All groups but the first are full.
    let blocks = end.div_ceil(16) + 1;
    let mut size = (blocks - 1) % GROUP + 1;
    let mut begin = 0;
    let mut y = _mm_setzero_si128();
    while begin < blocks {
        let next = begin + size;
        if begin > 0 && next < blocks {
            y = group(keys, packet[16 * begin..16 * next].as_chunks().0, y);
        } else {
            // To the right: zeros before the first block of the first group count for nothing.
            let mut copy = [[0; 16]; GROUP];
            let bytes = &packet[16 * begin..end.min(16 * next)];
            copy[GROUP - size..].as_flattened_mut()[..bytes.len()].copy_from_slice(bytes);
            if begin == 0 {
                // Not the IV.
                copy[GROUP - size][8..].fill(0);
            }
            if next == blocks {
                store(&mut copy[GROUP - 1], lengths);
            }
            y = group(keys, &copy, y);
        }
        begin = next;
        size = GROUP;
    }
    _mm_shuffle_epi8(y, reverse)
}

/// Takes eight more blocks into the hash.
#[target_feature(enable = "avx2,vpclmulqdq,pclmulqdq")]
#[inline]
fn group(keys: &GcmKeys, blocks: &[Block], y: __m128i) -> __m128i {
    let reverse = _mm256_broadcastsi128_si256(reverse_order());
    let powers = &keys.powers[keys.powers.len() - GROUP..];
    let (mut low, mut middle, mut high) =
        (_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256());
    // What depends on the group before comes last.
    for i in [1, 2, 3, 0] {
        let mut a = _mm256_shuffle_epi8(load_256(blocks, i), reverse);
        if i == 0 {
            a = _mm256_xor_si256(a, _mm256_zextsi128_si256(y));
        }
        let b = load_256(powers, i);
        low = _mm256_xor_si256(low, _mm256_clmulepi64_epi128::<0x00>(a, b));
        high = _mm256_xor_si256(high, _mm256_clmulepi64_epi128::<0x11>(a, b));
        // Karatsuba: one product of sums for two products, of which low and high are taken off in the end.
        let product = _mm256_clmulepi64_epi128::<0x00>(halves_added(a), halves_added(b));
        middle = _mm256_xor_si256(middle, product);
    }
    middle = _mm256_xor_si256(middle, _mm256_xor_si256(low, high));
    reduce(&Product { low: fold(low), middle: fold(middle), high: fold(high) })
}

/// The sum of both halves of each block, in both.
#[target_feature(enable = "avx2")]
#[inline]
fn halves_added(x: __m256i) -> __m256i {
    _mm256_xor_si256(x, _mm256_shuffle_epi32::<0x4e>(x))
}

/// The sum of both parts.
#[target_feature(enable = "avx2")]
#[inline]
fn fold(x: __m256i) -> __m128i {
    _mm_xor_si128(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x))
}
