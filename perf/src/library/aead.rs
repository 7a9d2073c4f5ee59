//! ring and AWS-LC, which have the same interface to AES-GCM.

use dmvpn_esp::{Cipher, Suite};

use super::{GCM_ICV, GCM_IV, GCM_SALT, HEADER, Library, Packet, gcm_nonce};

macro_rules! less_safe_keys {
    ($load:ident, $module:ident, $crate_aead:path) => {
        /// Its AES-GCM.
        pub(super) fn $load(suite: Suite, keys: &[Vec<u8>]) -> Option<Box<dyn Library>> {
            $module::load(suite, keys)
        }

        mod $module {
            use $crate_aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

            use super::*;

            struct Keys(Vec<(LessSafeKey, [u8; GCM_SALT])>);

            pub(super) fn load(suite: Suite, keys: &[Vec<u8>]) -> Option<Box<dyn Library>> {
                let algorithm = match suite.cipher() {
                    Cipher::Aes128Gcm => &AES_128_GCM,
                    Cipher::Aes256Gcm => &AES_256_GCM,
                    _ => return None,
                };
                let key = |bytes: &Vec<u8>| {
                    let (key, salt) = bytes.split_last_chunk()?;
                    Some((LessSafeKey::new(UnboundKey::new(algorithm, key).ok()?), *salt))
                };
                Some(Box::new(Keys(keys.iter().map(key).collect::<Option<_>>()?)))
            }

            impl Library for Keys {
                fn seal(&mut self, packets: &mut [Packet<'_>]) -> bool {
                    packets.iter_mut().all(|packet| {
                        let (key, salt) = &self.0[packet.sa];
                        let nonce = Nonce::assume_unique_for_key(gcm_nonce(*salt, packet.bytes));
                        let (header, text) = packet.bytes.split_at_mut(HEADER + GCM_IV);
                        let (text, icv) = text.split_at_mut(text.len() - GCM_ICV);
                        let tag = key.seal_in_place_separate_tag(nonce, Aad::from(&header[..HEADER]), text);
                        tag.is_ok_and(|tag| {
                            icv.copy_from_slice(tag.as_ref());
                            true
                        })
                    })
                }

                fn open(&mut self, packets: &mut [Packet<'_>]) -> bool {
                    packets.iter_mut().all(|packet| {
                        let (key, salt) = &self.0[packet.sa];
                        let nonce = Nonce::assume_unique_for_key(gcm_nonce(*salt, packet.bytes));
                        let (header, text) = packet.bytes.split_at_mut(HEADER + GCM_IV);
                        key.open_in_place(nonce, Aad::from(&header[..HEADER]), text).is_ok()
                    })
                }
            }
        }
    };
}

#[cfg(feature = "ring")]
less_safe_keys!(ring, of_ring, ring::aead);
#[cfg(feature = "aws-lc")]
less_safe_keys!(aws_lc, of_aws_lc, aws_lc_rs::aead);
