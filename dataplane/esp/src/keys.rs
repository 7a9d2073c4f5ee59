//! Keying material as IKE derives it.

use des::weak_key_test;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::suite::{Cipher, Suite};

/// A cipher's key, with the salt of an AEAD, from the first byte on.
pub(crate) type CipherKey = [u8; MAX_CIPHER_KEY];

const MAX_CIPHER_KEY: usize = 36;
const MAX_INTEGRITY_KEY: usize = 64;

/// The keys of one SA, checked against its suite. Wiped on drop and never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct KeyMaterial {
    #[zeroize(skip)]
    suite: Suite,
    cipher: CipherKey,
    integrity: [u8; MAX_INTEGRITY_KEY],
}

/// Keys that no SA may be built from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// A key is not as long as the suite wants it.
    #[error("key of the wrong length for {0}")]
    Length(Suite),
    /// A 3DES key with a weak or semi-weak part, or with two equal parts (RFC 2451 section 2.3).
    #[error("weak 3DES key")]
    Weak,
}

impl KeyMaterial {
    /// Takes the cipher's key (with the salt after it for AES-GCM) and the integrity key (empty for
    /// an AEAD).
    ///
    /// # Errors
    /// [`KeyError::Length`] unless they are [`Suite::cipher_key_len`] and
    /// [`Suite::integrity_key_len`] bytes; [`KeyError::Weak`] for a weak 3DES key.
    pub fn new(suite: Suite, cipher: &[u8], integrity: &[u8]) -> Result<Self, KeyError> {
        if cipher.len() != suite.cipher_key_len() || integrity.len() != suite.integrity_key_len() {
            return Err(KeyError::Length(suite));
        }
        if suite.cipher() == Cipher::TripleDesCbc && is_weak_3des(cipher) {
            return Err(KeyError::Weak);
        }
        let mut keys = Self { suite, cipher: [0; MAX_CIPHER_KEY], integrity: [0; MAX_INTEGRITY_KEY] };
        keys.cipher[..cipher.len()].copy_from_slice(cipher);
        keys.integrity[..integrity.len()].copy_from_slice(integrity);
        Ok(keys)
    }

    /// Cuts KEYMAT (RFC 2409 section 5.5): the cipher's key first, then the integrity key
    /// (RFC 4303 section 5, RFC 4106 section 8.1). It must be exactly as long as both together.
    ///
    /// # Errors
    /// As [`KeyMaterial::new`].
    pub fn from_keymat(suite: Suite, keymat: &[u8]) -> Result<Self, KeyError> {
        match keymat.split_at_checked(suite.cipher_key_len()) {
            Some((cipher, integrity)) => Self::new(suite, cipher, integrity),
            None => Err(KeyError::Length(suite)),
        }
    }

    /// The suite these keys are for.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// The cipher's key, with the salt of an AEAD.
    pub(crate) fn cipher(&self) -> &CipherKey {
        &self.cipher
    }

    /// The integrity key.
    pub(crate) fn integrity(&self) -> &[u8] {
        &self.integrity[..self.suite.integrity_key_len()]
    }
}

/// The lowest bit of each byte of a DES key is not part of the key, so it is set to odd parity, which
/// the list of weak keys has, before the comparison.
fn is_weak_3des(key: &[u8]) -> bool {
    let mut canonical = [0; 24];
    for (byte, &k) in canonical.iter_mut().zip(key) {
        *byte = (k & 0xfe) | u8::from((k & 0xfe).count_ones() % 2 == 0);
    }
    let weak = weak_key_test(&canonical).is_err();
    canonical.zeroize();
    weak
}

/// Sixteen random bytes, drawn freshly for every outbound SA, that its IVs come from.
///
/// The IV of packet `n` starts as `seed XOR n`. AES-GCM sends that: it never repeats while the
/// sequence number does not (RFC 4106 section 3.1). A CBC suite encrypts it under the SA's key as the
/// first block of the packet, which makes the IV unpredictable and of full width
/// (NIST SP 800-38A appendix C); that no plaintext block can be chosen to meet the same cipher input
/// is what the seed is secret for. Wiped on drop.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct IvSeed([u8; 16]);

impl IvSeed {
    /// Wraps bytes from a cryptographic random generator.
    pub fn new(random: [u8; 16]) -> Self {
        Self(random)
    }

    /// The block that packet `sequence` starts from; distinct for distinct sequence numbers in its
    /// first eight bytes already.
    #[inline]
    pub(crate) fn block(&self, sequence: u32) -> [u8; 16] {
        let mut block = self.0;
        for (byte, n) in block[4..8].iter_mut().zip(sequence.to_be_bytes()) {
            *byte ^= n;
        }
        block
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suite(name: &str) -> Suite {
        name.parse().unwrap()
    }

    #[test]
    fn lengths_are_checked() {
        for suite in Suite::all() {
            let (c, i) = (suite.cipher_key_len(), suite.integrity_key_len());
            let bytes: Vec<u8> = (1..=c + i + 1).map(|n| u8::try_from(n).unwrap()).collect();
            assert!(KeyMaterial::new(suite, &bytes[..c], &bytes[c..c + i]).is_ok(), "{suite}");
            for (c, i) in [(c - 1, i), (c + 1, i), (c, i + 1), (0, 0)] {
                let keys = KeyMaterial::new(suite, &bytes[..c], &bytes[..i]);
                assert!(matches!(keys, Err(KeyError::Length(s)) if s == suite), "{suite} {c} {i}");
            }
            for len in 0..=bytes.len() {
                assert_eq!(
                    KeyMaterial::from_keymat(suite, &bytes[..len]).is_ok(),
                    len == c + i,
                    "{suite} {len}"
                );
            }
        }
    }

    #[test]
    fn keymat_is_cipher_key_then_integrity_key() {
        let keymat: Vec<u8> = (0..52).collect();
        let keys = KeyMaterial::from_keymat(suite("aes256-sha1"), &keymat).unwrap();
        assert_eq!((&keys.cipher()[..32], keys.integrity()), (&keymat[..32], &keymat[32..]));
    }

    #[test]
    fn weak_3des_keys_are_refused_whatever_their_parity() {
        let strong: [u8; 24] = *b"a key of 24 odd bytes ab";
        let accepts = |key: &[u8; 24]| KeyMaterial::new(suite("3des-md5"), key, &[7; 16]).is_ok();
        assert!(accepts(&strong));
        for part in 0..3 {
            for weak in [[0x01; 8], [0xfe; 8], [0x1f, 0xe0, 0x1f, 0xe0, 0x0e, 0xf1, 0x0e, 0xf1]] {
                let mut key = strong;
                key[part * 8..][..8].copy_from_slice(&weak);
                assert!(!accepts(&key));
                key.iter_mut().for_each(|b| *b ^= 1);
                assert!(!accepts(&key), "parity bits do not make a key strong");
            }
        }
        for (from, to) in [(0, 1), (1, 2), (0, 2)] {
            let mut key = strong;
            key.copy_within(from * 8..from * 8 + 8, to * 8);
            assert!(!accepts(&key), "equal parts");
            key[to * 8] ^= 1;
            assert!(!accepts(&key), "equal parts but for parity");
        }
    }

    #[test]
    fn iv_blocks_differ_in_their_first_half() {
        let seed = IvSeed::new([0x5a; 16]);
        let blocks: std::collections::BTreeSet<_> =
            [0, 1, 2, 255, 256, 0x1_0000, u32::MAX].map(|n| seed.block(n)[..8].to_vec()).into();
        assert_eq!(blocks.len(), 7);
    }
}
