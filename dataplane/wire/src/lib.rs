//! Header views for the packet path: the wire formats that workers touch, and nothing else.
//!
//! Every header is a `zerocopy` struct of bytes and big-endian integers that is laid over the packet
//! in place ([`View`]); the modules add the exact checks of their RFC (`parse`) and builders for what
//! the appliance sends itself. Input is never trusted: a length is checked before it is used, and no
//! function of this crate panics on any bytes.

#![no_std]
#![forbid(unsafe_code)]

pub mod arp;
pub mod checksum;
pub mod esp;
pub mod eth;
pub mod gre;
pub mod icmp;
pub mod ipv4;
pub mod udp;
mod view;

pub use eth::{EtherType, MacAddr};
pub use ipv4::IpProtocol;
pub use view::{Malformed, View};

#[cfg(test)]
mod tests;
