//! Egress: onto a link.

use dmvpn_tables::{Neighbor, NeighborId, PortId, PortInfo, PuntReason};
use dmvpn_wire::{EtherType, View, eth, ipv4};

use crate::counters::DropReason;
use crate::frame::{Buffer, Frame, Meta, Pool};
use crate::link::Link;
use crate::ports::Ports;
use crate::stage::Context;
use crate::stage::fragment::fragment;

/// What becomes of a finished packet.
enum Next<'a> {
    /// Onto the link of a port.
    Transmit(PortId),
    /// The same, with an Ethernet header between two stations.
    Frame(&'a Neighbor, &'a PortInfo),
    /// The same, but it has to be cut to the port's MTU first.
    Fragment(&'a Neighbor, &'a PortInfo),
    /// To the control thread, which resolves the next hop or answers that the packet is too large; unless there were many
    /// about the same thing.
    PuntLimited(PuntReason, u32, DropReason),
    /// Nothing.
    Drop(DropReason),
}

/// Queues all packets of the batch on their ports.
pub(crate) fn run<P: Pool, L: Link<Buffer = P::Buffer>>(
    cx: &mut Context<'_, P>,
    packets: &mut Frame<P::Buffer>,
    ports: &mut Ports<L>,
) {
    for packet in packets.drain(..) {
        match classify(cx, &packet) {
            Next::Transmit(port) => ports.queue(port, packet),
            Next::Frame(neighbor, port) => transmit(cx, neighbor, port, packet, ports),
            Next::Fragment(neighbor, port) => cut(cx, neighbor, port, packet, ports),
            Next::PuntLimited(reason, key, otherwise) => cx.punt_limited(reason, key, packet, otherwise),
            Next::Drop(reason) => cx.count_drop(reason),
        }
    }
}

#[inline]
fn classify<'a, P: Pool>(cx: &Context<'a, P>, packet: &P::Buffer) -> Next<'a> {
    let meta = packet.meta();
    if meta.has(Meta::FRAMED) {
        return Next::Transmit(PortId(meta.port));
    }
    let id = NeighborId(meta.neighbor);
    let Some(neighbor) = cx.snapshot.neighbors.get(id.0 as usize).and_then(Option::as_ref) else {
        return Next::Drop(DropReason::NoNeighbor);
    };
    let Some(port) = cx.snapshot.ports.get(usize::from(neighbor.port.0)) else {
        return Next::Drop(DropReason::NoPort);
    };
    let Ok((header, _)) = ipv4::Header::view(packet.bytes()) else {
        return Next::Drop(DropReason::Ipv4Header);
    };
    let too_large = packet.len() > usize::from(port.mtu);
    if too_large && header.dont_fragment() {
        if meta.has(Meta::ENCAPSULATED) {
            return Next::Drop(DropReason::OuterTooLarge);
        }
        let reason = PuntReason::FragmentationNeeded { mtu: port.mtu };
        return Next::PuntLimited(reason, header.source().to_bits(), DropReason::FragmentationNeeded);
    }
    if neighbor.mac.is_none() {
        let reason = PuntReason::NeighborUnresolved { neighbor: id };
        return Next::PuntLimited(reason, id.0, DropReason::NeighborUnresolved);
    }
    if too_large { Next::Fragment(neighbor, port) } else { Next::Frame(neighbor, port) }
}

/// Queues a packet behind an Ethernet header.
#[inline]
fn transmit<P: Pool, L: Link<Buffer = P::Buffer>>(
    cx: &Context<'_, P>,
    neighbor: &Neighbor,
    port: &PortInfo,
    mut packet: P::Buffer,
    ports: &mut Ports<L>,
) {
    let header = neighbor.mac.map(|mac| eth::Header::new(mac, port.mac, EtherType::IPV4));
    let room = packet.prepend(eth::Header::LEN);
    match header.zip(room).and_then(|(header, room)| header.emit(room).map(drop)) {
        Some(()) => ports.queue(neighbor.port, packet),
        None => cx.count_drop(DropReason::NoRoom),
    }
}

/// Queues the pieces of a packet.
#[cold]
fn cut<P: Pool, L: Link<Buffer = P::Buffer>>(
    cx: &mut Context<'_, P>,
    neighbor: &Neighbor,
    port: &PortInfo,
    packet: P::Buffer,
    ports: &mut Ports<L>,
) {
    let mut fragments = Frame::new();
    if let Some(reason) = fragment(cx.pool, packet, port.mtu, &mut fragments) {
        return cx.count_drop(reason);
    }
    for piece in fragments {
        transmit(cx, neighbor, port, piece, ports);
    }
}
