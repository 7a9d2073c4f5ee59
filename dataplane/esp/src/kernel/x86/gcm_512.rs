//! AES-GCM for ESP over 512-bit registers.
//!
//! A packet is `header (8) | IV (8) | text | ICV (16)`. Seen as blocks from its first byte, block 0 is
//! the additional data with the IV beside it, block `n` the `n`-th of the text; and in counter mode
//! block 0 meets counter 1, which is the one that masks the tag. So both passes run over the packet
//! from its first byte, and masks leave out what does not belong: nothing is copied aside.

use std::arch::x86_64::*;

use super::gcm::{GcmKeys, HEADER_BITS, POWERS, Product, TEXT, counter_order, reduce, reverse_order};
use super::load;
use crate::suite::GCM_ICV_LEN;

/// Encrypts or decrypts the text of a packet in place, and returns the mask of its tag.
#[target_feature(enable = "avx512f,avx512bw,vaes,aes,ssse3")]
pub(super) fn crypt(keys: &GcmKeys, packet: &mut [u8]) -> __m128i {
    let end = packet.len() - GCM_ICV_LEN;
    let mut counter = load(&keys.counter(packet));
    // Kept little-endian between the pieces.
    counter = _mm_shuffle_epi8(counter, counter_order());
    let mut tag_mask = _mm_setzero_si128();
    let mut at = 0;
    while at < end {
        let first = match (end - at).div_ceil(64) {
            1 => piece::<1>(keys, packet, at, counter),
            2 => piece::<2>(keys, packet, at, counter),
            3 => piece::<3>(keys, packet, at, counter),
            _ => piece::<4>(keys, packet, at, counter),
        };
        if at == 0 {
            tag_mask = first;
        }
        at += 256;
        counter = _mm_add_epi32(counter, _mm_set_epi32(16, 0, 0, 0));
    }
    tag_mask
}

/// Up to `4 * V` blocks from byte `at` of the packet on, of which `counter` is the first; returns the
/// first block of the key stream.
#[target_feature(enable = "avx512f,avx512bw,vaes")]
#[inline]
fn piece<const V: usize>(keys: &GcmKeys, packet: &mut [u8], at: usize, counter: __m128i) -> __m128i {
    let (round_keys, last) = keys.schedule.split();
    let order = _mm512_broadcast_i32x4(counter_order());
    let mut counters = _mm512_add_epi32(
        _mm512_broadcast_i32x4(counter),
        _mm512_set_epi32(3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0),
    );
    let mut s = [_mm512_setzero_si512(); V];
    let key = _mm512_broadcast_i32x4(load(&round_keys[0]));
    for s in &mut s {
        *s = _mm512_xor_si512(_mm512_shuffle_epi8(counters, order), key);
        counters =
            _mm512_add_epi32(counters, _mm512_set_epi32(4, 0, 0, 0, 4, 0, 0, 0, 4, 0, 0, 0, 4, 0, 0, 0));
    }
    for round_key in &round_keys[1..] {
        let key = _mm512_broadcast_i32x4(load(round_key));
        for s in &mut s {
            *s = _mm512_aesenc_epi128(*s, key);
        }
    }
    let key = _mm512_broadcast_i32x4(load(last));
    for s in &mut s {
        *s = _mm512_aesenclast_epi128(*s, key);
    }
    let first = _mm512_castsi512_si128(s[0]);
    let end = packet.len() - GCM_ICV_LEN;
    let base: *mut i8 = packet.as_mut_ptr().cast();
    for (i, s) in s.into_iter().enumerate() {
        let at = at + 64 * i;
        // All of the text from here on, without header and IV.
        let mask = leading(end.saturating_sub(at)) & !leading(TEXT.saturating_sub(at));
        let place = base.wrapping_add(at);
        // SAFETY: the mask leaves only bytes before `end`, which lie in the packet.
        unsafe {
            let text = _mm512_maskz_loadu_epi8(mask, place);
            _mm512_mask_storeu_epi8(place, mask, _mm512_xor_si512(text, s));
        }
    }
    first
}

/// A mask of that many bytes, at most 64.
#[inline]
fn leading(bytes: usize) -> u64 {
    if bytes >= 64 { u64::MAX } else { (1 << bytes) - 1 }
}

/// GHASH over additional data, text and their lengths (NIST SP 800-38D section 7.1, steps 5 and 6).
#[target_feature(enable = "avx512f,avx512bw,vpclmulqdq,pclmulqdq,ssse3")]
pub(super) fn hash(keys: &GcmKeys, packet: &[u8]) -> __m128i {
    let reverse = _mm512_broadcast_i32x4(reverse_order());
    let end = packet.len() - GCM_ICV_LEN;
    let bits = (end - TEXT) as u64 * 8;
    let lengths = _mm512_broadcast_i32x4(_mm_set_epi64x(HEADER_BITS, bits.cast_signed()));
    // Block 0, the text, and the block of lengths. All groups but the first are full.
    let blocks = end.div_ceil(16) + 1;
    let mut group = (blocks - 1) % POWERS + 1;
    let mut begin = 0;
    let mut y = _mm_setzero_si128();
    let base: *const i8 = packet.as_ptr().cast();
    while begin < blocks {
        let mut sum =
            Sum { low: _mm512_setzero_si512(), middle: _mm512_setzero_si512(), high: _mm512_setzero_si512() };
        let mut carried = _mm512_zextsi128_si512(y);
        for i in (0..group).step_by(4) {
            let block = begin + i;
            let mut mask = leading(end.saturating_sub(16 * block));
            if block == 0 {
                // Not the IV.
                mask &= !0xff00;
            }
            // SAFETY: the mask leaves only bytes before `end`, which lie in the packet.
            let text = unsafe { _mm512_maskz_loadu_epi8(mask, base.wrapping_add(16 * block)) };
            let mut text = _mm512_shuffle_epi8(text, reverse);
            if blocks - 1 - block < 4 {
                text = _mm512_mask_mov_epi64(text, 0b11 << (2 * (blocks - 1 - block)), lengths);
            }
            text = _mm512_xor_si512(text, carried);
            carried = _mm512_setzero_si512();
            // The first block of the group meets H to the power of its size.
            let present = 0xff_u8 >> (8 - 2 * (group - i).min(4));
            let power = keys.powers[POWERS - group + i..].as_ptr().cast();
            // SAFETY: the mask leaves only powers that there are.
            let power = unsafe { _mm512_maskz_loadu_epi64(present, power) };
            sum.add(text, power);
        }
        y = sum.reduce();
        begin += group;
        group = POWERS;
    }
    _mm_shuffle_epi8(y, _mm512_castsi512_si128(reverse))
}

/// Four sums of unreduced products.
struct Sum {
    low: __m512i,
    middle: __m512i,
    high: __m512i,
}

impl Sum {
    #[target_feature(enable = "avx512f,vpclmulqdq")]
    #[inline]
    fn add(&mut self, a: __m512i, b: __m512i) {
        self.low = _mm512_xor_si512(self.low, _mm512_clmulepi64_epi128::<0x00>(a, b));
        self.high = _mm512_xor_si512(self.high, _mm512_clmulepi64_epi128::<0x11>(a, b));
        self.middle = _mm512_ternarylogic_epi64::<0x96>(
            self.middle,
            _mm512_clmulepi64_epi128::<0x01>(a, b),
            _mm512_clmulepi64_epi128::<0x10>(a, b),
        );
    }

    #[target_feature(enable = "avx512f,pclmulqdq")]
    #[inline]
    fn reduce(&self) -> __m128i {
        reduce(&Product { low: fold(self.low), middle: fold(self.middle), high: fold(self.high) })
    }
}

/// The sum of the four parts.
#[target_feature(enable = "avx512f")]
#[inline]
fn fold(x: __m512i) -> __m128i {
    let half = _mm256_xor_si256(_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64::<1>(x));
    _mm_xor_si128(_mm256_castsi256_si128(half), _mm256_extracti128_si256::<1>(half))
}
