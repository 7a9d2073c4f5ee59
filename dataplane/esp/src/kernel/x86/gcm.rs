//! AES-GCM (NIST SP 800-38D) for ESP, over 512-bit registers.
//!
//! A packet is `header (8) | IV (8) | text | ICV (16)`. Seen as blocks from its first byte, block 0 is
//! the additional data with the IV beside it, block `n` the `n`-th of the text; and in counter mode
//! block 0 meets counter 1, which is the one that masks the tag. So both passes run over the packet
//! from its first byte, and masks leave out what does not belong: nothing is copied aside.

use std::arch::x86_64::*;

use zeroize::{Zeroize, ZeroizeOnDrop};

use super::aes::Schedule;
use super::{Block, load, store};
use crate::HEADER_LEN;
use crate::suite::{GCM_ICV_LEN, GCM_IV_LEN, GCM_SALT_LEN};

/// Blocks that are hashed before one reduction.
const POWERS: usize = 16;

/// Round keys, salt and hash key in one piece.
#[derive(Zeroize, ZeroizeOnDrop)]
#[repr(C, align(64))]
pub(crate) struct GcmKeys {
    /// The hash key H to the 16th, ..., 2nd, 1st power, byte-reversed and multiplied by x, so that
    /// products come out in place.
    powers: [Block; POWERS],
    schedule: Schedule,
}

const HEADER_BITS: i64 = 64;

/// Where the text begins: after header and IV.
const TEXT: usize = HEADER_LEN + GCM_IV_LEN;

impl GcmKeys {
    /// From a key of 16 or 32 bytes.
    #[target_feature(enable = "aes,pclmulqdq,ssse3")]
    pub(crate) fn new(key: &[u8], salt: [u8; GCM_SALT_LEN]) -> Self {
        let mut schedule = Schedule::encrypting(key);
        schedule.salt = salt;
        let mut block = [0; 16];
        schedule.encrypt(&mut block);
        // Times x in the reflected field: a shift to the left, with the bit that falls off folded back.
        let h = u128::from_be_bytes(block);
        let folded = (h >> 127) * 0xc200_0000_0000_0000_0000_0000_0000_0001;
        let h = load(&((h << 1) ^ folded).to_le_bytes());
        block.zeroize();
        let mut powers = [[0; 16]; POWERS];
        let mut power = h;
        for slot in powers.iter_mut().rev() {
            store(slot, power);
            power = reduce(&multiply(power, h));
        }
        Self { powers, schedule }
    }

    /// The counter block of the tag: salt, IV, 1 (NIST SP 800-38D section 7.1).
    #[inline]
    fn counter(&self, packet: &[u8]) -> Block {
        let mut block = [0; 16];
        block[..GCM_SALT_LEN].copy_from_slice(&self.schedule.salt);
        block[GCM_SALT_LEN..12].copy_from_slice(&packet[HEADER_LEN..TEXT]);
        block[15] = 1;
        block
    }
}

/// Encrypts a packet in place and writes its ICV.
#[target_feature(enable = "avx512f,avx512bw,vaes,vpclmulqdq,aes,pclmulqdq,ssse3")]
pub(crate) fn seal_512(keys: &GcmKeys, packet: &mut [u8]) {
    let mask = crypt_512(keys, packet);
    let tag = _mm_xor_si128(hash_512(keys, packet), mask);
    if let Some(icv) = packet.last_chunk_mut() {
        store(icv, tag);
    }
}

/// Whether the ICV of a packet is right; in constant time.
#[target_feature(enable = "avx512f,avx512bw,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1")]
pub(crate) fn verify_512(keys: &GcmKeys, packet: &[u8]) -> bool {
    let mut mask = keys.counter(packet);
    keys.schedule.encrypt(&mut mask);
    let tag = _mm_xor_si128(hash_512(keys, packet), load(&mask));
    let Some(icv) = packet.last_chunk() else { return false };
    let difference = _mm_xor_si128(tag, load(icv));
    _mm_testz_si128(difference, difference) == 1
}

/// Encrypts or decrypts the text of a packet in place, and returns the mask of its tag.
#[target_feature(enable = "avx512f,avx512bw,vaes,aes,ssse3")]
pub(crate) fn crypt_512(keys: &GcmKeys, packet: &mut [u8]) -> __m128i {
    let end = packet.len() - GCM_ICV_LEN;
    let mut counter = load(&keys.counter(packet));
    // Kept little-endian between the pieces.
    counter = _mm_shuffle_epi8(counter, counter_order());
    let mut tag_mask = _mm_setzero_si128();
    let mut at = 0;
    while at < end {
        let first = match (end - at).div_ceil(64) {
            1 => piece_512::<1>(keys, packet, at, counter),
            2 => piece_512::<2>(keys, packet, at, counter),
            3 => piece_512::<3>(keys, packet, at, counter),
            _ => piece_512::<4>(keys, packet, at, counter),
        };
        if at == 0 {
            tag_mask = first;
        }
        at += 256;
        counter = _mm_add_epi32(counter, _mm_set_epi32(16, 0, 0, 0));
    }
    tag_mask
}

/// Turns the last word of a block between big-endian and little-endian.
#[target_feature(enable = "sse2")]
#[inline]
fn counter_order() -> __m128i {
    _mm_set_epi8(12, 13, 14, 15, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)
}

/// Up to `4 * V` blocks from byte `at` of the packet on, of which `counter` is the first; returns the
/// first block of the key stream.
#[target_feature(enable = "avx512f,avx512bw,vaes")]
#[inline]
fn piece_512<const V: usize>(keys: &GcmKeys, packet: &mut [u8], at: usize, counter: __m128i) -> __m128i {
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
#[inline]
fn hash_512(keys: &GcmKeys, packet: &[u8]) -> __m128i {
    let reverse = _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    let reverse = _mm512_broadcast_i32x4(reverse);
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
        let mut sum = Product512 {
            low: _mm512_setzero_si512(),
            middle: _mm512_setzero_si512(),
            high: _mm512_setzero_si512(),
        };
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
struct Product512 {
    low: __m512i,
    middle: __m512i,
    high: __m512i,
}

impl Product512 {
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

/// An unreduced product, or a sum of them.
struct Product {
    low: __m128i,
    middle: __m128i,
    high: __m128i,
}

#[target_feature(enable = "pclmulqdq")]
#[inline]
fn multiply(a: __m128i, b: __m128i) -> Product {
    Product {
        low: _mm_clmulepi64_si128::<0x00>(a, b),
        middle: _mm_xor_si128(_mm_clmulepi64_si128::<0x01>(a, b), _mm_clmulepi64_si128::<0x10>(a, b)),
        high: _mm_clmulepi64_si128::<0x11>(a, b),
    }
}

/// Modulo x^128 + x^7 + x^2 + x + 1 in reflected order, 64 bits at a time.
#[target_feature(enable = "pclmulqdq")]
#[inline]
fn reduce(product: &Product) -> __m128i {
    let polynomial = _mm_set_epi64x(0xc200_0000_0000_0000_u64.cast_signed(), 1);
    let low = _mm_xor_si128(product.low, _mm_slli_si128::<8>(product.middle));
    let high = _mm_xor_si128(product.high, _mm_srli_si128::<8>(product.middle));
    let swapped = _mm_shuffle_epi32::<0x4e>(low);
    let once = _mm_xor_si128(swapped, _mm_clmulepi64_si128::<0x10>(low, polynomial));
    let swapped = _mm_shuffle_epi32::<0x4e>(once);
    let twice = _mm_xor_si128(swapped, _mm_clmulepi64_si128::<0x10>(once, polynomial));
    _mm_xor_si128(high, twice)
}
