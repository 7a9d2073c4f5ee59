//! Egress: onto a link.

use dmvpn_tables::{Neighbor, NeighborId, PortId, PortInfo, PuntReason};
use dmvpn_wire::{EtherType, MacAddr, View, eth, ipv4};

use crate::counters::DropReason;
use crate::frame::{Buffer, Frame, Meta, Pool};
use crate::link::Link;
use crate::ports::Ports;
use crate::stage::fragment::fragment;
use crate::stage::{Context, ForNeighbor};

/// What becomes of a finished packet.
enum Next<'a> {
    /// Onto the link of a port.
    Transmit(PortId),
    /// The same, with an Ethernet header in front.
    Frame(Onto<'a>),
    /// The same, but it has to be cut to the port's MTU first.
    Fragment(Onto<'a>),
    /// To the control thread, which resolves the next hop or answers that the packet is too large; unless there were many
    /// about the same thing.
    PuntLimited(PuntReason, u32, DropReason),
    /// Nothing.
    Drop(DropReason),
}

/// A station on the link of a port.
#[derive(Clone, Copy)]
struct Onto<'a> {
    station: &'a MacAddr,
    number: PortId,
    port: &'a PortInfo,
}

/// Queues all packets of the batch on their ports.
pub(crate) fn run<P: Pool, L: Link<Buffer = P::Buffer>>(
    cx: &mut Context<'_, P>,
    packets: &mut Frame<ForNeighbor<'_, P::Buffer>>,
    ports: &mut Ports<L>,
) {
    for ForNeighbor { packet, neighbor } in packets.drain(..) {
        match classify(cx, neighbor, &packet) {
            Next::Transmit(port) => ports.queue(port, packet),
            Next::Frame(onto) => transmit(cx, onto, packet, ports),
            Next::Fragment(onto) => cut(cx, onto, packet, ports),
            Next::PuntLimited(reason, key, otherwise) => cx.punt_limited(reason, key, packet, otherwise),
            Next::Drop(reason) => cx.count_drop(reason),
        }
    }
}

#[inline(always)]
fn classify<'a, P: Pool>(
    cx: &Context<'a, P>,
    neighbor: &'a Option<Neighbor>,
    packet: &P::Buffer,
) -> Next<'a> {
    let Some(neighbor) = neighbor else {
        let meta = packet.meta();
        let framed = meta.has(Meta::FRAMED);
        return if framed { Next::Transmit(PortId(meta.port)) } else { Next::Drop(DropReason::NoNeighbor) };
    };
    let Some(port) = cx.snapshot.ports.get(usize::from(neighbor.port.0)) else {
        return Next::Drop(DropReason::NoPort);
    };
    let too_large = packet.len() > usize::from(port.mtu);
    if too_large && let Some(next) = not_to_be_cut(port, packet) {
        return next;
    }
    let Some(station) = &neighbor.mac else {
        let neighbor = NeighborId(packet.meta().neighbor);
        let reason = PuntReason::NeighborUnresolved { neighbor };
        return Next::PuntLimited(reason, neighbor.0, DropReason::NeighborUnresolved);
    };
    let onto = Onto { station, number: neighbor.port, port };
    if too_large { Next::Fragment(onto) } else { Next::Frame(onto) }
}

/// What becomes of a packet that is too large for its port, if it is not to be cut.
#[cold]
fn not_to_be_cut<'a, B: Buffer>(port: &PortInfo, packet: &B) -> Option<Next<'a>> {
    let Ok((header, _)) = ipv4::Header::view(packet.bytes()) else {
        return Some(Next::Drop(DropReason::Ipv4Header));
    };
    if !header.dont_fragment() {
        return None;
    }
    if packet.meta().has(Meta::ENCAPSULATED) {
        return Some(Next::Drop(DropReason::OuterTooLarge));
    }
    let reason = PuntReason::FragmentationNeeded { mtu: port.mtu };
    Some(Next::PuntLimited(reason, header.source().to_bits(), DropReason::FragmentationNeeded))
}

/// Queues a packet behind an Ethernet header.
#[inline(always)]
fn transmit<P: Pool, L: Link<Buffer = P::Buffer>>(
    cx: &Context<'_, P>,
    onto: Onto<'_>,
    mut packet: P::Buffer,
    ports: &mut Ports<L>,
) {
    let room = packet.prepend(eth::Header::LEN).and_then(|room| eth::Header::view_mut(room).ok());
    let Some((header, _)) = room else { return cx.count_drop(DropReason::NoRoom) };
    header.set(*onto.station, onto.port.mac, EtherType::IPV4);
    ports.queue(onto.number, packet);
}

/// Queues the pieces of a packet.
#[cold]
fn cut<P: Pool, L: Link<Buffer = P::Buffer>>(
    cx: &mut Context<'_, P>,
    onto: Onto<'_>,
    packet: P::Buffer,
    ports: &mut Ports<L>,
) {
    let mut fragments = Frame::new();
    if let Some(reason) = fragment(cx.pool, packet, onto.port.mtu, &mut fragments) {
        return cx.count_drop(reason);
    }
    for piece in fragments {
        transmit(cx, onto, piece, ports);
    }
}
