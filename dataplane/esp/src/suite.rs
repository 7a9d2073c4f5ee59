//! Cipher suites and the lengths that follow from them.

use std::fmt;
use std::str::FromStr;

use crate::HEADER_LEN;
use crate::trailer::TRAILER_LEN;

/// Encryption algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cipher {
    /// AES-CBC with a 128-bit key (RFC 3602).
    Aes128Cbc,
    /// AES-CBC with a 192-bit key.
    Aes192Cbc,
    /// AES-CBC with a 256-bit key.
    Aes256Cbc,
    /// 3DES-CBC in EDE mode with three keys (RFC 2451).
    TripleDesCbc,
    /// AES-GCM with a 128-bit key and a 16-byte ICV (RFC 4106).
    Aes128Gcm,
    /// AES-GCM with a 256-bit key and a 16-byte ICV.
    Aes256Gcm,
    /// Nothing at all, to measure what is around the cipher; no name and no constructor but
    /// [`Suite::null`] leads to it.
    #[cfg(feature = "null-cipher")]
    Null,
}

impl Cipher {
    /// Every cipher that packets may be sent under.
    pub const ALL: [Self; 6] = [
        Self::Aes128Cbc,
        Self::Aes192Cbc,
        Self::Aes256Cbc,
        Self::TripleDesCbc,
        Self::Aes128Gcm,
        Self::Aes256Gcm,
    ];

    /// Whether the cipher authenticates by itself.
    pub const fn is_aead(self) -> bool {
        matches!(self, Self::Aes128Gcm | Self::Aes256Gcm)
    }

    const fn key_len(self) -> usize {
        match self {
            Self::Aes128Cbc => 16,
            Self::Aes192Cbc | Self::TripleDesCbc => 24,
            Self::Aes256Cbc => 32,
            // RFC 4106 section 8.1: the salt is the last four bytes of the keying material.
            Self::Aes128Gcm => 16 + GCM_SALT_LEN,
            Self::Aes256Gcm => 32 + GCM_SALT_LEN,
            #[cfg(feature = "null-cipher")]
            Self::Null => 0,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Aes128Cbc => "aes128",
            Self::Aes192Cbc => "aes192",
            Self::Aes256Cbc => "aes256",
            Self::TripleDesCbc => "3des",
            Self::Aes128Gcm => "aes128gcm",
            Self::Aes256Gcm => "aes256gcm",
            #[cfg(feature = "null-cipher")]
            Self::Null => "null",
        }
    }
}

/// Bytes of salt after an AES-GCM key (RFC 4106 section 4).
pub(crate) const GCM_SALT_LEN: usize = 4;

/// Bytes of IV in an AES-GCM packet (RFC 4106 section 3.1).
pub(crate) const GCM_IV_LEN: usize = 8;

/// Bytes of ICV of an AES-GCM packet (RFC 4106 section 6).
pub(crate) const GCM_ICV_LEN: usize = 16;

/// Integrity algorithm; the second number is the length of the ICV in bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Integrity {
    /// HMAC-MD5 (RFC 2403).
    HmacMd5_96,
    /// HMAC-SHA-1 (RFC 2404).
    HmacSha1_96,
    /// HMAC-SHA-256 (RFC 4868).
    HmacSha256_128,
    /// HMAC-SHA-384 (RFC 4868).
    HmacSha384_192,
    /// HMAC-SHA-512 (RFC 4868).
    HmacSha512_256,
}

impl Integrity {
    /// Every integrity algorithm.
    pub const ALL: [Self; 5] = [
        Self::HmacMd5_96,
        Self::HmacSha1_96,
        Self::HmacSha256_128,
        Self::HmacSha384_192,
        Self::HmacSha512_256,
    ];

    /// Key length: the length of the hash (RFC 2403, 2404, 4868 section 2.1.1).
    const fn key_len(self) -> usize {
        match self {
            Self::HmacMd5_96 => 16,
            Self::HmacSha1_96 => 20,
            Self::HmacSha256_128 => 32,
            Self::HmacSha384_192 => 48,
            Self::HmacSha512_256 => 64,
        }
    }

    const fn icv_len(self) -> usize {
        match self {
            Self::HmacMd5_96 | Self::HmacSha1_96 => 12,
            Self::HmacSha256_128 => 16,
            Self::HmacSha384_192 => 24,
            Self::HmacSha512_256 => 32,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::HmacMd5_96 => "md5",
            Self::HmacSha1_96 => "sha1",
            Self::HmacSha256_128 => "sha256",
            Self::HmacSha384_192 => "sha384",
            Self::HmacSha512_256 => "sha512",
        }
    }
}

/// A cipher with what authenticates it. Encryption without integrity cannot be expressed
/// (RFC 8221 section 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Suite(Algorithms);

/// The kinds of suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Algorithms {
    EncryptThenMac(CbcCipher, Integrity),
    Aead(GcmCipher),
    #[cfg(feature = "null-cipher")]
    Null,
}

/// The ciphers that need an integrity algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum CbcCipher {
    Aes128,
    Aes192,
    Aes256,
    TripleDes,
}

/// The ciphers that do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum GcmCipher {
    Aes128,
    Aes256,
}

/// A combination that is not a suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SuiteError {
    /// A CBC cipher alone: its plaintext could be forged and read through errors.
    #[error("encryption without integrity")]
    IntegrityMissing,
    /// An AEAD with a second integrity algorithm.
    #[error("an AEAD takes no integrity algorithm")]
    IntegrityOnAead,
    /// A name that no suite has.
    #[error("unknown cipher suite")]
    UnknownName,
}

impl Suite {
    /// Pairs a cipher with its integrity algorithm; an AEAD has none.
    ///
    /// # Errors
    /// [`SuiteError`] for a CBC cipher without integrity, or an AEAD with it.
    pub const fn new(cipher: Cipher, integrity: Option<Integrity>) -> Result<Self, SuiteError> {
        let cbc = match cipher {
            Cipher::Aes128Cbc => CbcCipher::Aes128,
            Cipher::Aes192Cbc => CbcCipher::Aes192,
            Cipher::Aes256Cbc => CbcCipher::Aes256,
            Cipher::TripleDesCbc => CbcCipher::TripleDes,
            Cipher::Aes128Gcm => return Self::aead(GcmCipher::Aes128, integrity),
            Cipher::Aes256Gcm => return Self::aead(GcmCipher::Aes256, integrity),
            #[cfg(feature = "null-cipher")]
            Cipher::Null => return Err(SuiteError::IntegrityMissing),
        };
        match integrity {
            Some(integrity) => Ok(Self(Algorithms::EncryptThenMac(cbc, integrity))),
            None => Err(SuiteError::IntegrityMissing),
        }
    }

    const fn aead(cipher: GcmCipher, integrity: Option<Integrity>) -> Result<Self, SuiteError> {
        match integrity {
            None => Ok(Self(Algorithms::Aead(cipher))),
            Some(_) => Err(SuiteError::IntegrityOnAead),
        }
    }

    /// No encryption and no integrity: for the measurement of the path around them, never for
    /// traffic. Only with the feature `null-cipher`.
    #[cfg(feature = "null-cipher")]
    pub const fn null() -> Self {
        Self(Algorithms::Null)
    }

    /// Every suite that packets may be sent under.
    pub fn all() -> impl Iterator<Item = Self> {
        let integrities = || Integrity::ALL.into_iter().map(Some).chain([None]);
        Cipher::ALL.into_iter().flat_map(move |c| integrities().filter_map(move |i| Self::new(c, i).ok()))
    }

    /// The cipher.
    pub const fn cipher(self) -> Cipher {
        match self.0 {
            Algorithms::EncryptThenMac(CbcCipher::Aes128, _) => Cipher::Aes128Cbc,
            Algorithms::EncryptThenMac(CbcCipher::Aes192, _) => Cipher::Aes192Cbc,
            Algorithms::EncryptThenMac(CbcCipher::Aes256, _) => Cipher::Aes256Cbc,
            Algorithms::EncryptThenMac(CbcCipher::TripleDes, _) => Cipher::TripleDesCbc,
            Algorithms::Aead(GcmCipher::Aes128) => Cipher::Aes128Gcm,
            Algorithms::Aead(GcmCipher::Aes256) => Cipher::Aes256Gcm,
            #[cfg(feature = "null-cipher")]
            Algorithms::Null => Cipher::Null,
        }
    }

    /// The integrity algorithm; `None` for an AEAD.
    pub const fn integrity(self) -> Option<Integrity> {
        match self.0 {
            Algorithms::EncryptThenMac(_, integrity) => Some(integrity),
            Algorithms::Aead(_) => None,
            #[cfg(feature = "null-cipher")]
            Algorithms::Null => None,
        }
    }

    pub(crate) const fn algorithms(self) -> Algorithms {
        self.0
    }

    /// Bytes of keying material for the cipher, the salt of an AEAD included.
    pub const fn cipher_key_len(self) -> usize {
        self.cipher().key_len()
    }

    /// Bytes of keying material for integrity; 0 for an AEAD.
    pub const fn integrity_key_len(self) -> usize {
        match self.integrity() {
            Some(integrity) => integrity.key_len(),
            None => 0,
        }
    }

    /// Bytes of IV in each packet.
    pub const fn iv_len(self) -> usize {
        match self.cipher() {
            Cipher::Aes128Cbc | Cipher::Aes192Cbc | Cipher::Aes256Cbc => 16,
            Cipher::TripleDesCbc => 8,
            Cipher::Aes128Gcm | Cipher::Aes256Gcm => GCM_IV_LEN,
            #[cfg(feature = "null-cipher")]
            Cipher::Null => 0,
        }
    }

    /// Bytes of integrity check value at the end of each packet.
    pub const fn icv_len(self) -> usize {
        match self.0 {
            Algorithms::EncryptThenMac(_, integrity) => integrity.icv_len(),
            Algorithms::Aead(_) => GCM_ICV_LEN,
            #[cfg(feature = "null-cipher")]
            Algorithms::Null => 0,
        }
    }

    /// What the encrypted part is a multiple of, in bytes: the cipher's block, and at least the four
    /// bytes of RFC 4303 section 2.4.
    pub const fn block(self) -> usize {
        match self.cipher() {
            Cipher::Aes128Cbc | Cipher::Aes192Cbc | Cipher::Aes256Cbc => 16,
            Cipher::TripleDesCbc => 8,
            Cipher::Aes128Gcm | Cipher::Aes256Gcm => 4,
            // So that even an empty packet has the sixteen bytes that all others have before the ICV.
            #[cfg(feature = "null-cipher")]
            Cipher::Null => 8,
        }
    }

    /// Where the payload begins in a packet that begins with the ESP header.
    pub const fn payload_offset(self) -> usize {
        HEADER_LEN + self.iv_len()
    }

    /// Length of a packet from ESP header to the end of the ICV, for `payload_len` bytes of payload
    /// and the least padding. (What seals and encapsulates has lengths worked out beforehand; this says what they come to.)
    pub const fn sealed_len(self, payload_len: usize) -> usize {
        self.payload_offset() + self.whole_blocks(payload_len + TRAILER_LEN) + self.icv_len()
    }

    /// So many bytes, rounded up to whole blocks. A block is a power of two: no need to divide, which takes
    /// longer than all else that is done for a length.
    const fn whole_blocks(self, bytes: usize) -> usize {
        let mask = self.block() - 1;
        (bytes + mask) & !mask
    }

    /// The longest payload whose packet is no longer than `room` bytes; `None` if not even an empty
    /// one fits.
    pub const fn max_payload(self, room: usize) -> Option<usize> {
        let Some(left) = room.checked_sub(self.payload_offset() + self.icv_len()) else {
            return None;
        };
        (left - left % self.block()).checked_sub(TRAILER_LEN)
    }
}

/// `aes256-sha1`, `3des-md5`, `aes256gcm`.
impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.cipher().name())?;
        match self.integrity() {
            Some(integrity) => write!(f, "-{}", integrity.name()),
            None => Ok(()),
        }
    }
}

/// Reads what [`Display`](fmt::Display) writes.
impl FromStr for Suite {
    type Err = SuiteError;

    fn from_str(name: &str) -> Result<Self, SuiteError> {
        let (cipher, integrity) = match name.split_once('-') {
            Some((cipher, integrity)) => (cipher, Some(integrity)),
            None => (name, None),
        };
        let cipher = Cipher::ALL.into_iter().find(|c| c.name() == cipher).ok_or(SuiteError::UnknownName)?;
        let integrity = integrity
            .map(|name| Integrity::ALL.into_iter().find(|i| i.name() == name).ok_or(SuiteError::UnknownName))
            .transpose()?;
        Self::new(cipher, integrity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_not_a_suite() {
        assert_eq!(Suite::new(Cipher::Aes256Cbc, None), Err(SuiteError::IntegrityMissing));
        assert_eq!(Suite::new(Cipher::TripleDesCbc, None), Err(SuiteError::IntegrityMissing));
        assert_eq!(
            Suite::new(Cipher::Aes128Gcm, Some(Integrity::HmacSha1_96)),
            Err(SuiteError::IntegrityOnAead)
        );
        assert_eq!("aes256".parse::<Suite>(), Err(SuiteError::IntegrityMissing));
        assert_eq!("null-sha1".parse::<Suite>(), Err(SuiteError::UnknownName));
        assert_eq!("aes256-".parse::<Suite>(), Err(SuiteError::UnknownName));
    }

    #[test]
    fn names_are_read_back() {
        assert_eq!(Suite::all().count(), 4 * 5 + 2);
        for suite in Suite::all() {
            assert_eq!(suite.to_string().parse(), Ok(suite));
        }
        let suite = Suite::new(Cipher::Aes256Cbc, Some(Integrity::HmacSha1_96)).unwrap();
        assert_eq!(suite.to_string(), "aes256-sha1");
    }

    #[test]
    #[cfg(feature = "null-cipher")]
    fn null_has_no_name() {
        assert_eq!(Suite::null().to_string(), "null");
        assert_eq!("null".parse::<Suite>(), Err(SuiteError::UnknownName));
        assert_eq!(Suite::new(Cipher::Null, None), Err(SuiteError::IntegrityMissing));
        assert!(Suite::all().all(|suite| suite != Suite::null()));
    }

    #[test]
    fn lengths() {
        let aes_sha1: Suite = "aes256-sha1".parse().unwrap();
        // 8 header, 16 IV, 12 ICV; one block holds up to 14 bytes and the trailer.
        assert_eq!(aes_sha1.sealed_len(0), 36 + 16);
        assert_eq!(aes_sha1.sealed_len(14), 36 + 16);
        assert_eq!(aes_sha1.sealed_len(15), 36 + 32);
        let gcm: Suite = "aes128gcm".parse().unwrap();
        assert_eq!(gcm.sealed_len(2), 8 + 8 + 4 + 16);
        assert_eq!(gcm.sealed_len(3), 8 + 8 + 8 + 16);
        let md5: Suite = "3des-md5".parse().unwrap();
        assert_eq!(md5.sealed_len(7), 8 + 8 + 16 + 12);
        assert_eq!((gcm.cipher_key_len(), gcm.integrity_key_len()), (20, 0));
        assert_eq!((md5.cipher_key_len(), md5.integrity_key_len()), (24, 16));
    }

    #[test]
    fn max_payload_is_the_inverse_of_sealed_len() {
        for suite in Suite::all() {
            for room in 0..300 {
                match suite.max_payload(room) {
                    Some(payload) => {
                        assert!(suite.sealed_len(payload) <= room, "{suite} {room}");
                        assert!(suite.sealed_len(payload + 1) > room, "{suite} {room}");
                    }
                    None => assert!(suite.sealed_len(0) > room, "{suite} {room}"),
                }
            }
        }
    }
}
