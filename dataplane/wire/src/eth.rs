//! Ethernet II (IEEE 802.3 clause 3).

use core::fmt;
use core::str::FromStr;

use zerocopy::big_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::View;

/// An Ethernet header. A VLAN tag, which we do not take, would follow as its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Header {
    /// Who it is for.
    pub destination: MacAddr,
    /// Who it is from.
    pub source: MacAddr,
    ether_type: U16,
}

impl View for Header {}

impl Header {
    /// A header for a payload of `ether_type`.
    #[inline]
    pub fn new(destination: MacAddr, source: MacAddr, ether_type: EtherType) -> Self {
        Self { destination, source, ether_type: ether_type.0.into() }
    }

    /// Makes it one for a payload of `ether_type`, whatever it was.
    #[inline]
    pub fn set(&mut self, destination: MacAddr, source: MacAddr, ether_type: EtherType) {
        self.destination = destination;
        self.source = source;
        self.ether_type = ether_type.0.into();
    }

    /// What follows.
    #[inline]
    pub fn ether_type(&self) -> EtherType {
        EtherType(self.ether_type.get())
    }
}

/// What follows an Ethernet header, a VLAN tag or a GRE header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EtherType(pub u16);

impl EtherType {
    /// IPv4 (RFC 894).
    pub const IPV4: Self = Self(0x0800);
    /// ARP (RFC 826).
    pub const ARP: Self = Self(0x0806);
    /// NHRP in GRE, as DMVPN systems send it.
    pub const NHRP: Self = Self(0x2001);
    /// An IEEE 802.1Q customer tag.
    pub const VLAN: Self = Self(0x8100);
    /// IPv6 (RFC 2464).
    pub const IPV6: Self = Self(0x86dd);
    /// An IEEE 802.1ad service tag.
    pub const SERVICE_VLAN: Self = Self(0x88a8);
}

/// An Ethernet address.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
    Unaligned,
)]
#[repr(transparent)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// Every station.
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// No station.
    pub const UNSPECIFIED: Self = Self([0; 6]);

    /// Whether it is the same address as another: `==` in few instructions, for every packet.
    #[inline]
    pub fn is(&self, other: &Self) -> bool {
        let [a, b, c, d, e, f] = self.0;
        let [u, v, w, x, y, z] = other.0;
        let front = u32::from_ne_bytes([a, b, c, d]) ^ u32::from_ne_bytes([u, v, w, x]);
        let back = u16::from_ne_bytes([e, f]) ^ u16::from_ne_bytes([y, z]);
        front | u32::from(back) == 0
    }

    /// For a group of stations (the broadcast address is one such).
    #[inline]
    pub fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// The address of one station: neither a group nor all zeros.
    #[inline]
    pub fn is_unicast(self) -> bool {
        !self.is_multicast() && self != Self::UNSPECIFIED
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Six pairs of hex digits with colons or dashes between them were expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotMacAddr;

impl fmt::Display for NotMacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an Ethernet address is six pairs of hex digits, as in 52:54:00:12:34:56")
    }
}

impl core::error::Error for NotMacAddr {}

impl FromStr for MacAddr {
    type Err = NotMacAddr;

    fn from_str(text: &str) -> Result<Self, NotMacAddr> {
        let separator = if text.contains('-') { '-' } else { ':' };
        let mut octets = [0; 6];
        let mut pairs = text.split(separator);
        for octet in &mut octets {
            let pair = pairs.next().ok_or(NotMacAddr)?;
            // `from_str_radix` alone would take a sign or a single digit.
            if pair.len() != 2 || !pair.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(NotMacAddr);
            }
            *octet = u8::from_str_radix(pair, 16).map_err(|_| NotMacAddr)?;
        }
        if pairs.next().is_some() { Err(NotMacAddr) } else { Ok(Self(octets)) }
    }
}
