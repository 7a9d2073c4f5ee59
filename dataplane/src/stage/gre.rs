//! Out of the tunnel: the GRE header comes off, whether ESP was around it or not.

use std::ops::Range;

use dmvpn_tables::{PeerId, PuntReason, Tunnel, TunnelId};
use dmvpn_wire::{EtherType, View, gre, ipv4};

use crate::counters::DropReason;
use crate::frame::{Buffer, Meta, Pool};
use crate::stage::Context;
use crate::stage::check::{self, OwnAddresses};

/// What becomes of a GRE packet.
pub(crate) enum Next {
    /// An IPv4 packet, checked; it begins with its header.
    Forward,
    /// NHRP; it begins with the NHRP header.
    Nhrp,
    /// Nothing.
    Drop(DropReason),
}

/// Takes the GRE header off, and whatever is around it. `content` says which bytes of `packet` are the GRE packet; it came
/// by `tunnel`, and by an SA of `peer` if there is one. What is kept of the outer header is in the meta data.
#[inline(always)]
pub(crate) fn pop<B: Buffer>(
    own: OwnAddresses<'_>,
    tunnel: &Tunnel,
    peer: Option<PeerId>,
    packet: &mut B,
    content: Range<usize>,
) -> Next {
    let end = content.end;
    let Some(Ok(header)) = packet.bytes().get(content).map(gre::Packet::parse) else {
        return Next::Drop(DropReason::GreHeader);
    };
    if header.key != tunnel.key {
        return Next::Drop(DropReason::GreKey);
    }
    let payload = end - header.payload.len()..end;
    match header.protocol {
        EtherType::IPV4 => inner(own, tunnel, peer, packet, payload),
        EtherType::NHRP => {
            packet.crop(payload);
            arrive(tunnel, peer, packet.meta_mut());
            Next::Nhrp
        }
        _ => Next::Drop(DropReason::GreProtocol),
    }
}

/// Hands NHRP to the control thread.
#[cold]
pub(crate) fn punt_nhrp<P: Pool>(cx: &Context<'_, P>, packet: P::Buffer) {
    let meta = packet.meta();
    let (peer, source) = (meta.peer(), meta.outer_source.into());
    cx.punter.punt(PuntReason::Nhrp { tunnel: TunnelId(meta.tunnel), peer, source }, packet);
}

/// Notes where a packet came from.
#[inline(always)]
fn arrive(tunnel: &Tunnel, peer: Option<PeerId>, meta: &mut Meta) {
    meta.tunnel = tunnel.id.0;
    meta.flags = Meta::FROM_TUNNEL;
    if let Some(peer) = peer {
        meta.flags |= Meta::FROM_PEER;
        meta.from_peer = peer.0;
    }
}

#[inline(always)]
fn inner<B: Buffer>(
    own: OwnAddresses<'_>,
    tunnel: &Tunnel,
    peer: Option<PeerId>,
    packet: &mut B,
    content: Range<usize>,
) -> Next {
    let start = content.start;
    let Some(Ok(ip)) = packet.bytes().get(content).map(ipv4::Packet::parse) else {
        return Next::Drop(DropReason::Ipv4Header);
    };
    if let Some(reason) = check::addresses(own, ip.header) {
        return Next::Drop(reason);
    }
    let inside = ip.header.ecn();
    let Some(ecn) = ecn_inside(inside, packet.meta().outer_ecn) else {
        return Next::Drop(DropReason::EcnCongestion);
    };
    let destination = ip.header.destination();
    // What is behind the packet is padding.
    let total_length = usize::from(ip.header.total_length());
    packet.crop(start..start + total_length);
    if ecn != inside
        && let Ok((header, _)) = ipv4::Header::view_mut(packet.bytes_mut())
    {
        header.set_tos(header.tos() & !3 | ecn);
    }
    let meta = packet.meta_mut();
    meta.destination = destination.to_bits();
    arrive(tunnel, peer, meta);
    Next::Forward
}

const NOT_ECT: u8 = 0;
const ECT_1: u8 = 1;
const ECT_0: u8 = 2;
const CE: u8 = 3;

/// RFC 6040 section 4.2: congestion met on the way through the tunnel is shown inside; `None` if the packet must
/// be dropped instead, since its end points would not understand.
pub(crate) fn ecn_inside(inner: u8, outer: u8) -> Option<u8> {
    match (inner, outer) {
        (_, NOT_ECT) => Some(inner),
        (NOT_ECT, CE) => None,
        (NOT_ECT, _) => Some(NOT_ECT),
        (_, CE) => Some(CE),
        (ECT_0, ECT_1) => Some(ECT_1),
        _ => Some(inner),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ecn_as_in_the_table_of_rfc_6040() {
        // Rows: inner; columns: outer Not-ECT, ECT(0), ECT(1), CE (RFC 6040 figure 4).
        for (inner, row) in [
            (NOT_ECT, [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None]),
            (ECT_0, [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CE)]),
            (ECT_1, [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)]),
            (CE, [Some(CE); 4]),
        ] {
            assert_eq!([NOT_ECT, ECT_0, ECT_1, CE].map(|outer| ecn_inside(inner, outer)), row, "{inner}");
        }
    }
}
