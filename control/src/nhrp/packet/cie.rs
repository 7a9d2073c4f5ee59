//! Client information entries (RFC 2332 section 5.2.0.1).
//!
//! ```text
//!   +---------------+---------------+-------------------------------+
//!   | code          | prefix length | unused                        |
//!   +---------------+---------------+-------------------------------+
//!   | MTU                           | holding time                  |
//!   +---------------+---------------+---------------+---------------+
//!   | NBMA length   | subaddr len 0 | protocol len  | preference    |
//!   +---------------+---------------+---------------+---------------+
//!   | NBMA address, if its length is 4                              |
//!   | protocol address, if its length is 4                          |
//! ```

use std::net::Ipv4Addr;

use super::reader::Reader;
use super::{DecodeError, MAX_CIES};

/// A client information entry: an overlay address and its NBMA address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cie {
    /// In a reply: 0, or why not (see [`code`](super::code)).
    pub code: u8,
    /// Prefix length as on the wire; 0 and 255 mean the same as 32 (see [`Cie::prefix_length`]).
    pub prefix: u8,
    /// Largest packet in octets; 0: not told.
    pub mtu: u16,
    /// For how long this holds, in seconds.
    pub holding_time: u16,
    /// Preference over other entries for the same address.
    pub preference: u8,
    /// NBMA address, where told.
    pub nbma: Option<Ipv4Addr>,
    /// Protocol (overlay) address, where told.
    pub protocol: Option<Ipv4Addr>,
}

impl Cie {
    /// The prefix length that is meant (RFC 2332 section 5.2.0.1: 0 and 255 are one host), if it is one.
    pub fn prefix_length(&self) -> Option<u8> {
        match self.prefix {
            0 | 255 => Some(32),
            length @ 1..=32 => Some(length),
            _ => None,
        }
    }

    pub(super) fn decode_all(reader: &mut Reader<'_>) -> Result<Vec<Self>, DecodeError> {
        let mut entries = Vec::new();
        while !reader.is_empty() {
            if entries.len() == MAX_CIES {
                return Err(DecodeError::TooManyEntries);
            }
            entries.push(Self::decode(reader)?);
        }
        Ok(entries)
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let code = reader.u8()?;
        let prefix = reader.u8()?;
        let _unused = reader.u16()?;
        let mtu = reader.u16()?;
        let holding_time = reader.u16()?;
        let nbma_length = reader.u8()? & 0xbf;
        let subaddress_length = reader.u8()? & 0xbf;
        let protocol_length = reader.u8()?;
        let preference = reader.u8()?;
        let nbma = address(reader, nbma_length)?;
        if subaddress_length != 0 {
            return Err(DecodeError::Unsupported);
        }
        let protocol = address(reader, protocol_length)?;
        Ok(Self { code, prefix, mtu, holding_time, preference, nbma, protocol })
    }

    pub(super) fn encode(&self, bytes: &mut Vec<u8>) {
        let length = |address: Option<Ipv4Addr>| if address.is_some() { 4 } else { 0 };
        bytes.extend([self.code, self.prefix, 0, 0]);
        bytes.extend(self.mtu.to_be_bytes());
        bytes.extend(self.holding_time.to_be_bytes());
        bytes.extend([length(self.nbma), 0, length(self.protocol), self.preference]);
        for address in [self.nbma, self.protocol].into_iter().flatten() {
            bytes.extend(address.octets());
        }
    }
}

fn address(reader: &mut Reader<'_>, length: u8) -> Result<Option<Ipv4Addr>, DecodeError> {
    match length {
        0 => Ok(None),
        4 => reader.ipv4().map(Some),
        _ => Err(DecodeError::Unsupported),
    }
}
