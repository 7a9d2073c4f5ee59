//! IKEv1 (RFC 2407, 2408, 2409): main mode, quick mode and informational exchanges with a pre-shared
//! key, NAT traversal (RFC 3947) and dead peer detection (RFC 3706), as a pure machine.
//!
//! [`Machine`] takes [`Input`]s and the time, and gives [`Output`]s and the time of its next deadline.
//! Outputs are to be carried out in their order: an [`Event::InstallInbound`] that comes before a
//! [`Output::Send`] must be visible to the workers before that datagram leaves.
//!
//! # Peers and children
//! A *peer* is an authenticated far end: a tunnel, the address (and behind a NAT the port) we see it at,
//! and the identity it proved. It outlives IKE SAs, ESP SAs and a change of its NAT's port. A *child* is a
//! pair of ESP SAs of a peer. Every SA that was installed stays valid until it is removed, and there may be
//! several in each direction: all inbound ones accept packets; of the outbound ones, **the one installed
//! last, of those that were not removed, is the one to send with**. When two ends replace an SA at the
//! same moment they have a pair too many, and whichever goes, the other is still there. When the last
//! outbound SA goes the peer has no path, and nothing may be sent to it.

mod api;
mod deadlines;
mod dh;
mod dpd;
mod env;
mod exchange;
mod half_open;
mod informational;
mod keys;
mod lifecycle;
mod machine;
mod main_mode;
mod nat_t;
mod payload;
mod peer;
mod proposals;
mod quick_mode;
mod sa;
mod selectors;
mod status;
#[cfg(test)]
mod tests;
mod vendor;

pub use api::{
    ChildId, DownReason, Event, ExchangeKind, Fault, Identity, Input, Limits, NewSa, Notice, NoticeKind,
    Output, Reason,
};
pub use dh::{DhDone, DhJob};
pub use machine::Machine;
pub use status::{Counters, EspSaStatus, IkeSaStatus};
