//! CBC on whichever kernel the keys were expanded for.

use arrayvec::ArrayVec;

use super::x86::cbc_encryption::Job;
use super::x86::{self, AesUnit, DesSchedule, Schedule, des_512};
use super::{Kernel, portable};
use crate::burst::BURST;
use crate::keys::CipherKey;
use crate::suite::CbcCipher;

/// Key schedules for CBC encryption.
#[expect(clippy::large_enum_variant, reason = "the large one is the fast one: it lies in the SA")]
pub(crate) enum CbcEncryptKeys {
    Portable(portable::CbcEncryptKeys),
    Aes(Schedule<AesUnit>),
    TripleDes(Box<DesSchedule>),
}

/// Key schedules for CBC decryption.
#[expect(clippy::large_enum_variant, reason = "the large one is the fast one: it lies in the SA")]
pub(crate) enum CbcDecryptKeys {
    Portable(portable::CbcDecryptKeys),
    Aes(Schedule<AesUnit>),
    TripleDes(Box<DesSchedule>),
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

impl CbcEncryptKeys {
    pub(crate) fn new(kernel: Kernel, cipher: CbcCipher, key: &CipherKey) -> Self {
        let expanded = kernel.aes.and_then(|unit| match aes_key(cipher, key) {
            Some(key) => Some(Self::Aes(unit.encrypting(key))),
            None => unit.encrypting_des(&key[..24]).map(|schedule| Self::TripleDes(Box::new(schedule))),
        });
        expanded.unwrap_or_else(|| Self::Portable(portable::CbcEncryptKeys::new(cipher, key)))
    }
}

impl CbcDecryptKeys {
    pub(crate) fn new(kernel: Kernel, cipher: CbcCipher, key: &CipherKey) -> Self {
        let expanded = kernel.aes.and_then(|unit| match aes_key(cipher, key) {
            Some(key) => Some(Self::Aes(unit.decrypting(key))),
            None => unit.decrypting_des(&key[..24]).map(|schedule| Self::TripleDes(Box::new(schedule))),
        });
        expanded.unwrap_or_else(|| Self::Portable(portable::CbcDecryptKeys::new(cipher, key)))
    }
}

/// The key proper of AES; `None` for triple DES.
fn aes_key(cipher: CbcCipher, key: &CipherKey) -> Option<&[u8]> {
    match cipher {
        CbcCipher::Aes128 => Some(&key[..16]),
        CbcCipher::Aes192 => Some(&key[..24]),
        CbcCipher::Aes256 => Some(&key[..32]),
        CbcCipher::TripleDes => None,
    }
}

/// Encrypts in place. The keys of all lanes are of one length and for one kernel.
pub(crate) fn cbc_encrypt<'a>(lanes: impl Iterator<Item = CbcEncryptLane<'a>>) {
    let mut jobs = ArrayVec::<Job<'_>, BURST>::new();
    let mut des_jobs = ArrayVec::<des_512::Job<'_>, BURST>::new();
    for lane in lanes {
        match lane.keys {
            CbcEncryptKeys::Portable(keys) => keys.encrypt(lane.blocks),
            CbcEncryptKeys::Aes(schedule) => jobs.push((schedule, lane.blocks.as_chunks_mut().0)),
            CbcEncryptKeys::TripleDes(schedule) => des_jobs.push((schedule, lane.blocks.as_chunks_mut().0)),
        }
    }
    x86::cbc_encrypt(&mut jobs);
    x86::des_encrypt(&mut des_jobs);
}

/// Decrypts in place. The keys of all lanes are of one length and for one kernel.
pub(crate) fn cbc_decrypt<'a>(lanes: impl Iterator<Item = CbcDecryptLane<'a>>) {
    let mut jobs = ArrayVec::<Job<'_>, BURST>::new();
    let mut des_jobs = ArrayVec::<des_512::Job<'_>, BURST>::new();
    for lane in lanes {
        match lane.keys {
            CbcDecryptKeys::Portable(keys) => keys.decrypt(lane.blocks),
            CbcDecryptKeys::Aes(schedule) => jobs.push((schedule, lane.blocks.as_chunks_mut().0)),
            CbcDecryptKeys::TripleDes(schedule) => des_jobs.push((schedule, lane.blocks.as_chunks_mut().0)),
        }
    }
    x86::cbc_decrypt(&mut jobs);
    x86::des_decrypt(&mut des_jobs);
}
