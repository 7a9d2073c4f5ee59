//! Packets of the control thread, on their way in.

use dmvpn_tables::Inject;
use dmvpn_wire::{EtherType, ipv4};

use crate::counters::{Counters, DropReason};
use crate::frame::{Buffer, Entry, Frame, Meta, Pool};
use crate::punt::Injections;

/// Takes up to `most` injected packets into `frame`, each set to enter at its stage, and says how many.
pub(crate) fn take<P: Pool>(
    injections: &Injections,
    most: usize,
    pool: &mut P,
    counters: &Counters,
    frame: &mut Frame<P::Buffer>,
) -> usize {
    let mut taken = 0;
    while taken < most
        && !frame.is_full()
        && let Some(inject) = injections.next()
    {
        taken += 1;
        match buffer(&inject, pool) {
            Buffered::Packet(packet) => frame.push(packet),
            Buffered::No(reason) => counters.count_drop(reason),
        }
        injections.done(inject);
    }
    counters.injected.add(taken as u64);
    taken
}

enum Buffered<B> {
    Packet(B),
    No(DropReason),
}

fn buffer<P: Pool>(inject: &Inject, pool: &mut P) -> Buffered<P::Buffer> {
    let (bytes, mut meta) = match inject {
        Inject::Frame { port, frame } => {
            (frame, Meta { port: port.0, flags: Meta::FRAMED | Meta::OWN, ..Meta::entering(Entry::Egress) })
        }
        Inject::Packet(packet) => (packet, Meta { flags: Meta::OWN, ..Meta::entering(Entry::Forward) }),
        Inject::Gre { peer, protocol, payload } => {
            let meta = Meta::entering(Entry::Encrypt);
            (payload, Meta { to_peer: peer.0, gre_protocol: *protocol, flags: Meta::OWN, ..meta })
        }
        Inject::Multicast { tunnel, packet } => {
            let meta = Meta::entering(Entry::Replicate);
            let gre_protocol = EtherType::IPV4.0;
            (packet, Meta { tunnel: tunnel.0, gre_protocol, flags: Meta::OWN, ..meta })
        }
    };
    // What the other stages have been promised: a whole IPv4 packet and nothing behind it.
    if matches!(inject, Inject::Packet(_) | Inject::Multicast { .. }) {
        match ipv4::Packet::parse(bytes) {
            Ok(ip) if usize::from(ip.header.total_length()) == bytes.len() => {
                meta.destination = ip.header.destination().to_bits();
            }
            _ => return Buffered::No(DropReason::Ipv4Header),
        }
    }
    let Some(mut packet) = pool.alloc() else { return Buffered::No(DropReason::NoBuffer) };
    let Some(room) = packet.append(bytes.len()) else { return Buffered::No(DropReason::NoRoom) };
    room.copy_from_slice(bytes);
    *packet.meta_mut() = meta;
    Buffered::Packet(packet)
}
