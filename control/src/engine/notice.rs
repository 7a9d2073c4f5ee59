//! What an operator may want to read in the log, and whose fault it is.

use std::fmt;
use std::net::Ipv4Addr;

use dmvpn_config::StaticRoute;
use dmvpn_tables::{PeerId, PortId, TunnelId};
use dmvpn_wire::MacAddr;

use crate::{ike, nhrp};

/// A line for the log. Logged once, at the edge, at a limited rate per [`Notice::kind`].
#[derive(Debug, Clone, PartialEq)]
pub struct Notice {
    /// The tunnel concerned, if it is one.
    pub tunnel: Option<TunnelId>,
    /// What happened.
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// A peer proved its identity.
    PeerUp {
        /// Its handle.
        peer: PeerId,
        /// Its underlay address.
        remote: Ipv4Addr,
        /// Who it is.
        identity: ike::Identity,
    },
    /// A peer has another underlay address or port.
    PeerMoved {
        /// Its handle.
        peer: PeerId,
        /// Its underlay address now.
        remote: Ipv4Addr,
    },
    /// A peer is gone.
    PeerDown {
        /// Its handle.
        peer: PeerId,
        /// Its underlay address.
        remote: Ipv4Addr,
        /// Why.
        reason: ike::DownReason,
    },
    /// No path could be made.
    ConnectFailed {
        /// Where to.
        remote: Ipv4Addr,
        /// Why not.
        reason: ike::Reason,
    },
    /// There is no route to an underlay address by the tunnel's own interface.
    NoUnderlayRoute {
        /// The underlay address.
        remote: Ipv4Addr,
    },
    /// Something else in IKE.
    Ike(ike::Notice),
    /// Something in NHRP.
    Nhrp(nhrp::Event),
    /// Another station uses our address.
    AddressConflict {
        /// On which link.
        port: PortId,
        /// Our address.
        address: Ipv4Addr,
        /// Who.
        mac: MacAddr,
    },
    /// The next hop of a static route is on no interface.
    RouteWithoutInterface(StaticRoute),
}

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Of use to somebody who looks for a fault.
    Debug,
    /// News.
    Info,
    /// Something does not work as it should.
    Warning,
}

/// Who can remedy it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nobody has to.
    Nobody,
    /// The peer, or who runs it.
    Peer,
    /// Our configuration or the peer's, which do not fit; or a limit of this box.
    Configuration,
    /// What is between us.
    Network,
}

impl Notice {
    /// A name for what happened, the same for everything of its kind.
    pub fn kind(&self) -> &'static str {
        match &self.what {
            What::PeerUp { .. } => "peer-up",
            What::PeerMoved { .. } => "peer-moved",
            What::PeerDown { .. } => "peer-down",
            What::ConnectFailed { .. } => "connect-failed",
            What::NoUnderlayRoute { .. } => "no-underlay-route",
            What::Ike(notice) => match notice.kind {
                ike::NoticeKind::Failed { .. } => "ike-failed",
                ike::NoticeKind::PlainNotify { .. } => "ike-plain-notify",
                ike::NoticeKind::Notify { .. } => "ike-notify",
                ike::NoticeKind::IkeUp => "ike-up",
                ike::NoticeKind::IkeDown => "ike-down",
            },
            What::Nhrp(event) => match event {
                nhrp::Event::NhsUp { .. } => "nhs-up",
                nhrp::Event::NhsDown { .. } => "nhs-down",
                nhrp::Event::RegistrationRefused { .. } => "registration-refused",
                nhrp::Event::BehindNat { .. } => "behind-nat",
                nhrp::Event::Registered { .. } => "registered",
                nhrp::Event::Unregistered { .. } => "unregistered",
                nhrp::Event::Conflict { .. } => "overlay-conflict",
                nhrp::Event::ShortcutUp { .. } => "shortcut-up",
                nhrp::Event::ShortcutDown { .. } => "shortcut-down",
                nhrp::Event::ResolutionFailed { .. } => "resolution-failed",
                nhrp::Event::AuthenticationFailed { .. } => "nhrp-authentication",
                nhrp::Event::ErrorIndicated { .. } => "nhrp-error",
                nhrp::Event::Misbehaved { .. } => "nhrp-misbehaved",
                nhrp::Event::LimitReached => "nhrp-limit",
            },
            What::AddressConflict { .. } => "address-conflict",
            What::RouteWithoutInterface(_) => "route-without-interface",
        }
    }

    /// Who can remedy it.
    pub fn fault(&self) -> Fault {
        match &self.what {
            What::PeerUp { .. } | What::PeerMoved { .. } => Fault::Nobody,
            What::PeerDown { reason, .. } => match reason {
                ike::DownReason::Deleted | ike::DownReason::Disconnected | ike::DownReason::Reconfigured => {
                    Fault::Nobody
                }
                ike::DownReason::Unresponsive | ike::DownReason::Expired => Fault::Network,
            },
            What::ConnectFailed { reason, .. } => reason.fault().into(),
            What::Ike(notice) => match &notice.kind {
                ike::NoticeKind::Failed { reason, .. } => reason.fault().into(),
                ike::NoticeKind::PlainNotify { .. } => Fault::Network,
                ike::NoticeKind::Notify { .. } => Fault::Peer,
                ike::NoticeKind::IkeUp | ike::NoticeKind::IkeDown => Fault::Nobody,
            },
            What::Nhrp(event) => match event.fault() {
                nhrp::Fault::None => Fault::Nobody,
                nhrp::Fault::Peer => Fault::Peer,
                nhrp::Fault::Local => Fault::Configuration,
                nhrp::Fault::Network => Fault::Network,
            },
            What::AddressConflict { .. } => Fault::Network,
            What::NoUnderlayRoute { .. } | What::RouteWithoutInterface(_) => Fault::Configuration,
        }
    }

    /// How much it matters.
    pub fn severity(&self) -> Severity {
        match (&self.what, self.fault()) {
            (What::Ike(notice), _) if !matches!(notice.kind, ike::NoticeKind::Failed { .. }) => {
                Severity::Debug
            }
            (_, Fault::Nobody) => Severity::Info,
            _ => Severity::Warning,
        }
    }
}

impl From<ike::Fault> for Fault {
    fn from(fault: ike::Fault) -> Self {
        match fault {
            ike::Fault::Peer => Self::Peer,
            ike::Fault::Policy | ike::Fault::Local => Self::Configuration,
            ike::Fault::Network => Self::Network,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nobody => "nobody",
            Self::Peer => "peer",
            Self::Configuration => "configuration",
            Self::Network => "network",
        })
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PeerUp { peer, remote, identity } => write!(f, "{peer} at {remote} is {identity}"),
            Self::PeerMoved { peer, remote } => write!(f, "{peer} moved to {remote}"),
            Self::PeerDown { peer, remote, reason } => {
                write!(f, "{peer} at {remote} is gone: {}", down_reason(*reason))
            }
            Self::ConnectFailed { remote, reason } => write!(f, "no path to {remote}: {reason}"),
            Self::NoUnderlayRoute { remote } => {
                write!(f, "no route to {remote} by the tunnel's underlay interface")
            }
            Self::Ike(notice) => write_ike(f, notice),
            Self::Nhrp(event) => write!(f, "{event}"),
            Self::AddressConflict { port, address, mac } => {
                write!(f, "{mac} on port {} uses our address {address}", port.0)
            }
            Self::RouteWithoutInterface(route) => {
                write!(
                    f,
                    "route {} is not used: next hop {} is on no interface",
                    route.prefix, route.next_hop
                )
            }
        }
    }
}

fn write_ike(f: &mut fmt::Formatter<'_>, notice: &ike::Notice) -> fmt::Result {
    let remote = notice.remote;
    match &notice.kind {
        ike::NoticeKind::Failed { exchange, reason } => {
            let exchange = match exchange {
                ike::ExchangeKind::MainMode => "main mode",
                ike::ExchangeKind::QuickMode => "quick mode",
                ike::ExchangeKind::Informational => "informational exchange",
            };
            write!(f, "{exchange} with {remote} failed: {reason}")
        }
        ike::NoticeKind::PlainNotify { kind } => write!(f, "notification {kind} in the clear from {remote}"),
        ike::NoticeKind::Notify { kind } => write!(f, "{remote} notifies {kind}"),
        ike::NoticeKind::IkeUp => write!(f, "IKE SA with {remote} is up"),
        ike::NoticeKind::IkeDown => write!(f, "IKE SA with {remote} is gone"),
    }
}

fn down_reason(reason: ike::DownReason) -> &'static str {
    match reason {
        ike::DownReason::Deleted => "it took leave",
        ike::DownReason::Unresponsive => "it does not answer",
        ike::DownReason::Expired => "its last SA expired",
        ike::DownReason::Disconnected => "we took leave",
        ike::DownReason::Reconfigured => "the configuration changed",
    }
}
