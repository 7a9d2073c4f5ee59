//! Kernels for x86-64 with AES-NI and better: several packets at once, each under its own key.
//!
//! Serial CBC encryption waits for the latency of one AES round after the other, and SHA for that of
//! its own rounds; so packets of different SAs go side by side, one to a lane. AES-GCM has enough to do
//! within a packet, and the CPU begins the next one by itself. Triple DES and MD5, which no CPU has instructions for,
//! go side by side in AVX-512; without that they are portable.
//!
//! The compiler may reorder all of it. Where it would undo the overlap of lanes, or keep more words than
//! there are registers, empty `asm!` holds it to the order of the source.

mod aes;
mod cbc_decryption;
pub(crate) mod cbc_encryption;
mod des;
pub(crate) mod des_512;
mod gcm;
mod gcm_256;
mod gcm_512;
mod hmac;
mod lanes;
mod md5_512;
mod message_512;
mod sha1_512;
mod sha_ni;
mod unit;

pub(crate) use aes::Schedule;
pub(crate) use des::Schedule as DesSchedule;
pub(crate) use gcm::GcmKeys;
pub(crate) use unit::{AesUnit, GcmUnit, ShaUnit, cbc_decrypt, cbc_encrypt, des_decrypt, des_encrypt};

use std::arch::x86_64::{
    __m128i, __m256i, __m512i, _MM_HINT_T1, _mm_loadu_si128, _mm_prefetch, _mm_storeu_si128,
    _mm256_loadu_si256, _mm256_storeu_si256, _mm512_loadu_si512, _mm512_shuffle_i32x4, _mm512_storeu_si512,
};
use std::ops::Range;
use std::ptr;

/// An AES block.
pub(crate) type Block = [u8; 16];

#[inline]
fn load(block: &Block) -> __m128i {
    // SAFETY: reads the 16 bytes of `block`; no alignment is asked for. SSE2 is part of x86-64.
    unsafe { _mm_loadu_si128(ptr::from_ref(block).cast()) }
}

#[inline]
fn store(block: &mut Block, value: __m128i) {
    // SAFETY: writes the 16 bytes of `block`; no alignment is asked for. SSE2 is part of x86-64.
    unsafe { _mm_storeu_si128(ptr::from_mut(block).cast(), value) }
}

/// The `i`-th pair of blocks.
#[target_feature(enable = "avx")]
#[inline]
fn load_256(blocks: &[Block], i: usize) -> __m256i {
    let pair = &blocks[2 * i..][..2];
    // SAFETY: reads the 32 bytes of `pair`; no alignment is asked for.
    unsafe { _mm256_loadu_si256(pair.as_ptr().cast()) }
}

#[target_feature(enable = "avx")]
#[inline]
fn store_256(pair: &mut [Block; 2], value: __m256i) {
    // SAFETY: writes the 32 bytes of `pair`; no alignment is asked for.
    unsafe { _mm256_storeu_si256(ptr::from_mut(pair).cast(), value) }
}

/// The `i`-th four blocks.
#[target_feature(enable = "avx512f")]
#[inline]
fn load_512(blocks: &[Block], i: usize) -> __m512i {
    let four = &blocks[4 * i..][..4];
    // SAFETY: reads the 64 bytes of `four`; no alignment is asked for.
    unsafe { _mm512_loadu_si512(four.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn store_512(four: &mut [Block; 4], value: __m512i) {
    // SAFETY: writes the 64 bytes of `four`; no alignment is asked for.
    unsafe { _mm512_storeu_si512(ptr::from_mut(four).cast(), value) }
}

/// Turns a matrix of four by four quarters of registers over its diagonal.
#[target_feature(enable = "avx512f")]
#[inline]
fn transpose_quarters([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    let (ab_even, ab_odd) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b));
    let (cd_even, cd_odd) = (_mm512_shuffle_i32x4::<0x88>(c, d), _mm512_shuffle_i32x4::<0xdd>(c, d));
    [
        _mm512_shuffle_i32x4::<0x88>(ab_even, cd_even),
        _mm512_shuffle_i32x4::<0x88>(ab_odd, cd_odd),
        _mm512_shuffle_i32x4::<0xdd>(ab_even, cd_even),
        _mm512_shuffle_i32x4::<0xdd>(ab_odd, cd_odd),
    ]
}

/// Asks for the first cache lines of a packet: those of a short one. The CPU sees by itself that a long one
/// is read from the beginning to the end.
#[inline]
pub(crate) fn prefetch_packet(packet: &[u8]) {
    for line in packet.chunks(64).take(4) {
        prefetch(&line[0], 1);
    }
}

/// Asks for the cache lines of the first bytes of a value, ahead of their use: into the second-level cache, which can
/// wait for twice as many lines as the first level. Where a batch asks for more than that has room for, a CPU drops what is too
/// much.
#[inline]
pub fn prefetch<T>(value: &T, bytes: usize) {
    prefetch_part(value, 0..bytes);
}

/// Asks for the cache lines of some bytes of a value that begins with one.
#[inline]
pub(crate) fn prefetch_part<T>(value: &T, bytes: Range<usize>) {
    for line in (bytes.start / 64 * 64..bytes.end).step_by(64) {
        // SAFETY: a prefetch reads nothing and cannot fault; SSE is part of x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(ptr::from_ref(value).cast::<i8>().wrapping_add(line)) };
    }
}
