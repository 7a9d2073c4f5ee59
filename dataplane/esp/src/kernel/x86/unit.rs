//! Proofs that the CPU has what a kernel needs.

use super::aes::Rounds;
use super::cbc_encryption::Job;
use super::gcm::GcmKeys;
use super::hmac::tags;
use super::{
    Schedule, cbc_decryption, cbc_encryption, des, des_512, gcm_256, gcm_512, md5_512, sha_ni, sha1_512,
};
use crate::kernel::{MacKeys, MacLane};
use crate::suite::GCM_SALT_LEN;

/// What ciphers run on: AES, and with the last triple DES. A value of it exists only where the CPU can do that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AesUnit {
    /// 128-bit registers: AES-NI and AVX.
    AesNi,
    /// 256-bit registers: VAES, VPCLMULQDQ and AVX2.
    Vaes256,
    /// 512-bit registers: VAES, VPCLMULQDQ, GFNI and AVX-512 with VBMI, which all came with one generation of CPUs.
    Vaes512,
}

impl AesUnit {
    /// Those of this CPU, the fastest last.
    pub(crate) fn available() -> impl Iterator<Item = Self> {
        let aes = is_x86_feature_detected!("aes") && is_x86_feature_detected!("avx");
        let clmul = is_x86_feature_detected!("pclmulqdq") && is_x86_feature_detected!("vpclmulqdq");
        let vaes = aes && clmul && is_x86_feature_detected!("vaes");
        let avx512 = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
        let bytes = is_x86_feature_detected!("avx512vbmi") && is_x86_feature_detected!("gfni");
        [
            aes.then_some(Self::AesNi),
            (vaes && is_x86_feature_detected!("avx2")).then_some(Self::Vaes256),
            (vaes && avx512 && bytes).then_some(Self::Vaes512),
        ]
        .into_iter()
        .flatten()
    }

    /// Expands a key of 16, 24 or 32 bytes for encryption.
    pub(crate) fn encrypting(self, key: &[u8]) -> Schedule<Self> {
        // SAFETY: every unit has AES-NI.
        unsafe { Schedule::encrypting(key, self) }
    }

    /// Expands a key of 16, 24 or 32 bytes for decryption.
    pub(crate) fn decrypting(self, key: &[u8]) -> Schedule<Self> {
        // SAFETY: every unit has AES-NI.
        unsafe { Schedule::decrypting(key, self) }
    }

    /// Expands a key of 24 bytes for encryption with triple DES; `None` if that is not for this unit.
    pub(crate) fn encrypting_des(self, key: &[u8]) -> Option<des::Schedule> {
        (self == Self::Vaes512).then(|| des::Schedule::encrypting(key))
    }

    /// The same for decryption.
    pub(crate) fn decrypting_des(self, key: &[u8]) -> Option<des::Schedule> {
        (self == Self::Vaes512).then(|| des::Schedule::decrypting(key))
    }

    /// The unit for AES-GCM that comes with this one.
    pub(crate) fn gcm(self) -> Option<GcmUnit> {
        match self {
            Self::AesNi => None,
            Self::Vaes256 => Some(GcmUnit::Vaes256),
            Self::Vaes512 => Some(GcmUnit::Vaes512),
        }
    }
}

/// Encrypts whole packets in place, chained from a block of zeros. The keys are of one length, and of
/// one unit.
pub(crate) fn cbc_encrypt(jobs: &mut [Job<'_>]) {
    let Some(Schedule { with: unit, rounds, .. }) = jobs.first().map(|job| job.0) else { return };
    // SAFETY: the unit has the features that its kernel is for.
    unsafe {
        match unit {
            AesUnit::AesNi => cbc_encryption::encrypt_128(jobs, *rounds),
            AesUnit::Vaes256 => cbc_encryption::encrypt_256(jobs, *rounds),
            AesUnit::Vaes512 => cbc_encryption::encrypt_512(jobs, *rounds),
        }
    }
}

/// Decrypts whole packets in place; the first block of each is the IV. The keys are of one unit.
pub(crate) fn cbc_decrypt(jobs: &mut [Job<'_>]) {
    let Some(unit) = jobs.first().map(|job| job.0.with) else { return };
    // SAFETY: the unit has the features that its kernel is for.
    unsafe {
        match unit {
            AesUnit::AesNi => cbc_decryption::decrypt_128(jobs),
            AesUnit::Vaes256 => cbc_decryption::decrypt_256(jobs),
            AesUnit::Vaes512 => cbc_decryption::decrypt_512(jobs),
        }
    }
}

/// Encrypts whole packets in place with triple DES, chained from a block of zeros.
pub(crate) fn des_encrypt(jobs: &mut [des_512::Job<'_>]) {
    if !jobs.is_empty() {
        // SAFETY: schedules are made by the unit that has the features of the kernel, and there is one.
        unsafe { des_512::encrypt(jobs) }
    }
}

/// Decrypts whole packets in place with triple DES; the first block of each is the IV.
pub(crate) fn des_decrypt(jobs: &mut [des_512::Job<'_>]) {
    if !jobs.is_empty() {
        // SAFETY: as for encryption.
        unsafe { des_512::decrypt(jobs) }
    }
}

/// What AES-GCM runs on. A value of it exists only where the CPU can do that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GcmUnit {
    /// 256-bit registers.
    Vaes256,
    /// 512-bit registers.
    Vaes512,
}

impl GcmUnit {
    /// Expands a key of 16 or 32 bytes.
    pub(crate) fn keys(self, key: &[u8], salt: [u8; GCM_SALT_LEN]) -> GcmKeys {
        // SAFETY: every unit has AES-NI and carry-less multiplication, and with them SSSE3.
        unsafe { GcmKeys::new(self, key, salt) }
    }
}

/// What is done with a packet, from the ESP header to the end of the ICV, on the unit that the keys were
/// expanded for.
impl GcmKeys {
    /// Encrypts it in place and writes its ICV.
    #[inline]
    pub(crate) fn seal(&self, packet: &mut [u8]) {
        // SAFETY: the unit has the features that its kernel is for.
        unsafe {
            match (self.schedule.with.unit, self.schedule.rounds) {
                (GcmUnit::Vaes256, _) => gcm_256::seal(self, packet),
                (GcmUnit::Vaes512, Rounds::Aes128) => gcm_512::seal::<10>(self, packet),
                (GcmUnit::Vaes512, _) => gcm_512::seal::<14>(self, packet),
            }
        }
    }

    /// Decrypts it in place if its ICV is right, and says so.
    #[inline]
    pub(crate) fn open(&self, packet: &mut [u8]) -> bool {
        // SAFETY: the unit has the features that its kernel is for.
        unsafe {
            match (self.schedule.with.unit, self.schedule.rounds) {
                (GcmUnit::Vaes256, _) => gcm_256::open(self, packet),
                (GcmUnit::Vaes512, Rounds::Aes128) => gcm_512::open::<10>(self, packet),
                (GcmUnit::Vaes512, _) => gcm_512::open::<14>(self, packet),
            }
        }
    }
}

/// What HMAC runs on. A value of it exists only where the CPU can do that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ShaUnit {
    /// The SHA extensions.
    ShaNi,
    /// The same, and 512-bit registers for SHA-1 and MD5.
    Avx512,
}

impl ShaUnit {
    /// Those of this CPU, the fastest last.
    pub(crate) fn available() -> impl Iterator<Item = Self> {
        let sha = is_x86_feature_detected!("sha")
            && is_x86_feature_detected!("ssse3")
            && is_x86_feature_detected!("sse4.1");
        let avx512 = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
        [sha.then_some(Self::ShaNi), (sha && avx512).then_some(Self::Avx512)].into_iter().flatten()
    }

    /// Computes the tags of jobs that are all for one hash; `false` if it is none of this unit's.
    pub(crate) fn hmac(self, jobs: &mut [MacLane<'_>]) -> bool {
        // SAFETY: the unit has the features that its kernel is for.
        unsafe {
            match (jobs.first().map(|job| job.keys), self) {
                (Some(MacKeys::Sha1(_)), Self::ShaNi) => tags::<sha_ni::Sha1, _>(jobs),
                (Some(MacKeys::Sha1(_)), Self::Avx512) => sha1_512::hmac(jobs),
                (Some(MacKeys::Md5(_)), Self::Avx512) => md5_512::hmac(jobs),
                (Some(MacKeys::Sha256(_)), _) => tags::<sha_ni::Sha256, _>(jobs),
                _ => return false,
            }
        }
        true
    }
}
