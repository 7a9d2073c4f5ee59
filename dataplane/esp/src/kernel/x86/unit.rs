//! Proofs that the CPU has what a kernel needs.

use super::gcm::GcmKeys;
use super::hmac::tags;
use super::sha_ni::{self, LANES};
use super::{Schedule, cbc, gcm};
use crate::kernel::{MacKeys, MacLane};
use crate::suite::GCM_SALT_LEN;

/// What AES runs on. A value of it exists only where the CPU can do that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AesUnit {
    /// 128-bit registers: AES-NI and AVX.
    AesNi,
    /// 256-bit registers: VAES, VPCLMULQDQ and AVX2.
    Vaes256,
    /// 512-bit registers: VAES, VPCLMULQDQ and AVX-512.
    Vaes512,
}

impl AesUnit {
    /// Those of this CPU, the fastest last.
    pub(crate) fn available() -> impl Iterator<Item = Self> {
        let aes = is_x86_feature_detected!("aes") && is_x86_feature_detected!("avx");
        let clmul = is_x86_feature_detected!("pclmulqdq") && is_x86_feature_detected!("vpclmulqdq");
        let vaes = aes && clmul && is_x86_feature_detected!("vaes");
        let avx512 = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
        [
            aes.then_some(Self::AesNi),
            (vaes && is_x86_feature_detected!("avx2")).then_some(Self::Vaes256),
            (vaes && avx512).then_some(Self::Vaes512),
        ]
        .into_iter()
        .flatten()
    }

    /// Expands a key of 16, 24 or 32 bytes for encryption.
    pub(crate) fn encrypting(self, key: &[u8]) -> Schedule {
        // SAFETY: every unit has AES-NI.
        unsafe { Schedule::encrypting(key) }
    }

    /// Expands a key of 16, 24 or 32 bytes for decryption.
    pub(crate) fn decrypting(self, key: &[u8]) -> Schedule {
        // SAFETY: every unit has AES-NI.
        unsafe { Schedule::decrypting(key) }
    }

    /// Encrypts whole packets in place, chained from a block of zeros. The keys are of one length.
    pub(crate) fn cbc_encrypt(self, jobs: &mut [cbc::Job<'_>]) {
        // SAFETY: the unit has the features that its kernel is for.
        unsafe {
            match self {
                Self::AesNi => cbc::encrypt_128(jobs),
                Self::Vaes256 => cbc::encrypt_256(jobs),
                Self::Vaes512 => cbc::encrypt_512(jobs),
            }
        }
    }

    /// Decrypts whole packets in place; the first block of each is the IV.
    pub(crate) fn cbc_decrypt(self, jobs: &mut [cbc::Job<'_>]) {
        // SAFETY: the unit has the features that its kernel is for.
        unsafe {
            match self {
                Self::AesNi => cbc::decrypt_128(jobs),
                Self::Vaes256 => cbc::decrypt_256(jobs),
                Self::Vaes512 => cbc::decrypt_512(jobs),
            }
        }
    }
}

/// AES-GCM keys together with the proof that there are instructions for them.
pub(crate) struct WideGcm(GcmKeys);

impl AesUnit {
    /// Expands an AES-GCM key of 16 or 32 bytes, if this unit has a kernel for that.
    pub(crate) fn gcm_keys(self, key: &[u8], salt: [u8; GCM_SALT_LEN]) -> Option<WideGcm> {
        // SAFETY: the unit has carry-less multiplication, and with it SSSE3.
        (self == Self::Vaes512).then(|| WideGcm(unsafe { GcmKeys::new(key, salt) }))
    }
}

impl WideGcm {
    /// Encrypts a packet in place and writes its ICV.
    pub(crate) fn seal(&self, packet: &mut [u8]) {
        // SAFETY: such keys are made only where the CPU has the features.
        unsafe { gcm::seal_512(&self.0, packet) }
    }

    /// Whether the ICV of a packet is right.
    pub(crate) fn verify(&self, packet: &[u8]) -> bool {
        // SAFETY: such keys are made only where the CPU has the features.
        unsafe { gcm::verify_512(&self.0, packet) }
    }

    /// Decrypts a packet in place.
    pub(crate) fn decrypt(&self, packet: &mut [u8]) {
        // SAFETY: such keys are made only where the CPU has the features.
        unsafe { gcm::crypt_512(&self.0, packet) };
    }
}

/// What HMAC runs on. A value of it exists only where the CPU can do that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ShaUnit {
    /// The SHA extensions.
    ShaNi,
}

impl ShaUnit {
    /// Those of this CPU, the fastest last.
    pub(crate) fn available() -> impl Iterator<Item = Self> {
        let sha = is_x86_feature_detected!("sha")
            && is_x86_feature_detected!("ssse3")
            && is_x86_feature_detected!("sse4.1");
        sha.then_some(Self::ShaNi).into_iter()
    }

    /// Computes the tags of jobs that are all for one hash; `false` if it is none of this unit's.
    pub(crate) fn hmac(self, jobs: &mut [MacLane<'_>]) -> bool {
        // SAFETY: the unit has the features that its kernel is for.
        unsafe {
            match jobs.first().map(|job| job.keys) {
                Some(MacKeys::Sha1(_)) => tags::<sha_ni::Sha1, LANES>(jobs),
                Some(MacKeys::Sha256(_)) => tags::<sha_ni::Sha256, LANES>(jobs),
                _ => return false,
            }
        }
        true
    }
}
