//! AES-GCM on whichever kernel the keys were expanded for.

use super::x86::{self, AesUnit};
use super::{Kernel, portable};
use crate::keys::CipherKey;
use crate::suite::GcmCipher;

/// An AES-GCM key, expanded, with its salt.
#[expect(clippy::large_enum_variant, reason = "the large one is the fast one: it lies in the SA")]
pub(crate) enum GcmKeys {
    Portable(portable::GcmKeys),
    Wide(x86::GcmKeys),
}

impl GcmKeys {
    pub(crate) fn new(kernel: Kernel, cipher: GcmCipher, key: &CipherKey) -> Self {
        let key_len = match cipher {
            GcmCipher::Aes128 => 16,
            GcmCipher::Aes256 => 32,
        };
        let salt = std::array::from_fn(|i| key[key_len + i]);
        match kernel.aes.and_then(AesUnit::gcm) {
            Some(unit) => Self::Wide(unit.keys(&key[..key_len], salt)),
            None => Self::Portable(portable::GcmKeys::new(cipher, key)),
        }
    }

    /// Encrypts a packet, from the ESP header to the end of the ICV, in place and writes its ICV.
    #[inline]
    pub(crate) fn seal(&self, packet: &mut [u8]) {
        match self {
            Self::Portable(keys) => keys.seal(packet),
            Self::Wide(keys) => keys.seal(packet),
        }
    }

    /// Checks the ICV of a packet, in constant time, and decrypts it in place if that is right.
    #[inline]
    pub(crate) fn open(&self, packet: &mut [u8]) -> bool {
        match self {
            Self::Portable(keys) => keys.open(packet),
            Self::Wide(keys) => keys.open(packet),
        }
    }
}
