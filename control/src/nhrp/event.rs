//! What an operator may want to know, and whose fault it is.

use std::fmt;
use std::net::Ipv4Addr;

use dmvpn_tables::PeerId;
use ipnetwork::Ipv4Network;

/// Something an operator may want to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A next hop server accepted our registration.
    NhsUp {
        /// Its overlay address.
        nhs: Ipv4Addr,
        /// Its underlay address.
        nbma: Ipv4Addr,
    },
    /// A next hop server is lost: no path, or it leaves registrations unanswered.
    NhsDown {
        /// Its overlay address.
        nhs: Ipv4Addr,
        /// Its underlay address.
        nbma: Ipv4Addr,
    },
    /// A next hop server refused our registration.
    RegistrationRefused {
        /// Its overlay address.
        nhs: Ipv4Addr,
        /// The code of RFC 2332 section 5.2.4: 4 prohibited, 5 no resources, 14 registered by another.
        code: u8,
    },
    /// A NAT is in front of us: our packets arrive from this address.
    BehindNat {
        /// Our public address.
        public: Ipv4Addr,
    },
    /// A peer registered.
    Registered {
        /// Its overlay address.
        overlay: Ipv4Addr,
        /// Where it is.
        nbma: Ipv4Addr,
    },
    /// A registration is over: it ran out, was withdrawn, or its path went down.
    Unregistered {
        /// The overlay address.
        overlay: Ipv4Addr,
    },
    /// A peer wanted an overlay address that belongs to another.
    Conflict {
        /// The overlay address.
        overlay: Ipv4Addr,
        /// Who has it.
        holder: PeerId,
        /// Who wanted it.
        claimant: PeerId,
    },
    /// A shortcut is in use.
    ShortcutUp {
        /// The destinations.
        prefix: Ipv4Network,
        /// The overlay address of the peer.
        next_hop: Ipv4Addr,
        /// Where it is.
        nbma: Ipv4Addr,
    },
    /// A shortcut is over; its traffic goes by the hub again.
    ShortcutDown {
        /// The destinations.
        prefix: Ipv4Network,
    },
    /// A destination could not be resolved; it is not tried again for a while.
    ResolutionFailed {
        /// What was asked for.
        target: Ipv4Addr,
        /// Why not.
        why: ResolutionFailure,
    },
    /// A packet did not authenticate. Its sender has another `cisco-authentication`, or none.
    AuthenticationFailed {
        /// Who sent it.
        peer: PeerId,
        /// Where it is.
        nbma: Ipv4Addr,
    },
    /// A peer indicates an error in a packet of ours (RFC 2332 section 5.2.7).
    ErrorIndicated {
        /// Who says so.
        peer: PeerId,
        /// The code.
        code: u16,
        /// The indication itself authenticated; if not it is only reported.
        authentic: bool,
    },
    /// A peer did what it must not do; nothing came of it.
    Misbehaved {
        /// Who.
        peer: PeerId,
        /// What.
        how: Misbehavior,
    },
    /// A bound of [`Limits`](super::Limits) was reached and something refused.
    LimitReached,
}

/// Why a resolution failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResolutionFailure {
    /// Nobody answered.
    Timeout,
    /// The answer was no, with this code of RFC 2332 section 5.2.2.
    Refused(u8),
    /// An error indication with this code came instead.
    Error(u16),
    /// The answer is not usable.
    Unusable,
    /// The path could not be made.
    NoPath,
    /// Another peer behind the same NAT has the address already; only the hub can tell them apart.
    SharedAddress,
}

/// What a peer must not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misbehavior {
    /// Sent something that is not an NHRP packet.
    Malformed,
    /// Spoke for an overlay address that is bound to another.
    ForeignAddress,
    /// Sent a traffic indication without being on the way of that traffic.
    ForeignRedirect,
    /// Sent a packet in a loop.
    Loop,
}

/// Who can remedy what an [`Event`] tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nobody has to: it is news.
    None,
    /// The peer, or whoever runs it.
    Peer,
    /// Our own configuration or limits.
    Local,
    /// What is between us.
    Network,
}

impl Event {
    /// Who can remedy it.
    pub fn fault(&self) -> Fault {
        match self {
            Self::NhsUp { .. }
            | Self::BehindNat { .. }
            | Self::Registered { .. }
            | Self::Unregistered { .. }
            | Self::ShortcutUp { .. }
            | Self::ShortcutDown { .. } => Fault::None,
            Self::NhsDown { .. } => Fault::Network,
            Self::RegistrationRefused { .. } | Self::AuthenticationFailed { .. } => Fault::Local,
            Self::LimitReached => Fault::Local,
            Self::ResolutionFailed { why, .. } => match why {
                ResolutionFailure::Timeout | ResolutionFailure::NoPath | ResolutionFailure::SharedAddress => {
                    Fault::Network
                }
                ResolutionFailure::Refused(_) | ResolutionFailure::Error(_) | ResolutionFailure::Unusable => {
                    Fault::Peer
                }
            },
            Self::Conflict { .. } | Self::ErrorIndicated { .. } | Self::Misbehaved { .. } => Fault::Peer,
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NhsUp { nhs, nbma } => write!(f, "registered with next hop server {nhs} at {nbma}"),
            Self::NhsDown { nhs, nbma } => write!(f, "next hop server {nhs} at {nbma} is lost"),
            Self::RegistrationRefused { nhs, code } => {
                write!(f, "next hop server {nhs} refuses our registration: {}", registration_code(*code))
            }
            Self::BehindNat { public } => write!(f, "a NAT is in front of us: we are seen as {public}"),
            Self::Registered { overlay, nbma } => write!(f, "{overlay} registered from {nbma}"),
            Self::Unregistered { overlay } => write!(f, "{overlay} is no longer registered"),
            Self::Conflict { overlay, holder, claimant } => {
                write!(f, "{claimant} claims {overlay}, which {holder} has")
            }
            Self::ShortcutUp { prefix, next_hop, nbma } => {
                write!(f, "shortcut to {prefix} by {next_hop} at {nbma}")
            }
            Self::ShortcutDown { prefix } => write!(f, "shortcut to {prefix} is over"),
            Self::ResolutionFailed { target, why } => write!(f, "cannot resolve {target}: {why}"),
            Self::AuthenticationFailed { peer, nbma } => {
                write!(f, "{peer} at {nbma} has another cisco-authentication, or none")
            }
            Self::ErrorIndicated { peer, code, authentic } => {
                let note = if *authentic { "" } else { " (not authenticated)" };
                write!(f, "{peer} indicates {}{note}", error_code(*code))
            }
            Self::Misbehaved { peer, how } => write!(f, "{peer} {how}"),
            Self::LimitReached => f.write_str("a limit of NHRP was reached"),
        }
    }
}

impl fmt::Display for ResolutionFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => f.write_str("no answer"),
            Self::Refused(12) => f.write_str("nobody has it"),
            Self::Refused(code) => write!(f, "{}", registration_code(*code)),
            Self::Error(code) => f.write_str(error_code(*code)),
            Self::Unusable => f.write_str("the answer is not usable"),
            Self::NoPath => f.write_str("no path to it"),
            Self::SharedAddress => f.write_str("another peer has its public address"),
        }
    }
}

impl fmt::Display for Misbehavior {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "sent a malformed packet",
            Self::ForeignAddress => "spoke for an address that is not its own",
            Self::ForeignRedirect => "redirected traffic that it does not carry",
            Self::Loop => "sent a packet in a loop",
        })
    }
}

/// RFC 2332 sections 5.2.2 and 5.2.4.
fn registration_code(code: u8) -> &'static str {
    match code {
        4 => "administratively prohibited",
        5 => "insufficient resources",
        12 => "no binding exists",
        13 => "the binding is not unique",
        14 => "registered by another already",
        _ => "for an unknown reason",
    }
}

/// RFC 2332 section 5.2.7.
fn error_code(code: u16) -> &'static str {
    match code {
        1 => "an unrecognized extension",
        3 => "a loop",
        6 => "an unreachable address",
        7 => "a protocol error",
        8 => "an oversized packet",
        9 => "an invalid extension",
        10 => "an invalid resolution reply",
        11 => "an authentication failure",
        15 => "an exceeded hop count",
        _ => "an unknown error",
    }
}
