//! ESP by Intel's multi-buffer library (libipsec-mb 1.2 or newer), for the perf harness to measure against.
//!
//! Empty without the feature `installed`.

#![cfg(feature = "installed")]

use std::marker::PhantomData;
use std::ptr::NonNull;

/// Bytes of SPI and sequence number.
const HEADER_LEN: usize = 8;
/// Bytes of salt behind an AES-GCM key.
const SALT_LEN: usize = 4;

/// What the library encrypts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cipher {
    /// AES-CBC.
    AesCbc,
    /// AES-GCM; keys have the salt behind them.
    AesGcm,
    /// 3DES-CBC.
    TripleDesCbc,
}

/// What the library authenticates with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Integrity {
    /// The cipher does it.
    Aead,
    /// HMAC-SHA1-96.
    Sha1,
    /// HMAC-SHA256-128.
    Sha256,
    /// HMAC-MD5-96.
    Md5,
}

/// What the library may use of the CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// All that it finds.
    ToNothing,
    /// What it has for CPUs with AVX2 but without AVX-512.
    ToAvx2,
}

/// One packet, from the ESP header to the end of the ICV.
#[repr(C)]
pub struct Packet<'a> {
    bytes: NonNull<u8>,
    len: u32,
    sa: u32,
    _bytes: PhantomData<&'a mut [u8]>,
}

/// A manager of the library, with the expanded keys of SAs.
#[derive(Debug)]
pub struct Library {
    raw: NonNull<Raw>,
    /// Bytes of a packet that are not encrypted.
    around: usize,
    block: usize,
    sas: usize,
}

#[repr(C)]
struct Suite {
    cipher: u32,
    cipher_key_len: u32,
    integrity: u32,
    integrity_key_len: u32,
}

#[repr(C)]
struct Raw {
    _opaque: [u8; 0],
}

unsafe extern "C" {
    fn mb_new(
        suite: *const Suite,
        icv_len: u32,
        avx512: bool,
        keys: *const u8,
        stride: u32,
        count: u32,
    ) -> *mut Raw;
    fn mb_free(mb: *mut Raw);
    fn mb_run(mb: *mut Raw, packets: *const Packet<'_>, count: usize, opens: bool) -> usize;
}

impl<'a> Packet<'a> {
    /// A packet of SA number `sa`.
    pub fn new(sa: usize, bytes: &'a mut [u8]) -> Self {
        // A number that is cut off here is none that the library knows, or a length that it refuses.
        let len = u32::try_from(bytes.len()).unwrap_or(0);
        let sa = u32::try_from(sa).unwrap_or(u32::MAX);
        Self { bytes: NonNull::from(bytes).cast(), len, sa, _bytes: PhantomData }
    }
}

impl Library {
    /// With an SA for each of `keys`: the cipher's key, the salt of AES-GCM, the integrity key. `None` if the keys are not
    /// all of one length that suits, or the library does not start.
    pub fn new(cipher: Cipher, integrity: Integrity, held: Held, keys: &[Vec<u8>]) -> Option<Self> {
        let (integrity_number, integrity_key_len, icv_len) = match integrity {
            Integrity::Aead => (0, 0, 16),
            Integrity::Sha1 => (1, 20, 12),
            Integrity::Sha256 => (2, 32, 16),
            Integrity::Md5 => (3, 16, 12),
        };
        let key_len = keys.first()?.len();
        let salt_len = if cipher == Cipher::AesGcm { SALT_LEN } else { 0 };
        let cipher_key_len = key_len.checked_sub(integrity_key_len + salt_len)?;
        let (cipher_number, iv_len, block) = match (cipher, cipher_key_len) {
            (Cipher::AesCbc, 16 | 32) => (0, 16, 16),
            (Cipher::AesGcm, 16 | 32) => (1, 8, 1),
            (Cipher::TripleDesCbc, 24) => (2, 8, 8),
            _ => return None,
        };
        if (cipher == Cipher::AesGcm) != (integrity == Integrity::Aead)
            || keys.iter().any(|key| key.len() != key_len)
        {
            return None;
        }
        let suite = Suite {
            cipher: cipher_number,
            cipher_key_len: u32::try_from(cipher_key_len).ok()?,
            integrity: integrity_number,
            integrity_key_len: u32::try_from(integrity_key_len).ok()?,
        };
        let (all, stride) = (keys.concat(), u32::try_from(key_len).ok()?);
        let (icv_len32, count) = (u32::try_from(icv_len).ok()?, u32::try_from(keys.len()).ok()?);
        // SAFETY: `all` is `count` keys of `stride` bytes, which are as long together as the suite's.
        let raw = unsafe {
            mb_new(&raw const suite, icv_len32, held == Held::ToNothing, all.as_ptr(), stride, count)
        };
        let around = HEADER_LEN + iv_len + icv_len;
        Some(Self { raw: NonNull::new(raw)?, around, block, sas: keys.len() })
    }

    /// Encrypts packets that have header, IV, payload, padding and trailer in place, and writes their ICVs; whether all
    /// went well.
    pub fn seal(&mut self, packets: &mut [Packet<'_>]) -> bool {
        self.run(packets, false)
    }

    /// Computes the ICVs of packets and decrypts; whether all are right. (What the library decrypts before that is known
    /// would not be used by anybody.)
    pub fn open(&mut self, packets: &mut [Packet<'_>]) -> bool {
        self.run(packets, true)
    }

    fn run(&mut self, packets: &mut [Packet<'_>], opens: bool) -> bool {
        let fits = |packet: &Packet<'_>| {
            let encrypted = (packet.len as usize).checked_sub(self.around);
            (packet.sa as usize) < self.sas
                && encrypted.is_some_and(|len| len > 0 && len.is_multiple_of(self.block))
        };
        if !packets.iter().all(fits) {
            return false;
        }
        // SAFETY: the packets are borrowed mutably, are as long as they say and of SAs that there are (checked), and none
        // is in flight any more when this returns.
        unsafe { mb_run(self.raw.as_ptr(), packets.as_ptr(), packets.len(), opens) == packets.len() }
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        // SAFETY: it is ours, and not used again.
        unsafe { mb_free(self.raw.as_ptr()) }
    }
}
