//! Egress: onto a link.

use dmvpn_tables::{NeighborId, PortId, PuntReason};
use dmvpn_wire::{EtherType, View, eth, ipv4};

use crate::counters::DropReason;
use crate::frame::{Buffer, Frame, Meta, Pool};
use crate::link::Link;
use crate::ports::Ports;
use crate::stage::Context;
use crate::stage::fragment::fragment;

/// What becomes of a finished packet.
enum Next {
    /// Onto the link of a port, behind an Ethernet header if there is none yet.
    Transmit(PortId, Option<eth::Header>),
    /// The same, but it has to be cut to this MTU first.
    Fragment(PortId, eth::Header, u16),
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
            Next::Transmit(port, header) => transmit(cx, port, header, packet, ports),
            Next::Fragment(port, header, mtu) => {
                let mut fragments = Frame::new();
                if let Some(reason) = fragment(cx.pool, packet, mtu, &mut fragments) {
                    cx.count_drop(reason);
                    continue;
                }
                for piece in fragments {
                    transmit(cx, port, Some(header), piece, ports);
                }
            }
            Next::PuntLimited(reason, key, otherwise) => cx.punt_limited(reason, key, packet, otherwise),
            Next::Drop(reason) => cx.count_drop(reason),
        }
    }
}

fn classify<P: Pool>(cx: &Context<'_, P>, packet: &P::Buffer) -> Next {
    let meta = packet.meta();
    if meta.has(Meta::FRAMED) {
        return Next::Transmit(PortId(meta.port), None);
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
    let Some(mac) = neighbor.mac else {
        let reason = PuntReason::NeighborUnresolved { neighbor: id };
        return Next::PuntLimited(reason, id.0, DropReason::NeighborUnresolved);
    };
    let ethernet = eth::Header::new(mac, port.mac, EtherType::IPV4);
    if too_large {
        Next::Fragment(neighbor.port, ethernet, port.mtu)
    } else {
        Next::Transmit(neighbor.port, Some(ethernet))
    }
}

fn transmit<P: Pool, L: Link<Buffer = P::Buffer>>(
    cx: &Context<'_, P>,
    port: PortId,
    header: Option<eth::Header>,
    mut packet: P::Buffer,
    ports: &mut Ports<L>,
) {
    if let Some(header) = header
        && packet.prepend(eth::Header::LEN).and_then(|out| header.emit(out)).is_none()
    {
        return cx.count_drop(DropReason::NoRoom);
    }
    ports.queue(port, packet);
}
