//! The control plane.
//!
//! [`engine`] owns every protocol machine and the tables' publisher. Nothing outside [`host`] touches a
//! socket, a clock or a thread.

#![forbid(unsafe_code)]

pub mod arp;
pub mod engine;
pub mod host;
pub mod icmp;
pub mod ike;
pub mod limit;
pub mod nhrp;
pub mod peer;
pub mod rib;
pub mod show;
pub mod time;

pub use engine::Engine;
