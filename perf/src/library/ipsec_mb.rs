//! Intel's multi-buffer library.

use dmvpn_esp::{Cipher, Integrity, Suite};
use dmvpn_ipsec_mb as mb;
pub(super) use dmvpn_ipsec_mb::Held;

use super::{Library, Packet};

struct IpsecMb(mb::Library);

/// All suites that the harness names.
pub(super) fn load(suite: Suite, held: Held, keys: &[Vec<u8>]) -> Option<Box<dyn Library>> {
    let cipher = match suite.cipher() {
        Cipher::Aes128Cbc | Cipher::Aes256Cbc => mb::Cipher::AesCbc,
        Cipher::Aes128Gcm | Cipher::Aes256Gcm => mb::Cipher::AesGcm,
        Cipher::TripleDesCbc => mb::Cipher::TripleDesCbc,
        _ => return None,
    };
    let integrity = match suite.integrity() {
        None => mb::Integrity::Aead,
        Some(Integrity::HmacSha1_96) => mb::Integrity::Sha1,
        Some(Integrity::HmacSha256_128) => mb::Integrity::Sha256,
        Some(Integrity::HmacMd5_96) => mb::Integrity::Md5,
        Some(_) => return None,
    };
    Some(Box::new(IpsecMb(mb::Library::new(cipher, integrity, held, keys)?)))
}

impl Library for IpsecMb {
    fn seal(&mut self, packets: &mut [Packet<'_>]) -> bool {
        self.0.seal(&mut described(packets))
    }

    fn open(&mut self, packets: &mut [Packet<'_>]) -> bool {
        self.0.open(&mut described(packets))
    }
}

/// The packets as the library knows them.
fn described<'p>(packets: &'p mut [Packet<'_>]) -> Vec<mb::Packet<'p>> {
    packets.iter_mut().map(|packet| mb::Packet::new(packet.sa, packet.bytes)).collect()
}
