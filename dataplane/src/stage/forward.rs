//! Forward: where a packet goes next.

use std::net::Ipv4Addr;

use dmvpn_tables::{Adjacency, PeerId, PuntReason, Snapshot};
use dmvpn_wire::{View, ipv4};

use crate::counters::DropReason;
use crate::frame::{Buffer, Meta, Pool};
use crate::stage::{Context, Frames};

/// What becomes of an IPv4 packet.
pub(crate) enum Next {
    /// To a peer; which one is in the meta data.
    Encrypt,
    /// To a neighbor; which one is in the meta data.
    Egress,
    /// To the control thread.
    Punt(PuntReason),
    /// To the control thread, unless there were many about the same destination or source.
    PuntLimited(PuntReason, DropReason),
    /// Nothing.
    Drop(DropReason),
}

/// Bytes of a packet, after its IPv4 header, that the control thread gets to see of one that goes its own way.
const HEAD: usize = 64;

/// Looks up all packets of the batch.
pub(crate) fn run<P: Pool>(cx: &mut Context<'_, P>, frames: &mut Frames<P::Buffer>) {
    for mut packet in frames.forward.drain(..) {
        match route(cx, &mut packet) {
            Next::Encrypt => frames.encrypt.push(packet),
            Next::Egress => frames.egress.push(packet),
            Next::Punt(reason) => cx.punter.punt(reason, packet),
            Next::PuntLimited(reason, otherwise) => {
                let key = limit_key(&reason, packet.bytes());
                cx.punt_limited(reason, key, packet, otherwise);
            }
            Next::Drop(reason) => cx.count_drop(reason),
        }
    }
}

fn route<P: Pool>(cx: &mut Context<'_, P>, packet: &mut P::Buffer) -> Next {
    let meta = *packet.meta();
    let Ok((header, _)) = ipv4::Header::view(packet.bytes()) else {
        return Next::Drop(DropReason::Ipv4Header);
    };
    let header = *header;
    let destination = header.destination();
    if destination.is_multicast() {
        return multicast(&meta);
    }
    if destination.is_broadcast() {
        return Next::Drop(DropReason::NotForwarded);
    }
    if from_underlay(cx.snapshot, &meta) && is_in_protected_tunnel(cx.snapshot, header.source()) {
        return Next::Drop(DropReason::SourceInTunnel);
    }
    let (peer, resolving) = match adjacency(cx.snapshot, header.destination()) {
        Adjacency::Local => return Next::Punt(PuntReason::Local { tunnel: meta.arrived_by() }),
        Adjacency::Unreachable => return Next::PuntLimited(PuntReason::Unreachable, DropReason::Unreachable),
        Adjacency::Neighbor(neighbor) => {
            if !hop(packet) {
                return ttl_exceeded();
            }
            packet.meta_mut().neighbor = neighbor.0;
            return Next::Egress;
        }
        // A packet that waits with the control thread comes back as one of our own, so the hop is counted here.
        Adjacency::Glean(port) => {
            if !hop(packet) {
                return ttl_exceeded();
            }
            return Next::PuntLimited(PuntReason::Glean { port }, DropReason::Glean);
        }
        Adjacency::Resolving { tunnel, via: None } => {
            if !hop(packet) {
                return ttl_exceeded();
            }
            return Next::PuntLimited(PuntReason::Unresolved { tunnel, held: true }, DropReason::Unresolved);
        }
        Adjacency::Resolving { tunnel, via: Some(peer) } => (peer, Some(tunnel)),
        Adjacency::Tunnel(peer) => (peer, None),
    };

    // Back to who sent it: both of us think that the other knows better. It would go to and fro until its TTL ends.
    if resolving.is_some() && came_from(cx.snapshot, &meta, peer) {
        return Next::PuntLimited(PuntReason::Unreachable, DropReason::Unreachable);
    }
    if header.ttl() <= 1 && !meta.has(Meta::OWN) {
        return ttl_exceeded();
    }
    // What is reported is the packet as it arrived.
    let head_len = packet.len().min(header.header_len() + HEAD);
    let head = packet.bytes().get(..head_len).unwrap_or_default();
    match resolving {
        Some(tunnel) => {
            cx.report(PuntReason::Unresolved { tunnel, held: false }, destination.to_bits(), head);
        }
        None => {
            if let Some(reason) = redirect(cx.snapshot, &meta, peer) {
                // One for each sender and destination.
                let key = destination.to_bits() ^ meta.outer_source.rotate_left(16);
                cx.report(reason, key, head);
            }
        }
    }
    // Cannot fail after the check above.
    let _ = hop(packet);
    to_peer(packet.meta_mut(), peer);
    Next::Encrypt
}

/// Whether a packet came in the clear by a port that protected tunnels run over.
fn from_underlay(snapshot: &Snapshot, meta: &Meta) -> bool {
    !meta.has(Meta::OWN | Meta::FROM_TUNNEL)
        && snapshot.ports.get(usize::from(meta.port)).is_some_and(|port| port.underlay)
}

/// Whether an address is reached by a protected tunnel: then it has no business anywhere else.
fn is_in_protected_tunnel(snapshot: &Snapshot, address: Ipv4Addr) -> bool {
    let tunnel = match adjacency(snapshot, address) {
        Adjacency::Tunnel(peer) => snapshot.peer(peer).map(|peer| peer.tunnel()),
        Adjacency::Resolving { tunnel, .. } => Some(tunnel),
        _ => None,
    };
    tunnel.and_then(|id| snapshot.tunnels.get(usize::from(id.0))).is_some_and(|tunnel| tunnel.protected)
}

fn adjacency(snapshot: &Snapshot, address: Ipv4Addr) -> Adjacency {
    let found = snapshot.fib.lookup(address);
    found.and_then(|id| snapshot.adjacencies.get(id.0 as usize)).copied().unwrap_or_default()
}

/// A multicast packet is for the box if it came through a tunnel, where routing protocols speak. That of a link stays
/// there: multicast is not routed.
fn multicast(meta: &Meta) -> Next {
    match meta.arrived_by() {
        Some(tunnel) => Next::Punt(PuntReason::Local { tunnel: Some(tunnel) }),
        None => Next::Drop(DropReason::NotForwarded),
    }
}

/// Counts one hop; false if none was left (RFC 1812 section 5.3.1). Our own packets have made none.
#[must_use]
fn hop<B: Buffer>(packet: &mut B) -> bool {
    packet.meta().has(Meta::OWN)
        || ipv4::Header::view_mut(packet.bytes_mut()).is_ok_and(|(header, _)| header.decrement_ttl())
}

fn ttl_exceeded() -> Next {
    Next::PuntLimited(PuntReason::TtlExceeded, DropReason::TtlExceeded)
}

fn to_peer(meta: &mut Meta, peer: PeerId) {
    meta.to_peer = peer.0;
    meta.gre_protocol = dmvpn_wire::EtherType::IPV4.0;
}

/// Whether there is a shorter way that the sender should know of: the packet leaves through the tunnel that it came by,
/// to another peer.
fn redirect(snapshot: &Snapshot, meta: &Meta, to: PeerId) -> Option<PuntReason> {
    let tunnel = snapshot.tunnels.get(usize::from(meta.arrived_by()?.0)).filter(|tunnel| tunnel.redirect)?;
    let leaves_by = snapshot.peer(to)?.tunnel();
    (leaves_by == tunnel.id && !came_from(snapshot, meta, to)).then(|| PuntReason::Redirect {
        tunnel: tunnel.id,
        peer: meta.peer(),
        source: meta.outer_source.into(),
    })
}

/// Whether a packet is on its way back to who sent it. Without IPsec only the underlay address tells.
fn came_from(snapshot: &Snapshot, meta: &Meta, peer: PeerId) -> bool {
    match meta.peer() {
        Some(sender) => sender == peer,
        None if meta.has(Meta::FROM_TUNNEL) => {
            snapshot.peer(peer).is_some_and(|peer| peer.endpoints().remote.to_bits() == meta.outer_source)
        }
        None => false,
    }
}

/// What a limited packet is about: who would get the ICMP error, or else where it goes.
fn limit_key(reason: &PuntReason, packet: &[u8]) -> u32 {
    let Ok((header, _)) = ipv4::Header::view(packet) else { return 0 };
    match reason {
        PuntReason::TtlExceeded | PuntReason::Unreachable => header.source().to_bits(),
        _ => header.destination().to_bits(),
    }
}
