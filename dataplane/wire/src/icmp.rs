//! ICMP (RFC 792): echo, and the errors that a router sends (RFC 1812 section 4.3).

use core::net::Ipv4Addr;

use zerocopy::big_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::ipv4::{self, Fields};
use crate::{IpProtocol, Malformed, View, checksum};

const ECHO_REPLY: u8 = 0;
const DESTINATION_UNREACHABLE: u8 = 3;
const SOURCE_QUENCH: u8 = 4;
const REDIRECT: u8 = 5;
const ECHO_REQUEST: u8 = 8;
const TIME_EXCEEDED: u8 = 11;
const PARAMETER_PROBLEM: u8 = 12;

const FRAGMENTATION_NEEDED: u8 = 4;

/// An error message is at most this long, in bytes, IPv4 header included (RFC 1812 section 4.3.2.3).
pub const MAX_ERROR: usize = 576;

/// TTL of what we send: the assigned default (RFC 1700).
const TTL: u8 = 64;
/// Precedence "internetwork control" (RFC 1812 section 4.3.2.5).
const INTERNETWORK_CONTROL: u8 = 0xc0;
/// The part of the type of service octet that an error takes over: neither precedence nor ECN.
const SERVICE: u8 = 0x1c;

/// What every ICMP message begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Header {
    kind: u8,
    code: u8,
    checksum: U16,
    /// Depends on the type.
    words: [U16; 2],
}

impl View for Header {}

/// An ICMP message taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    /// To be answered.
    EchoRequest(Echo<'a>),
    /// An answer.
    EchoReply(Echo<'a>),
    /// A packet of ours met a problem.
    Error {
        /// What happened to it.
        problem: Problem,
        /// Its IPv4 header and at least 8 bytes of its payload, if the sender kept to the rules.
        about: &'a [u8],
    },
    /// Any other type.
    Other {
        /// ICMP type.
        kind: u8,
        /// ICMP code.
        code: u8,
    },
}

/// The content of an echo request or reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Echo<'a> {
    /// Tells apart who asks.
    pub identifier: u16,
    /// Tells apart the questions.
    pub sequence: u16,
    /// Comes back as it is.
    pub data: &'a [u8],
}

/// What happened to a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// Destination unreachable, for any reason but a packet that is too large.
    Unreachable(Unreachable),
    /// Larger than the next link takes, and not to be fragmented.
    FragmentationNeeded {
        /// What would fit, in bytes (RFC 1191 section 4); 0 if the sender does not know.
        mtu: u16,
    },
    /// Its TTL ended on the way.
    TtlExceeded,
    /// Fragments were missing.
    ReassemblyTimeExceeded,
}

/// Codes of "destination unreachable" (RFC 792, RFC 1812 section 5.2.7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Unreachable(pub u8);

impl Unreachable {
    /// No route.
    pub const NETWORK: Self = Self(0);
    /// It is on a link of ours and does not answer.
    pub const HOST: Self = Self(1);
    /// We do not speak what it carries.
    pub const PROTOCOL: Self = Self(2);
    /// Nobody listens on that port.
    pub const PORT: Self = Self(3);
    /// A filter forbids it.
    pub const PROHIBITED: Self = Self(13);
}

impl<'a> Message<'a> {
    /// Takes apart `bytes`, exactly one ICMP message, after verifying its checksum.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] or [`Malformed::Checksum`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, rest) = Header::view(bytes)?;
        if !checksum::verify(bytes) {
            return Err(Malformed::Checksum);
        }
        let [first, second] = header.words.map(U16::get);
        let echo = Echo { identifier: first, sequence: second, data: rest };
        let error = |problem| Self::Error { problem, about: rest };
        Ok(match (header.kind, header.code) {
            (ECHO_REQUEST, 0) => Self::EchoRequest(echo),
            (ECHO_REPLY, 0) => Self::EchoReply(echo),
            (DESTINATION_UNREACHABLE, FRAGMENTATION_NEEDED) => {
                error(Problem::FragmentationNeeded { mtu: second })
            }
            (DESTINATION_UNREACHABLE, code) => error(Problem::Unreachable(Unreachable(code))),
            (TIME_EXCEEDED, 0) => error(Problem::TtlExceeded),
            (TIME_EXCEEDED, 1) => error(Problem::ReassemblyTimeExceeded),
            (kind, code) => Self::Other { kind, code },
        })
    }
}

impl Echo<'_> {
    /// Writes an echo request to the front of `out`; its length, or `None` if there is no room.
    pub fn emit_request(&self, out: &mut [u8]) -> Option<usize> {
        self.emit(ECHO_REQUEST, out)
    }

    /// Writes an echo reply to the front of `out`; its length, or `None` if there is no room.
    pub fn emit_reply(&self, out: &mut [u8]) -> Option<usize> {
        self.emit(ECHO_REPLY, out)
    }

    fn emit(&self, kind: u8, out: &mut [u8]) -> Option<usize> {
        emit(kind, 0, [self.identifier, self.sequence], self.data, out)
    }
}

/// Writes the error message, a whole IPv4 packet from `source`, that tells the sender of `offending` of
/// a `problem` with it; its length (at most [`MAX_ERROR`]).
///
/// `None` if there is no room in `out`, or if the packet must not be answered (RFC 1122 section 3.2.2,
/// RFC 1812 section 4.3.2.7): its header is not valid, it is an ICMP error itself, a fragment other
/// than the first, for a group or everybody, or from an address that is not one host's. Whether it came
/// as a link broadcast, or is for the broadcast address of a subnet, only the caller knows.
pub fn emit_error(problem: Problem, source: Ipv4Addr, offending: &[u8], out: &mut [u8]) -> Option<usize> {
    let packet = ipv4::Packet::parse(offending).ok()?;
    if !may_be_answered(&packet) {
        return None;
    }
    let (kind, code, mtu) = match problem {
        Problem::Unreachable(Unreachable(code)) => (DESTINATION_UNREACHABLE, code, 0),
        Problem::FragmentationNeeded { mtu } => (DESTINATION_UNREACHABLE, FRAGMENTATION_NEEDED, mtu),
        Problem::TtlExceeded => (TIME_EXCEEDED, 0, 0),
        Problem::ReassemblyTimeExceeded => (TIME_EXCEEDED, 1, 0),
    };
    let whole = usize::from(packet.header.total_length());
    let about = offending.get(..whole.min(MAX_ERROR - ipv4::Header::LEN - Header::LEN))?;
    let header = ipv4::Header::new(
        &Fields {
            tos: packet.header.tos() & SERVICE | INTERNETWORK_CONTROL,
            // As distinct as the sender's own numbers, which is all that reassembly needs.
            identification: packet.header.identification(),
            dont_fragment: false,
            ttl: TTL,
            protocol: IpProtocol::ICMP,
            source,
            destination: packet.header.source(),
        },
        Header::LEN + about.len(),
    )?;
    let rest = header.emit(out)?;
    Some(ipv4::Header::LEN + emit(kind, code, [0, mtu], about, rest)?)
}

fn may_be_answered(packet: &ipv4::Packet<'_>) -> bool {
    let (from, to) = (packet.header.source(), packet.header.destination());
    // RFC 1812 section 5.3.7: network zero, loopback, multicast and what was class E are no hosts.
    let one_host = from.octets()[0] != 0 && !from.is_loopback() && from.octets()[0] < 224;
    let error = packet.header.protocol() == IpProtocol::ICMP
        && packet.payload.first().is_none_or(|kind| {
            matches!(
                *kind,
                DESTINATION_UNREACHABLE | SOURCE_QUENCH | REDIRECT | TIME_EXCEEDED | PARAMETER_PROBLEM
            )
        });
    one_host && !to.is_multicast() && !to.is_broadcast() && packet.header.fragment_offset() == 0 && !error
}

fn emit(kind: u8, code: u8, words: [u16; 2], content: &[u8], out: &mut [u8]) -> Option<usize> {
    let message = out.get_mut(..Header::LEN.checked_add(content.len())?)?;
    let header = Header { kind, code, checksum: 0.into(), words: words.map(U16::new) };
    header.emit(message)?.copy_from_slice(content);
    let sum = checksum::checksum(message);
    Header::view_mut(message).ok()?.0.checksum = sum.into();
    Some(message.len())
}
