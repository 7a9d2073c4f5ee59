//! ESP (RFC 4303): cipher suites, batched seal and open, replay window.
//!
//! The control side builds an [`OutboundSa`] or [`InboundSa`] from a [`Suite`], [`KeyMaterial`] and,
//! outbound, an [`IvSeed`]; all key schedules are expanded there. Workers hand bursts of packets of
//! any mix of SAs to [`seal`] and [`open`], which work in place and neither allocate nor lock.
//!
//! An SA is shared by reference, but **only one worker may seal or open with it**: see
//! [`OutboundSa`] and [`InboundSa`]. Everybody may read its counters.

#![deny(unsafe_code)]

mod burst;
mod kernel;
mod keys;
mod kind;
mod open;
mod owned;
mod replay;
mod sa;
mod seal;
mod suite;
mod trailer;

pub use kernel::{Kernel, prefetch};
pub use keys::{IvSeed, KeyError, KeyMaterial};
pub use open::{OpenError, OpenJob, Opened, open};
pub use replay::{WindowSize, WindowSizeError};
pub use sa::{InboundCounters, InboundSa, OutboundCounters, OutboundSa};
pub use seal::{SealError, SealJob, seal};
pub use suite::{Cipher, Integrity, Suite, SuiteError};

/// ESP header: SPI and sequence number (RFC 4303 section 2).
pub const HEADER_LEN: usize = 8;

/// IP protocol number "no next header": the content is a dummy packet, to be dropped without a trace
/// (RFC 4303 section 2.6).
pub const DUMMY: u8 = 59;

#[cfg(test)]
mod tests;
