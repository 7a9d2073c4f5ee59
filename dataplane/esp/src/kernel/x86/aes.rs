//! AES key schedules (FIPS 197 section 5.2) as the round instructions want them.

use std::arch::x86_64::{
    __m128i, _mm_aesenc_si128, _mm_aesenclast_si128, _mm_aesimc_si128, _mm_aeskeygenassist_si128,
    _mm_cvtsi32_si128, _mm_cvtsi128_si32, _mm_shuffle_epi32, _mm_xor_si128,
};

use zeroize::Zeroize;

use super::{Block, load, store};

/// Round keys of AES-256; shorter keys have fewer.
pub(crate) const ROUND_KEYS: usize = 15;

/// Round keys in the order they are used, four cache lines in one piece, with a little of something
/// else in the room that is left.
#[repr(C, align(64))]
pub(crate) struct Schedule<T> {
    round_keys: [Block; ROUND_KEYS],
    pub(super) rounds: Rounds,
    pub(super) with: T,
}

/// Of few values, so that what contains a schedule finds room for its own tag here.
#[derive(Clone, Copy)]
pub(super) enum Rounds {
    Aes128 = 10,
    Aes192 = 12,
    Aes256 = 14,
}

impl<T> Schedule<T> {
    /// For encryption, from a key of 16, 24 or 32 bytes. Needs AES-NI.
    #[target_feature(enable = "aes")]
    pub(crate) fn encrypting(key: &[u8], with: T) -> Self {
        let words = key.len() / 4;
        let rounds = match words {
            4 => Rounds::Aes128,
            6 => Rounds::Aes192,
            _ => Rounds::Aes256,
        };
        let mut w = [0u32; ROUND_KEYS * 4];
        for (word, bytes) in w.iter_mut().zip(key.as_chunks().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        let mut rcon: u32 = 1;
        for i in words..(rounds as usize + 1) * 4 {
            let mut t = w[i - 1];
            if i % words == 0 {
                t = substitute(t).rotate_right(8) ^ rcon;
                rcon = (rcon << 1) ^ ((rcon >> 7) * 0x11b);
            } else if words > 6 && i % words == 4 {
                t = substitute(t);
            }
            w[i] = w[i - words] ^ t;
        }
        let mut round_keys = [[0; 16]; ROUND_KEYS];
        for (bytes, word) in round_keys.as_flattened_mut().as_chunks_mut().0.iter_mut().zip(w) {
            *bytes = word.to_le_bytes();
        }
        w.zeroize();
        Self { round_keys, rounds, with }
    }

    /// For decryption by the equivalent inverse cipher (FIPS 197 section 5.3.5). Needs AES-NI.
    #[target_feature(enable = "aes")]
    pub(crate) fn decrypting(key: &[u8], with: T) -> Self {
        let mut schedule = Self::encrypting(key, with);
        let rounds = schedule.rounds();
        schedule.round_keys[..=rounds].reverse();
        for round_key in &mut schedule.round_keys[1..rounds] {
            let mixed = _mm_aesimc_si128(load(round_key));
            store(round_key, mixed);
        }
        schedule
    }

    /// All of them; those after the last that is used are zero.
    #[inline]
    pub(crate) fn round_keys(&self) -> &[Block; ROUND_KEYS] {
        &self.round_keys
    }

    /// 10, 12 or 14.
    #[inline]
    pub(crate) fn rounds(&self) -> usize {
        self.rounds as usize
    }

    /// Those before the last that is used, and that one.
    #[inline]
    pub(crate) fn split(&self) -> (&[Block], &Block) {
        (&self.round_keys[..self.rounds()], &self.round_keys[self.rounds()])
    }

    /// Encrypts one block under an encrypting schedule. Needs AES-NI.
    #[target_feature(enable = "aes")]
    #[inline]
    pub(crate) fn encrypt(&self, block: __m128i) -> __m128i {
        let (keys, last) = self.split();
        let mut s = _mm_xor_si128(block, load(&keys[0]));
        for round_key in &keys[1..] {
            s = _mm_aesenc_si128(s, load(round_key));
        }
        _mm_aesenclast_si128(s, load(last))
    }
}

impl<T> Drop for Schedule<T> {
    fn drop(&mut self) {
        self.round_keys.zeroize();
    }
}

/// The S-box on each byte of a word, in constant time.
#[target_feature(enable = "aes")]
fn substitute(word: u32) -> u32 {
    let spread = _mm_shuffle_epi32::<0>(_mm_cvtsi32_si128(word.cast_signed()));
    _mm_cvtsi128_si32(_mm_aeskeygenassist_si128::<0>(spread)).cast_unsigned()
}
