//! Vendor identifiers (RFC 2408 section 3.16).

use super::payload::{Chain, ChainBuilder, Kind};

/// Dead peer detection, version 1.0 (RFC 3706 section 5.1).
const DPD: [u8; 16] =
    [0xaf, 0xca, 0xd7, 0x13, 0x68, 0xa1, 0xf1, 0xc9, 0x6b, 0x86, 0x96, 0xfc, 0x77, 0x57, 0x01, 0x00];
/// NAT traversal (RFC 3947 section 3.1): the MD5 of "RFC 3947".
const NAT_T: [u8; 16] =
    [0x4a, 0x13, 0x1c, 0x81, 0x07, 0x03, 0x58, 0x45, 0x5c, 0x57, 0x28, 0xf2, 0x0e, 0x95, 0x45, 0x2f];

/// What an end has shown to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Support {
    pub(super) dpd: bool,
    pub(super) nat_t: bool,
}

impl Support {
    /// All that we know ourselves.
    pub(super) const ALL: Self = Self { dpd: true, nat_t: true };

    pub(super) fn read(chain: &Chain<'_>) -> Self {
        let shows = |id: &[u8]| chain.all(Kind::VENDOR_ID).any(|body| body == id);
        Self { dpd: shows(&DPD), nat_t: shows(&NAT_T) }
    }

    pub(super) fn write(self, chain: &mut ChainBuilder) {
        if self.nat_t {
            chain.push(Kind::VENDOR_ID, NAT_T);
        }
        if self.dpd {
            chain.push(Kind::VENDOR_ID, DPD);
        }
    }
}
