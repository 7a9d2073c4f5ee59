//! From a shared secret to keys (RFC 2409 sections 5 and 5.5, appendix B), and the cipher of an IKE SA.

use cipher::{Block, BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use dmvpn_config::model::{Encryption, Hash, IkeProposal};
use hmac::{EagerHash, Hmac, KeyInit, Mac};
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha384, Sha512};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Key bytes: wiped when dropped, without `Debug`.
pub(super) type Key = Zeroizing<Vec<u8>>;

/// A keyed pseudo-random function over the concatenation of parts: the HMAC of the negotiated hash.
pub(super) type Prf = fn(key: &[u8], parts: &[&[u8]]) -> Key;

/// The PRF that goes with a hash.
pub(super) fn prf(hash: Hash) -> Prf {
    match hash {
        Hash::Md5 => hmac_of::<Md5>,
        Hash::Sha1 => hmac_of::<Sha1>,
        Hash::Sha256 => hmac_of::<Sha256>,
        Hash::Sha384 => hmac_of::<Sha384>,
        Hash::Sha512 => hmac_of::<Sha512>,
    }
}

/// The plain hash of the concatenation of parts.
pub(super) fn digest(hash: Hash, parts: &[&[u8]]) -> Vec<u8> {
    fn digest_of<D: Digest>(parts: &[&[u8]]) -> Vec<u8> {
        parts.iter().fold(D::new(), |hash, part| hash.chain_update(part)).finalize().to_vec()
    }
    match hash {
        Hash::Md5 => digest_of::<Md5>(parts),
        Hash::Sha1 => digest_of::<Sha1>(parts),
        Hash::Sha256 => digest_of::<Sha256>(parts),
        Hash::Sha384 => digest_of::<Sha384>(parts),
        Hash::Sha512 => digest_of::<Sha512>(parts),
    }
}

/// Compares in a time that does not depend on the bytes.
pub(super) fn equal(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

/// What the keys of an IKE SA are made from.
pub(super) struct KeySeed<'a> {
    pub(super) secret: &'a [u8],
    pub(super) nonce_i: &'a [u8],
    pub(super) nonce_r: &'a [u8],
    pub(super) shared: &'a [u8],
    pub(super) cookie_i: u64,
    pub(super) cookie_r: u64,
}

/// The keys of an IKE SA (RFC 2409 section 5).
#[derive(Clone)]
pub(super) struct SkeyId {
    /// Authenticates main mode.
    pub(super) base: Key,
    /// Derives the keys of ESP SAs.
    pub(super) d: Key,
    /// Authenticates what comes after main mode.
    pub(super) a: Key,
    /// Encrypts.
    pub(super) e: Key,
}

impl SkeyId {
    pub(super) fn derive(prf: Prf, seed: &KeySeed<'_>) -> Self {
        let (cookie_i, cookie_r) = (seed.cookie_i.to_be_bytes(), seed.cookie_r.to_be_bytes());
        let base = prf(seed.secret, &[seed.nonce_i, seed.nonce_r]);
        let d = prf(&base, &[seed.shared, &cookie_i, &cookie_r, &[0]]);
        let a = prf(&base, &[&d, seed.shared, &cookie_i, &cookie_r, &[1]]);
        let e = prf(&base, &[&a, seed.shared, &cookie_i, &cookie_r, &[2]]);
        Self { base, d, a, e }
    }
}

/// The KEYMAT of one ESP SA (RFC 2409 section 5.5). `shared` is empty without PFS.
pub(super) fn keymat(prf: Prf, skeyid_d: &[u8], shared: &[u8], spi: u32, nonces: &[u8], len: usize) -> Key {
    const PROTOCOL_ESP: u8 = 3;
    let spi = spi.to_be_bytes();
    expand(len, |previous| prf(skeyid_d, &[previous, shared, &[PROTOCOL_ESP], &spi, nonces]))
}

/// `K1 | K2 | ...`, each made from the one before it, cut to `len`.
fn expand(len: usize, mut next: impl FnMut(&[u8]) -> Key) -> Key {
    let mut out = Zeroizing::new(Vec::with_capacity(len + 64));
    let mut block = Key::default();
    while out.len() < len {
        block = next(&block);
        if block.is_empty() {
            break;
        }
        out.extend_from_slice(&block);
    }
    out.truncate(len);
    out
}

/// The cipher of an IKE SA: CBC without padding of its own.
#[derive(Clone)]
pub(super) struct Cipher {
    encryption: Encryption,
    key: Key,
}

/// A key that DES calls weak, or a triple with equal parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WeakKey;

impl Cipher {
    /// Takes the key from SKEYID_e, stretched if it is too short (RFC 2409 appendix B).
    pub(super) fn new(proposal: &IkeProposal, skeyid_e: &[u8]) -> Result<Self, WeakKey> {
        let len = match proposal.encryption {
            Encryption::Aes128 | Encryption::Aes128Gcm128 => 16,
            Encryption::Aes192 | Encryption::TripleDes => 24,
            Encryption::Aes256 | Encryption::Aes256Gcm128 => 32,
        };
        let key = if skeyid_e.len() >= len {
            Zeroizing::new(skeyid_e.iter().copied().take(len).collect())
        } else {
            let prf = prf(proposal.hash);
            expand(len, |previous| prf(skeyid_e, &[if previous.is_empty() { &[0] } else { previous }]))
        };
        if proposal.encryption == Encryption::TripleDes && is_weak(&key) {
            return Err(WeakKey);
        }
        Ok(Self { encryption: proposal.encryption, key })
    }

    /// Bytes of a block, and of an IV.
    pub(super) fn block_len(&self) -> usize {
        if self.encryption == Encryption::TripleDes { 8 } else { 16 }
    }

    /// Encrypts in place. Gives the last block, which is the next IV; `None` unless `data` is a positive
    /// number of blocks and `iv` is one.
    pub(super) fn encrypt(&self, iv: &[u8], data: &mut [u8]) -> Option<Vec<u8>> {
        let done = match self.encryption {
            Encryption::Aes128 | Encryption::Aes128Gcm128 => encrypt_cbc::<aes::Aes128>(&self.key, iv, data),
            Encryption::Aes192 => encrypt_cbc::<aes::Aes192>(&self.key, iv, data),
            Encryption::Aes256 | Encryption::Aes256Gcm128 => encrypt_cbc::<aes::Aes256>(&self.key, iv, data),
            Encryption::TripleDes => encrypt_cbc::<des::TdesEde3>(&self.key, iv, data),
        };
        done.then(|| self.last_block(data)).flatten()
    }

    /// Decrypts in place. Gives the last block of the ciphertext, which is the next IV, on the conditions
    /// of [`Cipher::encrypt`].
    pub(super) fn decrypt(&self, iv: &[u8], data: &mut [u8]) -> Option<Vec<u8>> {
        let next = self.last_block(data)?;
        let done = match self.encryption {
            Encryption::Aes128 | Encryption::Aes128Gcm128 => decrypt_cbc::<aes::Aes128>(&self.key, iv, data),
            Encryption::Aes192 => decrypt_cbc::<aes::Aes192>(&self.key, iv, data),
            Encryption::Aes256 | Encryption::Aes256Gcm128 => decrypt_cbc::<aes::Aes256>(&self.key, iv, data),
            Encryption::TripleDes => decrypt_cbc::<des::TdesEde3>(&self.key, iv, data),
        };
        done.then_some(next)
    }

    fn last_block(&self, data: &[u8]) -> Option<Vec<u8>> {
        let start = data.len().checked_sub(self.block_len())?;
        data.get(start..).map(<[u8]>::to_vec)
    }
}

pub(super) fn hmac_of<D: EagerHash>(key: &[u8], parts: &[&[u8]]) -> Key {
    // HMAC takes keys of any length (RFC 2104 section 2).
    let Ok(mac) = Hmac::<D>::new_from_slice(key) else { return Key::default() };
    let mac = parts.iter().fold(mac, |mac, part| mac.chain_update(part));
    Zeroizing::new(mac.finalize().into_bytes().to_vec())
}

fn encrypt_cbc<C>(key: &[u8], iv: &[u8], data: &mut [u8]) -> bool
where
    C: cipher::BlockCipherEncrypt + KeyInit,
{
    let Ok(mut mode) = cbc::Encryptor::<C>::new_from_slices(key, iv) else { return false };
    let (blocks, rest) = Block::<C>::slice_as_chunks_mut(data);
    mode.encrypt_blocks(blocks);
    rest.is_empty()
}

fn decrypt_cbc<C>(key: &[u8], iv: &[u8], data: &mut [u8]) -> bool
where
    C: cipher::BlockCipherDecrypt + KeyInit,
{
    let Ok(mut mode) = cbc::Decryptor::<C>::new_from_slices(key, iv) else { return false };
    let (blocks, rest) = Block::<C>::slice_as_chunks_mut(data);
    mode.decrypt_blocks(blocks);
    rest.is_empty()
}

/// The lowest bit of each byte is not part of a DES key; the list of weak keys has it as odd parity.
fn is_weak(key: &[u8]) -> bool {
    let canonical: Key = Zeroizing::new(
        key.iter()
            .map(|byte| (byte & 0xfe) | u8::from((byte & 0xfe).count_ones().is_multiple_of(2)))
            .collect(),
    );
    des::weak_key_test(&canonical).is_err()
}
