//! Networks of whole appliances (engine and packet path, as in the product) in virtual time, on an
//! internet that loses, doubles and reorders packets and has NATs. Nothing here knows the real clock, a
//! thread or a socket: the same seed gives the same bytes on every wire.
//!
//! ```text
//!   Station ── LAN ── Appliance ── WAN ──┐
//!   Station ── LAN ── Appliance ── NAT ──┼── Internet
//!   Station ── LAN ── Appliance ── WAN ──┘
//! ```

#![forbid(unsafe_code)]

mod appliance;
mod internet;
mod network;
mod random;
pub mod site;
mod station;

pub use internet::{Faults, Traffic};
pub use network::{Network, SiteId};
pub use site::Site;
