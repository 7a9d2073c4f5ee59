//! Which kernels run, by what the CPU has.

use std::fmt;
use std::sync::LazyLock;

use super::x86::AesUnit;

/// A set of kernels that this CPU can run; there is no other way to get one than from here. An SA is
/// made for one, since keys are laid out for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernel {
    /// What AES runs on; `None` for the portable kernels.
    pub(crate) aes: Option<AesUnit>,
}

impl Kernel {
    /// The fastest for this CPU.
    pub fn best() -> Self {
        static BEST: LazyLock<Kernel> = LazyLock::new(|| Kernel { aes: AesUnit::available().last() });
        *BEST
    }

    /// All that this CPU can run, the portable one first and the fastest last.
    pub fn available() -> impl Iterator<Item = Self> {
        std::iter::once(None).chain(AesUnit::available().map(Some)).map(|aes| Self { aes })
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
        write!(f, "AES-CBC {cbc}; HMAC portable; AES-GCM portable; 3DES portable")
    }
}
