//! The cryptography behind [`seal`](crate::seal) and [`open`](crate::open), on lanes: one lane is one
//! packet with the expanded keys of its SA. The lanes of a call are all of one suite, and of any
//! lengths and keys.

mod cbc;
mod hmac;
mod portable;
mod select;
#[expect(unsafe_code, reason = "vector instructions and loads")]
mod x86;

pub(crate) use cbc::{
    CbcDecryptKeys, CbcDecryptLane, CbcEncryptKeys, CbcEncryptLane, cbc_decrypt, cbc_encrypt,
};
pub(crate) use hmac::{MacKeys, MacLane, TAG_MAX};
pub(crate) use portable::GcmKeys;
pub use select::Kernel;
pub(crate) use x86::prefetch;

use crate::keys::{CipherKey, KeyMaterial};
use crate::suite::{Algorithms, CbcCipher};

/// Expanded keys of an SA; `C` are those of its CBC cipher in its direction.
pub(crate) enum Keys<C> {
    EncryptThenMac(C, MacKeys),
    Aead(GcmKeys),
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
            Algorithms::Aead(cipher) => Self::Aead(GcmKeys::new(cipher, key)),
        }
    }

    /// Of a CBC suite.
    pub(crate) fn cbc(&self) -> Option<(&C, &MacKeys)> {
        match self {
            Self::EncryptThenMac(cbc, mac) => Some((cbc, mac)),
            Self::Aead(_) => None,
        }
    }

    /// Of an AEAD suite.
    pub(crate) fn gcm(&self) -> Option<&GcmKeys> {
        match self {
            Self::Aead(keys) => Some(keys),
            Self::EncryptThenMac(..) => None,
        }
    }
}

/// One packet to seal under AES-GCM.
pub(crate) struct GcmSealLane<'a> {
    pub(crate) keys: &'a GcmKeys,
    /// From the ESP header to the end of the ICV.
    pub(crate) packet: &'a mut [u8],
}

/// One packet to open under AES-GCM.
pub(crate) struct GcmOpenLane<'a> {
    pub(crate) keys: &'a GcmKeys,
    /// From the ESP header to the end of the ICV; decrypted only if authentic.
    pub(crate) packet: &'a mut [u8],
    /// Set if the ICV is right.
    pub(crate) authentic: bool,
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

/// Encrypts in place and writes the ICVs.
pub(crate) fn gcm_seal(lanes: &mut [GcmSealLane<'_>]) {
    for lane in lanes {
        lane.keys.seal(lane.packet);
    }
}

/// Checks the ICVs, and then decrypts the authentic packets in place.
pub(crate) fn gcm_open(lanes: &mut [GcmOpenLane<'_>]) {
    for lane in lanes {
        lane.authentic = lane.keys.open(lane.packet);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Key schedule and SHA-1 states of a packet lie in five cache lines in one piece.
    #[test]
    fn keys_are_compact() {
        assert_eq!(size_of::<CbcEncryptKeys>(), 256);
        assert_eq!(size_of::<CbcDecryptKeys>(), 256);
        assert!(size_of::<SealKeys>() <= 448, "{}", size_of::<SealKeys>());
    }
}
