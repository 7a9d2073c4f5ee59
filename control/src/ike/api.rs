//! What goes into the machine and what comes out of it.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use dmvpn_tables::esp::KeyMaterial;
use dmvpn_tables::{Endpoints, Mode, PeerId, TunnelId};

use super::dh::{DhDone, DhJob};

/// What happened outside.
#[derive(Debug)]
pub enum Input {
    /// A datagram came to UDP port 500, or to 4500 with the non-ESP marker (RFC 3948 section 2.2).
    Datagram {
        /// Our address and port.
        local: SocketAddrV4,
        /// Where it came from.
        remote: SocketAddrV4,
        /// The ISAKMP message, without a marker.
        payload: Vec<u8>,
    },
    /// A [`DhJob`] has run.
    Dh(DhDone),
    /// A path to `remote` is wanted. Nothing happens where one exists or is under way; the answer is
    /// [`Event::InstallOutbound`] or [`Event::Failed`].
    Connect {
        /// The tunnel it is for.
        tunnel: TunnelId,
        /// Underlay address of the far end.
        remote: Ipv4Addr,
    },
    /// Replace the peer's IKE SA now.
    RekeyIke {
        /// Whose.
        peer: PeerId,
    },
    /// Replace the peer's ESP SAs now.
    RekeyEsp {
        /// Whose.
        peer: PeerId,
    },
    /// Take leave of the peer: DELETE for its ESP SAs, then for its IKE SAs, then
    /// [`Event::PeerDown`].
    Disconnect {
        /// Whom to leave.
        peer: PeerId,
    },
    /// An ESP packet that proved itself, with a fresh sequence number, came from a new address or port.
    PeerMoved {
        /// Whose SA it came by.
        peer: PeerId,
        /// Where it came from.
        to: SocketAddrV4,
    },
    /// ESP came from the peer since the last such input: no need to probe it.
    Alive {
        /// Who lives.
        peer: PeerId,
    },
    /// Somebody doubts that the peer is still there: probe it now (RFC 3706), whatever its last sign of
    /// life. [`Event::PeerDown`] follows if it does not answer.
    Probe {
        /// Who may be gone.
        peer: PeerId,
    },
    /// The first packet came by an inbound SA: the far end has both SAs of the pair, and sends with its
    /// own. Optional: without it, the switch to a new outbound SA waits for some seconds.
    InboundUsed {
        /// The peer it came from.
        peer: PeerId,
        /// The inbound SA.
        spi: u32,
    },
    /// An outbound SA nears the end of its sequence numbers.
    SequenceNearEnd {
        /// Its SPI, as in [`Event::InstallOutbound`].
        spi: u32,
        /// The peer it leads to.
        peer: PeerId,
    },
    /// ESP came with an SPI that nobody holds (any more).
    UnknownSpi {
        /// The SPI.
        spi: u32,
        /// Where it came from.
        remote: Ipv4Addr,
    },
}

/// What to do outside, in this order.
#[derive(Debug)]
pub enum Output {
    /// Send a datagram.
    Send {
        /// Our address and port to send from.
        local: SocketAddrV4,
        /// Where to.
        remote: SocketAddrV4,
        /// Put the non-ESP marker in front (never on a keepalive, which is the single byte 0xff).
        marker: bool,
        /// The ISAKMP message.
        payload: Vec<u8>,
    },
    /// Run a Diffie-Hellman computation and hand the result back as [`Input::Dh`].
    Dh(DhJob),
    /// Something for the rest of the control plane.
    Event(Event),
}

/// What the rest of the control plane needs to know.
#[derive(Debug)]
pub enum Event {
    /// A far end proved its identity. It has no path yet.
    PeerUp {
        /// Its handle, from now on.
        peer: PeerId,
        /// The tunnel it belongs to.
        tunnel: TunnelId,
        /// Addresses, and ports where a NAT is on the way.
        endpoints: Endpoints,
        /// Who it is.
        identity: Identity,
        /// We began.
        initiator: bool,
    },
    /// The peer's address or port changed. It holds for all its SAs, installed or to be installed.
    PeerMoved {
        /// Who moved.
        peer: PeerId,
        /// Where it is now.
        endpoints: Endpoints,
    },
    /// The peer is gone; its SAs went before, each with an event of its own.
    PeerDown {
        /// Who.
        peer: PeerId,
        /// The tunnel it belonged to.
        tunnel: TunnelId,
        /// Its underlay address.
        remote: Ipv4Addr,
        /// Why.
        reason: DownReason,
    },
    /// Accept ESP with this SA.
    InstallInbound(Box<NewSa>),
    /// Send to the peer with this SA from now on; keep the ones before it.
    InstallOutbound(Box<NewSa>),
    /// Accept no more ESP with this SPI.
    RemoveInbound {
        /// Whose SA it was.
        peer: PeerId,
        /// The pair it belonged to.
        child: ChildId,
        /// Our SPI.
        spi: u32,
    },
    /// Send nothing more with this SA. Use the one that was installed last of those that are left; if
    /// none is left the peer has no path now.
    RemoveOutbound {
        /// Whose SA it was.
        peer: PeerId,
        /// The pair it belonged to.
        child: ChildId,
        /// The peer's SPI.
        spi: u32,
    },
    /// An attempt to reach `remote` failed; nothing is under way any more. Trying again, and when, is
    /// the caller's business.
    Failed {
        /// The tunnel it was for.
        tunnel: TunnelId,
        /// The far end.
        remote: Ipv4Addr,
        /// Why.
        reason: Reason,
    },
    /// Worth a line in the log, at a limited rate.
    Notice(Notice),
}

/// A pair of ESP SAs, numbered in the order of their negotiation; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChildId(pub u64);

/// An ESP SA to install, one direction.
pub struct NewSa {
    /// Whose.
    pub peer: PeerId,
    /// The tunnel its traffic belongs to.
    pub tunnel: TunnelId,
    /// The pair it belongs to.
    pub child: ChildId,
    /// Ours for an inbound SA, the peer's for an outbound one.
    pub spi: u32,
    /// Algorithms and keys.
    pub keys: KeyMaterial,
    /// ESP mode, with the inner addresses as they stand in packets of this direction.
    pub mode: Mode,
    /// Outer addresses, and ports where ESP is encapsulated in UDP.
    pub endpoints: Endpoints,
    /// Anti-replay window of an inbound SA, in packets.
    pub replay_window: u32,
    /// When it ends at the latest, counted from now.
    pub lifetime: Duration,
}

impl fmt::Debug for NewSa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewSa")
            .field("peer", &self.peer)
            .field("child", &self.child)
            .field("spi", &format_args!("{:08x}", self.spi))
            .field("suite", &self.keys.suite())
            .field("mode", &self.mode)
            .field("endpoints", &self.endpoints)
            .finish_non_exhaustive()
    }
}

/// An identity that a far end proved (RFC 2407 section 4.6.2).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// ID type.
    pub kind: u8,
    /// Its data, as received.
    pub data: Vec<u8>,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.kind, self.data.as_slice()) {
            (1, &[a, b, c, d]) => write!(f, "{}", Ipv4Addr::new(a, b, c, d)),
            (2 | 3, text) => write!(f, "{}", text.escape_ascii()),
            (kind, data) => {
                write!(f, "type {kind}: ")?;
                data.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

/// Why a peer is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DownReason {
    /// The peer took leave (DELETE).
    Deleted,
    /// It stopped answering.
    Unresponsive,
    /// Its last SA came to its end and was not replaced.
    Expired,
    /// We took leave ([`Input::Disconnect`]).
    Disconnected,
    /// The tunnel's profile or our address changed.
    Reconfigured,
}

/// Who caused a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// The far end broke the protocol, or somebody sends in its name.
    Peer,
    /// Our configuration and the far end's do not fit.
    Policy,
    /// The network, or a far end that is not there.
    Network,
    /// A limit of this box.
    Local,
}

/// What went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// No answer.
    Timeout,
    /// No proposal in common.
    NoProposal,
    /// The far end could not read our encrypted message, or we could not read its: the pre-shared
    /// secrets differ.
    Secret,
    /// HASH did not verify.
    Authentication,
    /// An identity that our policy does not take.
    Identity,
    /// Traffic selectors that are not GRE between the two ends.
    Selectors,
    /// A message that is malformed, or against the rules of its exchange.
    Malformed,
    /// A Diffie-Hellman value out of range or not on the curve.
    KeyExchange,
    /// A key that its cipher calls weak.
    WeakKey,
    /// The far end refused (an authenticated notification of this type).
    Refused(u16),
    /// The tunnel has no address, or no profile.
    NotConfigured,
    /// A limit on SAs, exchanges or computations is reached.
    Limit,
    /// Taken down on this side.
    Cancelled,
}

impl Reason {
    /// Who caused it.
    pub fn fault(self) -> Fault {
        match self {
            Self::Timeout => Fault::Network,
            Self::NoProposal | Self::Secret | Self::Identity | Self::Selectors | Self::Refused(_) => {
                Fault::Policy
            }
            Self::Authentication | Self::Malformed | Self::KeyExchange | Self::WeakKey => Fault::Peer,
            Self::NotConfigured | Self::Limit | Self::Cancelled => Fault::Local,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Timeout => "no answer",
            Self::NoProposal => "no proposal in common",
            Self::Secret => "unreadable message; the pre-shared secrets probably differ",
            Self::Authentication => "authentication failed",
            Self::Identity => "identity not acceptable",
            Self::Selectors => "traffic selectors not acceptable",
            Self::Malformed => "malformed message",
            Self::KeyExchange => "invalid Diffie-Hellman value",
            Self::WeakKey => "weak cipher key",
            Self::Refused(kind) => return write!(f, "the peer refused with notification {kind}"),
            Self::NotConfigured => "the tunnel has no address or no profile",
            Self::Limit => "a limit is reached",
            Self::Cancelled => "cancelled",
        })
    }
}

/// Something an operator may want to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The far end concerned.
    pub remote: SocketAddrV4,
    /// The tunnel, where it is known.
    pub tunnel: Option<TunnelId>,
    /// What happened.
    pub kind: NoticeKind,
}

/// What a [`Notice`] tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoticeKind {
    /// An exchange failed.
    Failed {
        /// Which.
        exchange: ExchangeKind,
        /// Why.
        reason: Reason,
    },
    /// A notification without protection: a hint that anybody could have sent, and nothing more.
    PlainNotify {
        /// Its type.
        kind: u16,
    },
    /// An authenticated notification that we have no use for.
    Notify {
        /// Its type.
        kind: u16,
    },
    /// An IKE SA is up.
    IkeUp,
    /// An IKE SA is gone.
    IkeDown,
}

/// The kinds of exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExchangeKind {
    /// Authentication: makes an IKE SA.
    MainMode,
    /// Makes a pair of ESP SAs.
    QuickMode,
    /// Notification, DELETE, dead peer detection.
    Informational,
}

/// Bounds on what others can make this machine hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Main modes that others began and that are not authenticated yet.
    pub half_open: usize,
    /// Of these, from one source address.
    pub half_open_per_source: usize,
    /// Of these, from one /24 network.
    pub half_open_per_network: usize,
    /// Diffie-Hellman computations under way for main modes that others began.
    pub dh_jobs: usize,
    /// Of these, for one source address.
    pub dh_jobs_per_source: usize,
    /// ESP SA pairs of one peer.
    pub children_per_peer: usize,
    /// IKE SAs of one peer.
    pub ike_sas_per_peer: usize,
    /// Peers at one address of a tunnel: behind a NAT there are several, and whoever has the secret may
    /// call itself anything.
    pub peers_per_address: usize,
    /// Peers.
    pub peers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            half_open: 16_384,
            half_open_per_source: 16,
            half_open_per_network: 512,
            dh_jobs: 256,
            dh_jobs_per_source: 4,
            children_per_peer: 8,
            ike_sas_per_peer: 4,
            peers_per_address: 1_024,
            peers: 65_536,
        }
    }
}
