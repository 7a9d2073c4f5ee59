//! The ISAKMP header (RFC 2408 section 3.1).

use super::reader::Reader;
use super::{DecodeError, Kind};

/// Bytes of a header.
pub(in crate::ike) const HEADER_LEN: usize = 28;

/// Major version 1, minor version 0.
const VERSION: u8 = 0x10;

/// Exchange type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ike) struct Exchange(pub(in crate::ike) u8);

impl Exchange {
    /// Identity protection: "main mode".
    pub(in crate::ike) const MAIN: Self = Self(2);
    pub(in crate::ike) const AGGRESSIVE: Self = Self(4);
    pub(in crate::ike) const INFORMATIONAL: Self = Self(5);
    /// RFC 2409 section 5.5.
    pub(in crate::ike) const QUICK: Self = Self(32);
}

/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-------------------------------+-------------------------------+
/// |                       initiator's cookie                      |
/// |                                                               |
/// +---------------------------------------------------------------+
/// |                       responder's cookie                      |
/// |                                                               |
/// +---------------+-------+-------+---------------+---------------+
/// |  next payload | major | minor | exchange type |     flags     |
/// +---------------+-------+-------+---------------+---------------+
/// |                       message identifier                      |
/// +---------------------------------------------------------------+
/// |                             length                            |
/// +---------------------------------------------------------------+
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ike) struct Header {
    pub(in crate::ike) cookie_i: u64,
    pub(in crate::ike) cookie_r: u64,
    pub(in crate::ike) next: Kind,
    pub(in crate::ike) exchange: Exchange,
    pub(in crate::ike) flags: u8,
    pub(in crate::ike) message_id: u32,
}

impl Header {
    /// Flag: what follows the header is encrypted. The other flags, commit and authentication only, are
    /// not protected by anything; they are never set, and ignored.
    pub(in crate::ike) const ENCRYPTED: u8 = 1;

    /// The header, and what follows it up to the length that it states. More bytes than that are
    /// ignored, fewer are an error.
    pub(in crate::ike) fn decode(bytes: &[u8]) -> Result<(Self, &[u8]), DecodeError> {
        let mut reader = Reader::new(bytes);
        let (cookie_i, cookie_r, next) = (reader.u64()?, reader.u64()?, Kind(reader.u8()?));
        if reader.u8()? != VERSION {
            return Err(DecodeError::Domain);
        }
        let (exchange, flags, message_id) = (Exchange(reader.u8()?), reader.u8()?, reader.u32()?);
        let length = usize::try_from(reader.u32()?).map_err(|_| DecodeError::Length)?;
        let body = reader.take(length.checked_sub(HEADER_LEN).ok_or(DecodeError::Length)?)?;
        Ok((Self { cookie_i, cookie_r, next, exchange, flags, message_id }, body))
    }

    /// A whole message.
    pub(in crate::ike) fn encode(&self, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_LEN + body.len());
        out.extend_from_slice(&self.cookie_i.to_be_bytes());
        out.extend_from_slice(&self.cookie_r.to_be_bytes());
        out.extend_from_slice(&[self.next.0, VERSION, self.exchange.0, self.flags]);
        out.extend_from_slice(&self.message_id.to_be_bytes());
        out.extend_from_slice(&u32::try_from(HEADER_LEN + body.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(body);
        out
    }

    pub(in crate::ike) fn is_encrypted(&self) -> bool {
        self.flags & Self::ENCRYPTED != 0
    }
}
