//! The clear part of an ESP packet (RFC 4303 section 2).

use zerocopy::big_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::View;

/// What stands in front of the IV and the encrypted bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Header {
    spi: U32,
    sequence: U32,
}

impl View for Header {}

impl Header {
    /// A header for packet number `sequence` of the SA `spi`.
    #[inline]
    pub fn new(spi: u32, sequence: u32) -> Self {
        Self { spi: spi.into(), sequence: sequence.into() }
    }

    /// Security parameters index: which SA of the receiver. 1 to 255 are reserved, 0 is never sent
    /// (RFC 4303 section 2.1).
    #[inline]
    pub fn spi(&self) -> u32 {
        self.spi.get()
    }

    /// Sequence number; the first packet of an SA has 1.
    #[inline]
    pub fn sequence(&self) -> u32 {
        self.sequence.get()
    }
}
