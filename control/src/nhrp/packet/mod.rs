//! NHRP packets (RFC 2332 section 5) over IPv4 with IPv4 overlay addresses, decoded to owned values.
//!
//! ```text
//!    0                   1                   2                   3
//!    0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//!   +-------------------------------+-------------------------------+
//!   | address family 1              | protocol type 0x0800          |
//!   +-------------------------------+-------------------------------+
//!   | SNAP, 5 octets of zero                        | hop count     |
//!   +-------------------------------+---------------+---------------+
//!   | packet size                   | checksum                      |
//!   +-------------------------------+---------------+---------------+
//!   | extension offset              | version 1     | type          |
//!   +---------------+---------------+---------------+---------------+
//!   | NBMA len 4    | subaddr len 0 | source len 4  | dest. len 4   |
//!   +---------------+---------------+---------------+---------------+
//!   | flags                         | unused or error code ...      |
//!   ...  request id, or error code and offset, or traffic code
//!   | source NBMA, source protocol, destination protocol address    |
//!   | CIEs, or the packet complained of                             |
//!   | extensions                                                    |
//! ```
//!
//! Decoding takes extensions in any order; encoding keeps the order of [`Packet::extensions`], so that what we
//! pass on stays as it came.

use std::net::Ipv4Addr;

use dmvpn_wire::checksum;

mod cie;
mod extension;
mod reader;

pub use cie::Cie;
pub use extension::{Extension, ExtensionKind, Value};
use reader::Reader;

/// Octets before the CIEs, with IPv4 addresses throughout.
pub const HEADER: usize = 40;

/// CIEs that one packet, or one extension, may carry. RFC 2332 has no bound; real ones carry one or
/// a few.
pub const MAX_CIES: usize = 64;

const ADDRESS_FAMILY_IPV4: u16 = 1;
const PROTOCOL_IPV4: u16 = 0x0800;
const VERSION: u8 = 1;

/// Request and reply flags (RFC 2332 section 5.2, and Cisco's NAT bit).
pub mod flags {
    /// Resolution: the requester is a router (Q).
    pub const ROUTER: u16 = 0x8000;
    /// Resolution: only an authoritative answer, or this is one (A).
    pub const AUTHORITATIVE: u16 = 0x4000;
    /// Resolution reply: the destination is stable (D).
    pub const DESTINATION_STABLE: u16 = 0x2000;
    /// Resolution: unique bindings only, or this is one (U).
    pub const UNIQUE: u16 = 0x1000;
    /// Resolution: the source's own binding is stable (S).
    pub const SOURCE_STABLE: u16 = 0x0800;
    /// Registration: nobody else may have the address (U).
    pub const REGISTRATION_UNIQUE: u16 = 0x8000;
    /// Purge: send no reply (N).
    pub const NO_REPLY: u16 = 0x8000;
    /// Cisco: the sender knows the NAT address extension.
    pub const NAT: u16 = 0x0002;
}

/// An NHRP packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// How many more stations may pass it on.
    pub hop_count: u8,
    /// NBMA address of the station that began the exchange.
    pub source_nbma: Ipv4Addr,
    /// Overlay address of the station that began the exchange.
    pub source: Ipv4Addr,
    /// What it is about, or whom it is for; an overlay address or one behind the overlay.
    pub destination: Ipv4Addr,
    /// What it says.
    pub body: Body,
    /// The extensions without the one that ends them, in the order of the wire. Where there are none at all
    /// (an extension offset of 0), nor is their end encoded.
    pub extensions: Vec<Extension>,
    /// The extensions part is there, be it only its end.
    pub extended: bool,
}

/// What a packet says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// A request or a reply: types 1 to 6.
    Message(Message),
    /// Type 7: an error in a packet (RFC 2332 section 5.2.7).
    Error {
        /// What is wrong.
        code: u16,
        /// Where in the packet, in octets.
        offset: u16,
        /// The beginning of the packet.
        packet: Vec<u8>,
    },
    /// Type 8, Cisco's traffic indication: the packet could go a shorter way.
    Indication {
        /// Traffic code, 0.
        code: u16,
        /// The beginning of the packet, from its IPv4 header on.
        packet: Vec<u8>,
    },
}

/// A request or a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Which.
    pub kind: MessageKind,
    /// See [`flags`].
    pub flags: u16,
    /// Request id; a reply has that of its request.
    pub id: u32,
    /// Client information entries.
    pub entries: Vec<Cie>,
}

/// The types of requests and replies (RFC 2332 section 5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum MessageKind {
    /// Who has the destination?
    ResolutionRequest = 1,
    /// He has.
    ResolutionReply = 2,
    /// I have this address.
    RegistrationRequest = 3,
    /// You have it, or not.
    RegistrationReply = 4,
    /// Forget it.
    PurgeRequest = 5,
    /// Forgotten.
    PurgeReply = 6,
}

/// Codes of an error indication (RFC 2332 section 5.2.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum ErrorCode {
    /// A compulsory extension that we do not know.
    UnrecognizedExtension = 1,
    /// It came by here before.
    Loop = 3,
    /// No way to the destination.
    Unreachable = 6,
    /// Against the protocol in any other way.
    Protocol = 7,
    /// Larger than may be sent on.
    Oversized = 8,
    /// An extension that does not hold what it must.
    InvalidExtension = 9,
    /// The authentication is missing or another.
    Authentication = 11,
    /// It may not be passed on any more.
    HopCount = 15,
}

/// Codes of a CIE in a reply (RFC 2332 sections 5.2.2 and 5.2.4).
pub mod code {
    /// Done.
    pub const SUCCESS: u8 = 0;
    /// Policy forbids.
    pub const PROHIBITED: u8 = 4;
    /// No room.
    pub const RESOURCES: u8 = 5;
    /// There is no such binding.
    pub const NO_BINDING: u8 = 12;
    /// Another has registered the address.
    pub const ALREADY_REGISTERED: u8 = 14;
}

/// Why bytes are not an NHRP packet that we understand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It ends too early, or a length in it says more than there is.
    #[error("truncated")]
    Truncated,
    /// The size field is smaller than the header, or larger than what came.
    #[error("wrong packet size")]
    Size,
    /// Not what the checksum says.
    #[error("wrong checksum")]
    Checksum,
    /// Another version, address family, protocol or address length.
    #[error("not NHRP version 1 with IPv4 addresses")]
    Unsupported,
    /// None of the eight types.
    #[error("unknown packet type {0}")]
    Type(u8),
    /// The extensions do not begin where the mandatory part ends.
    #[error("wrong extension offset")]
    ExtensionOffset,
    /// More than [`MAX_CIES`].
    #[error("too many client information entries")]
    TooManyEntries,
}

/// The packet would be larger than 65,535 octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("packet too large")]
pub struct TooLarge;

impl Packet {
    /// Decodes a packet from its fixed header on; what follows its size is ignored.
    ///
    /// # Errors
    /// [`DecodeError`]; nothing is taken from a packet with a wrong checksum.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut header = Reader::new(bytes);
        let family = header.u16()?;
        let protocol = header.u16()?;
        let snap = header.bytes(5)?;
        let hop_count = header.u8()?;
        let size = usize::from(header.u16()?);
        let _checksum = header.u16()?;
        let extension_offset = usize::from(header.u16()?);
        let version = header.u8()?;
        let kind = header.u8()?;
        let nbma_length = header.u8()?;
        let subaddress_length = header.u8()?;
        if version != VERSION || family != ADDRESS_FAMILY_IPV4 || protocol != PROTOCOL_IPV4 {
            return Err(DecodeError::Unsupported);
        }
        if snap.iter().any(|octet| *octet != 0) {
            return Err(DecodeError::Unsupported);
        }
        if size < HEADER {
            return Err(DecodeError::Size);
        }
        let bytes = bytes.get(..size).ok_or(DecodeError::Size)?;
        if !checksum::verify(bytes) {
            return Err(DecodeError::Checksum);
        }
        let mandatory = match extension_offset {
            0 => size,
            offset if (HEADER..=size).contains(&offset) => offset,
            _ => return Err(DecodeError::ExtensionOffset),
        };
        let (fixed, extensions) = bytes.split_at_checked(mandatory).ok_or(DecodeError::ExtensionOffset)?;
        let mut reader = Reader::new(fixed);
        reader.bytes(20)?;
        let source_length = reader.u8()?;
        let destination_length = reader.u8()?;
        // RFC 2332 section 5.1: the low six bits are the length, bit 6 the kind of address.
        if nbma_length & 0xbf != 4 || subaddress_length & 0xbf != 0 {
            return Err(DecodeError::Unsupported);
        }
        if source_length != 4 || destination_length != 4 {
            return Err(DecodeError::Unsupported);
        }
        let flags = reader.u16()?;
        let word = [reader.u16()?, reader.u16()?];
        let source_nbma = reader.ipv4()?;
        let source = reader.ipv4()?;
        let destination = reader.ipv4()?;
        let body = match kind {
            7 => Body::Error { code: word[0], offset: word[1], packet: reader.rest().to_vec() },
            8 => Body::Indication { code: word[0], packet: reader.rest().to_vec() },
            _ => Body::Message(Message {
                kind: MessageKind::from_wire(kind).ok_or(DecodeError::Type(kind))?,
                flags,
                id: u32::from(word[0]) << 16 | u32::from(word[1]),
                entries: Cie::decode_all(&mut reader)?,
            }),
        };
        let extended = extension_offset != 0;
        let extensions = Extension::decode_all(extensions)?;
        Ok(Self { hop_count, source_nbma, source, destination, body, extensions, extended })
    }

    /// Encodes the packet, checksum and all.
    ///
    /// # Errors
    /// [`TooLarge`] if its size does not fit its field.
    pub fn encode(&self) -> Result<Vec<u8>, TooLarge> {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend(ADDRESS_FAMILY_IPV4.to_be_bytes());
        bytes.extend(PROTOCOL_IPV4.to_be_bytes());
        bytes.extend([0; 5]);
        bytes.push(self.hop_count);
        bytes.extend([0; 6]); // size, checksum, extension offset: below
        bytes.push(VERSION);
        bytes.push(self.body.wire_type());
        bytes.extend([4, 0, 4, 4]);
        let (flags, word) = match &self.body {
            Body::Message(message) => (message.flags, message.id.to_be_bytes()),
            Body::Error { code, offset, .. } => (0, two_words(*code, *offset)),
            Body::Indication { code, .. } => (0, two_words(*code, 0)),
        };
        bytes.extend(flags.to_be_bytes());
        bytes.extend(word);
        bytes.extend(self.source_nbma.octets());
        bytes.extend(self.source.octets());
        bytes.extend(self.destination.octets());
        match &self.body {
            Body::Message(message) => message.entries.iter().for_each(|entry| entry.encode(&mut bytes)),
            Body::Error { packet, .. } | Body::Indication { packet, .. } => bytes.extend(packet),
        }
        let mut extension_offset = 0;
        if self.extended {
            extension_offset = u16::try_from(bytes.len()).map_err(|_| TooLarge)?;
            for extension in &self.extensions {
                extension.encode(&mut bytes)?;
            }
            Extension::encode_end(&mut bytes);
        }
        let size = u16::try_from(bytes.len()).map_err(|_| TooLarge)?;
        put_u16(&mut bytes, 10, size);
        put_u16(&mut bytes, 14, extension_offset);
        let checksum = checksum::checksum(&bytes);
        put_u16(&mut bytes, 12, checksum);
        Ok(bytes)
    }

    /// The extension of a kind, the first if there are several.
    pub fn extension(&self, kind: ExtensionKind) -> Option<&Extension> {
        self.extensions.iter().find(|extension| extension.kind == kind)
    }

    /// The same, to be changed.
    pub fn extension_mut(&mut self, kind: ExtensionKind) -> Option<&mut Extension> {
        self.extensions.iter_mut().find(|extension| extension.kind == kind)
    }
}

impl Body {
    /// The packet type (RFC 2332 section 5.2), 1 to 8.
    pub fn wire_type(&self) -> u8 {
        match self {
            Self::Message(message) => message.kind as u8,
            Self::Error { .. } => 7,
            Self::Indication { .. } => 8,
        }
    }
}

impl MessageKind {
    fn from_wire(kind: u8) -> Option<Self> {
        Some(match kind {
            1 => Self::ResolutionRequest,
            2 => Self::ResolutionReply,
            3 => Self::RegistrationRequest,
            4 => Self::RegistrationReply,
            5 => Self::PurgeRequest,
            6 => Self::PurgeReply,
            _ => return None,
        })
    }

    /// Whether it answers a request.
    pub fn is_reply(self) -> bool {
        matches!(self, Self::ResolutionReply | Self::RegistrationReply | Self::PurgeReply)
    }
}

fn two_words(high: u16, low: u16) -> [u8; 4] {
    (u32::from(high) << 16 | u32::from(low)).to_be_bytes()
}

fn put_u16(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(field) = bytes.get_mut(at..at + 2) {
        field.copy_from_slice(&value.to_be_bytes());
    }
}

#[cfg(test)]
pub(crate) mod tests;
