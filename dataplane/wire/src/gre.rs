//! Generic routing encapsulation (RFC 2784) with key and sequence number (RFC 2890).

use zerocopy::big_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{EtherType, Malformed, View, checksum};

const CHECKSUM: u16 = 0x8000;
const KEY: u16 = 0x2000;
const SEQUENCE: u16 = 0x1000;
/// Bits 1, 4 and 5, which are routing, strict source route and recursion control of RFC 1701: who
/// does not implement that must discard such packets (RFC 2784 section 2.3).
const DISCARD: u16 = 0x4c00;
const VERSION: u16 = 0x0007;

/// What every GRE header begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Base {
    flags: U16,
    protocol: U16,
}

impl View for Base {}

/// A GRE packet taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    /// What the payload is: [`EtherType::IPV4`] or [`EtherType::NHRP`] for us.
    pub protocol: EtherType,
    /// The tunnel it is for.
    pub key: Option<u32>,
    /// Its number in the flow. We do not require or order by it.
    pub sequence: Option<u32>,
    /// What it carries.
    pub payload: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Takes apart `bytes`, which are exactly one GRE packet. A checksum, if there is one, is verified.
    /// Bits 6 to 12 of the flags are ignored (RFC 2784 section 2.3).
    ///
    /// # Errors
    /// [`Malformed::Truncated`], [`Malformed::Version`], [`Malformed::Checksum`], or
    /// [`Malformed::Unsupported`] for source routes and recursion control of RFC 1701.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (base, mut rest) = Base::view(bytes)?;
        let flags = base.flags.get();
        if flags & (VERSION | DISCARD) != 0 {
            let version = flags & VERSION != 0;
            return Err(if version { Malformed::Version } else { Malformed::Unsupported });
        }
        let mut word = || -> Result<u32, Malformed> {
            let (word, after) = rest.split_first_chunk::<4>().ok_or(Malformed::Truncated)?;
            rest = after;
            Ok(u32::from_be_bytes(*word))
        };
        if flags & CHECKSUM != 0 {
            // The second half of this word, Reserved1, is only covered by the sum.
            word()?;
            if !checksum::verify(bytes) {
                return Err(Malformed::Checksum);
            }
        }
        let key = if flags & KEY != 0 { Some(word()?) } else { None };
        let sequence = if flags & SEQUENCE != 0 { Some(word()?) } else { None };
        Ok(Self { protocol: EtherType(base.protocol.get()), key, sequence, payload: rest })
    }
}

/// Length of the header that [`emit`] writes, in bytes.
#[inline]
pub const fn header_len(key: Option<u32>) -> usize {
    if key.is_some() { 8 } else { 4 }
}

/// Writes a header for a payload of `protocol` to the front of `out` and gives what follows it; `None`
/// if there is no room.
#[inline]
pub fn emit(protocol: EtherType, key: Option<u32>, out: &mut [u8]) -> Option<&mut [u8]> {
    if out.len() < header_len(key) {
        return None;
    }
    let flags = if key.is_some() { KEY } else { 0 };
    let rest = Base { flags: flags.into(), protocol: protocol.0.into() }.emit(out)?;
    let Some(key) = key else { return Some(rest) };
    let (slot, rest) = rest.split_first_chunk_mut::<4>()?;
    *slot = key.to_be_bytes();
    Some(rest)
}
