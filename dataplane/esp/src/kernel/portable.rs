//! Kernels for any CPU, on the RustCrypto block ciphers: one packet after the other.

use aes::{Aes128Dec, Aes128Enc, Aes192Dec, Aes192Enc, Aes256Dec, Aes256Enc};
use aes_gcm::aead::AeadInOut;
use aes_gcm::{Aes128Gcm, Aes256Gcm, Nonce, Tag};
use cbc::{Decryptor, Encryptor};
use cipher::array::Array;
use cipher::{
    BlockCipherDecrypt, BlockCipherEncrypt, BlockModeDecrypt, BlockModeEncrypt, InnerIvInit, Iv, Key, KeyInit,
};
use des::TdesEde3;
use zeroize::Zeroize;

use crate::HEADER_LEN;
use crate::keys::CipherKey;
use crate::suite::{CbcCipher, GCM_ICV_LEN, GCM_IV_LEN, GCM_SALT_LEN, GcmCipher};

/// Key schedules for CBC encryption.
pub(crate) enum CbcEncryptKeys {
    Aes128(Box<Aes128Enc>),
    Aes192(Box<Aes192Enc>),
    Aes256(Box<Aes256Enc>),
    TripleDes(Box<TdesEde3>),
}

/// Key schedules for CBC decryption.
pub(crate) enum CbcDecryptKeys {
    Aes128(Box<Aes128Dec>),
    Aes192(Box<Aes192Dec>),
    Aes256(Box<Aes256Dec>),
    TripleDes(Box<TdesEde3>),
}

/// An AES-GCM key with its salt.
pub(crate) struct GcmKeys {
    cipher: Gcm,
    salt: [u8; GCM_SALT_LEN],
}

enum Gcm {
    Aes128(Box<Aes128Gcm>),
    Aes256(Box<Aes256Gcm>),
}

impl CbcEncryptKeys {
    pub(crate) fn new(cipher: CbcCipher, key: &CipherKey) -> Self {
        match cipher {
            CbcCipher::Aes128 => Self::Aes128(schedule(key)),
            CbcCipher::Aes192 => Self::Aes192(schedule(key)),
            CbcCipher::Aes256 => Self::Aes256(schedule(key)),
            CbcCipher::TripleDes => Self::TripleDes(schedule(key)),
        }
    }

    /// Encrypts whole blocks in place, chained from a block of zeros.
    pub(crate) fn encrypt(&self, blocks: &mut [u8]) {
        match self {
            Self::Aes128(cipher) => encrypt(&**cipher, blocks),
            Self::Aes192(cipher) => encrypt(&**cipher, blocks),
            Self::Aes256(cipher) => encrypt(&**cipher, blocks),
            Self::TripleDes(cipher) => encrypt(&**cipher, blocks),
        }
    }
}

impl CbcDecryptKeys {
    pub(crate) fn new(cipher: CbcCipher, key: &CipherKey) -> Self {
        match cipher {
            CbcCipher::Aes128 => Self::Aes128(schedule(key)),
            CbcCipher::Aes192 => Self::Aes192(schedule(key)),
            CbcCipher::Aes256 => Self::Aes256(schedule(key)),
            CbcCipher::TripleDes => Self::TripleDes(schedule(key)),
        }
    }

    /// Decrypts whole blocks in place, chained from a block of zeros.
    pub(crate) fn decrypt(&self, blocks: &mut [u8]) {
        match self {
            Self::Aes128(cipher) => decrypt(&**cipher, blocks),
            Self::Aes192(cipher) => decrypt(&**cipher, blocks),
            Self::Aes256(cipher) => decrypt(&**cipher, blocks),
            Self::TripleDes(cipher) => decrypt(&**cipher, blocks),
        }
    }
}

impl GcmKeys {
    pub(crate) fn new(cipher: GcmCipher, key: &CipherKey) -> Self {
        let (cipher, key_len) = match cipher {
            GcmCipher::Aes128 => (Gcm::Aes128(schedule(key)), 16),
            GcmCipher::Aes256 => (Gcm::Aes256(schedule(key)), 32),
        };
        Self { cipher, salt: std::array::from_fn(|i| key[key_len + i]) }
    }

    /// Encrypts a packet in place and writes its ICV (RFC 4106).
    pub(crate) fn seal(&self, packet: &mut [u8]) {
        let (header, iv, text, icv) = parts(packet);
        let nonce = self.nonce(iv);
        let tag = match &self.cipher {
            Gcm::Aes128(cipher) => cipher.encrypt_inout_detached(&nonce, header, text.into()),
            Gcm::Aes256(cipher) => cipher.encrypt_inout_detached(&nonce, header, text.into()),
        };
        // It fails for texts of 2^36 bytes only; a zero ICV is not accepted by any peer.
        icv.copy_from_slice(&tag.unwrap_or_default());
    }

    /// Checks the ICV of a packet, and decrypts it in place if that is right.
    pub(crate) fn open(&self, packet: &mut [u8]) -> bool {
        let (header, iv, text, icv) = parts(packet);
        let nonce = self.nonce(iv);
        let Ok(tag) = Tag::try_from(&*icv) else { return false };
        match &self.cipher {
            Gcm::Aes128(cipher) => cipher.decrypt_inout_detached(&nonce, header, text.into(), &tag).is_ok(),
            Gcm::Aes256(cipher) => cipher.decrypt_inout_detached(&nonce, header, text.into(), &tag).is_ok(),
        }
    }

    /// Salt, then the IV of the packet (RFC 4106 section 4).
    fn nonce(&self, iv: &[u8]) -> Nonce<cipher::consts::U12> {
        let mut nonce = Nonce::default();
        let (salt, rest) = nonce.split_at_mut(GCM_SALT_LEN);
        salt.copy_from_slice(&self.salt);
        rest.copy_from_slice(iv);
        nonce
    }
}

impl Drop for GcmKeys {
    fn drop(&mut self) {
        self.salt.zeroize();
    }
}

/// A key schedule from the leading bytes of `key`; it is wiped on drop.
fn schedule<C: KeyInit>(key: &CipherKey) -> Box<C> {
    let mut exact = Key::<C>::default();
    exact.copy_from_slice(&key[..C::key_size()]);
    let schedule = Box::new(C::new(&exact));
    exact.as_mut_slice().zeroize();
    schedule
}

fn encrypt<C: BlockCipherEncrypt>(cipher: &C, blocks: &mut [u8]) {
    let mut mode = Encryptor::inner_iv_init(cipher, &Iv::<Encryptor<&C>>::default());
    mode.encrypt_blocks(Array::slice_as_chunks_mut(blocks).0);
}

fn decrypt<C: BlockCipherDecrypt>(cipher: &C, blocks: &mut [u8]) {
    let mut mode = Decryptor::inner_iv_init(cipher, &Iv::<Decryptor<&C>>::default());
    mode.decrypt_blocks(Array::slice_as_chunks_mut(blocks).0);
}

/// Header (the additional data of RFC 4106 section 5), IV, text, ICV.
fn parts(packet: &mut [u8]) -> (&[u8], &[u8], &mut [u8], &mut [u8]) {
    let (header, rest) = packet.split_at_mut(HEADER_LEN);
    let (iv, rest) = rest.split_at_mut(GCM_IV_LEN);
    let (text, icv) = rest.split_at_mut(rest.len() - GCM_ICV_LEN);
    (header, iv, text, icv)
}
