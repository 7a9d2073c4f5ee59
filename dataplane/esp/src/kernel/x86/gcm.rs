//! AES-GCM keys and the arithmetic of GHASH (NIST SP 800-38D).

use std::arch::x86_64::*;
use std::ops::Range;

use zeroize::Zeroize;

use super::aes::Schedule;
use super::{Block, GcmUnit, load, store};
use crate::HEADER_LEN;
use crate::suite::{GCM_IV_LEN, GCM_SALT_LEN};

/// Blocks that are hashed before one reduction.
pub(super) const POWERS: usize = 16;

/// Round keys, salt and hash key in one piece.
#[repr(C, align(64))]
pub(crate) struct GcmKeys {
    /// The hash key H to the 16th, ..., 2nd, 1st power, byte-reversed and multiplied by x, so that
    /// products come out in place.
    pub(super) powers: [Block; POWERS],
    pub(super) schedule: Schedule<Extra>,
}

pub(super) const HEADER_BITS: i64 = 64;

/// What lies beside the round keys.
#[derive(Clone, Copy)]
pub(super) struct Extra {
    salt: [u8; GCM_SALT_LEN],
    /// The registers that there are for this key.
    pub(super) unit: GcmUnit,
}

impl Drop for GcmKeys {
    fn drop(&mut self) {
        self.powers.zeroize();
        self.schedule.with.salt.zeroize();
    }
}

/// Where the text begins: after header and IV.
pub(super) const TEXT: usize = HEADER_LEN + GCM_IV_LEN;

impl GcmKeys {
    /// Which bytes of the keys a packet of so many bytes needs: of the powers, which end where the schedule
    /// begins, as many as it has blocks.
    pub(crate) fn needed(packet_len: usize) -> Range<usize> {
        POWERS.saturating_sub(packet_len.div_ceil(16)) * 16..size_of::<Self>()
    }

    /// From a key of 16 or 32 bytes.
    #[target_feature(enable = "aes,pclmulqdq,ssse3")]
    pub(super) fn new(unit: GcmUnit, key: &[u8], salt: [u8; GCM_SALT_LEN]) -> Self {
        let schedule = Schedule::encrypting(key, Extra { salt, unit });
        let mut block = [0; 16];
        store(&mut block, schedule.encrypt(_mm_setzero_si128()));
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

    /// The first counter block of a packet: salt, IV, 1 (NIST SP 800-38D section 7.1); but the 1 is
    /// little-endian, to count on from.
    #[target_feature(enable = "sse4.1")]
    #[inline]
    pub(super) fn first_counter(&self, packet: &[u8]) -> __m128i {
        let Some(header_and_iv) = packet.first_chunk() else { return _mm_setzero_si128() };
        let iv = _mm_srli_si128::<4>(load(header_and_iv));
        let salted = _mm_insert_epi32::<0>(iv, i32::from_ne_bytes(self.schedule.with.salt));
        _mm_insert_epi32::<3>(salted, 1)
    }
}

/// An unreduced product, or a sum of them.
pub(super) struct Product {
    pub(super) low: __m128i,
    pub(super) middle: __m128i,
    pub(super) high: __m128i,
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
pub(super) fn reduce(product: &Product) -> __m128i {
    let polynomial = _mm_set_epi64x(0xc200_0000_0000_0000_u64.cast_signed(), 1);
    let low = _mm_xor_si128(product.low, _mm_slli_si128::<8>(product.middle));
    let high = _mm_xor_si128(product.high, _mm_srli_si128::<8>(product.middle));
    let swapped = _mm_shuffle_epi32::<0x4e>(low);
    let once = _mm_xor_si128(swapped, _mm_clmulepi64_si128::<0x10>(low, polynomial));
    let swapped = _mm_shuffle_epi32::<0x4e>(once);
    let twice = _mm_xor_si128(swapped, _mm_clmulepi64_si128::<0x10>(once, polynomial));
    _mm_xor_si128(high, twice)
}

/// Whether the ICV of a packet is `tag`; in constant time.
#[target_feature(enable = "sse4.1")]
#[inline]
pub(super) fn has_icv(packet: &[u8], tag: __m128i) -> bool {
    let Some(icv) = packet.last_chunk() else { return false };
    let difference = _mm_xor_si128(tag, load(icv));
    _mm_testz_si128(difference, difference) == 1
}

/// Turns the last word of a block between big-endian and little-endian.
#[target_feature(enable = "sse2")]
#[inline]
pub(super) fn counter_order() -> __m128i {
    _mm_set_epi8(12, 13, 14, 15, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)
}

/// Turns a block around.
#[target_feature(enable = "sse2")]
#[inline]
pub(super) fn reverse_order() -> __m128i {
    _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
}
