//! HMAC (RFC 2104) over hash states that were expanded with the key.

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::suite::Integrity;

/// The leading bytes of an HMAC, in words: as many as the longest ICV has, that of HMAC-SHA-512-256.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Tag(pub(crate) [[u8; 4]; 8]);

impl Tag {
    /// Truncates it to an ICV.
    #[inline]
    pub(crate) fn write(&self, icv: &mut [u8]) {
        for (icv, word) in icv.as_chunks_mut().0.iter_mut().zip(&self.0) {
            *icv = *word;
        }
    }

    /// Whether this is the ICV; in constant time.
    #[inline]
    pub(crate) fn is(&self, icv: &[u8]) -> bool {
        let words = icv.as_chunks().0.iter().zip(&self.0);
        let difference =
            words.fold(0, |sum, (icv, word)| sum | (u32::from_ne_bytes(*icv) ^ u32::from_ne_bytes(*word)));
        difference.ct_eq(&0).into()
    }
}

/// The states of a hash after one block of inner and one of outer padding, each XORed with the key:
/// two blocks less to hash per packet.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(crate) struct Pads<S: Zeroize> {
    pub(crate) inner: S,
    pub(crate) outer: S,
}

/// Expanded integrity keys.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(crate) enum MacKeys {
    Md5(Pads<[u32; 4]>),
    Sha1(Pads<[u32; 5]>),
    Sha256(Pads<[u32; 8]>),
    Sha384(Pads<Sha384State>),
    Sha512(Pads<Sha512State>),
}

/// One packet to authenticate.
pub(crate) struct MacLane<'a> {
    pub(crate) keys: &'a MacKeys,
    /// From the ESP header to before the ICV.
    pub(crate) data: &'a [u8],
    /// Where the tag comes.
    pub(crate) tag: Tag,
}

impl<'a> MacLane<'a> {
    pub(crate) fn new(keys: &'a MacKeys, data: &'a [u8]) -> Self {
        Self { keys, data, tag: Tag::default() }
    }
}

impl MacKeys {
    /// `key` is at most one block of the hash long, as every ESP integrity key is.
    pub(crate) fn new(integrity: Integrity, key: &[u8]) -> Self {
        match integrity {
            Integrity::HmacMd5_96 => {
                Self::Md5(Pads::new([0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476], key))
            }
            Integrity::HmacSha1_96 => {
                Self::Sha1(Pads::new([0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0], key))
            }
            Integrity::HmacSha256_128 => Self::Sha256(Pads::new(SHA256, key)),
            Integrity::HmacSha384_192 => Self::Sha384(Pads::new(Sha384State(SHA384), key)),
            Integrity::HmacSha512_256 => Self::Sha512(Pads::new(Sha512State(SHA512), key)),
        }
    }

    /// Bytes that the keys for an algorithm take up here.
    pub(crate) const fn len(integrity: Integrity) -> usize {
        let pads = match integrity {
            Integrity::HmacMd5_96 => size_of::<Pads<[u32; 4]>>(),
            Integrity::HmacSha1_96 => size_of::<Pads<[u32; 5]>>(),
            Integrity::HmacSha256_128 => size_of::<Pads<[u32; 8]>>(),
            Integrity::HmacSha384_192 => size_of::<Pads<Sha384State>>(),
            Integrity::HmacSha512_256 => size_of::<Pads<Sha512State>>(),
        };
        // The tag of the enum stands before them.
        align_of::<Self>() + pads
    }

    /// The leading bytes of the HMAC of `data`.
    pub(crate) fn tag(&self, data: &[u8]) -> Tag {
        match self {
            Self::Md5(pads) => pads.tag(data),
            Self::Sha1(pads) => pads.tag(data),
            Self::Sha256(pads) => pads.tag(data),
            Self::Sha384(pads) => pads.tag(data),
            Self::Sha512(pads) => pads.tag(data),
        }
    }
}

/// Initial states of FIPS 180-4 section 5.3.
const SHA256: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];
const SHA384: [u64; 8] = [
    0xcbbb_9d5d_c105_9ed8,
    0x629a_292a_367c_d507,
    0x9159_015a_3070_dd17,
    0x152f_ecd8_f70e_5939,
    0x6733_2667_ffc0_0b31,
    0x8eb4_4a87_6858_1511,
    0xdb0c_2e0d_64f9_8fa7,
    0x47b5_481d_befa_4fa4,
];
const SHA512: [u64; 8] = [
    0x6a09_e667_f3bc_c908,
    0xbb67_ae85_84ca_a73b,
    0x3c6e_f372_fe94_f82b,
    0xa54f_f53a_5f1d_36f1,
    0x510e_527f_ade6_82d1,
    0x9b05_688c_2b3e_6c1f,
    0x1f83_d9ab_fb41_bd6b,
    0x5be0_cd19_137e_2179,
];

/// A Merkle-Damgard hash between two blocks.
pub(crate) trait HashState: Copy + Zeroize {
    /// Bytes of a block.
    const BLOCK: usize;
    /// Bytes of the digest.
    const DIGEST: usize;
    /// Bytes of the length field that ends the last block.
    const LENGTH: usize;
    /// Mixes in whole blocks.
    fn compress(&mut self, blocks: &[u8]);
    /// Message length in bits, right-aligned for a big-endian field.
    fn length(bits: u64) -> [u8; 8] {
        bits.to_be_bytes()
    }
    /// Writes the words of the state as bytes.
    fn write(&self, digest: &mut [u8; 64]);
}

/// Two blocks of the widest hash: the end of a message with padding.
const TAIL: usize = 256;

impl<S: HashState> Pads<S> {
    fn new(initial: S, key: &[u8]) -> Self {
        let pad = |byte: u8| {
            let mut block = [byte; 128];
            for (b, k) in block.iter_mut().zip(key) {
                *b ^= k;
            }
            let mut state = initial;
            state.compress(&block[..S::BLOCK]);
            block.zeroize();
            state
        };
        Self { inner: pad(0x36), outer: pad(0x5c) }
    }

    fn tag(&self, data: &[u8]) -> Tag {
        let mut digest = [0; 64];
        finish(self.inner, data).write(&mut digest);
        finish(self.outer, &digest[..S::DIGEST]).write(&mut digest);
        let mut tag = Tag::default();
        tag.0.as_flattened_mut().copy_from_slice(&digest[..32]);
        tag
    }
}

/// Hashes `data`, which follows one block of padded key, to the end of the message.
fn finish<S: HashState>(mut state: S, data: &[u8]) -> S {
    let (whole, rest) = data.split_at(data.len() - data.len() % S::BLOCK);
    state.compress(whole);
    let mut tail = [0; TAIL];
    tail[..rest.len()].copy_from_slice(rest);
    tail[rest.len()] = 0x80;
    let end = (rest.len() + 1 + S::LENGTH).next_multiple_of(S::BLOCK);
    let bits = (S::BLOCK + data.len()) as u64 * 8;
    tail[end - 8..end].copy_from_slice(&S::length(bits));
    state.compress(&tail[..end]);
    state
}

impl HashState for [u32; 4] {
    const BLOCK: usize = 64;
    const DIGEST: usize = 16;
    const LENGTH: usize = 8;

    fn compress(&mut self, blocks: &[u8]) {
        md5::block_api::compress(self, blocks.as_chunks().0);
    }

    fn length(bits: u64) -> [u8; 8] {
        bits.to_le_bytes()
    }

    fn write(&self, digest: &mut [u8; 64]) {
        for (bytes, word) in digest.chunks_exact_mut(4).zip(self) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
    }
}

impl HashState for [u32; 5] {
    const BLOCK: usize = 64;
    const DIGEST: usize = 20;
    const LENGTH: usize = 8;

    fn compress(&mut self, blocks: &[u8]) {
        sha1::block_api::compress(self, blocks.as_chunks().0);
    }

    fn write(&self, digest: &mut [u8; 64]) {
        for (bytes, word) in digest.chunks_exact_mut(4).zip(self) {
            bytes.copy_from_slice(&word.to_be_bytes());
        }
    }
}

impl HashState for [u32; 8] {
    const BLOCK: usize = 64;
    const DIGEST: usize = 32;
    const LENGTH: usize = 8;

    fn compress(&mut self, blocks: &[u8]) {
        sha2::block_api::compress256(self, blocks.as_chunks().0);
    }

    fn write(&self, digest: &mut [u8; 64]) {
        for (bytes, word) in digest.chunks_exact_mut(4).zip(self) {
            bytes.copy_from_slice(&word.to_be_bytes());
        }
    }
}

macro_rules! sha2_wide {
    ($name:ident, $digest:literal) => {
        #[derive(Clone, Copy, Zeroize)]
        pub(crate) struct $name([u64; 8]);

        impl HashState for $name {
            const BLOCK: usize = 128;
            const DIGEST: usize = $digest;
            const LENGTH: usize = 16;

            fn compress(&mut self, blocks: &[u8]) {
                sha2::block_api::compress512(&mut self.0, blocks.as_chunks().0);
            }

            fn write(&self, digest: &mut [u8; 64]) {
                for (bytes, word) in digest.chunks_exact_mut(8).zip(self.0) {
                    bytes.copy_from_slice(&word.to_be_bytes());
                }
            }
        }
    };
}

sha2_wide!(Sha384State, 48);
sha2_wide!(Sha512State, 64);
