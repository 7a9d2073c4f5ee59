//! Forward: where a packet goes next.

use std::net::Ipv4Addr;

use arrayvec::ArrayVec;
use dmvpn_tables::{Adjacency, AdjacencyId, Peer, PeerId, PuntReason, Snapshot, TunnelId};
use dmvpn_wire::{EtherType, View, ipv4};

use crate::counters::DropReason;
use crate::frame::{Buffer, FRAME_SIZE, Meta, Pool};
use crate::stage::{Context, ForPeer, Frames, find_peers};

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
pub(crate) fn run<'a, P: Pool>(cx: &mut Context<'a, P>, frames: &mut Frames<'a, P::Buffer>) {
    let ways = look_up(cx.snapshot, &frames.forward);
    let peers = find_peers(cx.snapshot, ways.iter().map(Adjacency::peer));
    for ((mut packet, &way), &peer) in frames.forward.drain(..).zip(&ways).zip(&peers) {
        match route(cx, way, peer, &mut packet) {
            Next::Encrypt => {
                packet.prefetch_headroom();
                frames.encrypt.push(ForPeer { packet, peer });
            }
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

/// Where the destinations of a batch lead. What a step reads is asked for from all of them before it is read from the
/// first.
fn look_up<B: Buffer>(snapshot: &Snapshot, packets: &[B]) -> ArrayVec<Adjacency, FRAME_SIZE> {
    let mut destinations = ArrayVec::<_, FRAME_SIZE>::new();
    for packet in packets {
        let header = ipv4::Header::view(packet.bytes());
        destinations.push(header.map_or(Ipv4Addr::UNSPECIFIED, |(header, _)| header.destination()));
    }
    let mut found = [None; FRAME_SIZE];
    snapshot.fib.lookup_batch(&destinations, &mut found);
    let found = found.iter().take(packets.len());
    for id in found.clone().flatten() {
        snapshot.adjacencies.prefetch(id.0 as usize);
    }
    let mut ways = ArrayVec::new();
    for id in found {
        let way = adjacency(snapshot, *id);
        if let Adjacency::Neighbor(neighbor) = way {
            snapshot.neighbors.prefetch(neighbor.0 as usize);
        }
        ways.push(way);
    }
    ways
}

#[inline(always)]
fn route<P: Pool>(
    cx: &mut Context<'_, P>,
    way: Adjacency,
    peer: Option<&Peer>,
    packet: &mut P::Buffer,
) -> Next {
    let Ok((header, _)) = ipv4::Header::view(packet.bytes()) else {
        return Next::Drop(DropReason::Ipv4Header);
    };
    let destination = header.destination();
    if destination.is_multicast() {
        return multicast(packet.meta());
    }
    if destination.is_broadcast() {
        return Next::Drop(DropReason::NotForwarded);
    }
    if from_underlay(cx.snapshot, packet.meta()) && is_in_protected_tunnel(cx.snapshot, header.source()) {
        return Next::Drop(DropReason::SourceInTunnel);
    }
    let (to, resolving) = match way {
        Adjacency::Local => return Next::Punt(PuntReason::Local { tunnel: packet.meta().arrived_by() }),
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
        Adjacency::Resolving { tunnel, via: Some(to) } => (to, Some(tunnel)),
        Adjacency::Tunnel(to) => (to, None),
    };

    // Back to who sent it: both of us think that the other knows better. It would go to and fro until its TTL ends.
    if resolving.is_some() && came_from(packet.meta(), to, peer) {
        return Next::PuntLimited(PuntReason::Unreachable, DropReason::Unreachable);
    }
    if header.ttl() <= 1 && !packet.meta().has(Meta::OWN) {
        return ttl_exceeded();
    }
    // What is reported is the packet as it arrived.
    report(cx, resolving, peer, packet);
    // Cannot fail after the check above.
    let _ = hop(packet);
    let meta = packet.meta_mut();
    (meta.to_peer, meta.gre_protocol) = (to.0, EtherType::IPV4.0);
    Next::Encrypt
}

/// Tells the control thread of a packet that would have a better way than by `peer`.
#[inline]
fn report<P: Pool>(
    cx: &mut Context<'_, P>,
    resolving: Option<TunnelId>,
    peer: Option<&Peer>,
    packet: &P::Buffer,
) {
    let (reason, sender) = match resolving {
        Some(tunnel) => (PuntReason::Unresolved { tunnel, held: false }, 0),
        None => match redirect(cx.snapshot, packet.meta(), peer) {
            // One for each sender and destination.
            Some(reason) => (reason, packet.meta().outer_source.rotate_left(16)),
            None => return,
        },
    };
    let Ok((header, _)) = ipv4::Header::view(packet.bytes()) else { return };
    let len = packet.len().min(header.header_len() + HEAD);
    let head = packet.bytes().get(..len).unwrap_or_default();
    cx.report(reason, header.destination().to_bits() ^ sender, head);
}

/// Whether a packet came in the clear by a port that protected tunnels run over.
fn from_underlay(snapshot: &Snapshot, meta: &Meta) -> bool {
    !meta.has(Meta::OWN | Meta::FROM_TUNNEL)
        && snapshot.ports.get(usize::from(meta.port)).is_some_and(|port| port.underlay)
}

/// Whether an address is reached by a protected tunnel: then it has no business anywhere else.
fn is_in_protected_tunnel(snapshot: &Snapshot, address: Ipv4Addr) -> bool {
    let tunnel = match adjacency(snapshot, snapshot.fib.lookup(address)) {
        Adjacency::Tunnel(peer) => snapshot.peer(peer).map(|peer| peer.tunnel()),
        Adjacency::Resolving { tunnel, .. } => Some(tunnel),
        _ => None,
    };
    tunnel.and_then(|id| snapshot.tunnels.get(usize::from(id.0))).is_some_and(|tunnel| tunnel.protected)
}

fn adjacency(snapshot: &Snapshot, found: Option<AdjacencyId>) -> Adjacency {
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

/// Whether there is a shorter way that the sender should know of: the packet leaves through the tunnel that it came by,
/// to another peer.
fn redirect(snapshot: &Snapshot, meta: &Meta, to: Option<&Peer>) -> Option<PuntReason> {
    let tunnel = snapshot.tunnels.get(usize::from(meta.arrived_by()?.0)).filter(|tunnel| tunnel.redirect)?;
    let to = to.filter(|to| to.tunnel() == tunnel.id && !came_from(meta, to.id(), Some(to)));
    to.map(|_| PuntReason::Redirect {
        tunnel: tunnel.id,
        peer: meta.peer(),
        source: meta.outer_source.into(),
    })
}

/// Whether a packet is on its way back to who sent it. Without IPsec only the underlay address tells.
fn came_from(meta: &Meta, id: PeerId, peer: Option<&Peer>) -> bool {
    match meta.peer() {
        Some(sender) => sender == id,
        None if meta.has(Meta::FROM_TUNNEL) => {
            peer.is_some_and(|peer| peer.endpoints().remote.to_bits() == meta.outer_source)
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
