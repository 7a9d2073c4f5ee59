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
#[inline]
pub(crate) fn addresses(own: OwnAddresses<'_>, header: &Header) -> Option<DropReason> {
    let (source, destination) = (header.source(), header.destination());
    if matches!(source.octets()[0], 0 | 127 | 224..) {
        return Some(DropReason::MartianSource);
    }
    if matches!(destination.octets()[0], 0 | 127 | 240..) && !destination.is_broadcast() {
        return Some(DropReason::MartianDestination);
    }
    own.contain(source).then_some(DropReason::OwnSource)
}
