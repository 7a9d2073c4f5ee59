//! Which kernels run, by what the CPU has.

use std::fmt;
use std::sync::LazyLock;

use super::x86::{AesUnit, ShaUnit};

/// A set of kernels that this CPU can run; there is no other way to get one than from here. An SA is
/// made for one, since keys are laid out for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernel {
    /// What AES and triple DES run on; `None` for the portable kernels.
    pub(crate) aes: Option<AesUnit>,
    /// What HMAC runs on; `None` for the portable kernels.
    pub(crate) sha: Option<ShaUnit>,
}

impl Kernel {
    /// The fastest for this CPU.
    pub fn best() -> Self {
        static BEST: LazyLock<Kernel> =
            LazyLock::new(|| Kernel { aes: AesUnit::available().last(), sha: ShaUnit::available().last() });
        *BEST
    }

    /// All that this CPU can run, the portable one first and the fastest last.
    pub fn available() -> impl Iterator<Item = Self> {
        let aes = || std::iter::once(None).chain(AesUnit::available().map(Some));
        let sha = std::iter::once(None).chain(ShaUnit::available().map(Some));
        sha.flat_map(move |sha| aes().map(move |aes| Self { aes, sha }))
    }
}

/// Which instructions each kind of suite runs on, for the log.
impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cbc = match self.aes {
            None => "portable",
            Some(AesUnit::AesNi) => "AES-NI, 8 packets",
            Some(AesUnit::Vaes256) => "VAES-256, 16 packets",
            Some(AesUnit::Vaes512) => "VAES-512, 16 packets",
        };
        let sha = match self.sha {
            None => "portable",
            Some(ShaUnit::ShaNi) => "SHA-NI, 4 packets",
            Some(ShaUnit::Avx512) => "SHA-NI, 4 packets (SHA1 and MD5 AVX-512, 16 packets)",
        };
        let gcm = match self.aes {
            None | Some(AesUnit::AesNi) => "portable",
            Some(AesUnit::Vaes256) => "VAES-256",
            Some(AesUnit::Vaes512) => "VAES-512",
        };
        let des = match self.aes {
            Some(AesUnit::Vaes512) => "AVX-512, 64 blocks",
            _ => "portable",
        };
        write!(
            f,
            "AES-CBC {cbc}; 3DES-CBC {des}; HMAC-SHA1 and SHA256 {sha}; AES-GCM {gcm}; all else portable"
        )
    }
}
