//! The RustCrypto crates.

use aes::{Aes128, Aes256};
use aes_gcm::aead::AeadInOut;
use aes_gcm::{Aes128Gcm, Aes256Gcm};
use cbc::{Decryptor, Encryptor};
use cipher::array::Array;
use cipher::{
    BlockCipherDecrypt, BlockCipherEncrypt, BlockModeDecrypt, BlockModeEncrypt, InnerIvInit, KeyInit,
};
use des::TdesEde3;
use dmvpn_esp::{Cipher, Integrity, Suite};
use hmac::{Hmac, Mac};
use md5::Md5;
use sha1::Sha1;
use sha2::Sha256;

use super::{GCM_ICV, GCM_IV, GCM_SALT, HEADER, Library, Packet, gcm_nonce};

/// All suites that the harness names.
pub(super) fn load(suite: Suite, keys: &[Vec<u8>]) -> Option<Box<dyn Library>> {
    match (suite.cipher(), suite.integrity()) {
        (Cipher::Aes128Cbc, Some(Integrity::HmacSha1_96)) => cbc_hmac::<Aes128, Hmac<Sha1>>(suite, keys),
        (Cipher::Aes256Cbc, Some(Integrity::HmacSha1_96)) => cbc_hmac::<Aes256, Hmac<Sha1>>(suite, keys),
        (Cipher::Aes128Cbc, Some(Integrity::HmacSha256_128)) => cbc_hmac::<Aes128, Hmac<Sha256>>(suite, keys),
        (Cipher::Aes256Cbc, Some(Integrity::HmacSha256_128)) => cbc_hmac::<Aes256, Hmac<Sha256>>(suite, keys),
        (Cipher::TripleDesCbc, Some(Integrity::HmacMd5_96)) => cbc_hmac::<TdesEde3, Hmac<Md5>>(suite, keys),
        (Cipher::Aes128Gcm, None) => gcm::<Aes128Gcm>(keys),
        (Cipher::Aes256Gcm, None) => gcm::<Aes256Gcm>(keys),
        _ => None,
    }
}

struct CbcHmac<C, M> {
    sas: Vec<(C, M)>,
    iv_len: usize,
    icv_len: usize,
}

fn cbc_hmac<C, M>(suite: Suite, keys: &[Vec<u8>]) -> Option<Box<dyn Library>>
where
    C: BlockCipherEncrypt + BlockCipherDecrypt + KeyInit + 'static,
    M: Mac + KeyInit + Clone + 'static,
{
    let sa = |key: &Vec<u8>| {
        let (cipher, mac) = key.split_at_checked(suite.cipher_key_len())?;
        Some((C::new_from_slice(cipher).ok()?, <M as KeyInit>::new_from_slice(mac).ok()?))
    };
    let sas = keys.iter().map(sa).collect::<Option<_>>()?;
    Some(Box::new(CbcHmac::<C, M> { sas, iv_len: suite.iv_len(), icv_len: suite.icv_len() }))
}

impl<C, M> Library for CbcHmac<C, M>
where
    C: BlockCipherEncrypt + BlockCipherDecrypt,
    M: Mac + Clone,
{
    fn seal(&mut self, packets: &mut [Packet<'_>]) -> bool {
        packets.iter_mut().all(|packet| {
            let (cipher, mac) = &self.sas[packet.sa];
            let (data, icv) = packet.bytes.split_at_mut(packet.bytes.len() - self.icv_len);
            let (head, text) = data.split_at_mut(HEADER + self.iv_len);
            let Ok(mut mode) = Encryptor::inner_iv_slice_init(cipher, &head[HEADER..]) else { return false };
            mode.encrypt_blocks(Array::slice_as_chunks_mut(text).0);
            icv.copy_from_slice(&mac.clone().chain_update(data).finalize().into_bytes()[..self.icv_len]);
            true
        })
    }

    fn open(&mut self, packets: &mut [Packet<'_>]) -> bool {
        packets.iter_mut().all(|packet| {
            let (cipher, mac) = &self.sas[packet.sa];
            let (data, icv) = packet.bytes.split_at_mut(packet.bytes.len() - self.icv_len);
            if mac.clone().chain_update(&data).verify_truncated_left(icv).is_err() {
                return false;
            }
            let (head, text) = data.split_at_mut(HEADER + self.iv_len);
            let Ok(mut mode) = Decryptor::inner_iv_slice_init(cipher, &head[HEADER..]) else { return false };
            mode.decrypt_blocks(Array::slice_as_chunks_mut(text).0);
            true
        })
    }
}

struct Gcm<C>(Vec<(C, [u8; GCM_SALT])>);

fn gcm<C: AeadInOut + KeyInit + 'static>(keys: &[Vec<u8>]) -> Option<Box<dyn Library>> {
    let sa = |key: &Vec<u8>| {
        let (key, salt) = key.split_last_chunk()?;
        Some((C::new_from_slice(key).ok()?, *salt))
    };
    Some(Box::new(Gcm(keys.iter().map(sa).collect::<Option<Vec<(C, _)>>>()?)))
}

impl<C: AeadInOut> Library for Gcm<C> {
    fn seal(&mut self, packets: &mut [Packet<'_>]) -> bool {
        packets.iter_mut().all(|packet| {
            let (cipher, salt) = &self.0[packet.sa];
            let nonce = gcm_nonce(*salt, packet.bytes);
            let Ok(nonce) = nonce.as_slice().try_into() else { return false };
            let (head, rest) = packet.bytes.split_at_mut(HEADER + GCM_IV);
            let (text, icv) = rest.split_at_mut(rest.len() - GCM_ICV);
            let tag = cipher.encrypt_inout_detached(nonce, &head[..HEADER], text.into());
            tag.is_ok_and(|tag| {
                icv.copy_from_slice(&tag);
                true
            })
        })
    }

    fn open(&mut self, packets: &mut [Packet<'_>]) -> bool {
        packets.iter_mut().all(|packet| {
            let (cipher, salt) = &self.0[packet.sa];
            let nonce = gcm_nonce(*salt, packet.bytes);
            let Ok(nonce) = nonce.as_slice().try_into() else { return false };
            let (head, rest) = packet.bytes.split_at_mut(HEADER + GCM_IV);
            let (text, icv) = rest.split_at_mut(rest.len() - GCM_ICV);
            let Ok(tag) = (&*icv).try_into() else { return false };
            cipher.decrypt_inout_detached(nonce, &head[..HEADER], text.into(), tag).is_ok()
        })
    }
}
