//! The cryptography behind [`seal`](crate::seal) and [`open`](crate::open), on lanes: one lane is one
//! packet with the expanded keys of its SA. The lanes of a call are all of one suite, and of any
//! lengths and keys.

mod hmac;
mod portable;

pub(crate) use hmac::{MacKeys, MacLane, TAG_MAX};
pub(crate) use portable::{CbcDecryptKeys, CbcEncryptKeys, GcmKeys};

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
    pub(crate) fn for_sealing(material: &KeyMaterial) -> Self {
        Self::expand(material, CbcEncryptKeys::new)
    }
}

impl OpenKeys {
    pub(crate) fn for_opening(material: &KeyMaterial) -> Self {
        Self::expand(material, CbcDecryptKeys::new)
    }
}

impl<C> Keys<C> {
    fn expand(material: &KeyMaterial, cbc: fn(CbcCipher, &CipherKey) -> C) -> Self {
        let key = material.cipher();
        match material.suite().algorithms() {
            Algorithms::EncryptThenMac(cipher, integrity) => {
                Self::EncryptThenMac(cbc(cipher, key), MacKeys::new(integrity, material.integrity()))
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

/// One packet to encrypt under a CBC suite.
pub(crate) struct CbcEncryptLane<'a> {
    pub(crate) keys: &'a CbcEncryptKeys,
    /// IV and plaintext, whole blocks. All is encrypted, chained from a block of zeros: so the IV
    /// becomes the encryption of what stands in its place.
    pub(crate) blocks: &'a mut [u8],
}

/// One packet to decrypt under a CBC suite.
pub(crate) struct CbcDecryptLane<'a> {
    pub(crate) keys: &'a CbcDecryptKeys,
    /// IV and ciphertext, whole blocks. What the IV becomes is of no meaning.
    pub(crate) blocks: &'a mut [u8],
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

/// Encrypts in place.
pub(crate) fn cbc_encrypt(lanes: &mut [CbcEncryptLane<'_>]) {
    for lane in lanes {
        lane.keys.encrypt(lane.blocks);
    }
}

/// Decrypts in place.
pub(crate) fn cbc_decrypt(lanes: &mut [CbcDecryptLane<'_>]) {
    for lane in lanes {
        lane.keys.decrypt(lane.blocks);
    }
}

/// Computes the tags.
pub(crate) fn mac(lanes: &mut [MacLane<'_>]) {
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
