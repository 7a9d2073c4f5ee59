//! AES-GCM on whichever kernel the keys were expanded for.

use super::x86;
use super::{Kernel, portable};
use crate::keys::CipherKey;
use crate::suite::GcmCipher;

/// An AES-GCM key, expanded, with its salt.
#[expect(clippy::large_enum_variant, reason = "the large one is the fast one: it lies in the SA")]
pub(crate) enum GcmKeys {
    Portable(portable::GcmKeys),
    Wide(x86::WideGcm),
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

impl GcmKeys {
    pub(crate) fn new(kernel: Kernel, cipher: GcmCipher, key: &CipherKey) -> Self {
        let key_len = match cipher {
            GcmCipher::Aes128 => 16,
            GcmCipher::Aes256 => 32,
        };
        let salt = std::array::from_fn(|i| key[key_len + i]);
        match kernel.aes.and_then(|unit| unit.gcm_keys(&key[..key_len], salt)) {
            Some(keys) => Self::Wide(keys),
            None => Self::Portable(portable::GcmKeys::new(cipher, key)),
        }
    }
}

/// Encrypts in place and writes the ICVs.
pub(crate) fn gcm_seal(lanes: &mut [GcmSealLane<'_>]) {
    for lane in lanes {
        match lane.keys {
            GcmKeys::Portable(keys) => keys.seal(lane.packet),
            GcmKeys::Wide(keys) => keys.seal(lane.packet),
        }
    }
}

/// Checks the ICVs, and then decrypts the authentic packets in place.
pub(crate) fn gcm_open(lanes: &mut [GcmOpenLane<'_>]) {
    for lane in &mut *lanes {
        lane.authentic = match lane.keys {
            GcmKeys::Portable(keys) => keys.open(lane.packet),
            GcmKeys::Wide(keys) => keys.verify(lane.packet),
        };
    }
    for lane in lanes.iter_mut().filter(|lane| lane.authentic) {
        if let GcmKeys::Wide(keys) = lane.keys {
            keys.decrypt(lane.packet);
        }
    }
}
