//! Addresses that no packet on its way may bear.

use std::net::Ipv4Addr;

use dmvpn_tables::Snapshot;
use dmvpn_wire::ipv4::Header;

use crate::counters::DropReason;

/// The addresses of this box, to be compared with those of every packet: made once a batch, it rules out nearly all others
/// at a glance.
#[derive(Clone, Copy)]
pub(crate) struct OwnAddresses<'a> {
    snapshot: &'a Snapshot,
    /// The bits of all own addresses ([`bit`]).
    bits: u64,
}

impl<'a> OwnAddresses<'a> {
    pub(crate) fn of(snapshot: &'a Snapshot) -> Self {
        let ports = snapshot.ports.iter().map(|port| port.address);
        let tunnels = snapshot.tunnels.iter().flat_map(|tunnel| [tunnel.address, tunnel.local]);
        Self { snapshot, bits: ports.chain(tunnels).fold(0, |bits, address| bits | bit(address)) }
    }

    /// Whether an address is one of this box.
    #[inline]
    fn contain(self, address: Ipv4Addr) -> bool {
        self.bits & bit(address) != 0 && owns(self.snapshot, address)
    }

    /// Whether an address is one that tunnels end at.
    #[inline]
    pub(crate) fn end_tunnels(self, address: Ipv4Addr) -> bool {
        self.bits & bit(address) != 0 && self.snapshot.tunnels.iter().any(|tunnel| tunnel.local == address)
    }
}

/// One bit of 64 for an address (Fibonacci hashing).
#[inline]
fn bit(address: Ipv4Addr) -> u64 {
    1 << (address.to_bits().wrapping_mul(0x9e37_79b9) >> 26)
}

/// Whether an address is one of this box.
#[cold]
fn owns(snapshot: &Snapshot, address: Ipv4Addr) -> bool {
    snapshot.ports.iter().any(|port| port.address == address)
        || snapshot.tunnels.iter().any(|tunnel| tunnel.address == address || tunnel.local == address)
}

/// Why a packet with these addresses goes no further, if so (RFC 1812 sections 5.3.7 and 4.2.2.11).
#[inline(always)]
pub(crate) fn addresses(own: OwnAddresses<'_>, header: &Header) -> Option<DropReason> {
    let (source, destination) = (header.source(), header.destination());
    if unfit(source) & AS_SOURCE | unfit(destination) & AS_DESTINATION != 0
        && let Some(reason) = martian(source, destination)
    {
        return Some(reason);
    }
    own.contain(source).then_some(DropReason::OwnSource)
}

/// The same for addresses of which one is unfit by its first octet.
#[cold]
fn martian(source: Ipv4Addr, destination: Ipv4Addr) -> Option<DropReason> {
    if unfit(source) & AS_SOURCE != 0 {
        return Some(DropReason::MartianSource);
    }
    (!destination.is_broadcast()).then_some(DropReason::MartianDestination)
}

/// What an address cannot be.
#[inline]
fn unfit(address: Ipv4Addr) -> u8 {
    UNFIT[(address.to_bits() >> 24) as usize]
}

const AS_SOURCE: u8 = 1;
const AS_DESTINATION: u8 = 2;
/// What addresses cannot be, by their first octet.
static UNFIT: [u8; 256] = {
    let mut unfit = [0; 256];
    unfit[0] = AS_SOURCE | AS_DESTINATION;
    unfit[127] = AS_SOURCE | AS_DESTINATION;
    let mut octet = 224;
    while octet < 256 {
        unfit[octet] = if octet < 240 { AS_SOURCE } else { AS_SOURCE | AS_DESTINATION };
        octet += 1;
    }
    unfit
};
