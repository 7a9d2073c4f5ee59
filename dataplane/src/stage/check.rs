//! Addresses that no packet on its way may bear.

use std::net::Ipv4Addr;

use dmvpn_tables::Snapshot;
use dmvpn_wire::ipv4::Header;

use crate::counters::DropReason;

/// Why a packet with these addresses goes no further, if so (RFC 1812 sections 5.3.7 and 4.2.2.11).
#[inline]
pub(crate) fn addresses(snapshot: &Snapshot, header: &Header) -> Option<DropReason> {
    let (source, destination) = (header.source(), header.destination());
    if matches!(source.octets()[0], 0 | 127 | 224..) {
        return Some(DropReason::MartianSource);
    }
    if matches!(destination.octets()[0], 0 | 127 | 240..) && !destination.is_broadcast() {
        return Some(DropReason::MartianDestination);
    }
    owns(snapshot, source).then_some(DropReason::OwnSource)
}

/// Whether an address is one of this box.
#[inline]
pub(crate) fn owns(snapshot: &Snapshot, address: Ipv4Addr) -> bool {
    snapshot.ports.iter().any(|port| port.address == address)
        || snapshot.tunnels.iter().any(|tunnel| tunnel.address == address || tunnel.local == address)
}
