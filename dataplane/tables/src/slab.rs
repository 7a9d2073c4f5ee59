//! Slot allocation with generations, for peers and inbound SPIs.
//!
//! A handle is `generation << INDEX_BITS | index`. We choose inbound SPIs ourselves, so an SPI can
//! be such a handle: finding its SA is an array access.

/// Bits of a handle that hold the slot: about a million slots.
pub const INDEX_BITS: u32 = 20;
/// Mask of the slot bits.
pub const INDEX_MASK: u32 = (1 << INDEX_BITS) - 1;
