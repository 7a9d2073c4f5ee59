//! ARP for IPv4 over Ethernet (RFC 826).

use core::net::Ipv4Addr;

use zerocopy::big_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{EtherType, MacAddr, Malformed, View};

const ETHERNET: u16 = 1;
const REQUEST: u16 = 1;
const REPLY: u16 = 2;

/// An ARP packet for IPv4 over Ethernet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Packet {
    hardware: U16,
    protocol: U16,
    hardware_len: u8,
    protocol_len: u8,
    operation: U16,
    /// Ethernet address of the sender.
    pub sender_mac: MacAddr,
    sender: [u8; 4],
    /// Ethernet address of the target; meaningless in a request.
    pub target_mac: MacAddr,
    target: [u8; 4],
}

impl View for Packet {}

/// What an ARP packet does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Who has the target address?
    Request,
    /// The sender has the sender address.
    Reply,
}

impl Packet {
    /// The packet at the front of `bytes` (what follows an Ethernet header); padding is ignored.
    ///
    /// # Errors
    /// [`Malformed::Truncated`], or [`Malformed::Unsupported`] for other hardware, protocols, address
    /// lengths or operations, and for a sender that claims to be a group of stations.
    pub fn parse(bytes: &[u8]) -> Result<(&Self, Operation), Malformed> {
        let (packet, _) = Self::view(bytes)?;
        let expected = packet.hardware.get() == ETHERNET
            && packet.protocol.get() == EtherType::IPV4.0
            && packet.hardware_len == 6
            && packet.protocol_len == 4
            && packet.sender_mac.is_unicast();
        let operation = match packet.operation.get() {
            REQUEST if expected => Operation::Request,
            REPLY if expected => Operation::Reply,
            _ => return Err(Malformed::Unsupported),
        };
        Ok((packet, operation))
    }

    /// Asks who has `target`. With an unspecified `sender` it is a probe (RFC 5227), with the same
    /// address twice an announcement.
    pub fn request(sender_mac: MacAddr, sender: Ipv4Addr, target: Ipv4Addr) -> Self {
        Self::new(REQUEST, (sender_mac, sender), (MacAddr::UNSPECIFIED, target))
    }

    /// Answers `self`, a request: the address asked for is at `mac`.
    pub fn reply(&self, mac: MacAddr) -> Self {
        Self::new(REPLY, (mac, self.target()), (self.sender_mac, self.sender()))
    }

    /// IPv4 address of the sender; unspecified in a probe.
    pub fn sender(&self) -> Ipv4Addr {
        self.sender.into()
    }

    /// IPv4 address of the target.
    pub fn target(&self) -> Ipv4Addr {
        self.target.into()
    }

    fn new(operation: u16, sender: (MacAddr, Ipv4Addr), target: (MacAddr, Ipv4Addr)) -> Self {
        Self {
            hardware: ETHERNET.into(),
            protocol: EtherType::IPV4.0.into(),
            hardware_len: 6,
            protocol_len: 4,
            operation: operation.into(),
            sender_mac: sender.0,
            sender: sender.1.octets(),
            target_mac: target.0,
            target: target.1.octets(),
        }
    }
}
