//! UDP (RFC 768), and what comes on port 4500 (RFC 3948).

use core::net::Ipv4Addr;

use zerocopy::big_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::checksum::Sum;
use crate::{IpProtocol, Malformed, View, esp};

/// ISAKMP (RFC 2408 section 2.5.1).
pub const IKE: u16 = 500;
/// IKE and ESP behind a NAT (RFC 3948).
pub const IKE_NAT: u16 = 4500;
/// DHCP server (RFC 2131).
pub const DHCP_SERVER: u16 = 67;
/// DHCP client (RFC 2131).
pub const DHCP_CLIENT: u16 = 68;

/// What stands in front of IKE on port 4500, where an SPI would be (RFC 3948 section 2.2).
pub const NON_ESP_MARKER: [u8; 4] = [0; 4];
/// Payload of a NAT keepalive (RFC 3948 section 2.3).
pub const NAT_KEEPALIVE: [u8; 1] = [0xff];

/// A UDP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Header {
    source_port: U16,
    destination_port: U16,
    length: U16,
    checksum: U16,
}

impl View for Header {}

impl Header {
    /// The header at the front of `bytes` (an IPv4 payload), and its payload without what follows it.
    /// The checksum is not looked at: see [`verify`].
    ///
    /// # Errors
    /// [`Malformed::Truncated`], or [`Malformed::Length`] if the length does not cover the header.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<(&Self, &[u8]), Malformed> {
        let (header, rest) = Self::view(bytes)?;
        let length = usize::from(header.length());
        let payload = length.checked_sub(Self::LEN).ok_or(Malformed::Length)?;
        Ok((header, rest.get(..payload).ok_or(Malformed::Truncated)?))
    }

    /// A header for `payload_len` bytes, without a checksum, as ESP in UDP is sent (RFC 3948
    /// section 2.1); `None` if that does not fit into a datagram.
    #[inline]
    pub fn new(source_port: u16, destination_port: u16, payload_len: usize) -> Option<Self> {
        let length = u16::try_from(payload_len.checked_add(Self::LEN)?).ok()?;
        Some(Self {
            source_port: source_port.into(),
            destination_port: destination_port.into(),
            length: length.into(),
            checksum: 0.into(),
        })
    }

    /// Changes the length of header and payload, in bytes. The checksum is left alone.
    #[inline]
    pub fn set_length(&mut self, length: u16) {
        self.length = length.into();
    }

    /// Fills in the checksum for `payload`.
    #[must_use]
    pub fn with_checksum(mut self, source: Ipv4Addr, destination: Ipv4Addr, payload: &[u8]) -> Self {
        self.checksum = 0.into();
        let sum = Sum::pseudo_header(source, destination, IpProtocol::UDP, self.length())
            .bytes(self.octets())
            .bytes(payload)
            .checksum();
        // RFC 768: zero would mean "no checksum"; its other representation is sent.
        self.checksum = if sum == 0 { 0xffff } else { sum }.into();
        self
    }

    /// Port of the sender.
    #[inline]
    pub fn source_port(&self) -> u16 {
        self.source_port.get()
    }

    /// Port of the receiver.
    #[inline]
    pub fn destination_port(&self) -> u16 {
        self.destination_port.get()
    }

    /// Length of header and payload, in bytes.
    #[inline]
    pub fn length(&self) -> u16 {
        self.length.get()
    }

    /// Whether the checksum over this header and `payload` is right, or the sender made none.
    pub fn verify(&self, source: Ipv4Addr, destination: Ipv4Addr, payload: &[u8]) -> bool {
        self.checksum.get() == 0
            || Sum::pseudo_header(source, destination, IpProtocol::UDP, self.length())
                .bytes(self.octets())
                .bytes(payload)
                .checksum()
                == 0
    }
}

/// What a datagram on port 4500 carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encapsulated<'a> {
    /// An ISAKMP message, the marker taken off.
    Ike(&'a [u8]),
    /// An ESP packet, from the SPI on.
    Esp(&'a [u8]),
    /// It kept a NAT mapping alive and has no other use.
    Keepalive,
}

impl<'a> Encapsulated<'a> {
    /// Tells apart what `payload`, that of a datagram on port 4500, is (RFC 3948 section 2).
    ///
    /// # Errors
    /// [`Malformed::Truncated`] if it is neither a keepalive nor long enough for a marker or for an SPI
    /// with a sequence number.
    #[inline]
    pub fn parse(payload: &'a [u8]) -> Result<Self, Malformed> {
        if payload == NAT_KEEPALIVE {
            return Ok(Self::Keepalive);
        }
        if let Some(message) = payload.strip_prefix(&NON_ESP_MARKER) {
            return Ok(Self::Ike(message));
        }
        esp::Header::view(payload)?;
        Ok(Self::Esp(payload))
    }
}
