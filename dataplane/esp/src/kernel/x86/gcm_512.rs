//! AES-GCM for ESP over 512-bit registers.
//!
//! A packet is `header (8) | IV (8) | text | ICV (16)`. Seen as blocks from its first byte, block 0 is
//! the additional data with the IV beside it, block `n` the `n`-th of the text; and in counter mode
//! block 0 meets counter 1, which is the one that masks the tag. So everything runs over the packet
//! from its first byte, and masks leave out what does not belong: nothing is copied aside.
//!
//! One packet follows the other without waiting: what the CPU sees ahead covers the latencies of a
//! short packet with the work of the next.

use std::arch::x86_64::*;

use super::gcm::{
    GcmKeys, HEADER_BITS, POWERS, Product, TEXT, counter_order, has_icv, reduce, reverse_order,
};
use super::{load, load_512, store, store_512};
use crate::HEADER_LEN;
use crate::suite::GCM_ICV_LEN;

/// Runs code for as many registers `V` as so many bytes, at most a piece, take up.
macro_rules! at_the_end {
    ($bytes:expr, |$v:ident| $code:expr) => {
        match usize::div_ceil($bytes, 64) {
            1 => {
                const $v: usize = 1;
                $code
            }
            2 => {
                const $v: usize = 2;
                $code
            }
            3 => {
                const $v: usize = 3;
                $code
            }
            _ => {
                const $v: usize = 4;
                $code
            }
        }
    };
}

/// Bytes that are worked on together: sixteen blocks, as many as there are powers of H.
const PIECE: usize = 16 * POWERS;

/// Encrypts a packet in place and writes its ICV.
#[target_feature(enable = "avx512f,avx512bw,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1")]
pub(super) fn seal<const ROUNDS: usize>(keys: &GcmKeys, packet: &mut [u8]) {
    let end = packet.len() - GCM_ICV_LEN;
    let mut counter = Counter::new(keys, packet);
    let mut hash = Hash::new(keys, packet);
    let mut at = 0;
    let tag_mask;
    if end > PIECE {
        let stream = key_stream::<ROUNDS, 4>(keys, counter.take());
        tag_mask = _mm512_castsi512_si128(stream[0]);
        let mut text = xor_text(packet, 0, stream);
        text[0] = _mm512_or_si512(text[0], hash.header);
        at = PIECE;
        while end - at > PIECE {
            let stream = hash.add_beside_key_stream::<ROUNDS>(text, counter.take());
            text = xor_piece(packet, at, stream);
            at += PIECE;
        }
        hash.add_piece(text);
        at_the_end!(end - at, |V| {
            let text = xor_text(packet, at, key_stream::<ROUNDS, V>(keys, counter.take()));
            hash.add_last(at, text);
        });
    } else {
        at_the_end!(end, |V| {
            let stream = key_stream::<ROUNDS, V>(keys, counter.take());
            tag_mask = _mm512_castsi512_si128(stream[0]);
            hash.add_last(at, xor_text(packet, at, stream));
        });
    }
    if let Some(icv) = packet.last_chunk_mut() {
        store(icv, _mm_xor_si128(hash.finish(), tag_mask));
    }
}

/// Checks the ICV of a packet, in constant time, and decrypts it in place if that is right.
#[target_feature(enable = "avx512f,avx512bw,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1")]
pub(super) fn open<const ROUNDS: usize>(keys: &GcmKeys, packet: &mut [u8]) -> bool {
    let end = packet.len() - GCM_ICV_LEN;
    let mut counter = Counter::new(keys, packet);
    let mut hash = Hash::new(keys, packet);
    let mut at = 0;
    if end > PIECE {
        let mut text = load_text::<4>(packet, 0);
        text[0] = _mm512_or_si512(text[0], hash.header);
        hash.add_piece(text);
        at = PIECE;
        while end - at > PIECE {
            hash.add_piece(load_piece(packet, at));
            at += PIECE;
        }
    }
    at_the_end!(end - at, |V| hash.add_last(at, load_text::<V>(packet, at)));
    // The key stream of the first piece has the mask of the tag.
    at_the_end!(end.min(PIECE), |V| {
        let stream = key_stream::<ROUNDS, V>(keys, counter.take());
        let tag_mask = _mm512_castsi512_si128(stream[0]);
        if !has_icv(packet, _mm_xor_si128(hash.finish(), tag_mask)) {
            return false;
        }
        xor_text(packet, 0, stream);
    });
    if end > PIECE {
        at = PIECE;
        while end - at > PIECE {
            xor_piece(packet, at, key_stream::<ROUNDS, 4>(keys, counter.take()));
            at += PIECE;
        }
        at_the_end!(end - at, |V| {
            xor_text(packet, at, key_stream::<ROUNDS, V>(keys, counter.take()));
        });
    }
    true
}

/// The counter block of the next piece, its number little-endian.
struct Counter(__m128i);

impl Counter {
    #[target_feature(enable = "sse4.1")]
    #[inline]
    fn new(keys: &GcmKeys, packet: &[u8]) -> Self {
        Self(keys.first_counter(packet))
    }

    #[inline]
    fn take(&mut self) -> __m128i {
        let counter = self.0;
        // SAFETY: SSE2 is part of x86-64.
        self.0 = unsafe { _mm_add_epi32(counter, _mm_set_epi32(16, 0, 0, 0)) };
        counter
    }
}

/// `4 * V` blocks of key stream, of which `counter` is the first.
#[target_feature(enable = "avx512f,avx512bw,vaes")]
#[inline]
fn key_stream<const ROUNDS: usize, const V: usize>(keys: &GcmKeys, counter: __m128i) -> [__m512i; V] {
    let mut s = counters(keys, counter);
    for round in 1..ROUNDS {
        aes_round(keys, round, &mut s);
    }
    s.map(|s| _mm512_aesenclast_epi128(s, round_key(keys, ROUNDS)))
}

/// Counter blocks from `counter` on, under the first round key.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn counters<const V: usize>(keys: &GcmKeys, counter: __m128i) -> [__m512i; V] {
    let order = _mm512_broadcast_i32x4(counter_order());
    let four = _mm512_set_epi32(4, 0, 0, 0, 4, 0, 0, 0, 4, 0, 0, 0, 4, 0, 0, 0);
    let mut counters = _mm512_add_epi32(
        _mm512_broadcast_i32x4(counter),
        _mm512_set_epi32(3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0),
    );
    let mut s = [_mm512_setzero_si512(); V];
    for s in &mut s {
        *s = _mm512_xor_si512(_mm512_shuffle_epi8(counters, order), round_key(keys, 0));
        counters = _mm512_add_epi32(counters, four);
    }
    s
}

#[target_feature(enable = "avx512f")]
#[inline]
fn round_key(keys: &GcmKeys, round: usize) -> __m512i {
    _mm512_broadcast_i32x4(load(&keys.schedule.round_keys()[round]))
}

#[target_feature(enable = "avx512f,vaes")]
#[inline]
fn aes_round<const V: usize>(keys: &GcmKeys, round: usize, s: &mut [__m512i; V]) {
    let key = round_key(keys, round);
    for s in s {
        *s = _mm512_aesenc_epi128(*s, key);
    }
}

/// The bytes of text among the 64 from byte `at` of a packet on, whose text ends at `end`.
#[inline]
fn text_mask(at: usize, end: usize) -> u64 {
    leading(end.saturating_sub(at)) & !leading(TEXT.saturating_sub(at))
}

/// A mask of that many bytes, at most 64.
#[inline]
fn leading(bytes: usize) -> u64 {
    if bytes >= 64 { u64::MAX } else { (1 << bytes) - 1 }
}

/// The text from byte `at` of the packet on, with zeros for what is none.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn load_text<const V: usize>(packet: &[u8], at: usize) -> [__m512i; V] {
    let end = packet.len() - GCM_ICV_LEN;
    std::array::from_fn(|i| {
        let at = at + 64 * i;
        // SAFETY: the mask leaves only bytes before `end`, which lie in the packet.
        unsafe { _mm512_maskz_loadu_epi8(text_mask(at, end), packet.as_ptr().wrapping_add(at).cast()) }
    })
}

/// Encrypts or decrypts the text from byte `at` of the packet on; returns what came of it, with zeros for
/// what is no text.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn xor_text<const V: usize>(packet: &mut [u8], at: usize, stream: [__m512i; V]) -> [__m512i; V] {
    let end = packet.len() - GCM_ICV_LEN;
    let text = load_text::<V>(packet, at);
    std::array::from_fn(|i| {
        let at = at + 64 * i;
        let mask = text_mask(at, end);
        let result = _mm512_maskz_mov_epi8(mask, _mm512_xor_si512(text[i], stream[i]));
        // SAFETY: the mask leaves only bytes before `end`, which lie in the packet.
        unsafe { _mm512_mask_storeu_epi8(packet.as_mut_ptr().wrapping_add(at).cast(), mask, result) };
        result
    })
}

/// A piece that is text from the first to the last byte.
#[target_feature(enable = "avx512f")]
#[inline]
fn load_piece(packet: &[u8], at: usize) -> [__m512i; 4] {
    let blocks = packet[at..at + PIECE].as_chunks().0;
    std::array::from_fn(|i| load_512(blocks, i))
}

/// Encrypts or decrypts such a piece.
#[target_feature(enable = "avx512f")]
#[inline]
fn xor_piece(packet: &mut [u8], at: usize, stream: [__m512i; 4]) -> [__m512i; 4] {
    let text = load_piece(packet, at);
    let fours = packet[at..at + PIECE].as_chunks_mut().0.as_chunks_mut().0;
    let mut result = stream;
    for ((four, text), result) in fours.iter_mut().zip(text).zip(&mut result) {
        *result = _mm512_xor_si512(*result, text);
        store_512(four, *result);
    }
    result
}

/// GHASH over additional data, text and their lengths (NIST SP 800-38D section 7.1, steps 5 and 6).
struct Hash<'a> {
    keys: &'a GcmKeys,
    /// The additional data, to go before the text.
    header: __m512i,
    lengths: __m512i,
    /// Blocks there are, with block 0 and that of the lengths.
    blocks: usize,
    /// The hash so far, byte-reversed.
    y: __m128i,
}

impl<'a> Hash<'a> {
    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    fn new(keys: &'a GcmKeys, packet: &[u8]) -> Self {
        let end = packet.len() - GCM_ICV_LEN;
        let bits = (end - TEXT) as u64 * 8;
        Self {
            keys,
            // SAFETY: the mask leaves the header.
            header: unsafe { _mm512_maskz_loadu_epi8(leading(HEADER_LEN), packet.as_ptr().cast()) },
            lengths: _mm512_broadcast_i32x4(_mm_set_epi64x(HEADER_BITS, bits.cast_signed())),
            blocks: end.div_ceil(16) + 1,
            y: _mm_setzero_si128(),
        }
    }

    /// Takes in a full piece that is not the last.
    #[target_feature(enable = "avx512f,avx512bw,vpclmulqdq,pclmulqdq")]
    #[inline]
    fn add_piece(&mut self, text: [__m512i; 4]) {
        let mut sum = Sum::zero();
        // What depends on the piece before comes last.
        for i in [1, 2, 3, 0] {
            self.add_register(i, text[i], &mut sum);
        }
        self.y = sum.reduce();
    }

    /// The same while the key stream of another piece is computed, which shares no result with it. Returns
    /// that.
    #[target_feature(enable = "avx512f,avx512bw,vaes,vpclmulqdq,pclmulqdq")]
    #[inline]
    fn add_beside_key_stream<const ROUNDS: usize>(
        &mut self,
        text: [__m512i; 4],
        counter: __m128i,
    ) -> [__m512i; 4] {
        let mut sum = Sum::zero();
        let mut s = counters(self.keys, counter);
        for round in 1..ROUNDS {
            aes_round(self.keys, round, &mut s);
            match round {
                2 => self.add_register(1, text[1], &mut sum),
                4 => self.add_register(2, text[2], &mut sum),
                6 => self.add_register(3, text[3], &mut sum),
                8 => self.add_register(0, text[0], &mut sum),
                _ => {}
            }
        }
        self.y = sum.reduce();
        s.map(|s| _mm512_aesenclast_epi128(s, round_key(self.keys, ROUNDS)))
    }

    /// Multiplies the `i`-th register of a full piece.
    #[target_feature(enable = "avx512f,avx512bw,vpclmulqdq")]
    #[inline]
    fn add_register(&self, i: usize, text: __m512i, sum: &mut Sum) {
        let mut text = _mm512_shuffle_epi8(text, _mm512_broadcast_i32x4(reverse_order()));
        if i == 0 {
            text = _mm512_xor_si512(text, _mm512_zextsi128_si512(self.y));
        }
        sum.add(text, load_512(&self.keys.powers, i));
    }

    /// Takes in the last piece, which begins with byte `at` of the packet, and the lengths.
    #[target_feature(enable = "avx512f,avx512bw,vpclmulqdq,pclmulqdq")]
    #[inline]
    fn add_last<const V: usize>(&mut self, at: usize, mut text: [__m512i; V]) {
        let reverse = _mm512_broadcast_i32x4(reverse_order());
        if at == 0 {
            text[0] = _mm512_or_si512(text[0], self.header);
        }
        // With the lengths; one more than there are powers if the piece is full.
        let left = self.blocks - at / 16;
        let group = left.min(POWERS);
        let mut sum = Sum::zero();
        let mut carried = _mm512_zextsi128_si512(self.y);
        for (i, text) in text.into_iter().enumerate() {
            let mut text = _mm512_xor_si512(_mm512_shuffle_epi8(text, reverse), carried);
            carried = _mm512_setzero_si512();
            // The lengths come last, if there is room for them in this register.
            if left - 4 * i <= 4 {
                text = _mm512_mask_mov_epi64(text, 0b11 << (2 * (left - 4 * i - 1)), self.lengths);
            }
            sum.add(text, self.powers(group - 4 * i));
        }
        if left == 4 * V + 1 && left <= POWERS {
            sum.add(self.lengths, self.powers(1));
        }
        self.y = sum.reduce();
        if left > POWERS {
            let mut sum = Sum::zero();
            sum.add(_mm512_xor_si512(self.lengths, _mm512_zextsi128_si512(self.y)), self.powers(1));
            self.y = sum.reduce();
        }
    }

    /// H to the powers `first` and below, with zeros after the first power.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn powers(&self, first: usize) -> __m512i {
        let present = 0xff_u8 >> (8 - 2 * first.min(4));
        // SAFETY: the mask leaves only powers that there are.
        unsafe { _mm512_maskz_loadu_epi64(present, self.keys.powers[POWERS - first..].as_ptr().cast()) }
    }

    #[target_feature(enable = "ssse3")]
    #[inline]
    fn finish(&self) -> __m128i {
        _mm_shuffle_epi8(self.y, reverse_order())
    }
}

/// Four sums of unreduced products.
struct Sum {
    low: __m512i,
    middle: __m512i,
    high: __m512i,
}

impl Sum {
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn zero() -> Self {
        let zero = _mm512_setzero_si512();
        Self { low: zero, middle: zero, high: zero }
    }

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
