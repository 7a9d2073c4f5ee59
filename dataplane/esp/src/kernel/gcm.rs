//! AES-GCM on whichever kernel the keys were expanded for.

use arrayvec::ArrayVec;

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
    /// Bytes from the beginning of the keys on that are needed for a packet of so many bytes.
    pub(crate) const fn len(packet_len: usize) -> usize {
        x86::GcmKeys::len(packet_len)
    }

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
}

/// Packets that are encrypted before their tags are computed. Long enough for what was stored to be
/// readable again without waiting, short enough to be still in the nearest cache.
const RUN: usize = 8;

/// Encrypts in place and writes the ICVs.
pub(crate) fn gcm_seal(lanes: &mut [GcmSealLane<'_>]) {
    for run in lanes.chunks_mut(RUN) {
        let mut masks = ArrayVec::<_, RUN>::new();
        for lane in &mut *run {
            match lane.keys {
                GcmKeys::Portable(keys) => keys.seal(lane.packet),
                GcmKeys::Wide(keys) => masks.push(keys.crypt(lane.packet)),
            }
        }
        let wide = run.iter_mut().filter_map(|lane| match lane.keys {
            GcmKeys::Portable(_) => None,
            GcmKeys::Wide(keys) => Some((keys, &mut *lane.packet)),
        });
        for ((keys, packet), mask) in wide.zip(masks) {
            keys.write_icv(packet, mask);
        }
    }
}

/// Checks the ICVs, and then decrypts the authentic packets in place.
pub(crate) fn gcm_open(lanes: &mut [GcmOpenLane<'_>]) {
    for run in lanes.chunks_mut(RUN) {
        for lane in &mut *run {
            lane.authentic = match lane.keys {
                GcmKeys::Portable(keys) => keys.open(lane.packet),
                GcmKeys::Wide(keys) => keys.verify(lane.packet),
            };
        }
        for lane in run.iter_mut().filter(|lane| lane.authentic) {
            if let GcmKeys::Wide(keys) = lane.keys {
                keys.crypt(lane.packet);
            }
        }
    }
}
