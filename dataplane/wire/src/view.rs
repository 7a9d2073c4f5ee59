//! What all headers have in common.

use core::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A header of fixed size that can be laid over packet bytes in place.
///
/// These methods check the length only; what a field may hold is checked by the `parse` function of
/// the header's module, where it has one.
pub trait View: FromBytes + IntoBytes + KnownLayout + Immutable + Unaligned + Sized {
    /// Size on the wire, in bytes.
    const LEN: usize = size_of::<Self>();

    /// The header at the front of `bytes`, and what follows it.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] if `bytes` is shorter than the header.
    #[inline]
    fn view(bytes: &[u8]) -> Result<(&Self, &[u8]), Malformed> {
        Self::ref_from_prefix(bytes).map_err(|_| Malformed::Truncated)
    }

    /// As [`view`](Self::view), to change the header in place.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] if `bytes` is shorter than the header.
    #[inline]
    fn view_mut(bytes: &mut [u8]) -> Result<(&mut Self, &mut [u8]), Malformed> {
        Self::mut_from_prefix(bytes).map_err(|_| Malformed::Truncated)
    }

    /// The header as it goes on the wire.
    #[inline]
    fn octets(&self) -> &[u8] {
        self.as_bytes()
    }

    /// Writes the header to the front of `out` and gives what follows it; `None` (and `out` untouched)
    /// if there is no room.
    #[inline]
    fn emit<'a>(&self, out: &'a mut [u8]) -> Option<&'a mut [u8]> {
        let (front, rest) = out.split_at_mut_checked(Self::LEN)?;
        front.copy_from_slice(self.as_bytes());
        Some(rest)
    }
}

/// Why bytes are not the header that they were taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Malformed {
    /// Fewer bytes than the header, or than the length it states.
    Truncated,
    /// A version that we do not speak.
    Version,
    /// A stated length that contradicts itself (shorter than the header that states it).
    Length,
    /// The checksum is wrong.
    Checksum,
    /// A flag, type or reserved bit that must not be set, or that we do not implement.
    Unsupported,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truncated => "truncated",
            Self::Version => "unknown version",
            Self::Length => "contradictory length",
            Self::Checksum => "wrong checksum",
            Self::Unsupported => "unsupported flags or type",
        })
    }
}

impl core::error::Error for Malformed {}
