//! Libraries that the kernels are measured against.

#[cfg(any(feature = "ring", feature = "aws-lc"))]
mod aead;
#[cfg(feature = "ipsec-mb")]
mod ipsec_mb;
mod rust_crypto;

use anyhow::bail;
use clap::ValueEnum;
use dmvpn_esp::Suite;

/// The libraries that this program knows. Which it has is decided when it is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Name {
    /// ring: AES-GCM.
    Ring,
    /// AWS-LC by its Rust interface: AES-GCM (CBC with padding of one's own is not in it).
    AwsLc,
    /// The RustCrypto crates.
    Rustcrypto,
    /// Intel's multi-buffer library.
    IpsecMb,
    /// The same as on a CPU without AVX-512; goes with '--kernel vaes-256+!avx-512'.
    IpsecMbAvx2,
}

/// A library with the keys of SAs.
pub(crate) trait Library {
    /// Encrypts packets that have header, IV, payload, padding and trailer in place, and writes their ICVs; whether all
    /// went well.
    fn seal(&mut self, packets: &mut [Packet<'_>]) -> bool;

    /// Checks the ICVs of packets and decrypts them; whether all are right.
    fn open(&mut self, packets: &mut [Packet<'_>]) -> bool;
}

/// A packet from the ESP header to the end of the ICV.
pub(crate) struct Packet<'a> {
    /// Number of the SA.
    pub(crate) sa: usize,
    pub(crate) bytes: &'a mut [u8],
}

impl Name {
    /// As it is written on the command line and in reports.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Ring => "ring",
            Self::AwsLc => "aws-lc",
            Self::Rustcrypto => "rustcrypto",
            Self::IpsecMb => "ipsec-mb",
            Self::IpsecMbAvx2 => "ipsec-mb-avx2",
        }
    }

    /// The figure in reports: its nanoseconds per packet.
    pub(crate) fn ns(self) -> &'static str {
        match self {
            Self::Ring => "ring_ns",
            Self::AwsLc => "aws_lc_ns",
            Self::Rustcrypto => "rustcrypto_ns",
            Self::IpsecMb => "ipsec_mb_ns",
            Self::IpsecMbAvx2 => "ipsec_mb_avx2_ns",
        }
    }

    /// Gives the library an SA for each of `keys`: the cipher's key, the salt of an AEAD, the integrity key. `None` if it
    /// does not know the suite.
    ///
    /// # Errors
    /// The program was built without it.
    pub(crate) fn load(self, suite: Suite, keys: &[Vec<u8>]) -> anyhow::Result<Option<Box<dyn Library>>> {
        Ok(match self {
            #[cfg(feature = "ring")]
            Self::Ring => aead::ring(suite, keys),
            #[cfg(feature = "aws-lc")]
            Self::AwsLc => aead::aws_lc(suite, keys),
            Self::Rustcrypto => rust_crypto::load(suite, keys),
            #[cfg(feature = "ipsec-mb")]
            Self::IpsecMb => ipsec_mb::load(suite, ipsec_mb::Held::ToNothing, keys),
            #[cfg(feature = "ipsec-mb")]
            Self::IpsecMbAvx2 => ipsec_mb::load(suite, ipsec_mb::Held::ToAvx2, keys),
            #[allow(unreachable_patterns, reason = "unless it was built with all of them")]
            _ => bail!("built without {0}: cargo build --release -p dmvpn-perf --features {0}", self.text()),
        })
    }
}

/// Bytes of SPI and sequence number.
const HEADER: usize = dmvpn_esp::HEADER_LEN;
/// Bytes of IV, salt and ICV of AES-GCM (RFC 4106).
const GCM_IV: usize = 8;
const GCM_SALT: usize = 4;
const GCM_ICV: usize = 16;

/// Salt, then the IV of the packet (RFC 4106 section 4).
fn gcm_nonce(salt: [u8; GCM_SALT], packet: &[u8]) -> [u8; GCM_SALT + GCM_IV] {
    let mut nonce = [0; GCM_SALT + GCM_IV];
    nonce[..GCM_SALT].copy_from_slice(&salt);
    nonce[GCM_SALT..].copy_from_slice(&packet[HEADER..HEADER + GCM_IV]);
    nonce
}
