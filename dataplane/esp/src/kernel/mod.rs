//! The cryptography behind [`seal`](crate::seal) and [`open`](crate::open), on lanes: one lane is one
//! packet with the expanded keys of its SA. The lanes of a call are all of one suite, and of any
//! lengths and keys.

mod cbc;
mod gcm;
mod hmac;
mod portable;
mod select;
#[expect(unsafe_code, reason = "vector instructions and loads")]
mod x86;

pub(crate) use cbc::{
    CbcDecryptKeys, CbcDecryptLane, CbcEncryptKeys, CbcEncryptLane, cbc_decrypt, cbc_encrypt,
};
pub(crate) use gcm::GcmKeys;
pub(crate) use hmac::{MacKeys, MacLane, Tag};
pub use select::Kernel;
pub use x86::prefetch;
pub(crate) use x86::prefetch_packet;

use x86::prefetch_part;

use crate::keys::{CipherKey, KeyMaterial};
use crate::suite::{Algorithms, CbcCipher, Suite};

/// Expanded keys of an SA; `C` are those of its CBC cipher in its direction.
#[expect(clippy::large_enum_variant, reason = "what is used per packet lies in the SA")]
pub(crate) enum Keys<C> {
    EncryptThenMac(C, MacKeys),
    Aead(GcmKeys),
    #[cfg(feature = "null-cipher")]
    Null,
}

/// Expanded keys of an outbound SA.
pub(crate) type SealKeys = Keys<CbcEncryptKeys>;

/// Expanded keys of an inbound SA.
pub(crate) type OpenKeys = Keys<CbcDecryptKeys>;

impl SealKeys {
    pub(crate) fn for_sealing(kernel: Kernel, material: &KeyMaterial) -> Self {
        Self::expand(kernel, material, CbcEncryptKeys::new)
    }
}

impl OpenKeys {
    pub(crate) fn for_opening(kernel: Kernel, material: &KeyMaterial) -> Self {
        Self::expand(kernel, material, CbcDecryptKeys::new)
    }
}

impl<C> Keys<C> {
    fn expand(kernel: Kernel, material: &KeyMaterial, cbc: fn(Kernel, CbcCipher, &CipherKey) -> C) -> Self {
        let key = material.cipher();
        match material.suite().algorithms() {
            Algorithms::EncryptThenMac(cipher, integrity) => {
                Self::EncryptThenMac(cbc(kernel, cipher, key), MacKeys::new(integrity, material.integrity()))
            }
            Algorithms::Aead(cipher) => Self::Aead(GcmKeys::new(kernel, cipher, key)),
            #[cfg(feature = "null-cipher")]
            Algorithms::Null => Self::Null,
        }
    }

    /// Asks for the cache lines that a packet of `suite` and so many bytes needs. The suite is not read from
    /// the keys themselves, which would be to wait for them.
    #[inline]
    pub(crate) fn prefetch(&self, suite: Suite, packet_len: usize) {
        match suite.algorithms() {
            Algorithms::EncryptThenMac(_, integrity) => {
                prefetch(self, size_of::<C>() + MacKeys::len(integrity));
                // What tells the variants apart is where the largest one has room for it.
                prefetch_part(self, size_of::<Self>() - 1..size_of::<Self>());
            }
            Algorithms::Aead(_) => prefetch_part(self, x86::GcmKeys::needed(packet_len)),
            #[cfg(feature = "null-cipher")]
            Algorithms::Null => {}
        }
    }

    /// Of a CBC suite.
    pub(crate) fn cbc(&self) -> Option<(&C, &MacKeys)> {
        match self {
            Self::EncryptThenMac(cbc, mac) => Some((cbc, mac)),
            _ => None,
        }
    }

    /// Of an AEAD suite.
    pub(crate) fn gcm(&self) -> Option<&GcmKeys> {
        match self {
            Self::Aead(keys) => Some(keys),
            _ => None,
        }
    }
}

/// Computes the tags. All lanes are for one integrity algorithm.
pub(crate) fn mac(kernel: Kernel, lanes: &mut [MacLane<'_>]) {
    if kernel.sha.is_some_and(|unit| unit.hmac(lanes)) {
        return;
    }
    for lane in lanes {
        lane.tag = lane.keys.tag(lane.data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Key schedule and SHA-1 states of a packet lie in five cache lines in one piece, those of AES-GCM
    /// in eight, with no room lost on tags.
    #[test]
    fn keys_are_compact() {
        assert_eq!(size_of::<CbcEncryptKeys>(), 256);
        assert_eq!(size_of::<CbcDecryptKeys>(), 256);
        assert_eq!(size_of::<GcmKeys>(), 512);
        assert_eq!(size_of::<SealKeys>(), 512);
    }
}
