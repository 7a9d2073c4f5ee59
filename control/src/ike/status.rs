//! What an operator can see: counters, and the SAs as they stand.

use std::net::SocketAddrV4;
use std::time::Duration;

use dmvpn_config::model::{EspProposal, IkeProposal};
use dmvpn_tables::{Endpoints, Mode, PeerId, TunnelId};

use super::api::{ChildId, Identity};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What was done, and what was refused and why. All count from the start of the machine.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            /// Every counter with its name.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }
    };
}

counters! {
    /// Messages received.
    received,
    /// Messages sent, repetitions included.
    sent,
    /// Messages sent again because no answer came, or because the far end repeated itself.
    repeated,
    /// Received again: the last answer was repeated, or nothing done.
    duplicates,
    /// Too short, a length that lies, another version, an exchange that we do not take part in.
    bad_header,
    /// A payload chain or payload that is malformed.
    bad_payload,
    /// Cookies that belong to nothing.
    unknown_cookies,
    /// Aggressive mode, which is never answered: it would show a hash of the secret to anybody.
    aggressive_mode,
    /// Not encrypted where it must be, or encrypted where it cannot be.
    bad_encryption,
    /// HASH missing or wrong.
    bad_hash,
    /// A message identifier seen before: a replay, or our own message reflected.
    replayed,
    /// Not what its exchange waits for.
    unexpected,
    /// Notifications without protection: at most hints.
    plain_notifies,
    /// A public value out of range or not on its curve.
    bad_key_exchange,
    /// No proposal in common.
    no_proposal,
    /// Identities or traffic selectors that are not acceptable.
    bad_identity,
    /// The far end uses another pre-shared secret.
    bad_secret,
    /// Refused or dropped because a limit was reached.
    limited,
    /// Half-open main modes given up for newer ones.
    evicted,
    /// IKE SAs made.
    ike_up,
    /// IKE SAs ended.
    ike_down,
    /// Pairs of ESP SAs made.
    children_up,
    /// Pairs of ESP SAs ended.
    children_down,
    /// Main modes that others began and did not finish.
    unfinished,
    /// Exchanges that we began and that failed.
    failed,
    /// Dead peer detection: probes sent.
    dpd_probes,
    /// Dead peer detection: peers given up.
    dpd_dead,
    /// Peers whose NAT changed their address or port.
    peers_moved,
}

/// An IKE SA, or a main mode on its way to become one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IkeSaStatus {
    /// The tunnel it is for.
    pub tunnel: TunnelId,
    /// The peer, once authenticated.
    pub peer: Option<PeerId>,
    /// Who the peer proved to be.
    pub identity: Option<Identity>,
    /// Our address and port.
    pub local: SocketAddrV4,
    /// The far end's.
    pub remote: SocketAddrV4,
    /// We began it.
    pub initiator: bool,
    /// The initiator's cookie.
    pub cookie_i: u64,
    /// The responder's; zero while unknown.
    pub cookie_r: u64,
    /// Algorithms, once agreed.
    pub proposal: Option<IkeProposal>,
    /// What it waits for, or `established`.
    pub state: &'static str,
    /// Time since it was established, or begun.
    pub age: Duration,
    /// Time to its end.
    pub remaining: Duration,
    /// A NAT is in front of us.
    pub nat_local: bool,
    /// A NAT is in front of the far end.
    pub nat_remote: bool,
}

/// A pair of ESP SAs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EspSaStatus {
    /// Its number.
    pub child: ChildId,
    /// The tunnel it is for.
    pub tunnel: TunnelId,
    /// Whose.
    pub peer: PeerId,
    /// Our SPI.
    pub inbound: u32,
    /// The peer's SPI; 0 before it has told.
    pub outbound: u32,
    /// Whether it is the one to send with.
    pub sending: bool,
    /// Algorithms.
    pub proposal: EspProposal,
    /// Whether its keys come from a Diffie-Hellman exchange of their own.
    pub pfs: bool,
    /// Mode, with the inner addresses as in packets that we send.
    pub mode: Mode,
    /// Outer addresses.
    pub endpoints: Endpoints,
    /// Time since it was made.
    pub age: Duration,
    /// Time to its end.
    pub remaining: Duration,
}
