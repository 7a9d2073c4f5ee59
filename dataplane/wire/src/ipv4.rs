//! IPv4 (RFC 791).

use core::net::Ipv4Addr;

use zerocopy::big_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{Malformed, View, checksum};

/// Version 4, and a header length of five words.
const WITHOUT_OPTIONS: u8 = 0x45;
const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;

/// The fixed part of an IPv4 header.
///
/// The setters keep the header checksum right by what they change (RFC 1624), so a header that was
/// valid stays valid, and one that was damaged stays damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Header {
    version_ihl: u8,
    tos: u8,
    total_length: U16,
    identification: U16,
    fragment: U16,
    ttl: u8,
    protocol: IpProtocol,
    checksum: U16,
    source: [u8; 4],
    destination: [u8; 4],
}

impl View for Header {}

/// What follows an IPv4 header.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
    Unaligned,
)]
#[repr(transparent)]
pub struct IpProtocol(pub u8);

impl IpProtocol {
    /// ICMP (RFC 792).
    pub const ICMP: Self = Self(1);
    /// IPv4 in IPv4 (RFC 2003); in ESP, tunnel mode (RFC 4303 section 2.6).
    pub const IPV4: Self = Self(4);
    /// TCP (RFC 9293).
    pub const TCP: Self = Self(6);
    /// UDP (RFC 768).
    pub const UDP: Self = Self(17);
    /// GRE (RFC 2784).
    pub const GRE: Self = Self(47);
    /// ESP (RFC 4303).
    pub const ESP: Self = Self(50);
    /// No next header; in ESP, a dummy packet (RFC 4303 section 2.6).
    pub const NONE: Self = Self(59);
}

/// An IPv4 packet taken apart.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    /// Its header.
    pub header: &'a Header,
    /// Options, as they are; a multiple of 4 bytes, mostly none.
    pub options: &'a [u8],
    /// What it carries: up to the total length, so without padding of the link.
    pub payload: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Takes apart the packet at the front of `bytes`, after the checks of RFC 1812 section 5.2.2.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] if `bytes` is shorter than the header or than its total length,
    /// [`Malformed::Version`], [`Malformed::Length`] if the header length is below 20 bytes or beyond the
    /// total length, [`Malformed::Checksum`].
    #[inline(always)]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, rest) = Header::view(bytes)?;
        if header.version_ihl != WITHOUT_OPTIONS {
            return Self::parse_with_options(bytes);
        }
        let payload_len = usize::from(header.total_length()).checked_sub(Header::LEN);
        let payload = rest.get(..payload_len.ok_or(Malformed::Length)?).ok_or(Malformed::Truncated)?;
        if !checksum::verify(header.octets()) {
            return Err(Malformed::Checksum);
        }
        Ok(Self { header, options: &[], payload })
    }

    #[cold]
    fn parse_with_options(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, _) = Header::view(bytes)?;
        if header.version_ihl >> 4 != 4 {
            return Err(Malformed::Version);
        }
        let (header_len, total) = (header.header_len(), usize::from(header.total_length()));
        if header_len < Header::LEN || total < header_len {
            return Err(Malformed::Length);
        }
        let packet = bytes.get(..total).ok_or(Malformed::Truncated)?;
        let (head, payload) = packet.split_at_checked(header_len).ok_or(Malformed::Length)?;
        if !checksum::verify(head) {
            return Err(Malformed::Checksum);
        }
        Ok(Self { header, options: head.get(Header::LEN..).unwrap_or_default(), payload })
    }
}

/// What a fresh header is made of; length and checksum come by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fields {
    /// Type of service octet: DSCP and ECN (RFC 2474, RFC 3168).
    pub tos: u8,
    /// Identification, for reassembly; free to be anything where `dont_fragment` (RFC 6864).
    pub identification: u16,
    /// Whether nobody may fragment it.
    pub dont_fragment: bool,
    /// Hops that it may take.
    pub ttl: u8,
    /// What follows.
    pub protocol: IpProtocol,
    /// Sender.
    pub source: Ipv4Addr,
    /// Receiver.
    pub destination: Ipv4Addr,
}

impl Header {
    /// A header without options in front of `payload_len` bytes; `None` if that exceeds 65535 together.
    pub fn new(fields: &Fields, payload_len: usize) -> Option<Self> {
        let total_length = u16::try_from(payload_len.checked_add(Self::LEN)?).ok()?;
        let mut header = Self {
            version_ihl: WITHOUT_OPTIONS,
            tos: fields.tos,
            total_length: total_length.into(),
            identification: fields.identification.into(),
            fragment: if fields.dont_fragment { DONT_FRAGMENT } else { 0 }.into(),
            ttl: fields.ttl,
            protocol: fields.protocol,
            checksum: 0.into(),
            source: fields.source.octets(),
            destination: fields.destination.octets(),
        };
        header.fill_checksum();
        Some(header)
    }

    /// A header that is the same for many packets but for what [`complete`](Self::complete) fills in.
    pub fn template(
        protocol: IpProtocol,
        source: Ipv4Addr,
        destination: Ipv4Addr,
        dont_fragment: bool,
    ) -> Self {
        let mut header = Self {
            version_ihl: WITHOUT_OPTIONS,
            tos: 0,
            total_length: 0.into(),
            identification: 0.into(),
            fragment: if dont_fragment { DONT_FRAGMENT } else { 0 }.into(),
            ttl: 0,
            protocol,
            checksum: 0.into(),
            source: source.octets(),
            destination: destination.octets(),
        };
        header.fill_checksum();
        header
    }

    /// Fills in what `template`, which this is a copy of, leaves at zero, and the checksum by its own. (A copy made just
    /// now is slow to read.)
    #[inline]
    pub fn complete(&mut self, template: &Self, tos: u8, total_length: u16, identification: u16, ttl: u8) {
        let sum =
            u32::from(tos) + u32::from(total_length) + u32::from(identification) + (u32::from(ttl) << 8);
        self.checksum = checksum::fill(template.checksum(), sum).into();
        self.tos = tos;
        self.total_length = total_length.into();
        self.identification = identification.into();
        self.ttl = ttl;
    }

    /// Header length with options, in bytes, as stated: 0 to 60.
    #[inline]
    pub fn header_len(&self) -> usize {
        usize::from(self.version_ihl & 0x0f) * 4
    }

    /// Type of service octet.
    #[inline]
    pub fn tos(&self) -> u8 {
        self.tos
    }

    /// Differentiated services code point (RFC 2474), 0 to 63.
    #[inline]
    pub fn dscp(&self) -> u8 {
        self.tos >> 2
    }

    /// Congestion notification bits (RFC 3168), 0 to 3.
    #[inline]
    pub fn ecn(&self) -> u8 {
        self.tos & 3
    }

    /// Length of header and payload, in bytes.
    #[inline]
    pub fn total_length(&self) -> u16 {
        self.total_length.get()
    }

    /// Identification.
    #[inline]
    pub fn identification(&self) -> u16 {
        self.identification.get()
    }

    /// Whether nobody may fragment it.
    #[inline]
    pub fn dont_fragment(&self) -> bool {
        self.fragment.get() & DONT_FRAGMENT != 0
    }

    /// Whether fragments follow this one.
    #[inline]
    pub fn more_fragments(&self) -> bool {
        self.fragment.get() & MORE_FRAGMENTS != 0
    }

    /// Where the payload stands in the packet that was fragmented, in bytes.
    #[inline]
    pub fn fragment_offset(&self) -> u16 {
        (self.fragment.get() & OFFSET) * 8
    }

    /// Whether it is part of a packet only, the first one included.
    #[inline]
    pub fn is_fragment(&self) -> bool {
        self.fragment.get() & (MORE_FRAGMENTS | OFFSET) != 0
    }

    /// Hops left.
    #[inline]
    pub fn ttl(&self) -> u8 {
        self.ttl
    }

    /// What follows.
    #[inline]
    pub fn protocol(&self) -> IpProtocol {
        self.protocol
    }

    /// Header checksum, as stated.
    #[inline]
    pub fn checksum(&self) -> u16 {
        self.checksum.get()
    }

    /// Sender.
    #[inline]
    pub fn source(&self) -> Ipv4Addr {
        self.source.into()
    }

    /// Receiver.
    #[inline]
    pub fn destination(&self) -> Ipv4Addr {
        self.destination.into()
    }

    /// Takes off one hop. False, and nothing changed, if that would leave none: such a packet is not
    /// forwarded (RFC 1812 section 5.3.1).
    #[inline]
    #[must_use]
    pub fn decrement_ttl(&mut self) -> bool {
        if self.ttl <= 1 {
            return false;
        }
        self.ttl -= 1;
        // It is the upper half of its word; for the checksum only the difference counts.
        self.amend(0x0100, 0);
        true
    }

    /// Changes the type of service octet.
    #[inline]
    pub fn set_tos(&mut self, tos: u8) {
        let old = u16::from_be_bytes([self.version_ihl, self.tos]);
        self.tos = tos;
        self.amend(old, u16::from_be_bytes([self.version_ihl, tos]));
    }

    /// Changes the TTL.
    #[inline]
    pub fn set_ttl(&mut self, ttl: u8) {
        let old = self.ttl_and_protocol();
        self.ttl = ttl;
        self.amend(old, self.ttl_and_protocol());
    }

    /// Changes the total length.
    #[inline]
    pub fn set_total_length(&mut self, total_length: u16) {
        self.amend(self.total_length(), total_length);
        self.total_length = total_length.into();
    }

    /// Changes the identification.
    #[inline]
    pub fn set_identification(&mut self, identification: u16) {
        self.amend(self.identification(), identification);
        self.identification = identification.into();
    }

    /// Makes it a fragment, or a whole packet again (`offset` 0 and no more). `offset` is in bytes; only
    /// multiples of 8 exist, and the last 3 bits are lost. "Don't fragment" is cleared.
    #[inline]
    pub fn set_fragment(&mut self, offset: u16, more: bool) {
        let fragment = (offset / 8) | if more { MORE_FRAGMENTS } else { 0 };
        self.amend(self.fragment.get(), fragment);
        self.fragment = fragment.into();
    }

    /// Changes the sender.
    #[inline]
    pub fn set_source(&mut self, source: Ipv4Addr) {
        let sum = checksum::update32(self.checksum(), self.source().to_bits(), source.to_bits());
        self.checksum = sum.into();
        self.source = source.octets();
    }

    /// Changes the receiver.
    #[inline]
    pub fn set_destination(&mut self, destination: Ipv4Addr) {
        let sum = checksum::update32(self.checksum(), self.destination().to_bits(), destination.to_bits());
        self.checksum = sum.into();
        self.destination = destination.octets();
    }

    /// Computes the checksum anew, for a header without options.
    pub fn fill_checksum(&mut self) {
        self.checksum = 0.into();
        self.checksum = checksum::checksum(self.octets()).into();
    }

    #[inline]
    fn ttl_and_protocol(&self) -> u16 {
        u16::from_be_bytes([self.ttl, self.protocol.0])
    }

    #[inline]
    fn amend(&mut self, old: u16, new: u16) {
        self.checksum = checksum::update(self.checksum(), old, new).into();
    }
}
