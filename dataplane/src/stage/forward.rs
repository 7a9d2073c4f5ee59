//! Forward: where a packet goes next.

use std::net::Ipv4Addr;

use arrayvec::ArrayVec;
use dmvpn_esp::prefetch;
use dmvpn_tables::{
    Adjacency, AdjacencyId, NeighborId, Peer, PeerId, PortId, PuntReason, Snapshot, TunnelId,
};
use dmvpn_wire::{EtherType, View, ipv4};

use crate::counters::DropReason;
use crate::frame::{Buffer, FRAME_SIZE, Meta, Pool};
use crate::stage::{Context, ForNeighbor, ForPeer, Frames, find_peers};

/// What becomes of an IPv4 packet.
enum Next {
    /// To a peer; which one is in the meta data.
    Encrypt,
    /// To a neighbor.
    Egress(NeighborId),
    /// To the control thread.
    Punt(Wanted),
    /// Nothing.
    Drop(DropReason),
}

/// What the control thread is to do; but for the first, unless there was much of it about the same destination or sender.
#[derive(Clone, Copy)]
enum Wanted {
    /// Take it: it is for this box.
    Local,
    /// Find the station.
    Glean(PortId),
    /// Find the next hop.
    Unresolved(TunnelId),
    /// Tell the sender.
    Unreachable,
    /// The same.
    TtlExceeded,
}

/// Bytes of a packet, after its IPv4 header, that the control thread gets to see of one that goes its own way.
const HEAD: usize = 64;
/// Multicast and broadcast addresses begin with this octet or a higher one.
const FIRST_OF_MULTICAST: u8 = 224;

/// Looks up all packets of the batch.
pub(crate) fn run<'a, P: Pool>(cx: &mut Context<'a, P>, frames: &mut Frames<'a, P::Buffer>) {
    let ways = look_up(cx.snapshot, &frames.forward);
    let peers = find_peers(cx.snapshot, cx.handoff.worker(), ways.iter().filter_map(|way| way.peer()));
    let mut peers = peers.iter();
    for (mut packet, way) in frames.forward.drain(..).zip(&ways) {
        let peer = if way.peer().is_some() { peers.next().copied().flatten() } else { None };
        match route(cx, way, peer, &mut packet) {
            Next::Encrypt => {
                packet.prefetch_headroom();
                frames.encrypt.push(ForPeer { packet, peer });
            }
            Next::Egress(neighbor) => {
                packet.meta_mut().neighbor = neighbor.0;
                frames.egress.push(ForNeighbor { packet, neighbor: cx.neighbor(neighbor) });
            }
            Next::Drop(reason) => cx.count_drop(reason),
            Next::Punt(wanted) => punt(cx, wanted, packet),
        }
    }
}

/// Hands a packet to the control thread, or drops it if there were many about the same destination or source.
#[cold]
fn punt<P: Pool>(cx: &mut Context<'_, P>, wanted: Wanted, packet: P::Buffer) {
    let Ok((header, _)) = ipv4::Header::view(packet.bytes()) else {
        return cx.count_drop(DropReason::Ipv4Header);
    };
    // Who would get the ICMP error, or else where it goes.
    let (source, destination) = (header.source().to_bits(), header.destination().to_bits());
    let (reason, key, otherwise) = match wanted {
        Wanted::Glean(port) => (PuntReason::Glean { port }, destination, DropReason::Glean),
        Wanted::Unresolved(tunnel) => {
            (PuntReason::Unresolved { tunnel, held: true }, destination, DropReason::Unresolved)
        }
        Wanted::Unreachable => (PuntReason::Unreachable, source, DropReason::Unreachable),
        Wanted::TtlExceeded => (PuntReason::TtlExceeded, source, DropReason::TtlExceeded),
        Wanted::Local => {
            return cx.punter.punt(PuntReason::Local { tunnel: packet.meta().arrived_by() }, packet);
        }
    };
    cx.punt_limited(reason, key, packet, otherwise);
}

/// Where the destinations of a batch lead. What a step reads is asked for from all of them before it is read from the
/// first.
fn look_up<'a, B: Buffer>(snapshot: &'a Snapshot, packets: &[B]) -> ArrayVec<&'a Adjacency, FRAME_SIZE> {
    let mut ways = ArrayVec::new();
    snapshot.fib.lookup_batch(packets.iter().map(|packet| packet.meta().destination.into()), |found| {
        let way = adjacency(snapshot, found);
        prefetch(way, 1);
        ways.push(way);
    });
    ways
}

#[inline(always)]
fn route<P: Pool>(
    cx: &mut Context<'_, P>,
    way: &Adjacency,
    peer: Option<&Peer>,
    packet: &mut P::Buffer,
) -> Next {
    let meta = packet.meta();
    let destination = Ipv4Addr::from(meta.destination);
    if destination.octets()[0] >= FIRST_OF_MULTICAST
        && let Some(next) = to_many(meta, destination)
    {
        return next;
    }
    if meta.has(Meta::FROM_UNDERLAY) && comes_from_protected_tunnel(cx.snapshot, packet.bytes()) {
        return Next::Drop(DropReason::SourceInTunnel);
    }
    let (to, resolving) = match *way {
        Adjacency::Tunnel(to) => (to, None),
        Adjacency::Neighbor(neighbor) => {
            return if hop(packet) { Next::Egress(neighbor) } else { Next::Punt(Wanted::TtlExceeded) };
        }
        Adjacency::Local => return Next::Punt(Wanted::Local),
        Adjacency::Unreachable => return Next::Punt(Wanted::Unreachable),
        // A packet that waits with the control thread comes back as one of our own, so the hop is counted here.
        Adjacency::Glean(port) => {
            return if hop(packet) {
                Next::Punt(Wanted::Glean(port))
            } else {
                Next::Punt(Wanted::TtlExceeded)
            };
        }
        Adjacency::Resolving { tunnel, via: None } => {
            return if hop(packet) {
                Next::Punt(Wanted::Unresolved(tunnel))
            } else {
                Next::Punt(Wanted::TtlExceeded)
            };
        }
        Adjacency::Resolving { tunnel, via: Some(to) } => (to, Some(tunnel)),
    };

    // Back to who sent it: both of us think that the other knows better. It would go to and fro until its TTL ends.
    if resolving.is_some() && came_from(packet.meta(), to, peer) {
        return Next::Punt(Wanted::Unreachable);
    }
    // What is reported is the packet as it arrived, if it has a hop left.
    if let Some((reason, sender)) = reported(cx.snapshot, resolving, peer, packet.meta()) {
        report(cx, reason, sender, packet);
    }
    if !hop(packet) {
        return Next::Punt(Wanted::TtlExceeded);
    }
    let meta = packet.meta_mut();
    (meta.to_peer, meta.gre_protocol) = (to.0, EtherType::IPV4.0);
    Next::Encrypt
}

/// What the control thread is to hear of a packet that would have a better way than by `peer`, and a part of the key
/// that limits it.
#[inline]
fn reported(
    snapshot: &Snapshot,
    resolving: Option<TunnelId>,
    peer: Option<&Peer>,
    meta: &Meta,
) -> Option<(PuntReason, u32)> {
    match resolving {
        Some(tunnel) => Some((PuntReason::Unresolved { tunnel, held: false }, 0)),
        // One for each sender and destination.
        None => Some((redirect(snapshot, meta, peer)?, meta.outer_source.rotate_left(16))),
    }
}

/// Tells the control thread of a packet that goes its own way, unless its TTL ends here.
#[inline(never)]
fn report<P: Pool>(cx: &mut Context<'_, P>, reason: PuntReason, sender: u32, packet: &P::Buffer) {
    let Ok((header, _)) = ipv4::Header::view(packet.bytes()) else { return };
    if header.ttl() <= 1 && !packet.meta().has(Meta::OWN) {
        return;
    }
    let len = packet.len().min(header.header_len() + HEAD);
    let head = packet.bytes().get(..len).unwrap_or_default();
    cx.report(reason, header.destination().to_bits() ^ sender, head);
}

/// Whether the source of a packet is reached by a protected tunnel: then it has no business anywhere else.
#[inline(never)]
fn comes_from_protected_tunnel(snapshot: &Snapshot, packet: &[u8]) -> bool {
    let Ok((header, _)) = ipv4::Header::view(packet) else { return false };
    let tunnel = match *adjacency(snapshot, snapshot.fib.lookup(header.source())) {
        Adjacency::Tunnel(peer) => snapshot.peer(peer).map(|peer| peer.tunnel()),
        Adjacency::Resolving { tunnel, .. } => Some(tunnel),
        _ => None,
    };
    tunnel.and_then(|id| snapshot.tunnels.get(usize::from(id.0))).is_some_and(|tunnel| tunnel.protected)
}

#[inline]
fn adjacency(snapshot: &Snapshot, found: Option<AdjacencyId>) -> &Adjacency {
    found.and_then(|id| snapshot.adjacencies.get(id.0 as usize)).unwrap_or(&Adjacency::Unreachable)
}

/// A multicast packet is for the box if it came through a tunnel, where routing protocols speak. That of a link stays
/// there: multicast is not routed, nor is broadcast.
#[cold]
fn to_many(meta: &Meta, destination: Ipv4Addr) -> Option<Next> {
    match meta.arrived_by() {
        Some(_) if destination.is_multicast() => Some(Next::Punt(Wanted::Local)),
        _ if destination.is_multicast() || destination.is_broadcast() => {
            Some(Next::Drop(DropReason::NotForwarded))
        }
        _ => None,
    }
}

/// Counts one hop; false if none was left (RFC 1812 section 5.3.1). Our own packets have made none.
#[must_use]
fn hop<B: Buffer>(packet: &mut B) -> bool {
    packet.meta().has(Meta::OWN)
        || ipv4::Header::view_mut(packet.bytes_mut()).is_ok_and(|(header, _)| header.decrement_ttl())
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
